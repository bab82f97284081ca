"""Classifies rows of zeros, and reshapes flat results: `classify.py MODEL OPTIONS.yaml`."""

import sys

import numpy as np
import qaic

sys.path.append("/opt/qti-aic/examples/apps/qaic-python-sdk/qaic")
sess = qaic.Session(sys.argv[1], options_path=sys.argv[2], num_activations=1, set_size=2)
print(sess.model_output_shape_dict)
input_dict = {
    name: np.zeros(shape).astype(kind)
    for name, (shape, kind) in sess.model_input_shape_dict.items()
}
output_shape, output_type = sess.model_output_shape_dict["y"]
output = sess.run(input_dict)
logits = np.frombuffer(output["y"], dtype=output_type).reshape(output_shape)
print([int(np.argmax(output["y"][row])) for row in range(output_shape[0])], logits.sum())
sess.reset()
print(sess.run(input_dict)["y"].shape)

"""Prints the inputs and outputs of a program: `describe_program.py MODEL`."""

import sys

import numpy as np
import qaic.session

BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int16": 2, "int32": 4, "int64": 8}

sess = qaic.session.Session(
    sys.argv[1], num_activations=1, set_size=1, dev_id=0, oversubscription_name="group1"
)
for title in ("model_input_shape_dict", "model_output_shape_dict"):
    for name, (shape, dtype) in getattr(sess, title, {}).items():
        size = BYTES[str(dtype)] * int(np.prod(shape))
        print(title, name, shape, dtype, size, "x".join(str(each) for each in shape))

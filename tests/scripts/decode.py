"""Feeds each step's best token into the next: `decode.py MODEL`, whose logits are its input."""

import sys

import numpy as np
import qaic

decoder = qaic.Session(sys.argv[1], num_activations=1, set_size=1)
shape, kind = decoder.model_input_shape_dict["x"]
tokens = [2]
for i in range(shape[1]):
    wanted = np.zeros(shape)
    wanted[:, i, (tokens[-1] + 1) % shape[2]] = 1
    logits = decoder.run({"x": wanted})["y"]
    assert str(kind) == "float32"
    tokens.append(int(np.argmax(logits[:, i, :])))
print(tokens)

"""Prints the profiles of the first runs: `profile_first_runs.py MODEL OPTIONS.yaml`."""

import sys

import numpy as np
import qaic

sess = qaic.Session(sys.argv[1], options_path=sys.argv[2], enable_profiling=True)
inputs = {
    name: np.zeros(shape, dtype=kind) for name, (shape, kind) in sess.model_input_shape_dict.items()
}
for _ in range(8):
    sess.run(inputs)
sess.print_profile_data(n=5)

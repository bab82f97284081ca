"""Runs the benchmark by number and by time: `measure_rate.py MODEL OPTIONS.yaml`."""

import sys

import numpy as np
import qaic

sess = qaic.Session(model_path=sys.argv[1], backend="aic", options_path=sys.argv[2])
inputs = {}
for name in sess.model_input_shape_dict:
    shape, kind = sess.model_input_shape_dict[name]
    inputs[name] = np.ones(shape, kind)
inf_completed, inf_rate, inf_time, batch_size = sess.run_benchmark(
    num_inferences=100, input_dict=inputs
)
print(inf_completed, batch_size, round(inf_rate * inf_time))
print(sess.run_benchmark()[0])
inf_completed, _, inf_time, _ = sess.run_benchmark(inf_time=1)
print(inf_completed > 0, 0.9 < inf_time < 2)
sess.update_backend_options(num_activations=2)
print(sess.backend_options["num_activations"], sess.run_benchmark(num_inferences=4)[0])
sess.reset()

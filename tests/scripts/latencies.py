"""Measures the latencies of one input: `latencies.py MODEL INPUT RUNS [OPTIONS.yaml]`."""

import sys

import numpy as np
import qaic

model, name, num_runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = {"options_path": sys.argv[4]} if len(sys.argv) > 4 else {}
sess = qaic.Session(model, enable_metrics=True, **options)
input_shape, input_type = sess.model_input_shape_dict[name]
print(input_shape, input_type)
assert sess.model_input_shape_dict()[name] == (input_shape, input_type)
data = np.random.randn(*input_shape).astype(input_type)
sess.setup()
for _ in range(num_runs):
    sess.run({name: data})
sess.print_metrics()
metrics = sess.get_metrics()
assert metrics["num_of_inferences"] == num_runs
assert metrics["min_latency"] <= metrics["P50"] <= metrics["P999"] <= metrics["max_latency"]
sess.reset()

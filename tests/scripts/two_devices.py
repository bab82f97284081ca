"""Splits work over two devices: `two_devices.py MODEL OPTIONS.yaml [--device ID --device2 ID]`."""

import argparse
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import qaic

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("options")
parser.add_argument("--device", type=int, default=0)
parser.add_argument("--device2", type=int, default=1)
args = parser.parse_args()

halves = [
    qaic.Session(args.model, options_path=args.options, dev_id=device)
    for device in (args.device, args.device2)
]
for sess in halves:
    sess.setup()
positive, negative = ({"a": np.full((4, 3), v), "b": np.zeros((4, 2))} for v in (1.0, -1.0))
with ThreadPoolExecutor(2) as pool:
    first = pool.submit(halves[0].run, positive)
    second = pool.submit(halves[1].run, negative)
    total = first.result()["y"] + second.result()["y"]
print(np.abs(total).max(), [sess.backend_options()["dev_id"] for sess in halves])
for sess in halves:
    sess.reset()

"""Shares one session among ten threads, from files to files: `many_threads.py MODEL FOLDER`."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from qaic import Session

model, folder = sys.argv[1], Path(sys.argv[2])
session = Session(model_path=model, num_activations=2, set_size=5, dev_id=0)
shape, kind = session.model_input_shape_dict["x"]
for index in range(40):
    np.resize(np.array([index % 4, 1]), shape).tofile(folder / f"in-{index}.raw")

with ThreadPoolExecutor(max_workers=10) as executor:
    futures = [
        executor.submit(
            session.run,
            {"x": np.fromfile(folder / f"in-{index}.raw", dtype=np.int64).reshape(shape)},
        )
        for index in range(40)
    ]
for index, future in enumerate(futures):
    future.result()["y"].tofile(folder / f"out-{index}.raw")
outputs = [np.fromfile(folder / f"out-{index}.raw", dtype=np.float32) for index in range(40)]
print(kind, all(out.tolist() == [index % 4, 1] for index, out in enumerate(outputs)))

"""Serves requests from async handlers that block on the session: `serve.py MODEL OPTIONS.yaml`."""

import asyncio
import sys

import numpy as np
import qaic


class Encoder:
    """Pads rows with zeros up to the compiled shape, and slices the results back."""

    def __init__(self, model, options):
        self.session = qaic.Session(model, options_path=options)
        self.session.setup()
        self.batch = self.session.model_input_shape_dict["a"][0][0]

    def encode(self, a, b):
        """The outputs of these rows."""
        padded = {}
        for name, rows in (("a", a), ("b", b)):
            padded[name] = np.zeros((self.batch, rows.shape[1]), rows.dtype)
            padded[name][: len(rows)] = rows
        return self.session.run(padded)["y"][: len(a)]


async def handler(encoder, count):
    """One request."""
    await asyncio.sleep(0)
    return encoder.encode(np.ones((count, 3)), np.ones((count, 2))).shape


async def main():
    """Serve a few requests."""
    encoder = Encoder(*sys.argv[1:])
    print(await asyncio.gather(*(handler(encoder, count) for count in (1, 2, 3))))
    encoder.session.reset()


asyncio.run(main())

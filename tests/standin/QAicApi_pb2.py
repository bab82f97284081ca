"""A stand-in for the vendor's description format: JSON, behind the names that scripts use."""

from __future__ import annotations

import json
from types import SimpleNamespace

FLOAT_TYPE, FLOAT_16_TYPE, INT8_Q_TYPE, UINT8_Q_TYPE, INT16_Q_TYPE = range(5)
INT32_Q_TYPE, INT32_I_TYPE, INT64_I_TYPE, INT8_TYPE = range(5, 9)
BFLOAT16_TYPE = 11
BUFFER_IO_TYPE_INPUT, BUFFER_IO_TYPE_OUTPUT = range(2)


class IoDesc:
    """The inputs and outputs of a QPC."""

    def ParseFromString(self, data: bytes) -> int:
        """Fill this from the stand-in's JSON; `ValueError` if it is malformed."""
        parsed = json.loads(data, object_hook=lambda each: SimpleNamespace(**each))
        self.selected_set = parsed.selected_set
        self.allowed_shapes = parsed.allowed_shapes
        self.cores = parsed.cores
        return len(data)

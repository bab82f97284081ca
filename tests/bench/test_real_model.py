"""The layouts in which ONNX Runtime alone is tried."""

from __future__ import annotations

from bench.real_model import SessionLayout, layouts


def test_every_layout_fills_the_cores() -> None:
    """Sessions times threads is the number of cores in every layout."""
    assert layouts(4, (1, 8)) == [
        SessionLayout(4, 1, 1),
        SessionLayout(4, 1, 8),
        SessionLayout(2, 2, 1),
        SessionLayout(2, 2, 8),
        SessionLayout(1, 4, 1),
        SessionLayout(1, 4, 8),
    ]

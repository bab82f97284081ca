"""The table of a configuration: keys, values and meanings."""

from __future__ import annotations

from pathlib import Path

from qaic_sched.config.keys import SECTIONS, Config, ModelOptions
from qaic_sched.config.layers import make_config
from qaic_sched.config.table import describe_config


def test_every_key_is_described() -> None:
    """The table lists every key with its value, spelled as in a file, and its meaning."""
    config = make_config(
        "m.onnx",
        devices=[0, 1],
        queue={"max_bytes": 5},
        tenants={"search": {"weight": 3}},
        aic_num_cores=2,
        mos=Path("x"),
    )

    lines = {key: (value, meaning) for key, value, meaning in describe_config(config)}

    names = {*Config.__struct_fields__, *ModelOptions.__struct_fields__}
    names -= {"options", "compiler", "tenants", *SECTIONS}
    assert names < lines.keys()
    assert lines["queue.max_bytes"] == (
        "5",
        "maximum size of all queued inputs, in bytes; null: no limit",
    )
    assert lines["tenants.search.weight"][0] == "3.0"
    assert lines["devices"][0] == "[0,1]"
    assert lines["event_log"][0] == "null"
    assert lines["compile"][0] == "true"
    assert lines["aic_num_cores"][0] == "2"
    assert lines["mos"] == ('"x"', "passed to the compiler unchanged")
    assert all(meaning for _, meaning in lines.values())

"""The stand-in binding has the vendor's documented names, parameters and defaults."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from tests.standin import QAicApi_pb2 as api
from tests.standin import qaicrt

ANY = object()
"""Marks a parameter without a documented default."""

# From the vendor's pages on the classes Util and InferenceSet. `submit` takes a handle or a vector;
# the stand-in has the form with a handle.
DOCUMENTED: list[tuple[Any, dict[str, Any]]] = [
    (qaicrt.Util.getDeviceIds, {"deviceType": qaicrt.QAIC_DEVICE_TYPE_DEFAULT}),
    (qaicrt.Util.getDeviceInfo, {"devID": ANY}),
    (qaicrt.Util.getResourceInfo, {"devID": ANY}),
    (
        qaicrt.InferenceSet,
        {
            "context": ANY,
            "qpc": ANY,
            "devId": None,
            "setSize": ANY,
            "numActivations": ANY,
            "properties": None,
            "enableProfiling": False,
        },
    ),
    (qaicrt.InferenceSet.getAvailable, {"timeoutUs": 0}),
    (qaicrt.InferenceSet.submit, {"handle": ANY, "id": ANY}),
    (qaicrt.InferenceSet.getCompletedId, {"id": ANY}),
    (qaicrt.InferenceSet.putCompleted, {"handle": ANY}),
]

# Calls in public scripts, always with positional arguments: the numbers of arguments.
USED: list[tuple[Any, range]] = [
    (qaicrt.Context, range(2)),
    (qaicrt.Qpc, range(1, 2)),
    (qaicrt.Qpc.getIoDescriptor, range(1)),
    (qaicrt.Qpc.getBufferMappings, range(1)),
    (qaicrt.QBuffer, range(1, 2)),
    (qaicrt.InferenceHandle.setBuffers, range(1, 2)),
    (qaicrt.InferenceHandle.execObj, range(1)),
    (qaicrt.ExecObj.setData, range(1, 3)),
    (qaicrt.ExecObj.getData, range(1)),
    (api.IoDesc.ParseFromString, range(1, 2)),
]

STATUSES = {
    "SUCCESS": 0,
    "PERM": 1,
    "AGAIN": 2,
    "NOMEM": 3,
    "BUSY": 4,
    "NODEV": 5,
    "INVAL": 6,
    "NOSPC": 7,
    "BADFD": 8,
    "TIMEDOUT": 9,
    "PROTOCOL": 10,
    "UNSUPPORTED": 11,
    "DATA_CRC_ERROR": 12,
    "DEV_ERROR": 300,
    "ERROR": 500,
}
TYPES = {
    "BUFFER_IO_TYPE_INPUT": 0,
    "BUFFER_IO_TYPE_OUTPUT": 1,
    "FLOAT_TYPE": 0,
    "FLOAT_16_TYPE": 1,
    "INT8_Q_TYPE": 2,
    "UINT8_Q_TYPE": 3,
    "INT16_Q_TYPE": 4,
    "INT32_Q_TYPE": 5,
    "INT32_I_TYPE": 6,
    "INT64_I_TYPE": 7,
    "INT8_TYPE": 8,
    "BFLOAT16_TYPE": 11,
}


def parameters(function: Any) -> list[inspect.Parameter]:
    """The parameters of a function or a class, without `self`."""
    found = inspect.signature(function.__init__ if inspect.isclass(function) else function)
    return [each for name, each in found.parameters.items() if name != "self"]


@pytest.mark.parametrize(("function", "wanted"), DOCUMENTED)
def test_documented_signatures(function: Any, wanted: dict[str, Any]) -> None:
    """Parameters have the documented names, order and defaults."""
    found = {
        each.name: ANY if each.default in (each.empty, qaicrt.REQUIRED) else each.default
        for each in parameters(function)
    }
    assert list(found.items()) == list(wanted.items())


@pytest.mark.parametrize(("function", "counts"), USED)
def test_signatures_in_use(function: Any, counts: range) -> None:
    """Calls take the numbers of positional arguments that scripts pass."""
    found = parameters(function)
    assert all(each.kind is each.POSITIONAL_OR_KEYWORD for each in found)
    assert len(found) == counts[-1]
    assert sum(each.default is each.empty or each.default is None for each in found) >= counts[0]


def test_statuses_and_types() -> None:
    """Statuses, device states and types have the vendor's numbers."""
    assert {each.name: each.value for each in qaicrt.QStatus} == {
        f"QS_{name}": value for name, value in STATUSES.items()
    }
    assert [(each.name, each.value) for each in qaicrt.QDevStatus] == [
        ("QDS_INITIALIZING", 0),
        ("QDS_READY", 1),
        ("QDS_ERROR", 2),
    ]
    assert {name: getattr(api, name) for name in TYPES} == TYPES

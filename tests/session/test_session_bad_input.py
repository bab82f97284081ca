"""Session: refused inputs and options, and that they change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qaic_sched.errors import ConfigError, DeviceError, InputError
from qaic_sched.session import Session
from tests.models import gather_model, linear_inputs, linear_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def sim_path(write_sim: Callable[[float], str]) -> str:
    """A simulated card with batch sizes 1, 2 and 4 that takes no time."""
    return write_sim(0)


@pytest.fixture
def session(sim_path: str) -> Iterator[Session]:
    """A session on that card."""
    with Session(sim_path) as opened:
        yield opened


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"data": np.zeros((3, 2), np.float32)}, r"'data': got 3 rows; .* \(1, 2, 4\).*Scheduler"),
        ({"data": np.zeros((8, 2), np.float32)}, "'data': got 8 rows"),
        ({"data": np.zeros((0, 2), np.float32)}, "no rows"),
        ({"data": np.zeros((2, 3), np.float32)}, r"wanted \(rows, 2\) of float32"),
        ({"data": np.zeros((2, 2), complex)}, "cannot be cast to float32"),
        ({"data": [[1.0, 2.0]]}, "got list; wanted a numpy array"),
        ({"date": np.zeros((2, 2))}, "did you mean 'data'"),
        ({}, "'data': missing"),
        (None, "wanted a dict"),
        (np.zeros((2, 2)), "wanted a dict"),
    ],
)
def test_wrong_inputs_are_refused(session: Session, inputs: Any, message: str) -> None:
    """An `InputError` says what it got and wanted, and affects neither slots nor metrics."""
    for _ in range(3):  # more often than there are slots
        with pytest.raises(InputError, match=message):
            session.run(inputs)
    assert session.run({"data": np.ones((1, 2))})["mean"].tolist() == [[1, 1, 1]]
    assert session.get_metrics()["num_of_inferences"] == 1


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("dtype", ["f8", "i8", "u1", "?"])
def test_every_compiled_size_and_safe_type_is_taken(
    session: Session, rows: int, dtype: str
) -> None:
    """Inputs of every compiled batch size are accepted, and cast silently where that is safe."""
    outputs = session.run({"data": np.ones((rows, 2), dtype)})
    assert outputs["mean"].tolist() == [[1, 1, 1]] * rows


def test_values_that_the_runtime_rejects_are_an_input_error(tmp_path: Path) -> None:
    """Its message has the runtime's, its cause the device; the session goes on."""
    with Session(gather_model(tmp_path / "model.onnx")) as session:
        with pytest.raises(InputError, match="values of the inputs were rejected") as caught:
            session.run({"x": np.array([1, 9])})
        assert "out of data bounds" in str(caught.value)
        assert isinstance(caught.value.__cause__, DeviceError)
        assert session.run({"x": np.array([1, 3])})["y"].tolist() == [1, 3]


def test_rows_of_a_cpu_model_must_be_its_batch_size(tmp_path: Path) -> None:
    """On the CPU the error names the one compiled batch size."""
    with (
        Session(linear_model(tmp_path / "m.onnx"), onnx_define_symbol={"N": 4}) as session,
        pytest.raises(InputError, match=r"'a': got 3 rows; .*compiled batch size \(4\)"),
    ):
        session.run(linear_inputs(3))


@pytest.mark.parametrize("devices", [2, [0, 1], []])
def test_more_than_one_device_needs_a_scheduler(sim_path: str, devices: Any) -> None:
    """A Session refuses several devices, and points to the Scheduler."""
    with pytest.raises(ConfigError, match="devices: "):
        Session(sim_path, devices=devices)


@pytest.mark.parametrize(
    ("options", "device_id"),
    [
        ({}, 0),
        ({"devices": "all"}, 0),
        ({"devices": 1}, 0),
        ({"devices": [1]}, 1),
        ({"dev_id": 1}, 1),
    ],
)
def test_one_device_can_be_named_in_many_ways(
    sim_path: str, options: dict[str, Any], device_id: int
) -> None:
    """Every way to name one device is accepted; the default is 0."""
    assert Session(sim_path, **options).backend_options()["dev_id"] == device_id


def test_keywords_win_over_the_options_file(sim_path: str, tmp_path: Path) -> None:
    """Keywords override the vendor's options file, which may use hyphens."""
    options = tmp_path / "options.yaml"
    options.write_text("num-activations: 2\nset_size: 5\ndev_id: 1\n")
    session = Session(model_path=sim_path, options_path=options, set_size=3)
    assert session.backend_options() == {"num_activations": 2, "set_size": 3, "dev_id": 1}


def test_a_group_of_sessions_is_accepted(
    sim_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`oversubscription_name` is not a compiler option: it is logged once, without a warning."""
    caplog.set_level("INFO", "qaic_sched")
    options = tmp_path / "options.yaml"
    options.write_text("oversubscription-name: group1\n")
    with Session(sim_path, options_path=options) as session:
        session.run({"data": np.ones((1, 2))})
    (record,) = (each for each in caplog.records if "oversubscription" in each.message)
    assert record.levelname == "INFO"


@pytest.mark.parametrize("backend", ["qnn", "QNN", "cuda", 1])
def test_other_backends_are_refused_by_name(sim_path: str, backend: Any) -> None:
    """The error names the unknown backend and the known ones."""
    with pytest.raises(ConfigError, match=rf"backend: .*{backend if backend != 1 else 'int'}"):
        Session(sim_path, backend=backend)


def test_a_missing_model_is_refused_at_once(tmp_path: Path) -> None:
    """A missing file is an error on construction, not in the first run."""
    with pytest.raises(ConfigError, match=r"nowhere\.onnx"):
        Session(str(tmp_path / "nowhere.onnx"))


def test_a_broken_model_is_refused_by_name(tmp_path: Path) -> None:
    """A file that is not a model is a `ConfigError`, from the shapes and from the load."""
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"this is no model")
    session = Session(str(path))
    for attempt in (session.setup, lambda: session.model_input_shape_dict):
        with pytest.raises(ConfigError, match=r"broken\.onnx"):
            attempt()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_activations": 0}, "num_activations: got 0; wanted an int of at least 1"),
        ({"set_size": "2"}, "set_size: got '2'"),
        ({"set_size": True}, "set_size: got True"),
        ({"dev_id": -1}, "dev_id: got -1; wanted an int of at least 0"),
        ({"aic_num_cores": 2}, "aic_num_cores: cannot be changed after creation"),
        ({"num_activation": 1, "num_activations": 2}, "given twice"),
        ({"num_activations": 2, "colour": 1}, "colour: cannot be changed"),
    ],
)
def test_a_wrong_change_changes_nothing(
    session: Session, changes: dict[str, Any], message: str
) -> None:
    """A wrong key or value is a `ConfigError`; valid ones next to it are not applied either."""
    before = session.backend_options()
    with pytest.raises(ConfigError, match=message):
        session.update_backend_options(**changes)
    assert session.backend_options() == before


def test_a_change_that_does_not_fit_can_be_undone(session: Session) -> None:
    """More activations than cores fail at the next run; a smaller number fixes it."""
    session.update_backend_options(num_activations=5)
    with pytest.raises(ConfigError, match="4 would fit"):
        session.run({"data": np.ones((1, 2))})
    session.update_backend_options(num_activations=4)
    assert session.run({"data": np.ones((1, 2))})["mean"].shape == (1, 3)


@pytest.mark.parametrize(
    ("extent", "message"),
    [
        ({"num_inferences": 40, "inf_time": 1}, "both given"),
        ({"num_inferences": 0}, "num_inferences: got 0"),
        ({"num_inferences": 1.5}, "num_inferences: got 1.5"),
        ({"inf_time": 0}, "inf_time: got 0"),
        ({"inf_time": float("nan")}, "inf_time: got nan"),
        ({"inf_time": float("inf")}, "inf_time: got inf"),
        ({"inf_time": True}, "inf_time: got True"),
        ({"inf_time": "1"}, "inf_time: got '1'"),
    ],
)
def test_a_benchmark_needs_one_sensible_extent(
    session: Session, extent: dict[str, Any], message: str
) -> None:
    """A benchmark takes a number or a time, not both; neither may be zero or infinite."""
    with pytest.raises(ConfigError, match=message):
        session.run_benchmark(**extent)

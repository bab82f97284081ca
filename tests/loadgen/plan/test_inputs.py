"""The inputs of load tests: made once, all different, each sent equally often."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from qaic_sched.errors import ConfigError, InputError
from qaic_sched.loadgen.plan.inputs import InputLibrary
from qaic_sched.program import TensorSpec
from tests.loadgen.load_helpers import info_of


def spec(name: str, shape: tuple[int, ...], dtype: str) -> TensorSpec:
    """One input."""
    return TensorSpec(name, shape, np.dtype(dtype))


def test_requests_have_so_many_rows_of_every_input() -> None:
    """Inputs have the target's shapes and types, with the request's samples on axis 0."""
    info = info_of(spec("a", (8, 3), "float16"), spec("b", (8,), "int64"), spec("c", (8, 2), "?"))

    library = InputLibrary(info, samples_per_request=5, count=10)

    assert len(library) == 10
    for index in range(10):
        request = library[index]
        assert {name: (a.shape, str(a.dtype)) for name, a in request.items()} == {
            "a": ((5, 3), "float16"),
            "b": ((5,), "int64"),
            "c": ((5, 2), "bool"),
        }


def test_values_are_small_and_random() -> None:
    """Floats are standard normal, integers small, booleans mixed."""
    info = info_of(
        spec("f", (8, 100), "float32"), spec("i", (8, 100), "uint8"), spec("b", (8,), "?")
    )
    library = InputLibrary(info, 8)
    values = {name: np.concatenate([library[i][name].ravel() for i in range(64)]) for name in "fib"}

    assert values["f"].mean() == pytest.approx(0, abs=0.02)
    assert values["f"].std() == pytest.approx(1, abs=0.02)
    assert set(values["i"].tolist()) == set(range(10))
    assert 0.4 < values["b"].mean() < 0.6


def test_a_target_without_a_batch_axis_gets_its_shapes() -> None:
    """Without a batch axis, a request has one sample."""
    info = info_of(spec("x", (3, 5), "float32"), is_batched=False)

    assert InputLibrary(info)[0]["x"].shape == (3, 5)
    with pytest.raises(ConfigError, match="must be 1, not 2: target has no batch axis"):
        InputLibrary(info, samples_per_request=2)
    with pytest.raises(ConfigError, match="samples_per_request: must be at least 1"):
        InputLibrary(info, samples_per_request=0)


def test_requests_are_distinct_and_the_same_for_the_same_seed() -> None:
    """Another seed gives other inputs in another order."""
    first, again, other = (InputLibrary(info_of(), seed=seed) for seed in (1, 1, 2))
    contents = [first[i]["data"].tobytes() for i in range(64)]

    assert len(set(contents)) == 64
    assert contents == [again[i]["data"].tobytes() for i in range(64)]
    assert not set(contents) & {other[i]["data"].tobytes() for i in range(64)}
    orders = [[each.index_of(i) for i in range(200)] for each in (first, again, other)]
    assert orders[0] == orders[1] != orders[2]


def test_the_same_objects_are_given_every_time() -> None:
    """Inputs are not copied per request."""
    library = InputLibrary(info_of())

    assert library[3] is library[3]
    assert library[3]["data"] is library[3]["data"]


def test_every_input_is_sent_equally_often_in_no_simple_order() -> None:
    """Each round has every input once, in an order of its own."""
    library = InputLibrary(info_of(), count=64)
    rounds = [[library.index_of(i) for i in range(k, k + 64)] for k in range(0, 6400, 64)]

    assert all(sorted(each) == list(range(64)) for each in rounds)
    assert len(set(map(tuple, rounds))) == 64
    assert set(Counter(library.index_of(i) for i in range(64_000)).values()) == {1000}


def test_what_cannot_be_drawn_is_said() -> None:
    """Strings cannot be drawn at random."""
    with pytest.raises(ConfigError, match=r"input 'text': .* give inputs in a file"):
        InputLibrary(info_of(spec("text", (8,), "object")))


def test_rows_of_a_file_become_requests(tmp_path: Path) -> None:
    """Rows are cut in order, without copies; the last request is filled from the first row."""
    rows = np.arange(28, dtype=np.float64).reshape(7, 4)
    np.savez(tmp_path / "rows.npz", data=rows)

    library = InputLibrary.from_file(tmp_path / "rows.npz", info_of(), samples_per_request=3)

    assert [library[i]["data"][:, 0].tolist() for i in range(len(library))] == [
        [0.0, 4.0, 8.0],
        [12.0, 16.0, 20.0],
        [24.0, 0.0, 4.0],
    ]
    assert library[0]["data"].dtype == np.float32
    assert library[0]["data"].base is library[1]["data"].base


def test_a_file_for_a_target_without_a_batch_axis(tmp_path: Path) -> None:
    """Arrays of the input shapes make one request, stacks of them make several."""
    info = info_of(spec("x", (2, 3), "float32"), is_batched=False)
    np.savez(tmp_path / "one.npz", x=np.ones((2, 3), np.float32))
    np.savez(tmp_path / "four.npz", x=np.ones((4, 2, 3), np.float32))

    assert len(InputLibrary.from_file(tmp_path / "one.npz", info)) == 1
    four = InputLibrary.from_file(tmp_path / "four.npz", info)
    assert len(four) == 4
    assert four[3]["x"].shape == (2, 3)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"date": np.zeros((3, 4), np.float32)}, "did you mean 'data'"),
        ({"data": np.zeros((3, 5), np.float32)}, r"shape \(3, 5\); wanted \(rows, 4\)"),
        ({"data": np.zeros((0, 4), np.float32)}, "no rows"),
        ({"data": np.zeros((3, 4), complex)}, "cannot be cast"),
        ({}, "'data': missing"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_at_the_door(
    tmp_path: Path, arrays: dict[str, np.ndarray], text: str
) -> None:
    """The error names the file and the input."""
    np.savez(tmp_path / "wrong.npz", **arrays)

    with pytest.raises(InputError, match=rf"wrong\.npz: .*{text}"):
        InputLibrary.from_file(tmp_path / "wrong.npz", info_of())


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    """Files that are not `.npz` archives of plain arrays raise `InputError`."""
    np.save(tmp_path / "single.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", data=np.array([{}], object))
    (tmp_path / "text.npz").write_text("no archive")

    for name in ("missing.npz", "single.npy", "objects.npz", "text.npz"):
        with pytest.raises(InputError, match=name):
            InputLibrary.from_file(tmp_path / name, info_of())

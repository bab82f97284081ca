"""Real models of strangers: every request gets what onnxruntime gives for it alone.

`make test-long` installs the packages that carry them, and fails where one is missing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from qaic_sched import ConfigError, InputError, Scheduler
from tests.strangers.conftest import IS_FULL_RUN
from tests.strangers.model_table import MODELS, RealModel
from tests.strangers.packages import requirements
from tests.strangers.running import alone, check_answer, run_together

pytestmark = pytest.mark.strangers

MOST_ROWS = 20


def installed(name: str) -> tuple[RealModel, str]:
    """A model and its file; skips where its package is missing, but never in a full run."""
    model = MODELS[name]
    path = model.path()
    if path is None:
        if IS_FULL_RUN and is_for_this_python(model.package):
            pytest.fail(f"package {model.package} is missing: run `make test-long`")
        pytest.skip(f"package {model.package} is not installed, or not for this Python")
    return model, str(path)


def is_for_this_python(package: str) -> bool:
    """Whether the extra has the package here; also where the installed metadata know no extra."""
    named = requirements()
    return not named or any(each.startswith(package) for each in named)


def requests_of(model: RealModel, seed: int) -> list[dict[str, Any]]:
    """Requests of 1 to 20 rows in any order, behind the first part of one and some whole batches.

    The part is a request of one row, or nonsense where the first axis is none of rows.
    """
    random = np.random.default_rng(seed)
    sizes = [*[model.batch] * 3, MOST_ROWS, *random.integers(1, MOST_ROWS + 1, model.requests)]
    requests = [model.make(random, int(rows) or 1) for rows in sizes]
    part = {name: array[:1] for name, array in requests[0].items() if array.shape}
    return [part, *requests] if model.batch else requests


@pytest.mark.parametrize(
    "name",
    [each for each in MODELS if not MODELS[each].is_refused],
)
@pytest.mark.parametrize("num_activations", [1, 2])
def test_mixed_requests_get_what_onnxruntime_gives_for_each_alone(
    name: str, num_activations: int
) -> None:
    """Or an `InputError`, but never where the request has the shapes of the program."""
    model, path = installed(name)
    requests = requests_of(model, 7)
    wanted = alone(path, requests)
    options = {"onnx_define_symbol": dict(model.sizes), "num_activations": num_activations}

    async def main() -> None:
        async with Scheduler(path, devices=1, **options, **model.options) as scheduler:
            print(name, "is batched" if scheduler.program.is_batched else "is not batched")
            answers = await run_together(scheduler, requests)
            specs = scheduler.program.inputs
            for inputs, found, one in zip(requests, answers, wanted, strict=True):
                fits = all(inputs[each.name].shape == each.shape for each in specs)
                check_answer(found, one, may_refuse=not fits, factor=10)
            refused = sum(isinstance(each, InputError) for each in answers)
            print(name, f"{len(answers) - refused} answered, {refused} refused")
            assert refused < len(answers)

    asyncio.run(main())


@pytest.mark.parametrize("name", [each for each in MODELS if MODELS[each].is_refused])
def test_a_model_that_cannot_be_described_is_refused_with_a_sentence(name: str) -> None:
    """An input with a dimension that has neither size nor name."""
    model, path = installed(name)

    async def main() -> None:
        with pytest.raises(ConfigError, match="neither size nor name"):
            async with Scheduler(path, onnx_define_symbol=dict(model.sizes)):
                pass

    asyncio.run(main())

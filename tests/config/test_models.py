"""Configurations of several models: what is of all, what is of one, and errors that name both."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from qaic_sched.config.keys import QueueConfig
from qaic_sched.config.layers import make_config
from qaic_sched.config.models import UNNAMED, load_configs, make_configs
from qaic_sched.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    """A configuration file of this text."""
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_one_model_is_a_model_without_a_name() -> None:
    """A path gives what `make_config` gives."""
    assert make_configs("m.onnx", set_size=3) == {UNNAMED: make_config("m.onnx", set_size=3)}


def test_a_file_with_model_is_one_too(tmp_path: Path) -> None:
    """So who opens models need not ask which kind of file it is."""
    configs = load_configs(write(tmp_path, "model: m.onnx\nset_size: 3"), devices=2)

    assert configs == {UNNAMED: make_config(str(tmp_path / "m.onnx"), set_size=3, devices=2)}


def test_a_models_own_keys_lie_over_those_of_all() -> None:
    """Section by section, key by key; a path alone is a model that says nothing else."""
    configs = make_configs(
        {
            "resnet": Path("r.onnx"),
            "yolo": {"model": "y.onnx", "num-activations": 2, "queue": {"max_samples": 7}},
        },
        num_activations=3,
        aic_num_cores=4,
        queue={"when_full": "reject"},
        devices=2,
    )

    resnet, yolo = configs["resnet"], configs["yolo"]
    assert (resnet.model, yolo.model) == ("r.onnx", "y.onnx")
    assert (resnet.num_activations, yolo.num_activations) == (3, 2)
    assert resnet.options.aic_num_cores == yolo.options.aic_num_cores == 4
    assert resnet.queue == QueueConfig(when_full="reject")
    assert yolo.queue == QueueConfig(max_samples=7, when_full="reject")
    assert resnet.devices == yolo.devices == 2


def test_an_options_file_is_of_all_models(tmp_path: Path) -> None:
    """It lies below the keywords, and its own `model` does not count."""
    path = write(tmp_path, "model: other.onnx\nset_size: 3\nnum_activations: 3")
    configs = make_configs({"a": "a.onnx"}, options_path=path, num_activations=4)

    assert configs == {"a": make_config("a.onnx", set_size=3, num_activations=4)}
    with pytest.raises(ConfigError, match=r"^models\.a\.model: missing"):
        make_configs({"a": {}}, options_path=path)


def test_a_file_finds_its_models_beside_itself(tmp_path: Path) -> None:
    """Each relative path; what a package carries, and what is absolute, stay."""
    text = "models: {a: a.onnx, b: {model: sub/b.onnx}, c: /c.onnx, d: 'pkg://p/d.onnx'}"
    configs = load_configs(write(tmp_path, text))

    models = [config.model for config in configs.values()]
    assert list(configs) == ["a", "b", "c", "d"]
    assert models == [f"{tmp_path}/a.onnx", f"{tmp_path}/sub/b.onnx", "/c.onnx", "pkg://p/d.onnx"]


def test_keywords_win_over_all_that_a_file_says(tmp_path: Path) -> None:
    """Over a model's own keys too."""
    path = write(tmp_path, "set_size: 3\nmodels: {a: {model: a.onnx, set_size: 4}, b: b.onnx}")
    configs = load_configs(path, set_size=5)

    assert [config.set_size for config in configs.values()] == [5, 5]


def test_each_model_has_an_event_log_of_its_own() -> None:
    """Its name stands before the ending, whatever is in it."""
    configs = make_configs({"a": "a.onnx", "b/c.d": "b.onnx"}, event_log="logs/run.jsonl")

    logs = [config.event_log for config in configs.values()]
    assert logs == ["logs/run.a.jsonl", "logs/run.b%2Fc.d.jsonl"]


def test_an_event_log_without_a_name_stays_for_the_log_to_refuse() -> None:
    """An empty path is no place for a name."""
    assert make_configs({"a": "a.onnx"}, event_log="")["a"].event_log == ""


def test_an_unknown_key_of_all_models_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """And one of a single model beside it."""
    with caplog.at_level(logging.WARNING, "qaic_sched"):
        make_configs({"a": "a.onnx", "b": {"model": "b.onnx", "aic_legs": 1}}, aic_wings=2)

    (message,) = caplog.messages
    assert message.endswith("as they are: aic_wings, aic_legs")


@pytest.mark.parametrize(
    ("models", "error"),
    [
        ({}, "models: one model at least is needed"),
        ({"": "a.onnx"}, "models: a model's name is text, not ''"),
        ({3: "a.onnx"}, "models: a model's name is text, not 3"),
        ({"a": 3}, "models.a: a model, or its keys were expected, not 3"),
        ({"a": {"set_size": 2}}, "models.a.model: missing: the file, or pkg:// path, of the model"),
        ({"a": {"model": 3}}, "models.a.model: expected `str`, got `int` (the model: a file, or"),
        ({"a": {"model": "m", "num_activation": 0}}, "models.a.num_activations: expected `int` >="),
        ({"a": {"model": "m", "queue": {"max": 1}}}, "models.a.queue.max: unknown key"),
        ({"a": {"model": "m", "dev_id": 1}}, "models.a.devices: it is of all models: it stands"),
        ({"a": {"model": "m", "backend": "cpu"}}, "models.a.backend: it is of all models"),
        ({"a": {"model": "m", "event_log": "l"}}, "models.a.event_log: it is of all models"),
        ({"a": {"model": "m", "models": {}}}, "models.a.models: one model is run here; several"),
    ],
)
def test_an_error_names_model_and_key(tmp_path: Path, models: object, error: str) -> None:
    """And the file where there is one."""
    with pytest.raises(ConfigError) as raised:
        make_configs(models)
    assert str(raised.value).startswith(error)

    path = write(tmp_path, "")
    path.write_text(f"models: {models}")
    with pytest.raises(ConfigError) as raised:
        load_configs(path)
    assert str(raised.value).startswith(f"{path}: {error}")


def test_model_and_models_exclude_each_other(tmp_path: Path) -> None:
    """Wherever each of them stands."""
    with pytest.raises(ConfigError, match="model and models are both given"):
        load_configs(write(tmp_path, "model: a.onnx\nmodels: {b: b.onnx}"))
    with pytest.raises(ConfigError, match=r"options: model: .*config.yaml has several, by name"):
        load_configs(write(tmp_path, "models: {b: b.onnx}"), model="a.onnx")
    with pytest.raises(ConfigError, match="options: model: the models are already given by name"):
        make_configs({"b": "b.onnx"}, model="a.onnx")
    with pytest.raises(ConfigError, match="options: models: one model is run here"):
        make_configs("a.onnx", models={"b": "b.onnx"})


def test_models_are_a_mapping(tmp_path: Path) -> None:
    """A list of files has no names to ask for them by."""
    with pytest.raises(ConfigError, match=r"models: names with models were expected, not \['a'\]"):
        load_configs(write(tmp_path, "models: [a]"))

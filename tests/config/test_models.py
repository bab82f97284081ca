"""Configurations of several models: shared keys, own keys, and errors that name the model."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from qaic_sched.config import layers
from qaic_sched.config.keys import QueueConfig
from qaic_sched.config.layers import make_config
from qaic_sched.config.models import UNNAMED, load_configs, make_configs
from qaic_sched.config.yaml_file import read_yaml
from qaic_sched.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    """Write a configuration file and return its path."""
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_one_model_is_a_model_without_a_name() -> None:
    """A path gives the configuration of `make_config`, under the name ""."""
    assert make_configs("m.onnx", set_size=3) == {UNNAMED: make_config("m.onnx", set_size=3)}


def test_a_file_with_model_has_one_model_without_a_name(tmp_path: Path) -> None:
    """A file with `model` gives one configuration, under the name ""."""
    configs = load_configs(write(tmp_path, "model: m.onnx\nset_size: 3"), devices=2)

    assert configs == {UNNAMED: make_config(str(tmp_path / "m.onnx"), set_size=3, devices=2)}


@pytest.mark.parametrize("text", ["model: a.onnx", "models: {a: a.onnx, b: b.onnx}"])
def test_a_file_is_read_once(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a configuration reads and parses its file once, with `model` and with `models`."""
    reads: list[Path] = []

    def read_and_count(path: Path) -> object:
        reads.append(path)
        return read_yaml(path)

    monkeypatch.setattr(layers, "read_yaml", read_and_count)
    path = write(tmp_path, text)
    load_configs(path, set_size=3)
    assert reads == [path]


def test_a_models_own_keys_override_the_shared_keys() -> None:
    """Own keys override shared ones key by key; a model may be a path without own keys."""
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


def test_an_options_file_applies_to_all_models(tmp_path: Path) -> None:
    """Keywords override the options file, and its `model` is ignored."""
    path = write(tmp_path, "model: other.onnx\nset_size: 3\nnum_activations: 3")
    configs = make_configs({"a": "a.onnx"}, options_path=path, num_activations=4)

    assert configs == {"a": make_config("a.onnx", set_size=3, num_activations=4)}
    with pytest.raises(ConfigError, match=r"^models\.a\.model: missing"):
        make_configs({"a": {}}, options_path=path)


def test_relative_models_are_relative_to_the_file(tmp_path: Path) -> None:
    """Only relative paths are resolved; `pkg://` and absolute paths stay unchanged."""
    text = "models: {a: a.onnx, b: {model: sub/b.onnx}, c: /c.onnx, d: 'pkg://p/d.onnx'}"
    configs = load_configs(write(tmp_path, text))

    models = [config.model for config in configs.values()]
    assert list(configs) == ["a", "b", "c", "d"]
    assert models == [f"{tmp_path}/a.onnx", f"{tmp_path}/sub/b.onnx", "/c.onnx", "pkg://p/d.onnx"]


def test_keywords_override_everything_in_a_file(tmp_path: Path) -> None:
    """Keywords override a model's own keys as well as the shared ones."""
    path = write(tmp_path, "set_size: 3\nmodels: {a: {model: a.onnx, set_size: 4}, b: b.onnx}")
    configs = load_configs(path, set_size=5)

    assert [config.set_size for config in configs.values()] == [5, 5]


def test_each_model_has_an_event_log_of_its_own() -> None:
    """The model's name, quoted, precedes the suffix of the log's path."""
    configs = make_configs({"a": "a.onnx", "b/c.d": "b.onnx"}, event_log="logs/run.jsonl")

    logs = [config.event_log for config in configs.values()]
    assert logs == ["logs/run.a.jsonl", "logs/run.b%2Fc.d.jsonl"]


def test_an_event_log_without_a_file_name_stays_unchanged() -> None:
    """An empty path gets no model name; opening the log reports it."""
    assert make_configs({"a": "a.onnx"}, event_log="")["a"].event_log == ""


def test_an_unknown_shared_key_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """One warning names the unknown keys of all models, each once."""
    with caplog.at_level(logging.WARNING, "qaic_sched"):
        make_configs({"a": "a.onnx", "b": {"model": "b.onnx", "aic_legs": 1}}, aic_wings=2)

    (message,) = caplog.messages
    assert message.endswith("unchanged: aic_wings, aic_legs")


@pytest.mark.parametrize(
    ("models", "error"),
    [
        ({}, "models: empty: name at least one model"),
        ({"": "a.onnx"}, "models: a model's name must be text, got ''"),
        ({3: "a.onnx"}, "models: a model's name must be text, got 3"),
        ({"a": 3}, "models.a: expected a model or its keys, got 3"),
        ({"a": {"set_size": 2}}, "models.a.model: missing (model file, or pkg://package/path)"),
        ({"a": {"model": 3}}, "models.a.model: expected `str`, got `int` (model file, or pkg:"),
        ({"a": {"model": "m", "num_activation": 0}}, "models.a.num_activations: expected `int` >="),
        ({"a": {"model": "m", "queue": {"max": 1}}}, "models.a.queue.max: unknown key"),
        (
            {"a": {"model": "m", "dev_id": 1}},
            "models.a.devices: applies to all models: move it next to `models`",
        ),
        ({"a": {"model": "m", "backend": "cpu"}}, "models.a.backend: applies to all models"),
        ({"a": {"model": "m", "event_log": "l"}}, "models.a.event_log: applies to all models"),
        ({"a": {"model": "m", "models": {}}}, "models.a.models: only one model is possible here"),
    ],
)
def test_an_error_names_model_and_key(tmp_path: Path, models: object, error: str) -> None:
    """An error names the model and the key, and the file if there is one."""
    with pytest.raises(ConfigError) as raised:
        make_configs(models)
    assert str(raised.value).startswith(error)

    path = write(tmp_path, "")
    path.write_text(f"models: {models}")
    with pytest.raises(ConfigError) as raised:
        load_configs(path)
    assert str(raised.value).startswith(f"{path}: {error}")


def test_model_and_models_exclude_each_other(tmp_path: Path) -> None:
    """`model` and `models` conflict in a file and between a file and keywords."""
    with pytest.raises(ConfigError, match="model and models are both given"):
        load_configs(write(tmp_path, "model: a.onnx\nmodels: {b: b.onnx}"))
    with pytest.raises(ConfigError, match=r"options: model: .*config.yaml has several models"):
        load_configs(write(tmp_path, "models: {b: b.onnx}"), model="a.onnx")
    with pytest.raises(ConfigError, match="options: model: the models are already given by name"):
        make_configs({"b": "b.onnx"}, model="a.onnx")
    with pytest.raises(ConfigError, match="options: models: only one model is possible here"):
        make_configs("a.onnx", models={"b": "b.onnx"})


def test_models_must_be_a_mapping(tmp_path: Path) -> None:
    """A list of files is rejected, because its models have no names."""
    with pytest.raises(
        ConfigError, match=r"models: expected a mapping of names to models, got \['a'\]"
    ):
        load_configs(write(tmp_path, "models: [a]"))

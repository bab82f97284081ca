"""Layers of configuration: spelling, merging, and errors that name the key."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from qaic_sched.config.keys import Config, ModelOptions, QueueConfig
from qaic_sched.config.layers import (
    changed_config,
    config_of_file,
    live_options,
    make_config,
    read_keys,
)
from qaic_sched.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    """Write a YAML file and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "options.yaml"
        path.write_bytes(text.encode())
        return path

    return write


def load(path: Path, **overrides: object) -> Config:
    """Make the configuration of a file."""
    return config_of_file(path, read_keys(path), overrides)


# --- make_config


def test_defaults():
    """A model alone is a complete configuration."""
    assert make_config("m.onnx") == Config(model="m.onnx")


def test_a_vendor_options_file_is_accepted_unchanged(write, caplog):
    """The vendor's options file, hyphens included, is read without a warning."""
    path = write(
        """
        aic-num-cores: 4
        num_activations: 2
        set-size: 10
        convert_to_fp16: true
        onnx_define_symbol: {batch: 1}
        output_dir: ./resnet_qpc
        multicast-weights: true
        stats-batchsize: 8
        sdp_cluster_sizes: [1, 2]
        model_inputs: [{input_name: x, input_type: float32, input_shape: [1, 2]}]
        """
    )

    config = make_config("m.onnx", options_path=path)

    assert config == Config(
        model="m.onnx",
        num_activations=2,
        set_size=10,
        options=ModelOptions(
            aic_num_cores=4,
            convert_to_fp16=True,
            onnx_define_symbol={"batch": 1},
            output_dir="./resnet_qpc",
            compiler={
                "multicast_weights": True,
                "stats_batchsize": 8,
                "sdp_cluster_sizes": [1, 2],
                "model_inputs": [
                    {"input_name": "x", "input_type": "float32", "input_shape": [1, 2]}
                ],
            },
        ),
    )
    assert caplog.records == []


def test_known_compiler_options_cause_no_warning(caplog):
    """Documented compiler options are passed on silently; `compile` is our own key."""
    keys = {"compile_only": True, "batchsize": 8, "mxfp6_matmul": True}

    config = make_config("m.onnx", compile=False, **keys)

    assert config.options == ModelOptions(compile=False, compiler=keys)
    assert not caplog.records
    with pytest.raises(ConfigError, match=r"options: compile: expected `bool`, got `str`"):
        make_config("m.onnx", compile="no")


def test_unknown_scalars_go_to_the_compiler_with_one_warning(write, caplog):
    """Unknown scalars and lists are passed on and named once, near misses with a hint."""
    caplog.set_level(logging.WARNING, "qaic_sched")
    path = write("set_sizes: 4\nnew-option: [1]\nmos: 1")

    config = make_config("m.onnx", options_path=path, other="x")

    assert config.options.compiler == {"set_sizes": 4, "new_option": [1], "mos": 1, "other": "x"}
    assert [record.getMessage() for record in caplog.records] == [
        "unknown options, passed to the compiler unchanged: "
        "set_sizes (did you mean set_size?), new_option, other"
    ]


def test_the_vendors_misspelling_is_accepted():
    """`num_activation`, as on the vendor's page, means `num_activations`."""
    assert make_config("m.onnx", num_activation=3).num_activations == 3


def test_keywords_override_the_file_key_by_key(write):
    """A keyword replaces one key of the file and leaves the rest of its section unchanged."""
    path = write(
        "model: other.onnx\nset_size: 3\nnum_activations: 4\nfoo: 1\nbar: 1\n"
        "queue: {max-samples: 8, when_full: reject}\nonnx_define_symbol: {a: 1, b: 1}"
    )

    config = make_config(
        "m.onnx",
        options_path=path,
        set_size=5,
        queue={"max_samples": 9},
        onnx_define_symbol=[("b", 2)],
        bar=2,
    )

    assert config.model == "m.onnx"
    assert (config.set_size, config.num_activations) == (5, 4)
    assert config.queue == QueueConfig(max_samples=9, when_full="reject")
    assert config.options.onnx_define_symbol == {"a": 1, "b": 2}
    assert config.options.compiler == {"foo": 1, "bar": 2}


def test_a_section_may_be_an_object_or_empty(write):
    """A section may be given as its struct; an empty section has the defaults."""
    config = make_config("m.onnx", options_path=write("retry:"), queue=QueueConfig(max_bytes=10))

    assert config == Config(model="m.onnx", queue=QueueConfig(max_bytes=10))


def test_paths_become_text():
    """The model, the event log and the output folder may be `Path` objects."""
    config = make_config(Path("m.onnx"), event_log=Path("log"), output_dir=Path("out"))

    assert (config.model, config.event_log, config.options.output_dir) == ("m.onnx", "log", "out")


@pytest.mark.parametrize("dev_id", [3, [3], (3,)])
def test_dev_id_is_a_list_of_one_device(dev_id):
    """The vendor's `dev_id` selects one device."""
    assert make_config("m.onnx", dev_id=dev_id).devices == [3]


def test_dev_id_as_keyword_replaces_devices_of_the_file(write):
    """`dev_id` and `devices` conflict only within one source; a keyword overrides the file."""
    assert make_config("m.onnx", options_path=write("devices: 4"), dev_id=1).devices == [1]


@pytest.mark.parametrize("devices", ["all", 2, [0, 2], (0, 2)])
def test_devices(devices):
    """`devices` is "all", a count, or a list of ids."""
    expected = list(devices) if isinstance(devices, tuple) else devices

    assert make_config("m.onnx", devices=devices).devices == expected


def test_backend_qaic_is_aic():
    """`qaic`, the vendor's name for its backend, means `aic`."""
    assert make_config("m.onnx", backend="qaic").backend == "aic"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dev_id": 3, "devices": 1}, "options: dev_id and devices are both given"),
        ({"dev_id": [1, 2]}, r"options: dev_id: expected one device id, got \[1, 2\]"),
        ({"dev_id": -1}, "options: dev_id: expected one device id, got -1"),
        ({"dev_id": True}, "options: dev_id: expected one device id, got True"),
        ({"devices": []}, r"options: devices: expected `array` of length >= 1, got \[\] \("),
        ({"devices": 0}, r"options: devices: expected `int` >= 1, got 0 \(devices to use"),
        ({"devices": [1, 1]}, r"devices: duplicate device ids in \[1, 1\]"),
        ({"devices": [0, "x"]}, r"options: devices\[1\]: expected `int`, got `str` \(devices to"),
        ({"model": "a"}, "options: model: already given as model_path: remove one"),
        (
            {"backend": "qnn"},
            r"options: backend: invalid enum value 'qnn' .*aic .cards., cpu, sim",
        ),
        ({"num_activations": "x"}, "options: num_activations: expected `int`, got `str`"),
        ({"num-activations": 1, "num_activations": 1}, "num_activations: given twice"),
        ({"num_activation": 1, "num_activations": 1}, "num_activations: given twice"),
        ({"convert_to_fp16": "yes"}, "options: convert_to_fp16: expected `bool`, got `str`"),
        ({"onnx_define_symbol": {"a": "b"}}, "options: onnx_define_symbol.*: expected `int`, got"),
        ({"onnx_define_symbol": {1: 2}}, "options: onnx_define_symbol: expected `str`, got `int`"),
        (
            {"onnx_define_symbol": [("a",)]},
            "options: onnx_define_symbol: expected a mapping or a list of",
        ),
        ({"onnx_define_symbol": 3}, "options: onnx_define_symbol: expected a mapping or a list of"),
        ({"queue": 5}, "options: queue: expected a section of keys, got 5"),
        (
            {"queue": {"max_samples": "x"}},
            r"options: queue\.max_samples: expected `int`, got `str`",
        ),
        ({"queue": {"max_sample": 1}}, r"queue\.max_sample: unknown key \(did you mean max_samp"),
        ({"queue": {"zzz": 1}}, r"queue\.zzz: unknown key; keys: max_samples, max_bytes, when_f"),
        ({"queue": {1: 1}}, "options: queue: 1: a key must be text"),
        ({"queue": {"a-b": 1, "a_b": 1}}, "options: queue: a_b: given twice"),
        (
            {"batching": {"max_queue_delay_s": -1}},
            r"queue_delay_s: expected `float` >= 0\.0, got -1",
        ),
        ({"quue": {}}, r"options: quue: unknown section \(did you mean queue\?\)"),
        ({"zzz": {}}, "options: zzz: unknown section; sections: queue, batching, "),
        ({"options": ModelOptions()}, "options: options: unknown section"),
        ({"tenants": 3}, "options: tenants: expected a section per tenant name, got 3"),
        ({"tenants": {1: {}}}, "options: tenants: 1: a tenant's name must be text"),
        ({"tenants": {"a": 3}}, r"options: tenants\.a: expected a section of keys, got 3"),
        ({"tenants": {"a": {"wait": 1}}}, r"tenants\.a\.wait: unknown key \(did you mean weight"),
        (
            {"tenants": {"a": {"weight": 0}}},
            r"tenants\.a\.weight: expected `float` > 0\.0, got 0 \(",
        ),
        ({"tenants": {"a": {"share": 0.6}, "b": {"share": 0.5}}}, "tenants: the shares add up to"),
        ({"enable_metrics": True, "enable_profiling": True}, "exclude each other"),
    ],
)
def test_bad_options_are_named(options, message):
    """Every error names its source and the key, what came and what is expected."""
    with pytest.raises(ConfigError, match=message):
        make_config("m.onnx", **options)


def test_errors_of_a_file_name_the_file(write):
    """An error in a file's values, keys or document names the file."""
    cases = {
        "queue: {max_samples: many}": "queue.max_samples: expected `int`, got `str`",
        "1: 2": "1: a key must be text",
        "- 1": "expected a mapping of keys to values, got [1]",
    }
    for text, message in cases.items():
        path = write(text)
        with pytest.raises(ConfigError) as caught:
            make_config("m.onnx", options_path=path, queue={"max_samples": 3})
        assert str(caught.value).startswith(f"{path}: {message}")


# --- config_of_file


def test_a_relative_model_is_relative_to_its_file(write):
    """Only a relative path is resolved; `pkg://` and absolute paths stay unchanged."""
    folder = write("").parent

    assert load(write("model: m.onnx")).model == str(folder / "m.onnx")
    assert load(write("model: /models/m.onnx")).model == "/models/m.onnx"
    assert load(write("model: pkg://magika/m.onnx")).model == "pkg://magika/m.onnx"


def test_overrides_apply_to_a_file(write):
    """Keywords override the file, `model` included, which then stays unchanged."""
    config = load(write("model: m.onnx\nset_size: 3"), model="n.onnx", devices=2)

    assert config == Config(model="n.onnx", set_size=3, devices=2)


def test_file_without_a_model(write):
    """A configuration file must name a model."""
    with pytest.raises(ConfigError, match=r"options\.yaml: model: missing"):
        load(write("set_size: 2"))


def test_tenants_of_a_file_and_of_keywords_are_merged(
    tmp_path: Path,
) -> None:
    """A tenant's weight defaults to 1 and its share to 0."""
    path = tmp_path / "c.yaml"
    path.write_text("model: m.onnx\ntenants: {search: {weight: 3}, ads: {share: 0.2}, rest:}\n")
    tenants = load(path, tenants={"search": {"share": 0.1}}).tenants

    assert {name: (each.weight, each.share) for name, each in tenants.items()} == {
        "search": (3.0, 0.1),
        "ads": (1.0, 0.2),
        "rest": (1.0, 0.0),
    }


def test_live_options_are_changed_key_by_key() -> None:
    """A section keeps its other keys, and other options stay unchanged."""
    config = make_config("m.onnx", set_size=3, queue={"max_samples": 5, "when_full": "reject"})
    new = changed_config(config, {"num-activations": 4, "dev_id": 2, "queue": {"max_samples": 9}})

    assert (new.num_activations, new.set_size, new.devices, new.model) == (4, 3, [2], "m.onnx")
    assert (new.queue.max_samples, new.queue.when_full) == (9, "reject")
    assert changed_config(config, live_options(new)) == new
    assert changed_config(config, {}) == config


def test_tenants_are_changed_as_a_whole() -> None:
    """A tenant missing from the change is removed; other options stay unchanged."""
    config = make_config("m.onnx", set_size=3, tenants={"a": {"weight": 2}, "b": {"share": 0.5}})
    new = changed_config(config, {"tenants": {"b": {"share": 0.25}}})

    assert ({name: each.share for name, each in new.tenants.items()}, new.set_size) == (
        {"b": 0.25},
        3,
    )
    assert changed_config(new, live_options(config)) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mos": 2},
            r"mos: cannot be changed while the scheduler runs; live keys: num_activations, ",
        ),
        ({"event_log": "x"}, r"event_log: cannot be changed"),
        (
            {"set_siz": 2},
            r"set_siz: cannot be changed while the scheduler runs \(did you mean set_size",
        ),
        ({"set_size": "2"}, r"options: set_size: expected `int`"),
        ({"dev_id": 1, "devices": 2}, r"dev_id and devices are both given"),
        ({"devices": [1, 1]}, r"devices: duplicate device ids"),
        ({"hedging": {"aftr": 2}}, r"hedging.aftr: unknown key \(did you mean after"),
        ({"tenants": {"a": {"share": 0.6}, "b": {"share": 0.5}}}, r"tenants: the shares add up to"),
    ],
)
def test_a_live_change_that_is_wrong_names_its_key(options: dict[str, Any], message: str) -> None:
    """A live change is checked as at the start, and its keys must be live."""
    with pytest.raises(ConfigError, match=message):
        changed_config(make_config("m.onnx"), options)

"""YAML files: numbers, duplicate keys, and errors with line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from qaic_sched.config.yaml_file import read_yaml
from qaic_sched.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    """Write a YAML file and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "options.yaml"
        path.write_bytes(text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-1E3", -1000.0),
        (".5e3", 500.0),
        ("1.5e+3", 1500.0),
        ("1.5", 1.5),
        ("12", 12),
        ("1e", "1e"),
        ("e5", "e5"),
        ("v1e5", "v1e5"),
    ],
)
def test_numbers(write, text, value):
    """Numbers may have an exponent without a dot or sign; other words stay text."""
    read = read_yaml(write(f"key: {text}"))

    assert read == {"key": value}
    assert type(read["key"]) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", ":3:1: duplicate key 'a'"),
        ("a:\n  1: x\n  1: y", ":3:3: duplicate key '1'"),
        ("a: [1\nb: 2", ":2:2: expected ',' or ']'"),
        ("a: 2024-13-45", ":1:4: '2024-13-45' is not a valid timestamp"),
        ("a: 1\nb: \x07", ":2:4: special characters are not allowed"),
        ("a: !!python/object:os.system x", ":1:4: could not determine a constructor"),
        ("? [1]\n: 2", ":1:3: found unhashable key"),
    ],
)
def test_an_error_has_file_line_and_column(write, text, message):
    """An error in a YAML file names file, line, column and problem."""
    path = write(text)

    with pytest.raises(ConfigError) as caught:
        read_yaml(path)

    assert str(caught.value).startswith(f"{path}{message}")
    assert caught.value.__cause__ is not None


def test_merged_keys_are_not_duplicates(write):
    """A key may override a merged key, and keeps doing so when merged again."""
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, y: 3}"

    assert read_yaml(write(text)) == {
        "a": {"x": 1, "y": 1},
        "b": {"x": 2, "y": 1},
        "c": {"x": 2, "y": 3},
    }


def test_empty_file_is_none(write):
    """A file with nothing but comments is None."""
    assert read_yaml(write("# nothing\n")) is None


def test_file_that_cannot_be_read(tmp_path):
    """A missing file, a folder and a binary file raise `ConfigError`."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: \xff")

    with pytest.raises(ConfigError, match=r"missing\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
    with pytest.raises(ConfigError, match=r"binary\.yaml: not UTF-8 text: .*, byte 3"):
        read_yaml(binary)

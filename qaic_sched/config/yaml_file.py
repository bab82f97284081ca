"""Reading a YAML file, with line and column in every error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from qaic_sched.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_yaml"]


def read_yaml(path: Path) -> object:
    """Read the only document of a YAML file; None if the file is empty.

    Unlike YAML 1.1, `1e-3` is a number and a duplicate key is an error. Raises `ConfigError` with
    file, line and column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error.reason}, byte {error.start}") from error
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position].split("\n")
        where = f"{len(before)}:{len(before[-1]) + 1}"
        raise ConfigError(f"{path}:{where}: {error.reason}") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the two rules of `read_yaml` and a position in every error."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:
            problem = f"{node.value!r} is not a valid {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                problem = f"duplicate key {key.value!r}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add((key.tag, str(key.value)))
        return node

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        # PyYAML 6.0.4 loses what this mapping overrides when it is merged into another one.
        last = {(key.tag, str(key.value)): (key, value) for key, value in node.value}
        node.value = list(last.values())


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)

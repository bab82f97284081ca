"""A configuration as a table of keys, values and meanings."""

from __future__ import annotations

import msgspec

from qaic_sched.config.keys import SECTIONS, Config, meanings_of

__all__ = ["describe_config"]


def describe_config(config: Config) -> list[tuple[str, str, str]]:
    """Return (key, value, meaning) for every key, spelled as in a configuration file."""
    sections = [(f"{name}.", getattr(config, name)) for name in SECTIONS]
    sections += [(f"tenants.{name}.", tenant) for name, tenant in config.tenants.items()]
    lines = [
        (key, _shown(getattr(holder, key.removeprefix(prefix))), meaning)
        for prefix, holder in [("", config), ("", config.options), *sections]
        for key, meaning in meanings_of(type(holder), prefix).items()
    ]
    return lines + [
        (key, _shown(value), "passed to the compiler unchanged")
        for key, value in config.options.compiler.items()
    ]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()

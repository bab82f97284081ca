"""The names of the vendor's compiler options."""

from __future__ import annotations

from qaic_sched.config.keys import Config, ModelOptions
from qaic_sched.config.vendor_options import COMPILER_KEYS


def test_compiler_options_are_identifiers() -> None:
    """Each name is spelled with `_`, as keys are after normalization."""
    assert all(key.isidentifier() for key in COMPILER_KEYS)


def test_compiler_options_do_not_overlap_with_keys_of_our_own() -> None:
    """A name is either passed to the compiler or interpreted here, never both."""
    assert not COMPILER_KEYS & {*Config.__struct_fields__, *ModelOptions.__struct_fields__}

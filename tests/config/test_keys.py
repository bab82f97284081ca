"""The keys of a configuration and their meanings."""

from __future__ import annotations

from qaic_sched.config.keys import SECTIONS, Config, QueueConfig, TenantConfig, meanings_of


def test_every_key_of_a_section_has_a_meaning() -> None:
    """Each key of each section has a meaning, found by its full name."""
    for name, section in {**SECTIONS, "tenants.NAME": TenantConfig}.items():
        meanings = meanings_of(section, f"{name}.")
        assert list(meanings) == [f"{name}.{key}" for key in section.__struct_fields__]
        assert all(meanings.values())


def test_meanings_need_no_prefix() -> None:
    """Without a prefix, meanings are found by the bare key."""
    assert list(meanings_of(QueueConfig)) == ["max_samples", "max_bytes", "when_full"]


def test_every_section_is_a_field_of_the_configuration() -> None:
    """The sections are the fields of `Config` with fixed keys, in any order."""
    assert SECTIONS.keys() < set(Config.__struct_fields__)

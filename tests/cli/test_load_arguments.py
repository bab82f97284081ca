"""The command's signature, derived from the dataclass of its arguments."""

from __future__ import annotations

from dataclasses import dataclass, fields
from inspect import Parameter, signature
from typing import Annotated

import typer

from qaic_sched.cli.app import command
from qaic_sched.cli.load_arguments import LoadArguments, takes_arguments


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """Two arguments."""

    name: Annotated[str, typer.Argument()]
    times: Annotated[int, typer.Option("--times", min=1)] = 2


def test_a_function_of_a_dataclass_gets_a_parameter_for_each_field() -> None:
    """The command takes the fields as keywords, with their defaults and annotations."""
    greetings: list[Greeting] = []

    @takes_arguments(Greeting)
    def greet(greeting: Greeting) -> None:
        """Greet."""
        greetings.append(greeting)

    greet(name="Ada", times=3)
    parameters = signature(greet).parameters

    assert greetings == [Greeting(name="Ada", times=3)]
    assert (greet.__name__, greet.__doc__) == ("greet", "Greet.")
    assert [*parameters] == ["name", "times"]
    assert parameters["name"].default is Parameter.empty
    assert parameters["times"].default == 2


def test_every_argument_is_on_the_command_line() -> None:
    """`qaic-sched load` has a parameter, with a help text, for each field."""
    load = command.commands["load"]  # type: ignore[attr-defined]
    helps = {each.name: each.help for each in load.params}

    assert [*helps] == [field.name for field in fields(LoadArguments)]
    assert all(helps.values())

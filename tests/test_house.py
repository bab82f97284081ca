"""The order of the house: which module may import which, checked against the import graph.

Every import statement counts, inside functions and under `if TYPE_CHECKING` too; cycles are
looked for without the latter, which never run, and with them, because a reader follows them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = "qaic_sched"
FOLDER = Path(__file__).parent.parent / ROOT

ORDERS: dict[str, list[str]] = {
    "": [
        "errors clock program virtual_time extras",
        "tensors npz_file metrics config core",
        "backends",
        "session",
        "scheduler",
        "loadgen",
        "cli compat",
    ],
    "core": [
        "values execute_times outliers",
        "model speed_group",
        "events commands deadlines health retries stalls tenants timeout_watch",
        "speeds hedging tenant_queue",
        "priority_levels queue_times",
        "request_queue slot_ledger",
        "admission batching placement",
        "scheduler_data",
        "dispatching",
        "recovery",
        "resizing",
        "state",
        "invariants",
    ],
    "backends": [
        "base threads row_difference row_finding trial_values",
        "row_trial compiling",
        "loaded_trial",
        "cpu sim aic",
        "choose",
    ],
    "scheduler": [
        "api arguments failures explain event_log heartbeat probe_inputs",
        "pool request replay",
        "shell mapping",
        "opening live_change several device_news",
        "front",
        "blocking",
    ],
    "loadgen": [
        "targets",
        "plan",
        "report",
        "inject",
        "judge",
        "mlperf",
        "search",
        "load",
        "campaign",
        "show",
    ],
}
"""Package -> its floors, each a line of rooms; a room imports from its own and earlier floors."""
OPEN_TO_ALL = {"testing", "__main__"}
"""Modules without a floor: helpers for tests, and `python -m qaic_sched`."""
APART = ["backends.cpu", "backends.sim", "backends.aic"]
"""Rooms of one floor that may not import each other."""
BINDING = {"qaicrt", "QAicApi_pb2"}
"""The vendor's modules."""

LOOP = {f"{ROOT}.core.model", f"{ROOT}.core.speed_group"}
"""Import each other for types: an activation has a speed, a speed group has activations."""

CLOCKS_AND_CHANCE = {"asyncio", "datetime", "random", "secrets", "threading", "time", "uuid"}


@dataclass(frozen=True)
class Import:
    """One import statement's target, by its full name."""

    target: str
    line: int
    is_for_types: bool


def _imports(node: ast.AST, known: frozenset[str], is_for_types: bool = False) -> Iterator[Import]:
    """Every import below a node; `from package import module` names the module."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, is_for_types)
    elif isinstance(node, ast.ImportFrom):
        source = "." * node.level + (node.module or "")
        for alias in node.names:
            name = f"{source}.{alias.name}"
            yield Import(name if name in known else source, node.lineno, is_for_types)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for statement in node.body:
            yield from _imports(statement, known, is_for_types=True)
        for statement in node.orelse:
            yield from _imports(statement, known, is_for_types)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, known, is_for_types)


@lru_cache
def _trees() -> dict[str, ast.Module]:
    """Module -> its syntax, for every module of the package."""
    trees = {}
    for path in sorted(FOLDER.rglob("*.py")):
        parts = path.relative_to(FOLDER.parent).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        trees[module] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


@lru_cache
def _graph() -> dict[str, list[Import]]:
    """Module -> its imports, for every module of the package but the root itself."""
    known = frozenset(_trees())
    return {
        module: list(_imports(tree, known)) for module, tree in _trees().items() if module != ROOT
    }


def _strings(tree: ast.Module) -> set[object]:
    """Every constant in a module."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}


def _ours() -> Iterator[tuple[str, Import]]:
    """(module, import) wherever one of our modules imports another."""
    for module, imports in _graph().items():
        for each in imports:
            if each.target.partition(".")[0] == ROOT:
                yield module, each


def _run_by_importing(module: str) -> list[str]:
    """The module and the packages that it is in, which are imported with it."""
    parts = module.split(".")
    return [".".join(parts[: length + 1]) for length in range(len(parts))]


def _floors(package: str) -> dict[str, int]:
    """Room -> floor, of the rooms of one package."""
    floors = enumerate(ORDERS[package])
    return {room: floor for floor, rooms in floors for room in rooms.split()}


def _room(module: str, package: str = "") -> str | None:
    """The room of a package that a module is in; None if it is in none of them."""
    prefix = f"{ROOT}.{package}." if package else f"{ROOT}."
    return module.removeprefix(prefix).split(".")[0] if module.startswith(prefix) else None


@pytest.mark.parametrize("package", ORDERS)
def test_every_room_has_a_floor(package: str) -> None:
    """Every module has a place in the order, and the order names only modules that exist."""
    rooms = {room for module in _graph() if (room := _room(module, package)) is not None}

    assert rooms - OPEN_TO_ALL == _floors(package).keys()


@pytest.mark.parametrize("package", ORDERS)
def test_nobody_imports_from_a_floor_above(package: str) -> None:
    """A room imports only from its own floor and from earlier ones."""
    floors = _floors(package)
    climbing = [
        f"{module}:{each.line} imports {each.target}"
        for module, each in _ours()
        if (room := _room(module, package)) in floors
        and (other := _room(each.target, package)) is not None
        and floors.get(other, 0) > floors[room]
    ]

    assert climbing == []


def test_no_kind_of_device_knows_another() -> None:
    """The backends of the CPU, simulated cards and cards do not import each other."""
    crossing = [
        f"{module}:{each.line} imports {each.target}"
        for module, each in _ours()
        for one in APART
        for other in APART
        if one != other
        and f"{module}.".startswith(f"{ROOT}.{one}.")
        and f"{each.target}.".startswith(f"{ROOT}.{other}.")
    ]

    assert crossing == []


def test_rooms_stay_small() -> None:
    """At most 14 files at the root, 4 next to the folders of `loadgen`, 400 lines in a file."""
    python = [path for folder in (FOLDER, Path(__file__).parent) for path in folder.rglob("*.py")]
    long = [path.name for path in python if len(path.read_text("utf-8").splitlines()) > 400]

    assert len([path for path in FOLDER.iterdir() if path.is_file()]) <= 14
    assert len([path for path in (FOLDER / "loadgen").iterdir() if path.is_file()]) <= 4
    assert long == []


def test_only_one_module_knows_the_vendors_binding() -> None:
    """Only `backends.aic.sdk` imports the binding, by names that no other module contains."""
    importers = {
        module
        for module, imports in _graph().items()
        for each in imports
        if each.target.partition(".")[0] in BINDING
    }
    namers = {module for module, tree in _trees().items() if _strings(tree) & BINDING}

    assert importers == set()
    assert namers == {f"{ROOT}.backends.aic.sdk"}


def test_nobody_imports_the_package_root() -> None:
    """Inside the package, names are imported from the modules that define them."""
    assert [f"{module}:{each.line}" for module, each in _ours() if each.target == ROOT] == []


def test_imports_are_absolute() -> None:
    """Imports have the form `from qaic_sched.x import y`, which means the same in every file."""
    relative = [
        f"{module}:{each.line}"
        for module, imports in _graph().items()
        for each in imports
        if each.target.startswith(".")
    ]

    assert relative == []


def test_no_product_module_imports_testing() -> None:
    """`qaic_sched.testing` is for tests only, ours and the users'."""
    importers = [
        f"{module}:{each.line}"
        for module, each in _ours()
        if _room(module) != "testing" and each.target.startswith(f"{ROOT}.testing")
    ]

    assert importers == []


def test_the_core_imports_nothing_but_itself_and_the_errors() -> None:
    """Its other imports are of the standard library, but none of clocks, randomness or threads."""
    strange = []
    for module, imports in _graph().items():
        for each in imports if _room(module) == "core" else []:
            top = each.target.partition(".")[0]
            is_ours = each.target.startswith((f"{ROOT}.core", f"{ROOT}.errors"))
            is_plain = top in sys.stdlib_module_names and top not in CLOCKS_AND_CHANCE
            if not is_ours and not is_plain:
                strange.append(f"{module}:{each.line} imports {each.target}")

    assert strange == []


def _cycle(graph: dict[str, set[str]]) -> set[str]:
    """The modules in import cycles, or on a path between two cycles; empty if there are none."""
    left = dict(graph)
    while free := {module for module, targets in left.items() if not targets}:
        left = {module: targets - free for module, targets in left.items() if module not in free}
    importers = {module: {each for each in left if module in left[each]} for module in left}
    while free := {module for module, users in importers.items() if not users}:
        importers = {each: users - free for each, users in importers.items() if each not in free}
    return set(importers)


def test_there_are_no_import_cycles_at_run_time() -> None:
    """Modules can be imported in any order."""
    graph = {
        module: {
            target
            for each in imports
            if not each.is_for_types
            for target in _run_by_importing(each.target)
            if not f"{module}.".startswith(f"{target}.")
        }
        & _graph().keys()
        for module, imports in _graph().items()
    }

    assert _cycle(graph) == set()


def test_there_are_no_import_cycles_for_types_either() -> None:
    """With imports for types, the only cycle is that of activations and speed groups."""
    graph = {
        module: {each.target for each in imports} & _graph().keys() - {module}
        for module, imports in _graph().items()
    }

    assert _cycle(graph) <= LOOP


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b, c", [("a.b", False), ("c", False)]),
        ("from qaic_sched.core import state", [("qaic_sched.core.state", False)]),
        ("from qaic_sched.core.state import X", [("qaic_sched.core.state", False)]),
        ("from qaic_sched import Session", [("qaic_sched", False)]),
        ("from . import x", [(".", False)]),
        ("def f():\n    import a", [("a", False)]),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", [("a", True), ("b", False)]),
        ("try:\n    import a\nexcept ImportError:\n    import b", [("a", False), ("b", False)]),
    ],
)
def test_the_graph_sees_every_kind_of_import(source: str, expected: list[tuple[str, bool]]) -> None:
    """The tests above would miss a cycle of imports that the graph lacks."""
    known = frozenset({"qaic_sched", "qaic_sched.core", "qaic_sched.core.state"})
    found = _imports(ast.parse(source), known)

    assert [(each.target, each.is_for_types) for each in found] == expected

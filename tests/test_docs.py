"""The documentation is right: its examples run, its links exist, its tables are complete.

Rules of this file:
- The blocks of a page run in order, in one temporary folder with `configs/` in it. Python blocks
  share one namespace, and may use `await` outside a function, as `python -m asyncio` allows.
- A comment above a block says how to treat it: see `NOTES` and `REASONS`. `file: NAME` keeps the
  block as a file for those after it.
- Shown output is compared with the real one; `...` stands for any text.
"""

from __future__ import annotations

import ast
import asyncio
import doctest
import inspect
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import qaic_sched
from qaic_sched import errors
from qaic_sched.backends.sim.spec import read_spec
from qaic_sched.cli.app import command as cli
from qaic_sched.config.keys import Config, TenantConfig
from qaic_sched.config.models import load_configs, make_configs
from qaic_sched.config.table import describe_config
from qaic_sched.config.yaml_file import read_yaml
from qaic_sched.core.health import DeviceState
from qaic_sched.core.model import RequestState

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"]
MARKS = {
    "README.md": pytest.mark.long,
    "docs/command-line.md": pytest.mark.slow,
    "docs/load-testing.md": pytest.mark.long,
    "docs/python.md": pytest.mark.slow,
}
"""Pages whose examples take over a second: of computing in virtual time, or of real time."""

REASONS = {"needs a card", "needs a server", "installs packages", "takes minutes"}
"""Why a block may be left out: `<!-- not run: needs a card -->`."""
NOTES = {"output", "numbers vary", "exit status 1", "exit status 2"}
"""`output`: of the Python block before; `numbers vary`: what is left of the output is compared."""
LANGUAGES = {"python", "console", "yaml", "text", "mermaid", "json"}

_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NUMBER = re.compile(r"\d[\d,.]*")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"`((?:\w+/)+(?:[\w-]+\.(?:py|md|yaml|json))?)`")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    note: str

    @property
    def where(self) -> str:
        """The place of the block, for messages."""
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        """The name of the file that later blocks find it in; empty if there is none."""
        return self.note.removeprefix("file: ") if self.note.startswith("file: ") else ""

    @property
    def is_run(self) -> bool:
        """Whether it can run here: no comment above it says otherwise."""
        return not self.note.startswith("not run: ")


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    content = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page,
            content.count("\n", 0, found.start("language")) + 1,
            found["language"],
            found["text"],
            found["note"] or "",
        )
        for found in _BLOCK.finditer(content)
    ]


def commands_of(block: Block) -> list[tuple[str, str]]:
    """(command, shown output) of a console block; a backslash continues a command."""
    commands: list[tuple[str, str]] = []
    for each in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        lines = each.split("\n")
        length = next(i for i, line in enumerate(lines, 1) if not line.endswith("\\"))
        commands.append(("\n".join(lines[:length]), "\n".join(lines[length:])))
    return commands


def matches(shown: str, real: str, *, numbers_vary: bool = False) -> bool:
    """Whether a page shows the real output, where `...` stands for any text."""
    shown, real = (re.sub(r" +$", "", text, flags=re.MULTILINE) for text in (shown, real))
    if numbers_vary:
        # Columns follow the width of the numbers in them.
        shown, real = (re.sub(" +", " ", _NUMBER.sub("0", text)) for text in (shown, real))
    return doctest.OutputChecker().check_output(
        shown.strip("\n") + "\n", real.strip("\n") + "\n", doctest.ELLIPSIS
    )


class PageRunner:
    """Runs the blocks of one page in a folder of their own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder = folder
        self._capsys = capsys
        self._namespace: dict[str, Any] = {"__name__": "page"}
        self._printed = ""

    def run(self, block: Block) -> None:
        """Run a block, and fail where it does something else than the page says."""
        if block.file:
            (self._folder / block.file).write_text(block.text, encoding="utf-8")
        if block.language == "yaml":
            check_yaml(block, self._folder)
        elif block.language == "python" and not block.file:
            self._printed = self._python(block)
        elif block.note.startswith("output"):
            numbers_vary = "numbers vary" in block.note
            holds = matches(block.text, self._printed, numbers_vary=numbers_vary)
            assert holds, f"{block.where} prints\n{self._printed}"
        elif block.language == "console":
            for command, shown in commands_of(block):
                self._console(block, command, shown)

    def _python(self, block: Block) -> str:
        code = compile(block.text, block.where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        self._capsys.readouterr()
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, self._namespace))
        else:
            exec(code, self._namespace)
        return self._capsys.readouterr().out

    def _console(self, block: Block, command: str, shown: str) -> None:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self._folder,
            env=_environment(self._folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        found = re.search(r"exit status (\d)", block.note)
        said = f"{block.where}: `{command}` ended with {done.returncode} and says\n{done.stdout}"
        assert done.returncode == (int(found[1]) if found else 0), said
        numbers_vary = "numbers vary" in block.note
        assert not shown.strip() or matches(shown, done.stdout, numbers_vary=numbers_vary), said


def _environment(folder: Path) -> dict[str, str]:
    """The environment of a shell in which `qaic-sched` and `python` are those of this tree."""
    source = str(Path(qaic_sched.__file__).parent.parent)
    return {
        **os.environ,
        "COLUMNS": "200",
        "PATH": f"{folder / '.bin'}:{os.environ['PATH']}",
        "PYTHONPATH": source,
        "XDG_CACHE_HOME": str(folder / ".cache"),
    }


def check_yaml(block: Block, folder: Path) -> None:
    """Check that a block is a valid configuration, part of one, or a valid `.sim.yaml` file."""
    path = folder / (block.file or "unnamed.yaml")
    path.write_text(block.text, encoding="utf-8")
    keys = read_yaml(path)
    assert isinstance(keys, dict), block.where
    if path.name.endswith(".sim.yaml"):
        read_spec(path)
    elif "model" in keys or "models" in keys:
        load_configs(path)
    else:
        make_configs("model.onnx", **keys)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with `configs/` and the commands, which is where the test is."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / ".bin").mkdir()
    for name, arguments in {"qaic-sched": "-m qaic_sched", "python": ""}.items():
        script = tmp_path / ".bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    return tmp_path


@pytest.mark.parametrize("page", [pytest.param(each, marks=MARKS.get(each, ())) for each in PAGES])
def test_the_examples_of_a_page_run(
    page: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every block does what the page shows, unless a comment above it says why it cannot run."""
    runner = PageRunner(folder, capsys)
    for block in blocks_of(page):
        if block.is_run:
            runner.run(block)


@pytest.mark.parametrize("page", LINKED)
def test_every_block_is_marked_well(page: str) -> None:
    """Languages, notes and reasons are known, and only console blocks contain commands."""
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block.where}: {block.language!r}"
        kind, _, value = block.note.partition(": ")
        if kind == "not run":
            assert value in REASONS, f"{block.where}: {value!r}"
        elif kind == "file":
            assert block.language in {"yaml", "python"}, block.where
        else:
            assert not {*filter(None, block.note.split(", "))} - NOTES, f"{block.where}: {kind!r}"
        has_command = any(line.startswith("$ ") for line in block.text.splitlines())
        assert has_command == (block.language == "console"), block.where


def test_every_page_is_in_the_index() -> None:
    """`docs/README.md` links all other pages, and the README links it."""
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")

    assert [page for page in PAGES if f"({page.removeprefix('docs/')})" not in index] == [
        "README.md",
        "docs/README.md",
    ]
    assert "(docs/README.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def _anchors(page: Path) -> set[str]:
    """The anchors that a code host makes of a page's headings."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.strip().lower()).replace(" ", "-") for each in headings}


def broken_links(page: str) -> list[str]:
    """The relative links of a page whose target does not exist."""
    prose = _CODE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    broken = []
    for target in _LINK.findall(prose):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (ROOT / page).parent / path if path else ROOT / page
        if not linked.exists() or (anchor and anchor not in _anchors(linked)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", LINKED)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    """The files and anchors of links exist, and so do the paths that the text names."""
    named = set(_PATH.findall((ROOT / page).read_text(encoding="utf-8")))
    places = (ROOT, ROOT / "qaic_sched", ROOT / "qaic_sched" / "backends")

    assert broken_links(page) == []
    assert [path for path in named if not any((each / path).exists() for each in places)] == []


def _rows(page: str) -> list[list[str]]:
    """The cells of every table of a page."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def test_every_key_is_documented_with_its_default() -> None:
    """`docs/configuration.md` has a row for each key that `qaic-sched check` prints."""
    rows = {row[0].strip("`"): row[1].strip("`") for row in _rows("docs/configuration.md")}
    config = Config(model="-", tenants={"NAME": TenantConfig()})
    shown = {key: value for key, value, _ in describe_config(config)}
    missing = {key for key in shown if key not in rows and not key.startswith("service.")}

    assert missing == set()
    for key, value in shown.items():
        if key in rows and key != "model":
            assert rows[key] == value, key


def test_every_error_is_documented_with_its_status() -> None:
    """`docs/errors.md` has a row for each class of `qaic_sched.errors`."""
    rows = {row[0].strip("`"): row[1].strip("`") for row in _rows("docs/errors.md")}
    classes = [getattr(errors, name) for name in errors.__all__]
    kinds = [each for each in classes if isinstance(each, type) and issubclass(each, Exception)]

    assert {each.__name__: str(each.http_status_hint) for each in kinds}.items() <= rows.items()


def test_every_state_is_documented() -> None:
    """`docs/scheduling.md` explains each state of requests and devices."""
    page = (ROOT / "docs/scheduling.md").read_text(encoding="utf-8")
    states = [each.value for each in (*RequestState, *DeviceState)]

    assert [each for each in states if f"`{each}`" not in page] == []


def test_every_option_of_every_command_is_documented() -> None:
    """Options of `load` are in `docs/load-testing.md`, all others in `docs/command-line.md`."""
    for name, command in cli.commands.items():
        page = "load-testing" if name == "load" else "command-line"
        text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
        options = [each.opts[0] for each in command.params if each.opts[0].startswith("--")]
        assert f"qaic-sched {name}" in text
        assert [each for each in options if each not in text] == [], name


@pytest.mark.parametrize(
    ("shown", "real", "numbers_vary", "expected"),
    [
        ("a\n...\nc\n", "a\nb\nb\nc\n", False, True),
        ("a\n...\nc\n", "a\nb\n", False, False),
        ("p99 2.51 ms\n", "p99 2.52 ms\n", False, False),
        ("  4  2.51 ms\n", " 12  10.2 ms\n", True, True),
        ("0 errors, 1 retry\n", "0 failures, 1 retry\n", True, False),
    ],
)
def test_output_is_compared(shown: str, real: str, numbers_vary: bool, expected: bool) -> None:
    """Text must be equal, `...` stands for any text, and numbers may differ only where allowed."""
    assert matches(shown, real, numbers_vary=numbers_vary) is expected

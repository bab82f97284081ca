"""The main job: name the content type of real files with a trained model.

The model is Magika's, from its package. Every answer of the scheduler is compared with that of ONNX
Runtime alone. Run `python -m bench.main_job`; the exit status is 1 if an answer differs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import sysconfig
import time
from collections import defaultdict
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from zlib import crc32

import numpy as np

from qaic_sched.backends.choose import find_model
from qaic_sched.backends.cpu.cores import usable_cores
from qaic_sched.errors import SchedulerError
from qaic_sched.scheduler.front import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from qaic_sched.program import TensorSpec

__all__ = ["ContentModel", "count_equal", "find_files", "main", "name_files", "reference_scores"]

Tokens: TypeAlias = "NDArray[np.int32]"
Scores: TypeAlias = "NDArray[np.float32]"

CHECKOUT = Path(__file__).resolve().parents[1]
CONFIG = CHECKOUT / "configs" / "magika.yaml"

TOLERANCE = 1e-5
"""The largest difference of equal probabilities: batches of other sizes round differently."""

SHOWN_TYPES = 12


class ContentModel:
    """Magika's model: how it reads a file, and the labels of the content types.

    `path` is the ONNX file; sizes and labels are in `config.min.json` in its folder.
    """

    def __init__(self, path: str) -> None:
        config = json.loads(Path(path).with_name("config.min.json").read_text(encoding="utf-8"))
        self.path = path
        self.labels: list[str] = config["target_labels_space"]
        self._beginning: int = config["beg_size"]
        self._end: int = config["end_size"]
        self._block: int = config["block_size"]
        self._padding: int = config["padding_token"]
        self._min_tokens: int = config["min_file_size_for_dl"]

    def tokens_of(self, path: Path) -> Tokens | None:
        """Return the first and last bytes of a file, stripped and padded to the model's width.

        None if the path is not a readable file, or has too few bytes for the model.
        """
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                first = file.read(self._block)
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - self._block))
                last = file.read(self._block)
        except OSError:
            return None
        first = first.lstrip()[: self._beginning]
        last = last.rstrip()[-self._end :]
        if len(first) < self._min_tokens:
            return None
        tokens = np.full(self._beginning + self._end, self._padding, np.int32)
        tokens[: len(first)] = np.frombuffer(first, np.uint8)
        tokens[len(tokens) - len(last) :] = np.frombuffer(last, np.uint8)
        return tokens

    def read(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Tokens]]:
        """Yield each file that the model accepts, with its tokens; files are read lazily."""
        for path in paths:
            tokens = self.tokens_of(path)
            if tokens is not None:
                yield path, tokens


def find_files(roots: Sequence[Path]) -> list[Path]:
    """Find all files under the roots, in a fixed order that alternates between suffixes.

    Skips hidden folders, compiled Python and installed packages.
    """
    kinds: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for root in roots:
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = [name for name in subfolders if not _is_skipped(name)]
            for name in names:
                path = Path(folder, name)
                # Spreads a suffix over all folders, in the same way on every machine.
                spread = crc32(os.fsencode(path.relative_to(root)))
                kinds[path.suffix.lower()].append((spread, path))
    turns = (
        (turn, kind, path)
        for kind, paths in kinds.items()
        for turn, (_, path) in enumerate(sorted(paths))
    )
    return [path for _, _, path in sorted(turns)]


def _is_skipped(folder: str) -> bool:
    return folder.startswith(".") or folder in ("__pycache__", "site-packages", "dist-packages")


async def name_files(
    scheduler: Scheduler,
    files: Iterable[tuple[Path, Tokens]],
    advance: Callable[[int], None],
) -> tuple[list[Path], Tokens, Scores]:
    """Run every file through the scheduler as one request.

    Returns the paths, and tokens and scores with one row per file, in the order of `files`.
    """
    paths: list[Path] = []
    rows: list[Tokens] = []
    [source], [result] = scheduler.program.inputs, scheduler.program.outputs

    def requests() -> Iterator[dict[str, Tokens]]:
        for path, tokens in files:
            paths.append(path)
            rows.append(tokens)
            yield {source.name: tokens[np.newaxis]}

    scores: list[Any] = []
    async for outputs in scheduler.map(requests()):
        scores.append(outputs[result.name])
        advance(1)
    return paths, _stacked(rows, source), _stacked(scores, result)


def _stacked(rows: Sequence[NDArray[Any]], spec: TensorSpec) -> NDArray[Any]:
    return np.reshape(rows, (len(rows), *spec.shape[1:])).astype(spec.dtype, copy=False)


def reference_scores(
    model_path: str, tokens: Tokens, batch: int, advance: Callable[[int], None]
) -> Scores:
    """Return the scores of ONNX Runtime alone, run in batches of `batch` rows."""
    import onnxruntime as ort

    session = ort.InferenceSession(model_path, providers=["CPUExecutionProvider"])
    [source] = session.get_inputs()
    answers = []
    for start in range(0, len(tokens), batch):
        rows = tokens[start : start + batch]
        answers.append(session.run(None, {source.name: rows})[0])
        advance(len(rows))
    return np.concatenate(answers)


def count_equal(scores: Scores, reference: Scores) -> int:
    """Count the rows that are numerically equal and name the same type."""
    close = np.abs(scores - reference).max(axis=1) <= TOLERANCE
    same = scores.argmax(axis=1) == reference.argmax(axis=1)
    return int((close & same).sum())


def main(arguments: Sequence[str] | None = None) -> int:
    """Name the files, print the types and check every answer; returns the exit status.

    0: all answers equal those of ONNX Runtime. 1: an answer differs. 2: the job could not start.
    """
    options = _parse(arguments)
    try:
        return _run(_job(options.path, options.files))
    except SchedulerError as error:
        print(f"main job: {error}", file=sys.stderr)
        return 2


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.main_job",
        description="Name the content type of files through the scheduler and check each answer.",
        epilog="example: python -m bench.main_job --files 200 --path ~/Documents",
    )
    parser.add_argument(
        "--files",
        type=int,
        default=1500,
        metavar="N",
        help="maximum number of files; default: 1500",
    )
    parser.add_argument(
        "--path",
        type=Path,
        metavar="DIR",
        help="folder of the files; default: the checkout, Python's standard library and its "
        "installed packages",
    )
    options = parser.parse_args(arguments)
    if options.files < 1:
        parser.error("--files: must be at least 1")
    if options.path is not None and not options.path.is_dir():
        parser.error(f"--path: {options.path} is not a folder")
    return options


def _run(job: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(job)
    return uvloop.run(job)


async def _job(folder: Path | None, most: int) -> int:
    candidates = find_files(_roots() if folder is None else [folder])
    total = min(most, len(candidates))
    async with _open_scheduler() as scheduler:
        model = ContentModel(find_model(scheduler.config.model))
        started_at = time.perf_counter()
        with _progress("naming files through the scheduler", total) as advance:
            files = islice(model.read(candidates), most)
            paths, tokens, scores = await name_files(scheduler, files, advance)
        elapsed_s = time.perf_counter() - started_at
        if not paths:
            print(f"main job: no file under {folder} that the model accepts")
            return 2
        _print_types(model, paths, scores)
        print()
        scheduler.print_metrics()
        batch = scheduler.program.max_batch_size
    print(f"\n{len(paths):,} files in {elapsed_s:.1f} s: {len(paths) / elapsed_s:.0f} files/s\n")
    with _progress("checking the answers with onnxruntime alone", len(paths)) as advance:
        reference = reference_scores(model.path, tokens, batch, advance)
    equal = count_equal(scores, reference)
    print(f"{equal} of {len(paths)} answers equal onnxruntime")
    return 0 if equal == len(paths) else 1


def _roots() -> list[Path]:
    """Return the checkout, Python's standard library and the installed packages."""
    installed = sysconfig.get_paths()
    return [CHECKOUT, Path(installed["stdlib"]), Path(installed["purelib"])]


def _open_scheduler() -> Scheduler:
    if len(usable_cores()) > 1:
        return Scheduler.from_config(CONFIG)
    print("this process may use one core only: running one device instead of two")
    return Scheduler.from_config(CONFIG, devices=1)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, one line elsewhere; yields a function that advances it."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    console = Console()
    if not console.is_terminal:
        print(f"{what} ...", flush=True)
        yield lambda _: None
        return
    with Progress(
        *Progress.get_default_columns(), MofNCompleteColumn(), console=console
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda step: progress.advance(task, step)


def _print_types(model: ContentModel, paths: Sequence[Path], scores: Scores) -> None:
    """Print a line per content type: the number of files, and the one with the highest score."""
    found: dict[str, list[tuple[float, Path]]] = defaultdict(list)
    for path, row in zip(paths, scores, strict=True):
        best = int(row.argmax())
        found[model.labels[best]].append((float(row[best]), path))
    ranking = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    for label, files in ranking[:SHOWN_TYPES]:
        score, path = max(files)
        print(f"{label:>16} {len(files):5}   {100 * score:5.1f} % sure of {_shown(path)}")
    if len(ranking) > SHOWN_TYPES:
        others = ranking[SHOWN_TYPES:]
        names = ", ".join(label for label, _ in others[:SHOWN_TYPES])
        print(f"{'others':>16} {sum(len(files) for _, files in others):5}   {names}, ...")


def _shown(path: Path) -> str:
    """Return the last folders and the name of a file, even if the name is not valid text."""
    return "/".join(path.parts[-3:]).encode(errors="replace").decode()


if __name__ == "__main__":
    sys.exit(main())

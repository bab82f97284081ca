"""The blocking card that the pool of threads runs on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from time import perf_counter

from bench.cards import rows_of
from bench.threadpool import BlockingCard


def test_a_blocking_card_runs_one_inference_per_activation() -> None:
    """4 inferences of 5 ms on 2 activations cannot take less than 10 ms."""
    card = BlockingCard(2, 0.005)

    started = perf_counter()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(card.run, repeat(rows_of(1), 4)))

    assert perf_counter() - started >= 0.010
    assert [each["prob"].shape for each in answers] == [(1, 4)] * 4

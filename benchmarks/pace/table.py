"""Plays every policy against every server and counts."""

from __future__ import annotations

import multiprocessing
import statistics
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.pace.rivals import Aimd, Fixed, Gradient2
from benchmarks.pace.servers import KINDS, Kindred, oracle, play, random_kind
from benchmarks.pace.world import HOUR
from rowmill.domain.pace import Pace, PaceLimits, ResponseMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LAST = HOUR - 900


def rowmill(kind: Kindred) -> Pace:
    return Pace(PaceLimits(most=kind.most, mode=ResponseMode.STREAMING))


POLICIES: dict[str, Callable[[Kindred], object]] = {
    "fixed 10": lambda kind: Fixed(10, kind.most),
    "AIMD": lambda kind: Aimd(10, kind.most),
    "Gradient2": lambda kind: Gradient2(10, kind.most),
    "Rowmill": rowmill,
}


@dataclass(frozen=True, slots=True)
class Score:
    """One policy on one server."""

    kind: str
    policy: str
    seed: int
    goodput: float
    """share of the oracle's rows in the whole hour"""
    late: float
    """the same in the last quarter"""
    rejects: float
    """per ok"""
    billed: float
    """failures that cost money, per ok, beyond those that come from nothing"""
    unknown: int
    downs: int
    oks: int


def measure(kind: Kindred, policy: str, seed: int) -> Score:
    client = play(kind, seed, POLICIES[policy](kind))
    tally = client.tally
    mean = None if kind.by_starts else kind.mean
    whole, late = (tally.rows(begin, HOUR, mean) / oracle(kind, seed, begin, HOUR) for begin in (0.0, LAST))
    oks = max(1, tally.oks)
    billed = max(0.0, tally.billed_failures - kind.noise * oks)
    return Score(
        kind.name, policy, seed, whole, late, tally.rejects / oks, billed / oks, tally.unknown, tally.downs, tally.oks
    )


def measure_all(kinds: Iterable[tuple[Kindred, int]], policies: Iterable[str], jobs: int) -> list[Score]:
    tasks = [(kind, policy, seed) for kind, seed in kinds for policy in policies]
    if jobs == 1:
        return [measure(*task) for task in tasks]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        return pool.starmap(measure, tasks, chunksize=1)


def table_kinds(seeds: Iterable[int]) -> list[tuple[Kindred, int]]:
    return [(kind, seed) for kind in KINDS for seed in seeds]


def random_kinds(count: int, seed: int) -> list[tuple[Kindred, int]]:
    return [(random_kind(number, seed), seed * 1000 + number) for number in range(count)]


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which a share of the others lies, between neighbours in proportion."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


mean = partial(statistics.fmean)

"""How long runs take at different numbers at once: does more at once bring more?

Runs per second are n / run time, so log n − mean log(run time) compares levels whatever the rows are like. Logarithms,
because run times of models have long tails. A run counts for the level at which it began; since the long runs of a
level end last, the newest level looks a little too good at first, and never too bad.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

STEPS_PER_DOUBLING = 3
# Older runs count less and less: a level's memory is about so many runs …
MEMORY = 200.0
# … and no longer than this.
STALE = 1200.0
ENOUGH = 3.0
USUAL_VARIANCE = 0.3


@dataclass(slots=True)
class Level:
    """Runs that began with about so many at once: weight, mean and variance of log seconds, mean of log n."""

    weight: float = 0.0
    seconds: float = 0.0
    square: float = 0.0
    number: float = 0.0
    updated: float = 0.0

    def add(self, number: float, seconds: float, now: float) -> None:
        if now - self.updated > STALE:
            self.weight = 0.0
        self.weight = min(self.weight + 1, MEMORY)
        share = 1 / self.weight
        off = seconds - self.seconds
        self.seconds += share * off
        self.square += share * (off * (seconds - self.seconds) - self.square)
        self.number += share * (number - self.number)
        self.updated = now

    def merge(self, other: Level) -> None:
        """Take another level's runs in. Their variance is left out: it is not asked of a mixture."""
        self.weight += other.weight
        share = other.weight / self.weight
        self.seconds += share * (other.seconds - self.seconds)
        self.number += share * (other.number - self.number)

    @property
    def speed(self) -> float:
        """log runs per second"""
        return self.number - self.seconds


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two levels: what the higher gains in log runs per second, its error, and the log of how much higher it is."""

    gain: float
    error: float
    distance: float


def bucket(number: float) -> int:
    return round(STEPS_PER_DOUBLING * math.log2(max(1.0, number)))


class Levels:
    """What is known of each level."""

    def __init__(self) -> None:
        self._levels: dict[int, Level] = {}

    def add(self, number: int, seconds: float, now: float) -> None:
        """A run of so many seconds that began as one of `number` at once."""
        level = self._levels.setdefault(bucket(number), Level())
        level.add(math.log(max(1, number)), math.log(max(seconds, 0.001)), now)

    def known(self, now: float) -> dict[int, Level]:
        """Levels with enough fresh runs, lowest first."""
        fresh = {
            at: level for at, level in self._levels.items() if level.weight >= ENOUGH and now - level.updated < STALE
        }
        return dict(sorted(fresh.items()))

    def compare(self, low: Level, high: Level) -> Comparison:
        known = [level for level in self._levels.values() if level.weight >= ENOUGH]
        weight = sum(level.weight for level in known) + 10
        variance = (sum(level.square * level.weight for level in known) + 10 * USUAL_VARIANCE) / weight
        error = math.sqrt(variance * (1 / low.weight + 1 / high.weight))
        return Comparison(high.speed - low.speed, error, max(high.number - low.number, 1e-6))

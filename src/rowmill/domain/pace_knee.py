"""Does more at once bring more? Some servers take any number and only get slower."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rowmill.domain.pace_levels import Comparison, Level, Levels, bucket

# More at once has to bring this share of what it could; judged only at levels so far apart (log), with this certainty.
WORTH = 0.2
APART = 0.3
CERTAINTY = 1.2
# Runs get slower like the number at once, or nearly: look closer …
SLOWER = 0.5
# … and perhaps fewer would do.
SUSPICIOUS = 0.7
TRY_LOWER = 0.6
HALF = 0.5
ROUNDS_BETWEEN_TRIES = 12
FEWEST_TO_JUDGE = 8


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about the size. `gains_nothing`: what is above it was found useless; else it is only a trial, or the
    end of one. `proven`: the size is as good as any."""

    size: float
    gains_nothing: bool = False
    proven: bool = False


class Knee:
    """Compares run times at different sizes."""

    def __init__(self) -> None:
        self._levels = Levels()
        self._came_from: float | None = None
        self._tries = 0

    def add(self, number: int, seconds: float, now: float) -> None:
        """A run that began as one of `number` at once took so long."""
        self._levels.add(number, seconds, now)

    def forget_trial(self) -> None:
        """The size was cut for another reason."""
        self._came_from = None

    def is_slower(self, limit: int, count: int, seconds: float, now: float) -> bool:
        """Whether so many runs, with this sum of log seconds, took clearly longer than those at half the limit."""
        shown = self._against_half(limit, count, seconds, now)
        return shown is not None and shown.gain < (1 - SLOWER) * shown.distance

    def advise(
        self, size: float, limit: int, now: float, settled: tuple[int, float] | None, *, in_doubt: bool
    ) -> Advice | None:
        """At the end of a round. `settled`: number and sum of log seconds of the round's runs, if it was long enough
        for the slow ones to be among them. `in_doubt`: the size stands because more brought nothing."""
        known = self._levels.known(now)
        here = known.get(bucket(limit)) or known.get(bucket(limit) - 1)
        if here is None:
            return None
        if self._came_from is not None:
            return self._judge_lower(size, self._came_from, here, known)
        better = self._better_below(here, known)
        if better is not None:
            return Advice(round(math.exp(better.number)), gains_nothing=True)
        shown = self._against_half(limit, *settled, now) if settled is not None else None
        if shown is not None and _is_useless(shown):
            return Advice(HALF * size, gains_nothing=True)
        return self._try_lower(size, here, known) if in_doubt and limit > 1 else None

    def _against_half(self, limit: int, count: int, seconds: float, now: float) -> Comparison | None:
        half = math.log(limit) - math.log(2) + 1e-6
        low = Level()
        for level in self._levels.known(now).values():
            if level.number <= half:
                low.merge(level)
        if not low.weight or not count:
            return None
        return self._levels.compare(low, Level(count, seconds / count, 0.0, math.log(limit)))

    def _better_below(self, here: Level, known: dict[int, Level]) -> Level | None:
        better: Level | None = None
        for low in known.values():
            shown = self._levels.compare(low, here)
            if shown.distance > APART and _is_useless(shown) and (better is None or low.speed > better.speed):
                better = low
        return better

    def _try_lower(self, size: float, here: Level, known: dict[int, Level]) -> Advice | None:
        """Nothing is known below, and above run times rise like the number: look below."""
        self._tries = max(0, self._tries - 1)
        higher = [level for level in known.values() if level.number > here.number + APART]
        if self._tries or not higher or any(level.number < here.number - APART for level in known.values()):
            return None
        shown = self._levels.compare(here, higher[0])
        if shown.gain > (1 - SUSPICIOUS) * shown.distance:
            return None
        self._came_from, self._tries = size, ROUNDS_BETWEEN_TRIES
        return Advice(math.floor(TRY_LOWER * size))

    def _judge_lower(self, size: float, came_from: float, here: Level, known: dict[int, Level]) -> Advice:
        former = known.get(bucket(came_from)) or known.get(bucket(came_from) - 1)
        if former is not None and former is not here:
            if here.weight < FEWEST_TO_JUDGE:
                return Advice(size)  # not yet
            shown = self._levels.compare(here, former)
            if shown.gain > WORTH * shown.distance:
                self._came_from = None
                return Advice(came_from)
        self._came_from, self._tries = None, 0
        return Advice(size, proven=True)


def _is_useless(shown: Comparison) -> bool:
    return shown.gain + CERTAINTY * shown.error < WORTH * shown.distance

"""How far a batch is, how fast it goes, and when it will be over."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from rowmill.domain.batch import RowState

# An ETA from fewer finished rows would be a guess.
ENOUGH_ROWS = 20


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by state, as the store counted them."""

    by_state: dict[RowState, int] = field(default_factory=dict)
    tokens: int = 0
    asking: int = 0
    """of the waiting rows, those that wait for a person"""

    def of(self, *states: RowState) -> int:
        return sum(self.by_state.get(state, 0) for state in states)

    @property
    def total(self) -> int:
        """Rows to be run: blank rows of the sheet keep their place but do not count."""
        return sum(self.by_state.values()) - self.of(RowState.SKIPPED)

    @property
    def open(self) -> int:
        """Rows for which there is, or will be, something to do without anybody's help."""
        return self.of(RowState.PENDING, RowState.RUNNING, RowState.WAITING) - self.asking

    @property
    def done(self) -> int:
        return sum(n for state, n in self.by_state.items() if state.is_done and state is not RowState.SKIPPED)


class Speed:
    """Rows per second over a sliding window of seconds."""

    def __init__(self, window: float = 60.0) -> None:
        self._window = window
        self._ends: deque[tuple[float, int]] = deque()
        self._start: float | None = None
        self._finished = 0

    def note(self, now: float, finished: int) -> None:
        """`finished` rows have ended since the last call."""
        if self._start is None:
            self._start = now
        if finished:
            self._finished += finished
            self._ends.append((now, finished))
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._ends and self._ends[0][0] < now - self._window:
            self._ends.popleft()

    def rate(self, now: float) -> float:
        if self._start is None:
            return 0.0
        self._forget(now)
        span = min(self._window, max(now - self._start, 0.001))
        return sum(n for _, n in self._ends) / span

    def eta(self, now: float, left: int) -> tuple[float, float] | None:
        """Seconds until the end as (soonest, latest), two standard errors each way; None while too little is known."""
        rate = self.rate(now)
        if self._finished < ENOUGH_ROWS or rate <= 0:
            return None
        count = sum(n for _, n in self._ends)
        error = 2 / math.sqrt(max(count, 1))
        middle = left / rate
        return middle / (1 + error), middle * (1 + error)

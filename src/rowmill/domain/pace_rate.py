"""How fast rows may start: the user's own wish, and a server's limit per minute, found from its rejects."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rowmill.domain.pace_signals import PaceLimits

# Limits are mostly told per minute.
MEMORY = 60.0
# So many rejects within MEMORY that no limit of runs at once explains make it a limit of starts.
CONTRADICTIONS = 2
# So many waves of rejects at the learned rate until it is asked whether it is a rate at all.
WAVES = 3
NO_LEVEL = 1_000_000
# A run that ended so lately may still be counted by the server.
ENDING = 1.0
BELOW = 0.97
SLOWER = 0.95
# The learned rate rises by this share per second, while trials are paid for.
RISE = 0.001
FAST_RISE = 0.005
LONGEST_RISE = 30.0
# It is forgotten when so much more than what is used.
UNBOUND = 3.0
# Not slower than this, starts per second: below it the growing gate does the rest.
SLOWEST = 0.05


class Rate:
    """Spaces the starts. `learned` = starts per second that the server takes, None while it seems to have no limit."""

    def __init__(self, limits: PaceLimits) -> None:
        self._gap = max(limits.min_gap, 60.0 / limits.per_minute if limits.per_minute else 0.0)
        self.learned: float | None = None
        self._known_bad = 0.0
        self._next = 0.0
        self._began: float | None = None
        self._accepts: deque[float] = deque()
        self._peaks: deque[tuple[float, int]] = deque()  # levels of accepted starts, falling: the first is the highest
        self._contradictions: deque[float] = deque()
        self._risen = 0.0
        self._slowed_at = -MEMORY
        self._waves = 0
        self._most_accepted = -1
        self._least_rejected = NO_LEVEL
        self._sure = False
        self._ended_at = -MEMORY

    def next_start(self) -> float:
        return self._next

    def started(self, now: float) -> None:
        gap = self._gap if self.learned is None else max(self._gap, 1.0 / self.learned)
        self._next = now + gap

    def accepted(self, level: int, now: float) -> None:
        """A start beside `level` running ones was accepted."""
        self._began = now if self._began is None else self._began
        self._accepts.append(now)
        self._most_accepted = max(self._most_accepted, level)
        while self._peaks and self._peaks[-1][1] <= level:
            self._peaks.pop()
        self._peaks.append((now, level))
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._accepts and self._accepts[0] < now - MEMORY:
            self._accepts.popleft()
        while self._peaks and self._peaks[0][0] < now - MEMORY:
            self._peaks.popleft()
        while self._contradictions and self._contradictions[0] < now - MEMORY:
            self._contradictions.popleft()

    def measured(self, now: float) -> float:
        """Accepted starts per second lately."""
        self._forget(now)
        span = min(MEMORY, now - (now if self._began is None else self._began))
        return len(self._accepts) / max(span, 5.0)

    def ended(self, now: float) -> None:
        """A run ended: the server may not know it yet."""
        self._ended_at = now

    def rejected(self, level: int, sent_at: float, now: float) -> bool:
        """A start beside `level` running ones was rejected. True if only a limit of starts per time explains it: a
        server that took one beside as many a moment ago does not count what runs."""
        self._forget(now)
        if self.learned is not None:
            if self._is_number(level, sent_at):
                self.learned = None
                self._contradictions.clear()
                self._peaks.clear()
                return False
            self.slow_down(sent_at, now)
            return True
        highest = self._peaks[0][1] if self._peaks else 0
        if level > 0 and highest < level + (now - self._ended_at < ENDING):
            return False
        if not self._contradictions or sent_at >= self._contradictions[-1]:  # once per wave
            self._contradictions.append(now)
        if len(self._contradictions) < CONTRADICTIONS:
            return False
        self.slow_down(sent_at, now)
        return True

    def _is_number(self, level: int, sent_at: float) -> bool:
        """Whether it is a limit of runs at once after all, one that was lowered: since the rate was learned, each
        reject came beside more runs than any accepted start. Asked once: who is found to be a rate again is one."""
        if self._accepts and self._accepts[-1] > self._slowed_at:
            self._waves += sent_at >= self._slowed_at
        self._least_rejected = min(self._least_rejected, level)
        if self._sure or self._waves < WAVES or self._most_accepted >= self._least_rejected:
            return False
        self._sure = True
        return True

    def slow_down(self, sent_at: float, now: float) -> None:
        """Slower than what is being refused; once per wave."""
        if sent_at < self._slowed_at:
            return
        measured = BELOW * self.measured(now)
        if self.learned is None:
            self.learned = max(SLOWEST, measured)
            self._waves, self._most_accepted, self._least_rejected = 0, -1, NO_LEVEL
        else:
            self._known_bad = self.learned
            self.learned = max(SLOWEST, 0.5 * self.learned, min(SLOWER * self.learned, measured))
        self._risen = self._slowed_at = now

    def rise(self, now: float) -> None:
        """All is well, and a trial is paid for: a little faster. Called with each success."""
        if self.learned is None:
            return
        seconds = min(now - self._risen, LONGEST_RISE)
        self._risen = now
        share = FAST_RISE if self.learned < 0.9 * self._known_bad else RISE
        self.learned *= 1 + share * seconds
        if self.learned > UNBOUND * self.measured(now) + 1.0:
            self.learned = None
            self._contradictions.clear()

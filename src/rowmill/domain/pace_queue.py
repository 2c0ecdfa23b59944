"""A server's silent queue, seen from outside.

On Dify 1.13 and later a streaming run that finds no free slot waits without a word, and after 300 s its stream is
closed while it still runs later. But it is known which runs were sent and did not begin: the overdue are the queue.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rowmill.domain.pace_signals import Start

# A run that has not begun after PATIENCE × the usual delay + LEEWAY waits in the server's queue.
PATIENCE = 3.0
LEEWAY = 0.3
# Where runs are short nobody waits that long; a start that took clearly longer than usual is only called late.
SHORT_LEEWAY = 0.03
# The usual delay is the shortest seen. It rises only on delays that our own load does not explain: beside less than
# half of the runs that the server was seen to run. A percentile of the last ones would drift: where one always waits,
# waiting becomes usual, more are let in, and they wait longer.
BASE_RISE = 1.05
SLOTS_MEMORY = 0.02
OVERHEADS = 200


class Queue:
    """Streaming: each run is waiting, then running. Blocking: only how much longer the round trip took than the run."""

    def __init__(self) -> None:
        self.running = 0
        self.slots = 0.0
        """how many the server was seen to run at once, lately"""
        self._waiting: dict[Start, None] = {}  # oldest first
        self._base: float | None = None
        self._overheads: deque[float] = deque(maxlen=OVERHEADS)

    @property
    def waiting(self) -> int:
        """How many were sent and have not begun, whether they wait or are just on their way."""
        return len(self._waiting)

    @property
    def slack(self) -> int:
        """So many may wait at the server, so that a slot that falls free finds the next one there."""
        return 1 + self.running // 10

    @property
    def usual(self) -> float:
        """Seconds from sending to beginning where nothing has to be waited for."""
        return self._base or 0.0

    @property
    def _patience(self) -> float:
        return PATIENCE * self.usual + LEEWAY

    def is_late(self, delay: float) -> bool:
        """Whether a start that took so long had to wait for something."""
        return self._base is not None and delay > PATIENCE * self._base + SHORT_LEEWAY

    def hides(self, run_time: float) -> bool:
        """Whether runs are so short that waiting for one to end is not yet overdue."""
        return run_time < self._patience

    def overdue(self, now: float) -> int:
        """How many wait in the server's queue."""
        count, patience = 0, self._patience
        for start in self._waiting:
            if now - start.at <= patience:
                break
            count += 1
        return count

    def sent(self, start: Start) -> None:
        self._waiting[start] = None

    def began(self, start: Start, now: float) -> bool:
        """The run has begun. True if it had to wait."""
        if start in self._waiting:
            del self._waiting[start]
            self.running += 1
        self.slots += max(self.running - self.slots, SLOTS_MEMORY * (self.running - self.slots))
        delay = now - start.at
        waited = self._base is not None and delay > self._patience
        ours = 2 * self.running >= self.slots
        self._base = delay if self._base is None else min(delay, self._base * (1 if ours else BASE_RISE))
        return waited

    def leave(self, start: Start) -> None:
        """It is no longer in flight, whether it had begun or not."""
        if start in self._waiting:
            del self._waiting[start]
        else:
            self.running -= 1

    def unanswered(self, size: float, run_time: float, share: float) -> int:
        """So many may be on their way at once in a window of `size`: what is usual there, and a share of it more."""
        usual = self.usual / run_time if run_time else 0.0
        return math.ceil(max(1.0, size * (share + 1.5 * usual)))

    def took_longer(self, overhead: float) -> None:
        """A blocking round trip took so many seconds more than Dify says of the run."""
        self._overheads.append(overhead)

    @property
    def usual_overhead(self) -> float:
        """Seconds that a blocking round trip takes beyond its run where it need not wait."""
        return sorted(self._overheads)[len(self._overheads) // 10]

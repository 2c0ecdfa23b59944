"""The gate: a moment before which nothing starts; and the breaker of a server that is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowmill.domain.pace_signals import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

# Longest time that a server's Retry-After, or our own growing pause, keeps the gate closed.
LONGEST_GATE = 300.0
LONGEST_PROBE_GAP = 30.0
EDGE_GATE = 60.0
SHORTEST_WAIT = 0.5

_FIRST: Mapping[Kind, float] = {Kind.REJECT: 1.0, Kind.EDGE: EDGE_GATE, Kind.DOWN: 1.0}
_MOST: Mapping[Kind, float] = {Kind.REJECT: LONGEST_GATE, Kind.EDGE: LONGEST_GATE, Kind.DOWN: LONGEST_PROBE_GAP}


class Gate:
    """Closed until `until` (monotonic seconds). Each wave of trouble keeps it closed for twice as long."""

    def __init__(self) -> None:
        self.until = 0.0
        self._streak = 0
        self._trouble_at = 0.0

    def close(self, kind: Kind, now: float, retry_after: float | None, jitter: float) -> bool:
        """Trouble of a kind. True if it is news: an answer to a request from before the gate closed is none."""
        stale = now < self.until
        self._trouble_at = now
        if stale and retry_after is None:
            return False
        self._streak += not stale
        wait = _MOST[kind] if self._streak > 9 else _FIRST[kind] * 2.0 ** (self._streak - 1)  # noqa: PLR2004
        wait = min(wait, _MOST[kind])
        if retry_after is not None:
            wait = min(max(retry_after, SHORTEST_WAIT), LONGEST_GATE)
        self.until = max(self.until, now + wait * (1 + 0.25 * jitter))
        return not stale

    def calm(self, sent_at: float) -> None:
        """A row was accepted. If it was sent after the trouble, that is over: the next one is new."""
        if sent_at >= self._trouble_at:
            self._streak = 0


# One refused connection is no outage: a proxy that restarts a worker refuses a few, and closing for a second each time
# would cost more than they do.
DOWN_TO_BREAK = 3
HICCUP = 0.2


class Breaker:
    """Open while the server is not there: then one start alone probes for all."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.is_open = False
        self._downs = 0
        self._down_at = 0.0

    def down(self, now: float, retry_after: float | None, jitter: float) -> None:
        self._downs += 1
        self._down_at = now
        self.is_open = self.is_open or self._downs >= DOWN_TO_BREAK
        if self.is_open or retry_after is not None:
            self.gate.close(Kind.DOWN, now, retry_after, jitter)
        else:
            self.gate.until = max(self.gate.until, now + HICCUP)

    def calm(self, sent_at: float) -> None:
        """A row was accepted; one that was sent before the server went away proves nothing."""
        if sent_at >= self._down_at:
            self.is_open, self._downs = False, 0
            self.gate.calm(sent_at)

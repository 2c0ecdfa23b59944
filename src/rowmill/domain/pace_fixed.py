"""How many attempts may be in flight at an app, and when the next one may start. Pure: the time is handed in.

The first form: a fixed number, a gate that rejects close for everybody, and a breaker for a server that is down.
"""

from __future__ import annotations

from enum import StrEnum

# Longest time that a server's Retry-After, or our own growing pause, keeps the gate closed.
LONGEST_GATE = 300.0
LONGEST_PROBE_GAP = 30.0
EDGE_GATE = 60.0


class Signal(StrEnum):
    """What one attempt told about the server."""

    OK = "ok"
    """it was accepted"""
    REJECT = "reject"
    """too many at once, or too fast"""
    EDGE = "edge"
    """a proxy in front rejected it"""
    DOWN = "down"
    """nobody there"""


class FixedPace:
    """At most `limit` in flight; one alone until the first was accepted, and after trouble until it is over.

    Times are seconds of one monotonic clock.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.proven = False
        self.gate = 0.0
        self._streak = 0

    def room(self, now: float, in_flight: int) -> int:
        """How many more attempts may start now."""
        if now < self.gate:
            return 0
        allowed = self.limit if self.proven else 1
        return max(0, allowed - in_flight)

    def note(self, signal: Signal, now: float, *, retry_after: float | None = None, jitter: float = 0.0) -> None:
        """Learn from one attempt. `jitter` is a random number in [0, 1)."""
        if signal is Signal.OK:
            self.proven, self._streak = True, 0
            return
        if signal is Signal.DOWN:
            self.proven = False
        stale = now < self.gate
        if stale and retry_after is None:
            return  # an answer to a request from before the gate closed tells nothing new
        self._streak += not stale
        self.gate = max(self.gate, now + self._wait(signal, retry_after) * (1 + 0.25 * jitter))

    def _wait(self, signal: Signal, retry_after: float | None) -> float:
        grown = 2.0 ** min(self._streak - 1, 8)
        if retry_after is not None:
            return min(max(retry_after, 0.5), LONGEST_GATE)
        if signal is Signal.DOWN:
            return min(grown, LONGEST_PROBE_GAP)
        if signal is Signal.EDGE:
            return min(EDGE_GATE * grown, LONGEST_GATE)
        return min(grown, LONGEST_GATE)

    def learn_limit(self, quoted: int) -> None:
        """The server named its own limit: never go above it again."""
        self.limit = max(1, min(self.limit, quoted))

"""What all apps of one server share: its connections, and whether it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowmill.domain.pace_gate import Breaker, Gate

if TYPE_CHECKING:
    from rowmill.domain.pace_signals import Start

# An app that started something so lately wants its share.
ACTIVE = 30.0
NO_LIMIT = 1_000_000


class ServerPace:
    """One per server. `most`: runs at once over all its apps, which is connections open; None for no limit."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.breaker = Breaker()
        self.edge = Gate()
        self._in_flight: dict[object, int] = {}
        self._seen: dict[object, float] = {}
        self._probe: Start | None = None

    @property
    def in_flight(self) -> int:
        return sum(self._in_flight.values())

    @property
    def gate(self) -> float:
        return max(self.breaker.gate.until, self.edge.until)

    def room(self, app: object, now: float) -> int:
        """How many more this app may start. An app beyond its fair share leaves one place to each that is below."""
        free = NO_LIMIT if self.most is None else max(0, self.most - self.in_flight)
        if self.breaker.is_open:
            return min(free, 1 if self._probe is None else 0)
        if self.most is None:
            return free
        active = {other for other, seen in self._seen.items() if now - seen < ACTIVE or self._in_flight[other]}
        share = max(1, self.most // len(active | {app}))
        mine = self._in_flight.get(app, 0)
        if mine < share:
            return min(free, share - mine)
        return max(0, free - sum(1 for other in active - {app} if self._in_flight[other] < share))

    def started(self, app: object, start: Start, now: float) -> None:
        self._in_flight[app] = self._in_flight.get(app, 0) + 1
        self._seen[app] = now
        if self.breaker.is_open:
            self._probe = start

    def accepted(self, start: Start) -> None:
        """The server took a run of any app: it is there."""
        self._forget_probe(start)
        self.breaker.calm(start.at)
        self.edge.calm(start.at)

    def _forget_probe(self, start: Start) -> None:
        if self._probe is start:
            self._probe = None

    def ended(self, app: object, start: Start) -> None:
        self._in_flight[app] -= 1
        self._forget_probe(start)

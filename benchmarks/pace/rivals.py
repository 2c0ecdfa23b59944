"""The rivals, from their published rules. All of them wait a second with the lane of a reject or a dead server."""

from __future__ import annotations

from rowmill.domain.pace import Kind, ResponseMode, Sample, Start

BACKOFF = 1.0


class Rival:
    """At most `size` in flight. A rejected row holds its place for a second, as a client with a retry would."""

    def __init__(self, size: float, most: int) -> None:
        self.size = size
        self.most = most
        self.in_flight = 0
        self._held: list[float] = []

    @property
    def limit(self) -> int:
        return max(1, min(self.most, int(self.size)))

    def _free_held(self, now: float) -> None:
        while self._held and self._held[0] <= now:
            self._held.pop(0)

    def room(self, now: float) -> int:
        self._free_held(now)
        return self.limit - self.in_flight - len(self._held)

    def next_start(self, now: float) -> float:
        """The moment when a held place comes free, if that is what is missing."""
        if self.room(now) > 0 or not self._held:
            return now
        return self._held[0]

    def started(self, now: float) -> Start:
        self.in_flight += 1
        return Start(now, ResponseMode.STREAMING, self.in_flight - 1)

    def accepted(self, start: Start, now: float) -> None: ...

    def ended(self, start: Start, sample: Sample, now: float, jitter: float = 0.0) -> None:
        del jitter
        in_flight = self.in_flight
        self.in_flight -= 1
        if sample.kind in (Kind.REJECT, Kind.EDGE, Kind.DOWN):
            self._held.append(now + BACKOFF)
        if sample.kind in (Kind.OK, Kind.FAILED):
            self.learn(now - start.at, in_flight)
        else:
            self.drop(in_flight)

    def learn(self, seconds: float, in_flight: int) -> None: ...
    def drop(self, in_flight: int) -> None: ...


class Fixed(Rival):
    """A number that the user chose."""


class Aimd(Rival):
    """Netflix AIMDLimit by drops alone: × 0.9 on a drop, + 1 per sample while at least half is used."""

    def learn(self, seconds: float, in_flight: int) -> None:
        del seconds
        if in_flight * 2 >= self.limit:
            self.size = min(float(self.most), self.size + 1)

    def drop(self, in_flight: int) -> None:
        del in_flight
        self.size = max(1.0, 0.9 * self.size)


class Gradient2(Rival):
    """Netflix Gradient2Limit: tolerance 1.5, smoothing 0.2, queue 4, long window 600; drops are not looked at."""

    def __init__(self, size: float, most: int) -> None:
        super().__init__(size, most)
        self._long = 0.0
        self._seen = 0

    def learn(self, seconds: float, in_flight: int) -> None:
        self._seen += 1
        warm = self._seen <= 10
        share = 1 / self._seen if warm else 2 / 601
        self._long += share * (seconds - self._long)
        if self._long / seconds > 2:
            self._long *= 0.95
        if in_flight < self.size / 2:
            return
        gradient = max(0.5, min(1.0, 1.5 * self._long / seconds))
        self.size = 0.8 * self.size + 0.2 * (self.size * gradient + 4)
        self.size = max(1.0, min(float(self.most), self.size))

"""Servers: what limits them, what an oracle would get out of them."""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks.pace.world import HOUR, LATENCY, Client, Request, World
from rowmill.domain.pace import Kind, Sample

if TYPE_CHECKING:
    from collections.abc import Callable

DETACH = 300.0
DELAY_SIGMA = 0.3
OK = Sample(Kind.OK)


@dataclass(frozen=True, slots=True)
class Kindred:
    """A kind of server. Times in seconds; None: no such limit.

    `slots`: so many run, the rest waits in a queue without end and is forgotten after 300 s. `cap`: rejects above so
    many at once. `rpm`: rejects more starts per minute. `overload`: a model behind takes so many at once, who comes
    beyond that fails after a while, billed. `thrash`: above so many at once runs take longer by more than is gained.
    `changes`: (moment, factor) of all these numbers. `shared`: other people take up to this share of it, changing
    every half a minute. `noise`: failures that look like overload and come from nothing."""

    name: str
    mean: float
    sigma: float = 0.6
    delay: float = 0.3
    slots: int | None = None
    cap: int | None = None
    rpm: float | None = None
    window: str = "bucket"
    overload: int | None = None
    thrash: int | None = None
    retry_after: float | None = None
    changes: tuple[tuple[float, float], ...] = ()
    outage: tuple[float, float] | None = None
    shared: float = 0.0
    noise: float = 0.0
    most: int = 200

    def factor(self, now: float) -> float:
        at = 1.0
        for moment, factor in self.changes:
            if now >= moment:
                at = factor
        return at

    @property
    def by_starts(self) -> bool:
        """Whether starts, and not work, are what is scarce."""
        return self.rpm is not None and self.rate(0.0) >= 0.999 * self.rpm / 60

    def rate(self, now: float, share: float = 1.0) -> float:
        """Runs per second that an oracle gets at a moment, if others leave it a share."""
        scale = self.factor(now) * share
        taken = self.mean + self.delay * math.exp(DELAY_SIGMA**2 / 2)  # a place is taken while a run begins, too
        rates = [self.most / (taken + 2 * LATENCY)]
        rates += [max(1, round(limit * scale)) / taken for limit in (self.slots, self.cap, self.overload) if limit]
        if self.rpm:
            rates.append(self.rpm * self.factor(now) / 60)
        if self.thrash:
            best = max(1, round(self.thrash * scale))
            rates.append(best / taken)
        return min(rates) * (1 - self.noise)


def slowdown(running: int, best: int) -> float:
    return max(1.0, running / best) ** 1.5


class Shared:
    """Other people's share over time, the same for every policy."""

    def __init__(self, share: float, seed: int) -> None:
        draw = random.Random(seed * 7919 + 1)
        self._left = [1 - share * draw.random() for _ in range(int(2 * HOUR / 30))]

    def left(self, now: float) -> float:
        return self._left[int(now / 30)]


def oracle(kind: Kindred, seed: int, begin: float, end: float) -> float:
    """Rows between two moments for who knows everything."""
    shared, total, step = Shared(kind.shared, seed), 0.0, 5.0
    now = begin
    while now < end:
        up = kind.outage is None or not kind.outage[0] <= now < kind.outage[1]
        total += step * kind.rate(now, shared.left(now)) * up
        now += step
    return total


class SimServer:
    """Plays a kind of server."""

    def __init__(self, kind: Kindred, world: World, client: Client, seed: int) -> None:
        self.kind = kind
        self.world = world
        self.client = client
        self.running = 0
        self._healthy = 0
        self._shared = Shared(kind.shared, seed)
        self._queue: deque[Request] = deque()
        self._starts: deque[float] = deque()
        self._tokens = (kind.rpm or 0) / 6
        self._filled = 0.0

    def _limit(self, number: int | None) -> float:
        if number is None:
            return math.inf
        now = self.world.now
        return max(1, round(number * self.kind.factor(now) * self._shared.left(now)))

    def submit(self, request: Request) -> None:
        kind, now = self.kind, self.world.now
        if kind.outage and kind.outage[0] <= now < kind.outage[1]:
            self.client.end(request, Sample(Kind.DOWN))
        elif self.running + len(self._queue) >= self._limit(kind.cap) or not self._in_rate(now):
            self.client.end(request, Sample(Kind.REJECT, kind.retry_after))
        else:
            self._queue.append(request)
            if kind.slots is not None:
                self.world.after(DETACH, self._detach, request)
            self._feed()

    def _in_rate(self, now: float) -> bool:
        """Three ways to count a minute: a bucket that holds ten seconds' worth, a window that begins anew each minute,
        a window that slides."""
        rpm = (self.kind.rpm or math.inf) * self.kind.factor(now)
        if rpm == math.inf:
            return True
        if self.kind.window == "bucket":
            self._tokens = min(rpm / 6, self._tokens + (now - self._filled) * rpm / 60)
            self._filled = now
            taken = self._tokens >= 1
            self._tokens -= taken
            return taken
        since = now // 60 * 60 if self.kind.window == "fixed" else now - 60
        while self._starts and self._starts[0] < since:
            self._starts.popleft()
        if len(self._starts) >= rpm:
            return False
        self._starts.append(now)
        return True

    def _feed(self) -> None:
        while self._queue and self.running < self._limit(self.kind.slots):
            request = self._queue.popleft()
            self.running += 1
            self.world.after(self.kind.delay * self.world.random.lognormvariate(0, DELAY_SIGMA), self._begin, request)

    def _begin(self, request: Request) -> None:
        request.began_at = self.world.now
        if not request.detached:
            self.client.accept(request)
        work, draw = request.work, self.world.random
        if self.kind.thrash:
            work *= slowdown(self.running, int(self._limit(self.kind.thrash)))
        if self._healthy >= self._limit(self.kind.overload) or draw.random() < self.kind.noise:
            self.world.after(work * draw.uniform(0.1, 0.8), self._end, request, Sample(Kind.OVERLOADED))
        else:
            self._healthy += 1
            self.world.after(work, self._end, request, OK)

    def _detach(self, request: Request) -> None:
        if request.began_at is None:
            request.detached = True
            self.client.end(request, Sample(Kind.UNKNOWN))

    def _end(self, request: Request, sample: Sample) -> None:
        self.running -= 1
        self._healthy -= sample is OK
        if not request.detached:
            self.client.end(request, sample)
        self._feed()


def play(kind: Kindred, seed: int, policy: object, seconds: float = HOUR) -> Client:
    """One policy against one server."""
    world = World(seed)
    rows = random.Random(seed * 104729 + 17)
    mu = math.log(kind.mean) - kind.sigma**2 / 2
    work: Callable[[], float] = lambda: rows.lognormvariate(mu, kind.sigma)  # noqa: E731
    client = Client(world, policy, work)  # type: ignore[arg-type]
    client.server = SimServer(kind, world, client, seed)
    client.pump()
    world.run(seconds)
    return client


# The kinds of the table in docs/design/pace.md.
KINDS = (
    Kindred("8 workers", 10, slots=8),
    Kindred("64 workers", 10, slots=64),
    Kindred("4 workers, 60 s runs", 60, slots=4),
    Kindred("429 above 10", 10, cap=10),
    Kindred("429 above 50, RA 2 s", 10, cap=50, retry_after=2.0),
    Kindred("120 rpm", 10, rpm=120),
    Kindred("model overload > 12", 10, overload=12),
    Kindred("thrashing > 16", 10, thrash=16),
    Kindred("32>4>32 workers", 10, slots=32, changes=((1200, 0.125), (2400, 1.0))),
    Kindred("outage 120 s", 10, slots=32, outage=(1200, 1320)),
)


def log_uniform(draw: random.Random, low: float, high: float) -> float:
    return math.exp(draw.uniform(math.log(low), math.log(high)))


def random_kind(number: int, seed: int) -> Kindred:
    """A server that nobody thought of: one limit, sometimes two, of every size; sometimes changing, shared, noisy."""
    draw = random.Random(seed * 1_000_003 + number)
    while True:
        kind = _draw(draw, f"random {number}")
        if kind.rate(0.0) < 20 and kind.rate(0.0) * 900 > 12:
            return kind


def _draw(draw: random.Random, name: str) -> Kindred:
    kind = Kindred(
        name,
        mean=log_uniform(draw, 1, 60),
        sigma=draw.uniform(0.2, 1.0),
        delay=log_uniform(draw, 0.05, 1.0),
        noise=draw.choice((0.0, 0.0, 0.0, 0.002)),
        shared=draw.choice((0.0, 0.0, 0.0, 0.0, 0.3)),
    )
    for _ in range(draw.choice((1, 1, 1, 2))):
        limit = draw.choice(("slots", "slots", "cap", "cap", "rpm", "overload", "thrash"))
        if limit == "rpm":
            kind = replace(kind, rpm=log_uniform(draw, 20, 1000), window=draw.choice(("bucket", "fixed", "sliding")))
        else:
            kind = replace(kind, **{limit: round(log_uniform(draw, 1, 120))})
    if draw.random() < 0.3:
        kind = replace(kind, retry_after=draw.choice((1.0, 2.0, 5.0, 20.0)))
    if draw.random() < 0.2:
        at = draw.uniform(900, 2400)
        kind = replace(kind, changes=((at, log_uniform(draw, 0.25, 4)),))
    if draw.random() < 0.1:
        at = draw.uniform(600, 2400)
        kind = replace(kind, outage=(at, at + log_uniform(draw, 5, 300)))
    return kind

"""Virtual time: events in order, and the client that asks a policy for every start."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from rowmill.domain.pace import Kind, ResponseMode, Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.domain.pace import Start

HOUR = 3600.0
# From the server's event to our reaction.
LATENCY = 0.02


class World:
    """A clock and the events to come."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, call, args))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, call, args = heapq.heappop(self._events)
            call(*args)
        self.now = until


class Policy(Protocol):
    """What decides: Rowmill's `Pace` and each rival look the same to the client."""

    def room(self, now: float) -> int: ...
    def next_start(self, now: float) -> float: ...
    def started(self, now: float) -> Start: ...
    def accepted(self, start: Start, now: float) -> None: ...
    def ended(self, start: Start, sample: Sample, now: float, jitter: float = 0.0) -> None: ...


@dataclass(slots=True, eq=False)
class Request:
    """One row on its way. `work`: seconds that its run would take on an idle server."""

    work: float
    mode: ResponseMode
    start: Any
    sent_at: float
    began_at: float | None = None
    accept_lag: float = 0.0
    detached: bool = False


class Server(Protocol):
    def submit(self, request: Request) -> None: ...


@dataclass(slots=True)
class Tally:
    """What came of it all."""

    oks: int = 0
    failed: int = 0
    billed_failures: int = 0
    rejects: int = 0
    downs: int = 0
    unknown: int = 0
    inside_gate: int = 0
    peak: int = 0
    done: list[tuple[float, float, float]] = field(default_factory=list)
    """began, ended, work of each run that went well"""

    def rows(self, begin: float, end: float, mean: float | None) -> float:
        """Rows done between two moments; a run that was done in part within them counts in part. With `mean`, rows are
        weighed by their work: less noise where the server is limited by work and not by starts."""
        total = 0.0
        for began, ended, work in self.done:
            inside = min(end, ended) - max(begin, began)
            if inside > 0:
                total += inside / max(ended - began, 1e-9) * (1.0 if mean is None else work / mean)
        return total


class Client:
    """Endless rows, sent as fast as the policy allows."""

    def __init__(self, world: World, policy: Policy, work: Callable[[], float]) -> None:
        self.world = world
        self.policy = policy
        self.work = work
        self.server: Server
        self.tally = Tally()
        self.in_flight = 0
        self.trace: list[tuple[float, int]] = []
        self._wake_at: float | None = None

    def pump(self) -> None:
        """Start what may start, and wake when the next may."""
        now, policy = self.world.now, self.policy
        while True:
            at = policy.next_start(now)
            if at > now:
                self._wake(at)
                return
            if policy.room(now) <= 0:
                return
            self._send(now)

    def _wake(self, at: float) -> None:
        if self._wake_at is None or at < self._wake_at - 1e-9 or self._wake_at <= self.world.now:
            self._wake_at = at
            self.world.after(at - self.world.now, self._woken, at)

    def _woken(self, at: float) -> None:
        if self._wake_at == at:
            self._wake_at = None
        self.pump()

    def _send(self, now: float) -> None:
        start = self.policy.started(now)
        self.in_flight += 1
        self.tally.peak = max(self.tally.peak, self.in_flight)
        self.trace.append((now, self.in_flight))
        self.world.after(LATENCY, self.server.submit, Request(self.work(), start.mode, start, now))

    # What servers call.

    def accept(self, request: Request) -> None:
        """The run has begun; only who streams hears of it."""
        if request.mode is ResponseMode.STREAMING:
            self.world.after(LATENCY, self._accepted, request)

    def _accepted(self, request: Request) -> None:
        self.policy.accepted(request.start, self.world.now)
        self.pump()

    def end(self, request: Request, sample: Sample) -> None:
        self.world.after(LATENCY, self._ended, request, sample)

    def _ended(self, request: Request, sample: Sample) -> None:
        now, tally = self.world.now, self.tally
        self.in_flight -= 1
        self.trace.append((now, self.in_flight))
        match sample.kind:
            case Kind.OK:
                tally.oks += 1
                began = request.began_at if request.began_at is not None else request.sent_at
                tally.done.append((began, now, request.work))
            case Kind.OVERLOADED:
                tally.billed_failures += 1
            case Kind.FAILED:
                tally.failed += 1
            case Kind.REJECT | Kind.EDGE:
                tally.rejects += 1
            case Kind.DOWN:
                tally.downs += 1
            case Kind.UNKNOWN:
                tally.unknown += 1
        self.policy.ended(request.start, sample, now, self.world.random.random())
        self.pump()

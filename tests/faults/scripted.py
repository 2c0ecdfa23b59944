"""A Dify that is a few lists and a seed: the DifyApp port without HTTP, for runs in virtual time.

Everything about a run is decided when its request arrives: when it begins (there may be a queue), how it ends, when its
row and its log line can be seen, and what the client hears of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from rowmill.domain.batch import Outcome, RunStatus
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.verdict import Failure, FailureKind
from rowmill.ports.dify import Attached, Finished, LoggedRun, OnSend, Opened, RunDetail, RunEvent, RunRequest
from tests.faults.loop import VirtualClock, VirtualLoop

PASSING = "[models] Rate Limit Error (429)"
BROKEN = "node http failed: 404"

# What can happen to a request, and how likely at most; each seed draws its own odds, many of them none.
FATES = {
    "refused_429": 0.2,
    "refused_503": 0.1,
    "errored": 0.1,
    "errored_but_runs": 0.05,
    "lost_before": 0.1,
    "lost_after": 0.2,
    "stream_ends_without_id": 0.2,
    "cut": 0.3,
    "stalls": 0.15,
    "starts_unsaid": 0.3,
    "not_found_at_first": 0.3,
    "twice_told": 0.3,
    "fails_passing": 0.2,
    "fails": 0.1,
    "partial": 0.1,
    "stopped": 0.05,
    "for_ever": 0.03,
    "look_up_fails": 0.3,
}
STREAM_DEADLINE = 330.0
SILENCE = 90.0


@dataclass
class SimRun:
    """One run, from the moment of its request. Times are the loop's."""

    row: int
    user: str
    run_id: str
    inputs: dict[str, Any]
    left: float
    """when its bytes left us; a process that was suspended right then is heard later"""
    asked: float
    begins: float
    ends: float
    status: RunStatus
    error: str | None
    shown_from: float
    for_ever: bool

    def begun(self, now: float) -> bool:
        return now >= self.begins

    def ended(self, now: float) -> bool:
        return now >= self.ends and not self.for_ever

    def outcome(self) -> Outcome:
        outputs = json.dumps({"of": self.run_id}) if self.status in (RunStatus.SUCCEEDED, RunStatus.PARTIAL) else "{}"
        return Outcome(self.status, outputs, self.error, tokens=10, run_id=self.run_id, task_id=f"task {self.run_id}")


@dataclass
class Server:
    """What is on Dify's side; outlives all our processes."""

    loop: VirtualLoop
    chance: Random
    odds: dict[str, float]
    slowest: float
    """seconds of a run"""
    longest_queue: float
    runs: list[SimRun] = field(default_factory=list)
    left: dict[tuple[int, str], float] = field(default_factory=dict)
    down_until: float = -1.0
    requests: int = 0

    @property
    def is_down(self) -> bool:
        return self.loop.time() < self.down_until

    def happens(self, fate: str) -> bool:
        return self.chance.random() < self.odds.get(fate, 0.0)

    def start(self, request: RunRequest, *, queued: bool = False) -> SimRun:
        """A run will be done, and must be paid for."""
        now, chance = self.loop.time(), self.chance
        begins = now + (chance.uniform(0, self.longest_queue) if queued else chance.uniform(0, 0.5))
        status, error = self._end()
        run = SimRun(
            row=int(request.inputs["query"]),
            user=request.user,
            run_id=f"run-{len(self.runs)}",
            inputs=request.inputs,
            left=self.left.get((int(request.inputs["query"]), request.user), now),
            asked=now,
            begins=begins,
            ends=begins + chance.uniform(0.1, self.slowest),
            status=status,
            error=error,
            shown_from=begins + (chance.uniform(1, 50) if self.happens("not_found_at_first") else 0.0),
            for_ever=self.happens("for_ever"),
        )
        self.runs.append(run)
        return run

    def _end(self) -> tuple[RunStatus, str | None]:
        for fate, status, error in (
            ("fails_passing", RunStatus.FAILED, PASSING),
            ("fails", RunStatus.FAILED, BROKEN),
            ("partial", RunStatus.PARTIAL, None),
            ("stopped", RunStatus.STOPPED, "stopped by user"),
        ):
            if self.happens(fate):
                return status, error
        return RunStatus.SUCCEEDED, None


def fail(kind: FailureKind, code: str, message: str = "", status: int | None = None, wait: float | None = None) -> Any:
    raise DifyFailureError(Failure(kind, code, message, status, wait))


class ScriptedApp:
    """The DifyApp port for one of our processes."""

    def __init__(self, server: Server, clock: VirtualClock, arrived: Any) -> None:
        self._server = server
        self._clock = clock
        self._arrived = arrived
        """called when a request's bytes leave"""

    async def _wait(self, longest: float) -> None:
        await asyncio.sleep(self._server.chance.uniform(0, longest))

    async def run(self, request: RunRequest, on_send: OnSend | None = None) -> AsyncGenerator[RunEvent]:
        server = self._server
        await self._wait(0.05)
        if server.is_down:
            fail(FailureKind.NOT_SENT, "connection_refused")
        if on_send is not None:
            await on_send()
        await self._wait(0.002)
        server.requests += 1
        self._arrived(request)
        server.left[int(request.inputs["query"]), request.user] = server.loop.time()
        run = await self._answer(request)
        yield Opened(0.0)
        async for event in self._stream(run):
            yield event

    async def _answer(self, request: RunRequest) -> SimRun:
        """Until the answer's head: a run that is under way, or a failure."""
        server = self._server
        if server.is_down:
            fail(FailureKind.AMBIGUOUS, "reply_lost")
        if server.happens("refused_429"):
            wait = server.chance.choice([None, None, 0.0, 3.0, 1e9])
            fail(FailureKind.REFUSED, "too_many_requests", "Too many requests", 429, wait)
        if server.happens("refused_503"):
            fail(FailureKind.REFUSED, "unavailable", "down", 503)
        if server.happens("errored"):
            await self._wait(1)
            fail(FailureKind.ERRORED, "internal_server_error", "", 500)
        if server.happens("lost_before"):
            await self._wait(5)
            fail(FailureKind.AMBIGUOUS, "reply_lost")
        if server.happens("errored_but_runs"):
            server.start(request)
            await self._wait(0.5)
            fail(FailureKind.ERRORED, "internal_server_error", "", 500)
        if server.happens("lost_after"):
            server.start(request, queued=True)
            await self._wait(5)
            fail(FailureKind.AMBIGUOUS, "reply_lost")
        if server.happens("stream_ends_without_id"):
            server.start(request, queued=True)
            await self._wait(STREAM_DEADLINE)
            fail(FailureKind.AMBIGUOUS, "no_run_seen")
        await self._wait(0.2)
        return server.start(request)

    async def _stream(self, run: SimRun) -> AsyncGenerator[RunEvent]:
        server, told = self._server, False
        broken_at = server.chance.uniform(run.asked, run.ends) if server.happens("cut") else None
        stalls = server.happens("stalls")
        if not server.happens("starts_unsaid"):
            await self._until(run.begins, run, told=False, broken_at=broken_at)
            yield Attached(run.run_id, f"task {run.run_id}", "workflow")
            told = True
        if stalls or run.for_ever:
            await asyncio.sleep(SILENCE)
            fail(FailureKind.CUT if told else FailureKind.AMBIGUOUS, "silence" if told else "no_run_seen")
        await self._until(run.ends, run, told=told, broken_at=broken_at)
        if not told:
            yield Attached(run.run_id, f"task {run.run_id}", "workflow")
        yield Finished(run.outcome())
        if server.happens("twice_told"):
            yield Finished(run.outcome())

    async def _until(self, moment: float, run: SimRun, *, told: bool, broken_at: float | None) -> None:
        """Listen until a moment; the connection may break before."""
        server = self._server
        while (now := server.loop.time()) < moment:
            if server.is_down or (broken_at is not None and now >= broken_at):
                fail(FailureKind.CUT if told else FailureKind.AMBIGUOUS, "connection_cut" if told else "reply_lost")
            step = moment - now if broken_at is None else min(moment, max(broken_at, now + 0.01)) - now
            await asyncio.sleep(min(step, 5.0))

    async def _ask(self) -> float:
        await self._wait(0.1)
        if self._server.is_down:
            fail(FailureKind.NOT_SENT, "connection_refused")
        if self._server.happens("look_up_fails"):
            fail(*self._server.chance.choice([(FailureKind.ERRORED, "internal_server_error", "", 500),
                                              (FailureKind.AMBIGUOUS, "no_answer")]))  # fmt: skip
        return self._server.loop.time()

    async def run_detail(self, run_id: str) -> RunDetail | None:
        now = await self._ask()
        run = next((run for run in self._server.runs if run.run_id == run_id), None)
        if run is None or now < run.shown_from:
            return None
        outcome = run.outcome() if run.ended(now) else None
        return RunDetail(run_id, run.status.value if outcome else "running", outcome, run.inputs)

    async def runs_of(self, user: str | None, after: float, page: int = 1) -> list[LoggedRun]:
        now = await self._ask()
        begun = [run for run in self._server.runs if user in (None, run.user) and run.begun(now)]
        wall = self._clock.wall() - now
        lines = [LoggedRun(run.run_id, "running", wall + run.begins, run.user) for run in begun]
        return sorted(lines, key=lambda line: -line.created_at)[100 * (page - 1) : 100 * page]

    async def stop(self, task_id: str, user: str) -> None:
        """Dify says yes, and does it or not."""
        now = await self._ask()
        for run in self._server.runs:
            if f"task {run.run_id}" == task_id and not run.ended(now) and self._server.chance.random() < 0.5:
                run.ends, run.status, run.error = max(now, run.begins), RunStatus.STOPPED, "stopped by user"

    async def close(self) -> None:
        """Nothing to let go of."""

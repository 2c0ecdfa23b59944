"""The pace of one app: how many attempts may be in flight, when the next may start, and in which response mode.

Pure: times (seconds of one monotonic clock) and jitter are handed in. One `Pace` per server and key, shared by all
batches; all paces of one server share a `ServerPace`. Use:

    pace.room(now) > 0 and now >= pace.next_start(now)  →  start = pace.started(now)      a POST leaves, in start.mode
    pace.accepted(start, now)                           the first event that is no ping (streaming): the run runs
    pace.ended(start, Sample(kind, …), now, jitter)     always, once per start

Room can appear with each of the last two, and with the moment that next_start tells; at no other time.
The rules, why, and what they bring: docs/design/pace.md.
"""

from __future__ import annotations

from typing import Any

from rowmill.domain.pace_budget import Trials
from rowmill.domain.pace_gate import Gate
from rowmill.domain.pace_rate import Rate
from rowmill.domain.pace_server import ServerPace
from rowmill.domain.pace_signals import Kind, PaceLimits, Reason, ResponseMode, Sample, Start, Why, positive
from rowmill.domain.pace_window import Window
from rowmill.domain.response_mode import ModeChoice

__all__ = ["Kind", "Pace", "PaceLimits", "Reason", "ResponseMode", "Sample", "ServerPace", "Start", "Why"]

STREAMING, BLOCKING = ResponseMode.STREAMING, ResponseMode.BLOCKING


class Pace:
    """Answers `room`, `next_start`, `response_mode` and `why`; learns from `started`, `accepted` and `ended`."""

    def __init__(self, limits: PaceLimits, server: ServerPace | None = None) -> None:
        self.limits = limits
        self.proven = False
        """whether a row was accepted: before that, one goes alone"""
        self.in_flight = 0
        self._server = server or ServerPace()
        self._gate = Gate()
        self._rate = Rate(limits)
        self._trials = Trials()
        self._choice = ModeChoice(limits.mode, blocking_ok=limits.blocking_ok)
        self._windows = {mode: Window(mode, limits.ceiling, self._trials) for mode in (STREAMING, BLOCKING)}

    # ── questions ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def gate(self) -> float:
        """Nothing starts before this moment."""
        return max(self._gate.until, self._server.gate)

    @property
    def limit(self) -> int:
        """How many may be in flight, as far as is known now."""
        window = self._window
        return min(self.limits.ceiling, window.quoted or self.limits.ceiling) if self._is_fixed else window.limit

    @property
    def _is_fixed(self) -> bool:
        return self.limits.fixed is not None

    @property
    def _window(self) -> Window:
        return self._windows[self.response_mode()]

    def response_mode(self) -> ResponseMode:
        """The mode of the next start. Who goes first streams if possible: that is answered before the run ends."""
        mode = self._choice.mode
        if self.limits.mode is ResponseMode.AUTO and (not self.proven or self._server.breaker.is_open):
            return STREAMING
        return mode

    def room(self, now: float) -> int:
        """How many may start at this moment, as far as numbers go; `next_start` spaces them."""
        if now < self.gate:
            return 0
        room = self.limit - self.in_flight if self._is_fixed else self._window.room(now, self.in_flight)
        if not self.proven:
            room = min(room, 1 - self.in_flight)
        return max(0, min(room, self._server.room(self, now)))

    def next_start(self, now: float) -> float:
        """The earliest moment of the next start, by gate and rate: `now` if it is past."""
        return max(now, self.gate, self._rate.next_start())

    def why(self, now: float) -> Why:
        """Why not more at once."""
        numbers: dict[str, float] = {"limit": self.limit, "in_flight": self.in_flight}
        if self._server.breaker.is_open:
            return Why(Reason.DOWN, {**numbers, "seconds": max(0.0, self.gate - now)})
        if now < self.gate:
            return Why(Reason.GATE, {**numbers, "seconds": self.gate - now})
        if not self.proven:
            return Why(Reason.START, numbers)
        if self._rate.learned is not None:
            return Why(Reason.RATE, {**numbers, "per_minute": 60 * self._rate.learned})
        if self._server.most is not None and self._server.room(self, now) == 0 and self.in_flight < self.limit:
            return Why(Reason.SERVER, {**numbers, "most": self._server.most})
        return Why(self._reason(), numbers)

    def _reason(self) -> Reason:
        if self._is_fixed:
            return Reason.FIXED if self.limit == self.limits.ceiling else Reason.QUOTED
        if self._choice.fell_back and self._window.reason is Reason.QUEUE:
            return Reason.FELL_BACK
        return self._window.reason

    # ── what happens ────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_probing(self) -> bool:
        """One goes alone: before the first was accepted, and while the server is away."""
        return not self.proven or self._server.breaker.is_open

    def started(self, now: float, mode: ResponseMode | None = None) -> Start:
        """An attempt takes its place in flight. `mode`: as its request was written, which may be a moment ago."""
        start = Start(now, mode or self.response_mode(), self.in_flight)
        self.in_flight += 1
        self._server.started(self, start, now)
        self._rate.started(now)
        self._windows[start.mode].started(start, self.in_flight)
        return start

    def accepted(self, start: Start, now: float) -> None:
        """Its run has begun: the first event that is no ping. Nothing is learned here in blocking mode, where only the
        reply tells, nor from a second call."""
        if start.over or start.accepted_at is not None or start.mode is BLOCKING:
            return
        self._windows[start.mode].accepted(start, now)
        self._trust(start, start.running - 1, now)

    def _trust(self, start: Start, beside: int, now: float) -> None:
        self.proven = True
        self._gate.calm(start.at)
        self._server.accepted(start)
        self._rate.accepted(beside, now)

    def ended(self, start: Start, sample: Sample, now: float, jitter: float = 0.0) -> None:
        """An attempt is no longer in flight. `jitter` is a random number in [0, 1). A second call changes nothing."""
        if start.over:
            return
        start.over = True
        before = self._choice.mode
        window = self._windows[start.mode]
        self.in_flight -= 1
        self._server.ended(self, start)
        window.leave(start)
        match sample.kind:
            case Kind.OK | Kind.FAILED | Kind.OVERLOADED:
                self._ran(start, sample, window, now)
            case Kind.REJECT:
                self._rejected(start, sample, window, now, jitter)
            case Kind.EDGE:
                if self._server.edge.close(Kind.EDGE, now, sample.retry_after, jitter) and not self._is_fixed:
                    self._rate.slow_down(start.at, now)
                self._trials.rejected(now)
            case Kind.DOWN:
                self._server.breaker.down(now, sample.retry_after, jitter)
            case Kind.UNKNOWN:
                window.lost(now)
                self._choice.lost(start.mode, now)
            case Kind.LEFT:
                pass
        self._follow_mode(before, now)

    def _ran(self, start: Start, sample: Sample, window: Window, now: float) -> None:
        if start.accepted_at is None:
            self._trust(start, start.level, now)
        self._rate.ended(now)
        if sample.kind is Kind.OVERLOADED:
            self._trials.failed(now)
        else:
            self._trials.succeeded()
            if self._trials.are_paid(now):
                self._rate.rise(now)
        seconds = now - (start.accepted_at if start.accepted_at is not None else start.at)
        self._choice.ran(seconds if sample.elapsed is None else sample.elapsed, now)
        ended = window.ran(start, sample, now)
        if ended is not None:
            self._choice.turned(ended, now)

    def _follow_mode(self, before: ResponseMode, now: float) -> None:
        """The mode may have changed: the other window goes on from what this one had running."""
        if self._choice.mode is not before:
            self._windows[self._choice.mode].enter(self._windows[before].queue.running, now)

    def _rejected(self, start: Start, sample: Sample, window: Window, now: float, jitter: float) -> None:
        self._trials.rejected(now)
        self._gate.close(Kind.REJECT, now, sample.retry_after, jitter)
        if sample.quoted is not None:
            self.learn_limit(sample.quoted, start.mode)
        if sample.quoted is not None and sample.quoted <= self.in_flight:
            return  # all is explained; below its own limit others use the app too
        if self._is_fixed:
            return  # the gate is all that a fixed number bows to
        if self._rate.rejected(self.in_flight, start.at, now):
            window.pardon(now)
        else:
            window.rejected(self.in_flight, now, self._gate.until - now)

    def learn_limit(self, quoted: int, mode: ResponseMode = STREAMING) -> None:
        """The app named its own limit of runs at once: never above it again, in the mode in which it was told. Dify
        1.13 and later count only blocking runs against it."""
        self._windows[mode].learn(quoted)

    # ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────

    def to_json(self) -> dict[str, Any]:
        """What was learned, without moments: the next process has another clock."""
        windows = {mode.value: window.to_json() for mode, window in self._windows.items()}
        return {"windows": windows, "mode": self._choice.to_json(), "rate": self._rate.learned}

    def from_json(self, learned: dict[str, Any]) -> None:
        """Start from what a former process learned. The first row goes alone all the same."""
        for mode, window in self._windows.items():
            window.from_json(_part(_part(learned, "windows"), mode.value))
        self._choice.from_json(_part(learned, "mode"))
        self._rate.learned = positive(learned.get("rate"))


def _part(learned: dict[str, Any], name: str) -> dict[str, Any]:
    part = learned.get(name)
    return part if isinstance(part, dict) else {}

"""The words of the pace: what is told to it about each attempt, and what it tells."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ResponseMode(StrEnum):
    """How Dify is asked to answer. As a wish of the user's, or (never AUTO) of one start."""

    AUTO = "auto"
    STREAMING = "streaming"
    BLOCKING = "blocking"


class Kind(StrEnum):
    """How one attempt ended, as far as the server's load is concerned."""

    OK = "ok"
    """the run ended well, or in part"""
    FAILED = "failed"
    """the run ended badly for reasons of its own: the row's data, the app"""
    OVERLOADED = "overloaded"
    """the run was started, cost money, and failed because something behind Dify had too much to do (causes.PASSING)"""
    REJECT = "reject"
    """no run was started: too many at once, or too fast; 429 in either code, 400 'Too many requests…'"""
    EDGE = "edge"
    """no run was started: a proxy in front found it too fast (Cloudflare 1015)"""
    DOWN = "down"
    """nobody there: nothing was sent"""
    UNKNOWN = "unknown"
    """sent, and no answer: the run may be alive"""
    LEFT = "left"
    """over for reasons that tell nothing about the server's load: no longer listened to, or the row itself refused"""


@dataclass(slots=True, eq=False)
class Start:
    """One attempt in flight. Made by `Pace.started`, handed back with all that becomes of it."""

    at: float
    mode: ResponseMode
    level: int
    """how many others were running when it started"""
    accepted_at: float | None = None
    running: int = 0
    """how many were running, this one included, when it was accepted"""
    over: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """How an attempt ended. Its times are known from its `Start`.

    `elapsed`: seconds that Dify says the run took (`elapsed_time`); what the round trip took beyond it is queueing.
    `quoted`: the app's own limit of runs at once, where the refusal names it."""

    kind: Kind
    retry_after: float | None = None
    elapsed: float | None = None
    quoted: int | None = None


class Reason(StrEnum):
    """Why the limit is what it is: the text `pace.<reason>`."""

    START = "start"
    """the first row alone: nothing was accepted yet"""
    GROWING = "growing"
    """no trouble so far: more each time a round of runs went well"""
    QUEUE = "queue"
    """more would only wait in the server's queue"""
    REJECTED = "rejected"
    """the server takes no more at once"""
    RATE = "rate"
    """the server takes no more starts per minute"""
    OVERLOAD = "overload"
    """runs began to fail, and to cost, because of too much load"""
    NO_FASTER = "no_faster"
    """with more at once every run took longer: nothing was gained"""
    UNKNOWN = "unknown"
    """replies were lost"""
    DOWN = "down"
    """the server is not there: one probes for all"""
    GATE = "gate"
    """the server asked to wait"""
    CAP = "cap"
    """the user wants no more"""
    QUOTED = "quoted"
    """the app's own limit"""
    SERVER = "server"
    """the limit over all apps of this server is reached"""
    FIXED = "fixed"
    """the user's own number"""
    FELL_BACK = "fell_back"
    """blocking mode did not pay: back to streaming"""


@dataclass(frozen=True, slots=True)
class Why:
    """A reason with the numbers of its sentence."""

    reason: Reason
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """What the user and the server's version allow.

    `most`: never more at once. `fixed`: exactly so many at once, nothing is adapted but gates, breaker and canary.
    `per_minute`, `min_gap` (seconds): how fast rows may start. `blocking_ok`: the app can answer in blocking mode, and
    a lost reply can be looked up (from the app's mode and the server's version; agent-chat never)."""

    most: int = 50
    fixed: int | None = None
    per_minute: float | None = None
    min_gap: float = 0.0
    mode: ResponseMode = ResponseMode.AUTO
    blocking_ok: bool = False

    @property
    def ceiling(self) -> int:
        """Never more at once than this."""
        return max(1, self.fixed if self.fixed is not None else self.most)


def positive(value: Any) -> float | None:
    """A number from a snapshot that a former process, perhaps an older version, has left; None for what is no use."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        return None
    return float(value)

"""Streaming or blocking for the next start.

At Dify's default settings streaming runs pass through 4 Celery slots (1 on 1.13) and blocking ones do not: they run in
the API process, on one of its 10 connections. Blocking answers refused inputs at once; but it has no run id before the
end, cannot be stopped, and proxies cut it when it takes long. So: streaming, unless runs are short, wait for a slot,
and a trial shows that blocking brings clearly more rows per second.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rowmill.domain.pace_signals import ResponseMode, positive

STREAMING, BLOCKING = ResponseMode.STREAMING, ResponseMode.BLOCKING

# Runs longer than this are not asked for in blocking mode: proxies cut at 60 or 100 s, and there is no stop.
SHORT = 20.0
# … and it is left when they are clearly longer: of thousands of rows a few slow ones come together now and then.
LONG = 30.0
SHARE = 0.95
FEWEST = 5
REMEMBERED = 60
# Blocking has to bring this much more, for what it takes away.
GAIN = 1.1
TRIAL_ROUNDS = 4
FEWEST_IN_TRIAL = 12
MEMORY = 0.7
# A look at streaming that is so far behind is cut short.
HOPELESS = 1.5
# Until the next trial of blocking after one that failed, and the next look at streaming after one that paid.
FIRST_HOLD = 600.0
FIRST_CHECK = 1800.0
LONGEST_HOLD = 7200.0
# Lost replies in blocking mode after which it is left.
LOST = 2


class Phase(StrEnum):
    STREAMING = "streaming"
    TRYING = "trying"
    """blocking on trial"""
    BLOCKING = "blocking"
    CHECKING = "checking"
    """blocking, but streaming is looked at again"""


class _Speed:
    """Runs per second over the last rounds, weighed by their length."""

    def __init__(self) -> None:
        self.count = self.seconds = 0.0

    def add(self, round_: Round) -> None:
        self.count = MEMORY * self.count + round_.count
        self.seconds = MEMORY * self.seconds + round_.seconds

    @property
    def per_second(self) -> float:
        return self.count / max(self.seconds, 1e-6)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of runs in one mode showed: so many ended in so many seconds, and whether they waited."""

    mode: ResponseMode
    count: int
    seconds: float
    queued: bool
    growing: bool


class ModeChoice:
    """Follows the run times; `mode` is the one for the next start."""

    def __init__(self, wish: ResponseMode, *, blocking_ok: bool) -> None:
        fixed = {ResponseMode.AUTO: None, STREAMING: STREAMING, BLOCKING: BLOCKING if blocking_ok else STREAMING}
        self._fixed = fixed[wish]
        self._may_block = blocking_ok
        self.phase = Phase.BLOCKING if self._fixed is BLOCKING else Phase.STREAMING
        self.fell_back = False
        self._times: deque[float] = deque(maxlen=REMEMBERED)
        self._speed = {STREAMING: _Speed(), BLOCKING: _Speed()}
        self._rounds = 1
        self._lost = 0
        self._not_before = 0.0
        self._hold = FIRST_HOLD

    @property
    def mode(self) -> ResponseMode:
        return BLOCKING if self.phase in (Phase.TRYING, Phase.BLOCKING) else STREAMING

    @property
    def is_short(self) -> bool:
        """Whether runs are known to be short enough for blocking mode."""
        return len(self._times) >= FEWEST and self._usually < SHORT

    @property
    def _usually(self) -> float:
        """Nearly all runs take no longer than this."""
        return sorted(self._times)[int(SHARE * (len(self._times) - 1))]

    def ran(self, seconds: float, now: float) -> None:
        """A run took so long, its wait for a slot not counted where that is known."""
        self._times.append(seconds)
        if self._fixed is None and self.mode is BLOCKING and self._usually > LONG:
            self._fall_back(now)

    def lost(self, mode: ResponseMode, now: float) -> None:
        """A reply was lost."""
        self._lost += mode is BLOCKING
        if self._fixed is None and self.mode is BLOCKING and self._lost >= LOST:
            self._fall_back(now)

    def turned(self, round_: Round, now: float) -> None:
        """A round of runs is over."""
        if self._fixed is not None or not self._may_block or round_.mode is not self.mode:
            return
        self._rounds += 1
        if self._rounds > 1:  # the first round after a change still has runs of the other mode beside it
            self._speed[round_.mode].add(round_)
        match self.phase:
            case Phase.STREAMING:
                if round_.queued and self.is_short and now >= self._not_before:
                    self._enter(Phase.TRYING)
            case Phase.TRYING:
                self._judge_trial(round_, now)
            case Phase.BLOCKING:
                if now >= self._not_before:
                    self._enter(Phase.CHECKING)
            case Phase.CHECKING:
                self._judge_check(round_, now)

    def _judge_trial(self, round_: Round, now: float) -> None:
        if self._speed[BLOCKING].count < FEWEST_IN_TRIAL:
            return
        if self._speed[BLOCKING].per_second > GAIN * self._speed[STREAMING].per_second:
            self._enter(Phase.BLOCKING)
            self._hold = max(self._hold, FIRST_CHECK)
            self._wait(now)
        elif self._rounds >= TRIAL_ROUNDS and not round_.growing:
            self._fall_back(now)

    def _judge_check(self, round_: Round, now: float) -> None:
        hopeless = round_.queued and HOPELESS * round_.count / round_.seconds < self._speed[BLOCKING].per_second
        if self._speed[STREAMING].count < FEWEST_IN_TRIAL and not hopeless:
            return
        pays = hopeless or self._speed[BLOCKING].per_second > GAIN * self._speed[STREAMING].per_second
        self._enter(Phase.BLOCKING if pays else Phase.STREAMING)
        self._wait(now)

    def _enter(self, phase: Phase) -> None:
        self.phase, self._rounds, self.fell_back = phase, 0, False
        if phase is Phase.TRYING:
            self._speed[BLOCKING], self._lost = _Speed(), 0
        if phase is Phase.CHECKING:
            self._speed[STREAMING] = _Speed()

    def _fall_back(self, now: float) -> None:
        self._enter(Phase.STREAMING)
        self.fell_back = True
        self._wait(now)

    def _wait(self, now: float) -> None:
        self._not_before = now + self._hold
        self._hold = min(2 * self._hold, LONGEST_HOLD)

    def to_json(self) -> dict[str, Any]:
        return {"blocking": self.phase in (Phase.BLOCKING, Phase.CHECKING), "times": list(self._times)}

    def from_json(self, learned: dict[str, Any]) -> None:
        times = learned.get("times")
        kept = (positive(seconds) for seconds in times) if isinstance(times, list) else ()
        self._times.extend(seconds for seconds in kept if seconds is not None)
        if self._fixed is None and self._may_block and learned.get("blocking") is True and self.is_short:
            self.phase = Phase.BLOCKING

"""Brakes: limits at which a batch pauses by itself before more money is spent. Resuming releases them once."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING

from rowmill.domain.batch import Outcome, RowMove
from rowmill.domain.causes import Cause
from rowmill.domain.money import read_price
from rowmill.domain.pace_budget import retry_budget
from rowmill.domain.verdict import Action, Verdict

if TYPE_CHECKING:
    from rowmill.domain.batch import Settings, Spent

# A share of failures is looked at over so many rows, and not before so many have ended.
FAILURES_OVER = 50
FEWEST_ROWS = 20


class Brake(StrEnum):
    """Which limit was reached: the reason of the pause, and the text `pause_reason.<brake>`."""

    FAILURES = "too_many_failures"
    TOKENS = "token_budget"
    ROWS = "row_budget"
    PRICE = "spend_limit"
    TIME = "time_limit"


class Halt(StrEnum):
    """Why a batch stands still although no row met anything: the text `pause_reason.<halt>`."""

    RESTORED = "restored"
    """Dify has done more for the batch than this data folder knows; a person starts it again"""


Reason = Cause | Brake | Halt


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit. `failures` is a share of the last rows, `price` in the currency that Dify tells, `seconds` of
    running. All count from the moment when a person last started the batch."""

    failures: float | None = None
    tokens: int | None = None
    rows: int | None = None
    price: Decimal | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        price = None if settings.max_price is None else Decimal(settings.max_price)
        return cls(settings.max_failures, settings.max_tokens, settings.max_rows, price, settings.max_seconds)


class Brakes:
    """`spent`: what was spent since a person started the batch, when this process took it over."""

    def __init__(self, limits: Limits, spent: Spent, successes: int = 0) -> None:
        self._limits = limits
        self._spent = spent
        self._recent: deque[bool] = deque(maxlen=FAILURES_OVER)
        self._retries = retry_budget(successes)

    def allow(self, verdict: Verdict) -> Verdict:
        """The verdict, or (where the budget of billed retries is empty) the row's end: a person may retry it."""
        if verdict.action is not Action.RETRY or self._retries.take():
            return verdict
        return replace(verdict, action=Action.SETTLE, move=RowMove.FAIL)

    def note(self, verdict: Verdict, outcome: Outcome) -> Brake | None:
        """A run ended, or waits for a person, which counts as much: it was paid for. The brake that acts now, if one
        does."""
        ended = verdict.move is not RowMove.WAIT
        price = read_price(outcome.price) or Decimal(0)
        self._spent = self._spent.plus(rows=int(ended), tokens=outcome.tokens or 0, price=price)
        if ended:
            self._recent.append(verdict.move is RowMove.FAIL)
        if verdict.move is RowMove.SUCCEED:
            self._retries.earn()
        return self._acting()

    def _acting(self) -> Brake | None:
        limits, spent = self._limits, self._spent
        if limits.tokens is not None and spent.tokens >= limits.tokens:
            return Brake.TOKENS
        if limits.price is not None and spent.price >= limits.price:
            return Brake.PRICE
        enough = len(self._recent) >= FEWEST_ROWS
        if limits.failures is not None and enough and sum(self._recent) > limits.failures * len(self._recent):
            return Brake.FAILURES
        return None

    def may_start(self, under_way: int) -> bool:
        """Whether one more row may start beside those that are under way: the budget of rows is never exceeded."""
        return self._limits.rows is None or self._spent.rows + under_way < self._limits.rows

    def seconds_left(self, running: float) -> float | None:
        """How long the batch may go on, having run for so long since a person started it."""
        return None if self._limits.seconds is None else max(0.0, self._limits.seconds - running)

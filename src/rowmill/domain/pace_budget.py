"""Budgets: what may be spent is a share of what went well."""

from __future__ import annotations

import math

# Ten times a tenth is a little less than one.
ROUNDING = 1e-6


class Budget:
    """Holds `first`, earns `share` with each success, never holds more than `most`.

    `Budget(10, 0.1)` is the budget of billed retries: 10 % of the successes + 10; when it is empty rows wait for the
    user. The pace uses the same to pay for its trials: looking for the server's limit costs rejects or failed runs."""

    def __init__(self, first: float, share: float, most: float | None = None) -> None:
        self.left = first
        self._share = share
        self._most = most

    def earn(self) -> None:
        """Something went well."""
        self.left += self._share
        if self._most is not None:
            self.left = min(self.left, self._most)

    @property
    def is_empty(self) -> bool:
        return self.left < 1 - ROUNDING

    def spend(self, amount: float = 1.0) -> None:
        """Pay, even what is not there: what happened has its price, planned or not."""
        self.left -= amount

    def take(self) -> bool:
        """Spend one if there is one."""
        if self.is_empty:
            return False
        self.spend()
        return True


# A debt is forgiven after so many quiet seconds: a server that was in trouble for an hour is not shunned for a day.
REJECTS_FORGIVEN = 600.0
FAILURES_FORGIVEN = 1200.0


class Trials:
    """What looking for a server's limits may cost: 2 % of the successes may be rejects, 0.6 % billed failures."""

    def __init__(self) -> None:
        self._rejects = Budget(8, 0.02, most=8)
        self._failures = Budget(3, 0.006, most=3)
        self._rejected_at = self._failed_at = -math.inf

    def succeeded(self) -> None:
        self._rejects.earn()
        self._failures.earn()

    def rejected(self, now: float) -> None:
        self._rejects.spend()
        self._rejected_at = now

    def failed(self, now: float) -> None:
        """A run failed because something had too much to do: it was paid for."""
        self._failures.spend()
        self._failed_at = now

    def are_paid(self, now: float) -> bool:
        """Whether one more may be made."""
        rejects = not self._rejects.is_empty or now - self._rejected_at > REJECTS_FORGIVEN
        failures = not self._failures.is_empty or now - self._failed_at > FAILURES_FORGIVEN
        return rejects and failures


RETRY_FIRST = 10.0
RETRY_SHARE = 0.1


def retry_budget(successes: int = 0, spent: int = 0) -> Budget:
    """The budget of billed retries of a batch that has so many successes and retries behind it."""
    return Budget(RETRY_FIRST + RETRY_SHARE * successes - spent, RETRY_SHARE)

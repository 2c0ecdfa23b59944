"""Budgets: what may be spent is a share of what went well."""

from __future__ import annotations


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
        return self.left < 1

    def spend(self, amount: float = 1.0) -> None:
        """Pay, even what is not there: what happened has its price, planned or not."""
        self.left -= amount

    def take(self) -> bool:
        """Spend one if there is one."""
        if self.is_empty:
            return False
        self.spend()
        return True


RETRY_FIRST = 10.0
RETRY_SHARE = 0.1


def retry_budget(successes: int = 0, spent: int = 0) -> Budget:
    """The budget of billed retries of a batch that has so many successes and retries behind it."""
    return Budget(RETRY_FIRST + RETRY_SHARE * successes - spent, RETRY_SHARE)

"""What has begun to be sent, remembered without a write to the disk (docs/design/pay-once.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rowmill.ports.store import AttemptKey


class SentMarks(Protocol):
    """Which slots of one batch have begun to send which attempt: survives a kill of the process, not of the machine.

    It tells intents that never left from those that may have. Costs a microsecond, not a disk write.
    """

    def begin(self, kept: Iterable[tuple[int, AttemptKey]] = ()) -> None:
        """Forget what a former process marked, but for the attempts that are `kept`, and start anew. Only when nothing
        will be judged by it any more: every intent that it left is refused or lost in the store by then."""
        ...

    def mark(self, slot: int, key: AttemptKey, at: float) -> None:
        """Before the first byte leaves, `at` this moment of the steady clock. Raises FencedError when another runner
        has opened the marks meanwhile: it may have judged this intent without the mark, and nothing may be sent any
        more."""
        ...

    def was_sent(self, slot: int, key: AttemptKey) -> bool | None:
        """By a former process. None where its marks cannot be trusted: after a reboot, on a copied folder, on another
        machine."""
        ...

    def sent_at(self, slot: int, key: AttemptKey) -> float | None:
        """When an attempt was marked, by the steady clock: by this process, or by a former one that left it to be
        `kept`. None where that is not known."""
        ...

    def handle(self, position: int | None) -> None:
        """From now on this row's content is being worked on; None: no row's. Costs as good as nothing."""
        ...

    def deaths(self) -> dict[int, int]:
        """How many former processes died while they handled which row, by its position. Survives `begin`; a reboot, a
        copy or another machine forgets it."""
        ...

    def forget(self, position: int) -> None:
        """The deaths that this row has seen count no more."""
        ...

    def close(self) -> None: ...

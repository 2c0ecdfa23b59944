"""The part of the store's promises that is about rows which are not new: rowmill.ports.store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rowmill.domain.again import Reuse
    from rowmill.domain.batch import BatchState, Settings


@dataclass(frozen=True, slots=True)
class AppendedSheet:
    """A sheet whose rows were added behind those of the batch's own: from position `first` on. `label` is how results
    call it."""

    first: int
    rows: int
    label: str
    path: str
    sheet_name: str
    digest: str


class AgainStore(Protocol):
    """Duplicates of one batch, rows that an earlier batch has run, versions of the app, batches that are changed."""

    def duplicates(self, batch_id: str) -> int:
        """How many rows have the inputs of a row before them."""
        ...

    def find_leaders(self, batch_id: str) -> int:
        """From now on each row that was not started follows the first one that has its inputs; rows that are held
        neither lead nor follow, nor do turns of conversations. Returns how many began to follow."""
        ...

    def share_results(self, batch_id: str) -> int:
        """Rows whose leader has ended, well or not, or waits for a person, take its state and result; what it cost
        stays its own. Some thousands at one time: to be called until it returns 0. A row that took `unknown`, or waits
        for a person, takes what is found later."""
        ...

    def followers(self, batch_id: str) -> int:
        """How many rows follow another."""
        ...

    def plan_reuse(self, batch_id: str, since: str, columns: tuple[int, int] | None, *, usable: bool) -> Reuse:
        """Only while the batch is a draft: compare its rows with those of the batch `since`. A row is the same if its
        inputs are, and its cell in the key columns (of that batch, of this one), if any are named. With `usable` the
        rows that are the same as one that succeeded are held from now on: they wait to take its result, or to be
        freed; turns of conversations are compared, but never held. Bounded memory."""
        ...

    def take_results(self, batch_id: str, since: str, workflow_id: str | None, *, any_version: bool = False) -> int:
        """Held rows take state and result of the same row of the batch `since`, at no cost of their own, if that result
        is of this version of the app or of none that is known. Some thousands at one time: to be called until it
        returns 0."""
        ...

    def free_held(self, batch_id: str, limit: int) -> int:
        """The first held rows are to be run like any other. Some thousands at one time, and not more than the limit."""
        ...

    def reuse(self, batch_id: str) -> tuple[int, int]:
        """How many rows are held, and how many took the result of an earlier batch's row."""
        ...

    def versions(self, batch_id: str) -> list[tuple[str, int]]:
        """(workflow id, rows), most first: for each row the version of its last attempt that told one."""
        ...

    def append_rows(self, batch_id: str, draft_id: str, sheet: AppendedSheet) -> BatchState:
        """The rows of a draft become the last ones of a batch that is not running, all of them or (also after a crash)
        none; the draft is gone then. They share if the batch does. Raises IllegalMoveError. `first` and `rows` of the
        sheet are found out here."""
        ...

    def change_settings(self, batch_id: str, settings: Settings) -> None:
        """From its next start on the batch is run so."""
        ...

"""The store in memory: rows that follow another. Promises: rowmill.ports.store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowmill.domain.batch import TAKES_A_SHARE, RowState
from rowmill.store.bounds import SHARED_AT_ONCE

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable

    from rowmill.store.memory_rows import MemoryRow


class SharingMemory:
    """A part of MemoryStore."""

    _lock: threading.RLock

    def _rows(self, batch_id: str, *states: RowState) -> list[MemoryRow]:
        raise NotImplementedError

    def duplicates(self, batch_id: str) -> int:
        with self._lock:
            return len(_pairs(self._rows(batch_id)))

    def find_leaders(self, batch_id: str) -> int:
        with self._lock:
            return self.follow(batch_id, 0)

    def follow(self, batch_id: str, first: int) -> int:
        """Only rows from the position `first` on begin to follow."""
        with self._lock:
            may_lead = [row for row in self._rows(batch_id) if not is_held(row)]
            pairs = [(row, leader) for row, leader in _pairs(may_lead) if _is_fresh(row) and row.new.position >= first]
            for follower, leader in pairs:
                follower.leader = leader
            # One that led others may follow now: they follow the same row as it does.
            for row in self._rows(batch_id) if pairs else ():
                row.leader = row.leader.leader or row.leader if row.leader else None
            return len(pairs)

    def share_results(self, batch_id: str) -> int:
        with self._lock:
            due = [row for row in self._rows(batch_id) if _takes(row)][:SHARED_AT_ONCE]
            for row in due:
                _take(row)
            return len(due)

    def set_apart(self, batch_id: str, apart: MemoryRow) -> None:
        """A row that has ended shares with no other from now on. Those that followed it keep what it has come to, and
        the first of them leads the others."""
        apart.leader = None
        followers = [row for row in self._rows(batch_id) if row.leader is apart]
        for row in followers:
            if _takes(row):
                _take(row)
            row.leader = None if row is followers[0] else followers[0]

    def followers(self, batch_id: str) -> int:
        with self._lock:
            return sum(row.leader is not None for row in self._rows(batch_id))


def is_held(row: MemoryRow) -> bool:
    return row.origin is not None and row.state is RowState.PENDING


def _is_fresh(row: MemoryRow) -> bool:
    return row.state is RowState.PENDING and row.tries == 0 and row.leader is None


def _pairs(rows: Iterable[MemoryRow]) -> list[tuple[MemoryRow, MemoryRow]]:
    """Each row that has the inputs of one before it, with the first of those."""
    first: dict[str, MemoryRow] = {}
    hashed = [(row, row.new.input_hash) for row in rows if row.new.input_hash is not None]
    pairs = [(row, first.setdefault(known_by, row)) for row, known_by in hashed]
    return [(row, leader) for row, leader in pairs if row is not leader]


def _takes(row: MemoryRow) -> bool:
    leader = row.leader
    return leader is not None and row.state in TAKES_A_SHARE and leader.has_end and row.state is not leader.state


def _take(row: MemoryRow) -> None:
    leader = row.leader
    assert leader is not None
    take_from(leader, row)


def take_from(giver: MemoryRow, row: MemoryRow) -> None:
    """The result, without what it cost."""
    row.state, row.outputs, row.error, row.cause = giver.state, giver.outputs, giver.error, giver.cause
    row.run_id, row.workflow_id, row.conversation_id = giver.run_id, giver.workflow_id, giver.conversation_id
    row.asks = giver.asks
    row.tokens, row.seconds, row.price, row.currency = 0, None, None, None

"""The store in memory: rows that take the result of an earlier batch's row. Promises: rowmill.ports.store."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rowmill.domain.again import Reuse, digest, row_key
from rowmill.domain.batch import RowState
from rowmill.store.bounds import SHARED_AT_ONCE
from rowmill.store.memory_rows import last_attempt
from rowmill.store.memory_sharing import is_held, take_from

if TYPE_CHECKING:
    import threading

    from rowmill.ports.store import AttemptKey, OutputFile
    from rowmill.store.memory_rows import MemoryBatch, MemoryRow

    Name = tuple[str, str]


class ReuseMemory:
    """A part of MemoryStore."""

    _lock: threading.RLock

    def _rows(self, batch_id: str, *states: RowState) -> list[MemoryRow]:
        raise NotImplementedError

    def _draft(self, batch_id: str, move: str) -> MemoryBatch:
        raise NotImplementedError

    def output_files(self, key: AttemptKey) -> list[OutputFile]:
        raise NotImplementedError

    def _save_output_file(self, key: AttemptKey, file: OutputFile) -> None:
        raise NotImplementedError

    def plan_reuse(self, batch_id: str, since: str, columns: tuple[int, int] | None, *, usable: bool) -> Reuse:
        with self._lock:
            self._draft(batch_id, "plan_reuse")
            there, here = columns or (None, None)
            present = [(_name(row, here), row) for row in self._filled(batch_id)]
            earlier = [(_name(row, there), row) for row in self._filled(since)]
            may = {n: row for n, row in reversed(earlier) if usable and _gives(row)}
            for name, row in present:
                row.origin = may.get(name)
            known = {name for name, _ in earlier}
            known_keys = {key for key, _ in known}
            kinds = Counter(_kind(name, may, known, known_keys) for name, _ in present)
            keys = {key for (key, _), _ in present}
            return Reuse(**kinds, gone=sum(key not in keys for (key, _), _ in earlier))

    def _filled(self, batch_id: str) -> list[MemoryRow]:
        return [row for row in self._rows(batch_id) if row.state is not RowState.SKIPPED]

    def _held(self, batch_id: str) -> list[MemoryRow]:
        return [row for row in self._rows(batch_id) if is_held(row)]

    def take_results(self, batch_id: str, since: str, workflow_id: str | None, *, any_version: bool = False) -> int:
        with self._lock:
            due = [row for row in self._held(batch_id) if any_version or _version(row) in (None, workflow_id)]
            for row in due[:SHARED_AT_ONCE]:
                assert row.origin is not None
                take_from(row.origin, row)
                for file in self.output_files(last_attempt(since, row.origin.leads)):
                    self._save_output_file(last_attempt(batch_id, row), file)
            return len(due[:SHARED_AT_ONCE])

    def free_held(self, batch_id: str, limit: int) -> int:
        with self._lock:
            freed = self._held(batch_id)[: min(limit, SHARED_AT_ONCE)]
            for row in freed:
                row.origin = None
            return len(freed)

    def reuse(self, batch_id: str) -> tuple[int, int]:
        with self._lock:
            held = len(self._held(batch_id))
            return held, sum(row.origin is not None for row in self._rows(batch_id)) - held


def _gives(row: MemoryRow) -> bool:
    return row.state is RowState.SUCCEEDED and row.new.conversation is None


def _version(row: MemoryRow) -> str | None:
    return row.origin.workflow_id if row.origin else None


def _name(row: MemoryRow, column: int | None) -> Name:
    known_by = digest(row.new.inputs)
    return (known_by if column is None else row_key(row.new.cells, column)), known_by


def _kind(name: Name, may: dict[Name, MemoryRow], known: set[Name], keys: set[str]) -> str:
    if name in may:
        return "reused"
    if name in known:
        return "again"
    return "changed" if name[0] in keys else "new"

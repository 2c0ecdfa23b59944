"""Results that were not got by running their own row: whose they are. Only in batches that have such rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rowmill.domain.batch import RowState

if TYPE_CHECKING:
    from rowmill.domain.cell import Cell
    from rowmill.ports.store import BatchRecord, RowResult


def origin_names(batch: BatchRecord) -> list[str]:
    """The columns, and the keys in jsonl, that tell it."""
    shared = ["shared_with"] if batch.settings.share_duplicates else []
    return [*shared, "reused"] if batch.settings.since else shared


def origin_values(batch: BatchRecord, row: RowResult) -> dict[str, Any]:
    """By these names, for programs."""
    known: dict[str, Any] = {"shared_with": row.shared_with, "reused": None}
    if _was_reused(row):
        known["reused"] = {"batch": batch.settings.since, "row": row.reused_row}
    return {name: known[name] for name in origin_names(batch)}


def origin_cells(batch: BatchRecord, row: RowResult) -> list[Cell]:
    """In the order of these names, for people; nothing for a blank row."""
    if row.state is RowState.SKIPPED:
        return []
    known: dict[str, Cell] = {"shared_with": row.shared_with, "reused": None}
    if _was_reused(row):
        known["reused"] = f"{batch.settings.since}:{row.reused_row}"
    return [known[name] for name in origin_names(batch)]


def _was_reused(row: RowResult) -> bool:
    return row.origin is not None and row.state is not RowState.PENDING

"""Rows and results that are not of the batch's own sheet, or run: whose they are. Only where there are such rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowmill.domain.batch import RowState

if TYPE_CHECKING:
    from rowmill.domain.cell import Cell
    from rowmill.ports.store import BatchRecord, RowResult


def origin_names(batch: BatchRecord) -> list[str]:
    """The columns that tell it."""
    asked = {"sheet": batch.appended, "shared_with": batch.settings.share_duplicates, "reused": batch.settings.since}
    return [name for name, is_there in asked.items() if is_there]


def origin_values(batch: BatchRecord, row: RowResult) -> dict[str, Any]:
    """For programs. `sheet` stands only beside rows of appended sheets, and `shared_with_sheet` only where the other
    row is of another sheet."""
    told: dict[str, Any] = {}
    label = _label(batch, row.position)
    if label is not None:
        told["sheet"] = label
    if batch.settings.share_duplicates:
        told["shared_with"] = row.shared_with
        if row.leader is not None and (of := _label(batch, row.leader)) != label:
            told["shared_with_sheet"] = of
    if batch.settings.since is not None:
        taken = {"batch": batch.settings.since, "row": row.reused_row}
        told["reused"] = taken if _was_reused(row) else None
    return told


def origin_cells(batch: BatchRecord, row: RowResult) -> list[Cell]:
    """For people, one under each name; nothing for a blank row."""
    if row.state is RowState.SKIPPED:
        return []
    label = _label(batch, row.position)
    shared: Cell = row.shared_with
    if row.leader is not None and (of := _label(batch, row.leader)) != label:
        shared = f"{of or _own(batch)}:{row.shared_with}"
    reused = f"{batch.settings.since}:{row.reused_row}" if _was_reused(row) else None
    known: dict[str, Cell] = {"sheet": label or _own(batch), "shared_with": shared, "reused": reused}
    return [known[name] for name in origin_names(batch)]


def _was_reused(row: RowResult) -> bool:
    return row.origin is not None and row.state is not RowState.PENDING


def _own(batch: BatchRecord) -> str:
    return Path(batch.sheet_path).name


def _label(batch: BatchRecord, position: int) -> str | None:
    """Of the appended sheet that a row is of; None for the batch's own."""
    return next((sheet.label for sheet in reversed(batch.appended) if sheet.first <= position), None)

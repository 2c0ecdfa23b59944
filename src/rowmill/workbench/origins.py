"""Results that were not got by running their own row: whose they are. Only in batches that have such rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowmill.domain.batch import RowState

if TYPE_CHECKING:
    from rowmill.ports.store import BatchRecord, RowResult

Value = str | int | None


def origin_names(batch: BatchRecord) -> list[str]:
    """The columns, and the keys in jsonl, that tell it."""
    return ["shared_with"] if batch.settings.share_duplicates else []


def origins(batch: BatchRecord, row: RowResult) -> dict[str, Value]:
    """By these names; nothing for a blank row."""
    if row.state is RowState.SKIPPED:
        return {}
    known: dict[str, Value] = {"shared_with": row.shared_with}
    return {name: known[name] for name in origin_names(batch)}

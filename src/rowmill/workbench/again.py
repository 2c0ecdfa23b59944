"""Rows and sheets that are not new: duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rowmill.ports.store import BatchRecord, Store


def find_identical(store: Store, draft: BatchRecord) -> int:
    """How many rows have the inputs of a row before them; where the batch shares, they follow it from now on."""
    return store.find_leaders(draft.id) if draft.settings.share_duplicates else store.duplicates(draft.id)

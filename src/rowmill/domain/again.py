"""What makes two rows the same row."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rowmill.domain.cell import to_json
from rowmill.domain.conversation import conversation_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rowmill.domain.cell import Cell

# 64 bits: of 1,000,000 different rows two have the same hash once in 37 million batches.
_BYTES = 8


def input_hash(inputs: Mapping[str, Any]) -> str | None:
    """What inputs may be taken for the same by; None for a turn of a conversation of several rows: what it is answered
    depends on the turns before it, so its result is nobody else's."""
    return None if conversation_of(inputs) else digest(inputs)


def digest(inputs: Mapping[str, Any]) -> str:
    """16 hex digits: the same for inputs that Dify could not tell apart, whatever the order of their keys. `3`, `3.0`
    and `"3"` are three different inputs."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=_BYTES).hexdigest()


def row_key(cells: Sequence[Cell], column: int) -> str:
    """What names a row in its sheet: the text of a cell, whether the sheet holds it as text or as a number."""
    cell = cells[column] if column < len(cells) else None
    text = str(cell).strip() if isinstance(cell, str | int | float) else json.dumps(to_json(cell))
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=_BYTES).hexdigest()


@dataclass(frozen=True, slots=True)
class Reuse:
    """Rows of a sheet, compared with those of an earlier batch. Without a key column rows are named by their inputs,
    and one that was changed is new."""

    reused: int = 0
    """the same key and inputs, and a result"""
    again: int = 0
    """the same key and inputs, without a result that may be taken"""
    changed: int = 0
    """a key that was there, with other inputs"""
    new: int = 0
    gone: int = 0
    """rows of the earlier batch whose keys are not there any more"""

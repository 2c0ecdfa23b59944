"""What makes two rows the same row."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# 64 bits: of 1,000,000 different rows two have the same hash once in 37 million batches.
_BYTES = 8


def input_hash(inputs: Mapping[str, Any]) -> str:
    """16 hex digits: the same for inputs that Dify could not tell apart, whatever the order of their keys. `3`, `3.0`
    and `"3"` are three different inputs."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=_BYTES).hexdigest()

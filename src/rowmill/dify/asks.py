"""What a run that waits for a person asks for (contract §2.10, §3.1, §6.4)."""

from __future__ import annotations

import json
from typing import Any

# What a person needs to answer, under Dify's own names.
_KEPT = (
    "TYPE", "node_id", "node_title", "form_id", "form_token", "form_content", "inputs", "actions",
    "resolved_default_values", "expiration_time", "message",
)  # fmt: skip


def read_asks(reasons: Any, told: list[dict[str, Any]] | None = None) -> str | None:
    """JSON text: a list with one object per reason. `reasons` as the pause names them (from 1.14 on), or else what
    `human_input_required` events told before. None where nothing was said."""
    found = [reason for reason in reasons if isinstance(reason, dict)] if isinstance(reasons, list) else []
    asks = [{name: one[name] for name in _KEPT if one.get(name) is not None} for one in found or told or []]
    return _dumps(asks) if any(asks) else None


def _dumps(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text

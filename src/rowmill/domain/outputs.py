"""Dify's outputs as flat columns: nested objects with dots, lists as JSON, files as their links."""

from __future__ import annotations

import json
from typing import Any

from rowmill.domain.cell import Cell, JsonCell

_FILE = "__dify__file__"
DEPTH = 8


def flatten(outputs: Any) -> dict[str, Cell]:
    """Column name -> cell for one row's outputs, in Dify's order. A dot inside a key is written `\\.`, a backslash
    twice, so that the key `a.b` and the path a -> b stay two columns."""
    if not isinstance(outputs, dict):
        return {} if outputs is None else {"output": _leaf(outputs)}
    cells: dict[str, Cell] = {}
    _walk(outputs, "", cells, DEPTH)
    return cells


def _walk(node: dict[str, Any], prefix: str, cells: dict[str, Cell], depth: int) -> None:
    for key, value in node.items():
        name = prefix + key.replace("\\", "\\\\").replace(".", "\\.")
        if isinstance(value, dict) and value and not _is_file(value) and depth > 0:
            _walk(value, f"{name}.", cells, depth - 1)
        else:
            cells[name] = _leaf(value)


def _is_file(value: Any) -> bool:
    return isinstance(value, dict) and value.get("dify_model_identity") == _FILE


def _leaf(value: Any) -> Cell:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if _is_file(value):
        return _link(value)
    if isinstance(value, list) and value and all(_is_file(item) for item in value):
        return "\n".join(_link(item) for item in value)
    return JsonCell(value)


def _link(file: dict[str, Any]) -> str:
    return str(file.get("url") or file.get("remote_url") or file.get("filename") or json.dumps(file))

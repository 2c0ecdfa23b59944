"""Dify's outputs as flat columns: nested objects with dots, lists as JSON, files as their paths or links."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rowmill.domain.cell import Cell, JsonCell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FILE = "__dify__file__"
DEPTH = 8
# Outputs are JSON that somebody's code may have made.
_DEEPEST = 40


@dataclass(frozen=True, slots=True)
class FileLink:
    """A file in a run's outputs. `place` is a JSON pointer (RFC 6901) into them; `size` None where Dify does not know;
    `own`: Dify itself holds the file, behind a link that dies."""

    place: str
    name: str
    url: str
    mime: str
    size: int | None
    own: bool


def may_hold_files(outputs: str) -> bool:
    """Cheap: on the JSON text."""
    return _FILE in outputs


def file_links(outputs: Any) -> list[FileLink]:
    """All files in the outputs, in their order."""
    return list(_files(outputs, "", _DEEPEST))


def _files(node: Any, place: str, depth: int) -> Iterator[FileLink]:
    if _is_file(node):
        yield _file_link(node, place)
    elif depth > 0 and isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _files(value, _pointer(place, key), depth - 1)


def _pointer(place: str, key: str | int) -> str:
    return f"{place}/{str(key).replace('~', '~0').replace('/', '~1')}"


def _file_link(file: dict[str, Any], place: str) -> FileLink:
    size = file.get("size")
    return FileLink(
        place,
        _text(file.get("filename")) or "",
        _text(file.get("url")) or _text(file.get("remote_url")) or "",
        _text(file.get("mime_type")) or "",
        size if isinstance(size, int) and size >= 0 else None,
        file.get("transfer_method") != "remote_url",
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def flatten(outputs: Any, paths: Mapping[str, str] | None = None) -> dict[str, Cell]:
    """Column name -> cell for one row's outputs, in Dify's order. A dot inside a key is written `\\.`, a backslash
    twice, so that the key `a.b` and the path a -> b stay two columns. `paths`: place of a file -> path of its copy."""
    paths = paths or {}
    if not isinstance(outputs, dict):
        return {} if outputs is None else {"output": _leaf(outputs, "", paths)}
    cells: dict[str, Cell] = {}
    _walk(outputs, ("", ""), cells, DEPTH, paths)
    return cells


def _walk(
    node: dict[str, Any], at: tuple[str, str], cells: dict[str, Cell], depth: int, paths: Mapping[str, str]
) -> None:
    """`at`: the prefix of column names, and the place."""
    prefix, place = at
    for key, value in node.items():
        name = prefix + key.replace("\\", "\\\\").replace(".", "\\.")
        there = _pointer(place, key)
        if isinstance(value, dict) and value and not _is_file(value) and depth > 0:
            _walk(value, (f"{name}.", there), cells, depth - 1, paths)
        else:
            cells[name] = _leaf(value, there, paths)


def _is_file(value: Any) -> bool:
    return isinstance(value, dict) and value.get("dify_model_identity") == _FILE


def _leaf(value: Any, place: str, paths: Mapping[str, str]) -> Cell:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if _is_file(value):
        return paths.get(place) or _link(value)
    if isinstance(value, list) and value and all(_is_file(item) for item in value):
        return "\n".join(paths.get(_pointer(place, i)) or _link(item) for i, item in enumerate(value))
    return JsonCell(value)


def _link(file: dict[str, Any]) -> str:
    return str(file.get("url") or file.get("remote_url") or file.get("filename") or json.dumps(file))

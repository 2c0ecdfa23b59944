"""How texts and JSON are kept so that exactly what came in comes out: any text, any size of number.

Neither SQLite's driver nor Postgres takes every Python text: a lone surrogate (half an emoji, cut by a server) or a NUL
would make a whole commit fail. Such a text is kept in an ASCII spelling behind a mark.
"""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
from sqlalchemy import Text
from sqlalchemy.types import TypeDecorator

from rowmill.domain.cell import Cell, from_json, to_json

# Starts a text in the ASCII spelling. A text that starts with it by itself is spelled so too.
_MARK = "\x01json:"
# Starts JSON that orjson would change (numbers beyond 64 bits, NaN, lone surrogates): read by the standard library.
_BY_STDLIB = " "


def pack(text: str | None) -> str | None:
    """A text as every database takes it."""
    if text is None or (_is_plain(text) and not text.startswith(_MARK)):
        return text
    return _MARK + json.dumps(text)


def unpack(kept: str | None) -> str | None:
    """The inverse of `pack`."""
    if kept is None or not kept.startswith(_MARK):
        return kept
    return str(json.loads(kept[len(_MARK) :]))


def _is_plain(text: str) -> bool:
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def pack_json(value: Any) -> str:
    try:
        kept = orjson.dumps(value)
    except TypeError:
        return _BY_STDLIB + json.dumps(value)
    if b"null" in kept and _has_odd_number(value):
        return _BY_STDLIB + json.dumps(value)
    return kept.decode()


def _has_odd_number(value: Any) -> bool:
    """orjson writes NaN and the infinities as null."""
    match value:
        case float():
            return not math.isfinite(value)
        case dict():
            return any(map(_has_odd_number, value.values()))
        case list() | tuple():
            return any(map(_has_odd_number, value))
        case _:
            return False


def unpack_json(kept: str) -> Any:
    return json.loads(kept) if kept.startswith(_BY_STDLIB) else orjson.loads(kept)


_PLAIN = frozenset({str, int, float, bool, type(None)})


def pack_cells(cells: tuple[Cell, ...]) -> str:
    return pack_json([cell if cell.__class__ in _PLAIN else to_json(cell) for cell in cells])


def unpack_cells(kept: str) -> tuple[Cell, ...]:
    return tuple([from_json(value) for value in unpack_json(kept)])


class ExactText(TypeDecorator[str]):
    """Text that comes from outside."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:  # noqa: ARG002
        return pack(value)

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:  # noqa: ARG002
        return unpack(value)


class ExactJson(TypeDecorator[Any]):
    """A JSON value."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str:  # noqa: ARG002
        return pack_json(value)

    def process_result_value(self, value: str | None, dialect: Any) -> Any:  # noqa: ARG002
        return None if value is None else unpack_json(value)


class Cells(TypeDecorator[tuple[Cell, ...]]):
    """The cells of a row; kinds that JSON lacks are kept as in rowmill.domain.cell."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[Cell, ...] | None, dialect: Any) -> str:  # noqa: ARG002
        return pack_cells(value or ())

    def process_result_value(self, value: str | None, dialect: Any) -> tuple[Cell, ...]:  # noqa: ARG002
        return () if value is None else unpack_cells(value)

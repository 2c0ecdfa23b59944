"""Cells and fields at random, and short ways to make them by hand."""

from __future__ import annotations

import datetime as dt
from typing import Any

from hypothesis import strategies as st

from rowmill.domain.cell import CellError, FormulaCell, JsonCell
from rowmill.domain.form import Field, FieldKind, Form

EVERY_CODE_POINT = st.text(st.characters(exclude_categories=()))
SENDABLE = st.text(st.characters(codec="utf-8"))

json_leaves = (
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False)
)
json_values = st.recursive(
    json_leaves | EVERY_CODE_POINT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(EVERY_CODE_POINT, inner, max_size=3),
    max_leaves=8,
)
json_containers = st.lists(json_values, max_size=3) | st.dictionaries(EVERY_CODE_POINT, json_values, max_size=3)

# Beyond 270 years a timedelta has more digits than the float that it is kept as.
spans = st.timedeltas(-dt.timedelta(days=98_000), dt.timedelta(days=98_000))

cells = (
    st.none()
    | EVERY_CODE_POINT
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.datetimes()
    | st.dates()
    | st.times()
    | spans
    | st.builds(CellError, st.sampled_from(["#N/A", "#DIV/0!", "#REF!"]))
    | st.builds(FormulaCell, SENDABLE.map("={}".format))
    | st.builds(JsonCell, json_containers)
)


def field(kind: FieldKind | str = FieldKind.TEXT, variable: str = "x", **known: Any) -> Field:
    return Field(variable=variable, kind=FieldKind(kind), **known)


def form(*fields: Field) -> Form:
    return Form(fields)


def nested(depth: int) -> list[Any]:
    """A list in a list in a list …"""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value

"""Which column, or which constant, feeds which field; and guesses with the reason for each."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rowmill.domain.errors import MappingError
from rowmill.domain.form import CONVERSATION, QUERY

if TYPE_CHECKING:
    from collections.abc import Mapping as Dict
    from collections.abc import Sequence

    from rowmill.domain.form import Field, Form


# What people call the fields that are no input of the app's own, the surest name first.
_ALIASES = {QUERY: ("query",), CONVERSATION: ("conversation", "会话", "对话", "conversation_id")}


class Reason(StrEnum):
    """Why a column was taken for a field."""

    ASKED = "asked"
    TEMPLATE = "template"
    VARIABLE = "variable"
    LABEL = "label"
    SIMILAR = "similar"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Feed:
    """Where one field's value comes from: a column (0-based) or a constant text."""

    variable: str
    reason: Reason
    column: int | None = None
    constant: str | None = None


@dataclass(frozen=True, slots=True)
class Mapping:
    """The feeds, in the order of the form. Fields that nothing feeds are left out."""

    feeds: tuple[Feed, ...]

    def columns_used(self) -> frozenset[int]:
        return frozenset(feed.column for feed in self.feeds if feed.column is not None)

    def moved(self, columns: Sequence[int]) -> Mapping:
        """The same feeds from a sheet whose columns stand elsewhere. Raises MappingError if one is not there."""
        missing = [f.column for f in self.feeds if f.column is not None and columns[f.column] < 0]
        if missing:
            raise MappingError("append_headers", missing=_letters(missing), columns="")
        return Mapping(tuple(f if f.column is None else replace(f, column=columns[f.column]) for f in self.feeds))

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {"variable": f.variable, "reason": f.reason.value, "column": f.column, "constant": f.constant}
            for f in self.feeds
        ]

    @classmethod
    def from_json(cls, items: list[dict[str, Any]]) -> Mapping:
        return cls(tuple(Feed(i["variable"], Reason(i["reason"]), i["column"], i["constant"]) for i in items))


def make_mapping(
    form: Form,
    headers: Sequence[str],
    *,
    asked: Dict[str, str] | None = None,
    constants: Dict[str, str] | None = None,
    stamped: Dict[str, str] | None = None,
) -> Mapping:
    """The mapping for a sheet. `asked` is field -> column (header or Excel letter), `constants` field -> text,
    `stamped` header -> variable from our own template. Raises MappingError for a field or column that is not there,
    a header that stands twice where it matters, and a required field that nothing feeds."""
    names = [*(asked or {}), *(constants or {})]
    _refuse_unknown_fields(form, names)
    _refuse_twice(form, names)
    feeds = []
    for spec in form.fields:
        feed = _feed(form, spec, headers, asked or {}, constants or {}, stamped or {})
        if feed is not None:
            feeds.append(feed)
        elif spec.required and spec.variable == QUERY:
            raise MappingError("query_not_mapped", columns=_listed(headers))
        elif spec.required:
            raise MappingError(
                "required_not_mapped", field=spec.title, variable=spec.variable, columns=_listed(headers)
            )
    return Mapping(tuple(feeds))


def _refuse_unknown_fields(form: Form, names: list[str]) -> None:
    for name in names:
        if find_field(form, name) is None:
            raise MappingError("field_unknown", field=name, fields=_listed([f.variable for f in form.fields]))


def _refuse_twice(form: Form, names: list[str]) -> None:
    """One field by two of its names, or from a column and from a constant: only one of them could win."""
    seen = set()
    for name in names:
        spec = find_field(form, name)
        if spec is not None and spec.variable in seen:
            raise MappingError("field_twice", field=spec.title)
        seen.add(spec.variable if spec else name)


def find_field(form: Form, name: str) -> Field | None:
    """A field by its variable or, if only one field has it, by its label. `query` also names a chat's question, and
    `conversation` what makes rows the turns of one."""
    exact = form.field(name) or next((form.field(field) for field, names in _ALIASES.items() if name in names), None)
    if exact is not None:
        return exact
    labelled = [f for f in form.fields if _plain(f.title) == _plain(name)]
    return labelled[0] if len(labelled) == 1 else None


def _feed(
    form: Form,
    spec: Field,
    headers: Sequence[str],
    asked: Dict[str, str],
    constants: Dict[str, str],
    stamped: Dict[str, str],
) -> Feed | None:
    for name, text in constants.items():
        if find_field(form, name) == spec:
            return Feed(spec.variable, Reason.CONSTANT, constant=text)
    for name, column in asked.items():
        if find_field(form, name) == spec:
            return Feed(spec.variable, Reason.ASKED, column=find_column(headers, column))
    return _guess(form, spec, headers, stamped)


def find_column(headers: Sequence[str], wanted: str) -> int:
    """A column by its header or its Excel letter. Raises MappingError."""
    exact = [i for i, header in enumerate(headers) if header == wanted] or [
        i for i, header in enumerate(headers) if _plain(header) == _plain(wanted) != ""
    ]
    if len(exact) > 1:
        raise MappingError("header_twice", header=wanted, letters=_letters(exact))
    if exact:
        return exact[0]
    index = _letter_index(wanted)
    if index is not None and index < len(headers):
        return index
    raise MappingError("column_unknown", column=wanted, columns=_listed(headers))


def _guess(form: Form, spec: Field, headers: Sequence[str], stamped: Dict[str, str]) -> Feed | None:
    for reason, found in (
        (Reason.TEMPLATE, [i for i, h in enumerate(headers) if stamped.get(h) == spec.variable]),
        (Reason.VARIABLE, _by_name(form, spec, headers)),
        (Reason.LABEL, _by_label(form, spec, headers)),
        (Reason.SIMILAR, _similar(form, spec, headers)),
    ):
        if len(found) > 1:
            raise MappingError("header_twice", header=headers[found[0]], letters=_letters(found))
        if found:
            return Feed(spec.variable, reason, column=found[0])
    return None


def _by_name(form: Form, spec: Field, headers: Sequence[str]) -> list[int]:
    """The columns with the first of its names that any column has."""
    found = ([i for i, h in enumerate(headers) if h == name] for name in _names(form, spec))
    return next((columns for columns in found if columns), [])


def _names(form: Form, spec: Field) -> list[str]:
    aliases = _ALIASES.get(spec.variable, ())
    return [spec.variable, *(name for name in aliases if form.field(name) is None)]


def _by_label(form: Form, spec: Field, headers: Sequence[str]) -> list[int]:
    if sum(f.title == spec.title for f in form.fields) > 1:
        return []
    mine = {name for name in (spec.title, f"{spec.title} *", f"{spec.title}*") if form.field(name) in (None, spec)}
    return [i for i, h in enumerate(headers) if h in mine]


def _similar(form: Form, spec: Field, headers: Sequence[str]) -> list[int]:
    """Same words but for case, width, spaces, `_`, `*` and a `(variable)` behind; only where no other field fits."""
    mine = {_plain(name) for name in _names(form, spec)} | {_plain(spec.title)}
    others = {_plain(n) for f in form.fields if f != spec for n in (f.variable, f.title)}
    exact = {f.variable for f in form.fields} | {f.title for f in form.fields}
    found = []
    for index, header in enumerate(headers):
        names = {_plain(header), _plain(_INSIDE.sub("", header)), *(_plain(m) for m in _INSIDE.findall(header))} - {""}
        if header not in exact and names & (mine - others) and not names & (others - mine):
            found.append(index)
    return found


_INSIDE = re.compile(r"[(（\[【]([^()（）\[\]【】]*)[)）\]】]")
_NOISE = re.compile(r"[\s_\-*:：.]+")


def _plain(text: str) -> str:
    return _NOISE.sub("", unicodedata.normalize("NFKC", text)).casefold()


def same_columns(wanted: Sequence[str], found: Sequence[str]) -> list[int]:
    """Where the columns of one sheet stand in another, by their headers; of several that are called the same, the first
    is the first. Raises MappingError where one is not there. Columns without a header are nowhere, -1: what stands in
    them has no name to be found by."""
    places: dict[str, list[int]] = {}
    for index, header in enumerate(found):
        places.setdefault(header, []).append(index)
    columns = [places[header].pop(0) if header and places.get(header) else -1 for header in wanted]
    missing = [header for header, column in zip(wanted, columns, strict=True) if header and column < 0]
    if missing:
        raise MappingError("append_headers", missing=_listed(missing), columns=_listed(found))
    return columns


def column_letter(index: int) -> str:
    """Excel's name of a 0-based column: A, B, … Z, AA, …"""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def _letter_index(letters: str) -> int | None:
    if not re.fullmatch(r"[A-Z]{1,3}", letters):
        return None
    index = 0
    for letter in letters:
        index = index * 26 + ord(letter) - 64
    return index - 1


def _letters(indexes: list[int]) -> tuple[str, ...]:
    return tuple(column_letter(i) for i in indexes)


def _listed(names: Sequence[str]) -> tuple[str, ...]:
    named = [name for name in names if name]
    return (*named[:30], *(["…"] if len(named) > 30 else []))  # noqa: PLR2004

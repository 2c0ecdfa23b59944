"""The workbook that people fill in: one column per field, a sheet that explains them, and a hidden stamp."""

from __future__ import annotations

import json
import unicodedata
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from rowmill.domain.form import QUERY, FieldKind
from rowmill.ports.sheets import Stamp
from rowmill.sheets.draft import Draft
from rowmill.sheets.excel import (
    MAX_ROWS,
    MAX_UNITS,
    clean,
    close_workbook,
    cut,
    drop_workbook,
    new_sheet,
    new_workbook,
    one_line,
    sheet_title,
    units,
)
from rowmill.sheets.stamp import OPTIONS_SHEET, STAMP_SHEET, Imprint, imprint_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from rowmill.domain.form import Field, Form
    from rowmill.ports.sheets import Words

ENGLISH = {
    "template.sheet": "Rows",
    "template.fields": "Fields",
    "template.about": "Each row of sheet “{sheet}” runs the app “{app}” once. This sheet only explains the columns.",
    "template.column": "Column",
    "template.variable": "Variable",
    "template.label": "Label",
    "template.kind": "Kind",
    "template.required": "Required",
    "template.limits": "Limits",
    "template.options": "Options",
    "template.default": "Default",
    "template.hint": "Hint",
    "template.fill": "How to fill it in",
    "template.example": "Example",
    "template.yes": "yes",
    "template.no": "no",
    "template.max_chars": "at most {count} characters",
    "template.max_files": "at most {count} files",
    "template.types": "file types: {types}",
    "template.wrong": "This value does not fit the field.",
    "kind.text-input": "short text",
    "kind.paragraph": "long text",
    "kind.select": "one of a list",
    "kind.number": "number",
    "kind.checkbox": "yes or no",
    "kind.file": "file",
    "kind.file-list": "files",
    "kind.json_object": "JSON object",
    "kind.query": "question",
    "fill.text-input": "Any text. 007 stays 007.",
    "fill.paragraph": "Any text; Alt+Enter starts a new line.",
    "fill.select": "Choose from the list; the text must be exactly the same.",
    "fill.number": "A number, without unit or thousands separator.",
    "fill.checkbox": "TRUE or FALSE.",
    "fill.file": "A web address, or the path of a file.",
    "fill.file-list": "Web addresses or paths of files, one per line.",
    "fill.json_object": "A JSON object.",
    "fill.query": "The question to ask.",
    "example.text-input": "Text",
    "example.paragraph": "A longer text",
    "example.query": "What can you do?",
}
EXAMPLES = {
    FieldKind.NUMBER: "3.5",
    FieldKind.CHECKBOX: "TRUE",
    FieldKind.FILE: "https://example.com/report.pdf",
    FieldKind.FILE_LIST: "https://example.com/1.pdf\nhttps://example.com/2.pdf",
    FieldKind.JSON: '{"key": "value"}',
}
# Excel's own limits for the little window beside a cell, and for a list inside a rule.
TITLE_UNITS = 32
MESSAGE_UNITS = 255
LIST_UNITS = 255
HEADER_UNITS = 255
WIDEST = 60
NARROWEST = 12
FIRST_ROW, LAST_ROW = 1, MAX_ROWS - 1
BIGGEST = 1e300


def write_template(form: Form, path: Path, words: Words, *, app_name: str) -> None:
    """Replaces what is at `path` only when the template is whole."""
    draft = Draft(path)
    try:
        _Template(form, draft, {**ENGLISH, **words.say}, app_name).write()
        draft.finish()
    except BaseException:
        draft.abandon()
        raise


def template_headers(form: Form) -> dict[str, str]:
    """Header text -> variable, in the order of the form. Headers are what the reader makes of them, and unique."""
    headers: dict[str, str] = {}
    for field in form.fields:
        wanted = _header(field)
        header, number = wanted, 1
        while header in headers:
            number += 1
            header = f"{wanted} {number}"
        headers[header] = field.variable
    return headers


def _header(field: Field) -> str:
    label = cut(one_line(field.title), HEADER_UNITS) or field.variable
    star = " *" if field.required else ""
    name = f" ({field.variable})" if label != field.variable else ""
    return f"{label}{star}{name}"


class _Template:
    def __init__(self, form: Form, draft: Draft, say: dict[str, str], app_name: str) -> None:
        self.form = form
        self.say = say
        self.app_name = app_name
        self.headers = template_headers(form)
        self.rows_name, self.fields_name = _sheet_names(say)
        self.book = new_workbook(draft)
        self.bold = self.book.add_format({"bold": True, "text_wrap": True, "valign": "top", "num_format": "@"})
        self.wrapped = self.book.add_format({"text_wrap": True, "valign": "top", "num_format": "@"})
        self.as_text = self.book.add_format({"num_format": "@"})

    def write(self) -> None:
        try:
            self._write_rows_sheet()
            self._write_fields_sheet()
            self._write_stamp()
            self._write_options()
        except BaseException:
            drop_workbook(self.book)
            raise
        close_workbook(self.book)

    def _write_rows_sheet(self) -> None:
        sheet = new_sheet(self.book, self.rows_name)
        sheet.freeze_panes(1, 0)
        for column, (header, field) in enumerate(zip(self.headers, self.form.fields, strict=True)):
            sheet.set_column(column, column, _width(header, field), self._column_format(field))
            sheet.write_string(0, column, header, self.bold)
            sheet.data_validation(FIRST_ROW, column, LAST_ROW, column, self._rule(field, column))

    def _column_format(self, field: Field) -> Any:
        """As text, so that 007 stays 007; numbers and TRUE/FALSE stay what Excel makes of them."""
        if field.kind in (FieldKind.NUMBER, FieldKind.CHECKBOX):
            return None
        return self.as_text if field.kind in (FieldKind.TEXT, FieldKind.SELECT) else self.wrapped

    def _rule(self, field: Field, column: int) -> dict[str, Any]:
        return {
            **self._check(field, column),
            "ignore_blank": not field.required,
            "input_title": cut(one_line(field.title), TITLE_UNITS),
            "input_message": cut(self._message(field), MESSAGE_UNITS),
            "error_title": cut(one_line(field.title), TITLE_UNITS),
            "error_message": cut(one_line(self.say["template.wrong"]), MESSAGE_UNITS),
        }

    def _check(self, field: Field, column: int) -> dict[str, Any]:
        if field.kind is FieldKind.SELECT and any(field.options):
            return {"validate": "list", "source": self._source(field, column)}
        if field.kind is FieldKind.CHECKBOX:
            return {"validate": "list", "source": ["TRUE", "FALSE"]}
        if field.kind is FieldKind.NUMBER:
            return {"validate": "decimal", "criteria": "between", "minimum": -BIGGEST, "maximum": BIGGEST}
        if field.kind.is_text and field.max_length and field.max_length < MAX_UNITS:
            # Only a warning: Excel counts an emoji as two characters, Dify as one.
            return {"validate": "length", "criteria": "<=", "value": field.max_length, "error_type": "warning"}
        return {"validate": "any"}

    def _source(self, field: Field, column: int) -> list[str] | str:
        options = _options(field)
        if _fits_in_rule(options):
            return options
        letters = _letters(column)
        return f"='{OPTIONS_SHEET}'!${letters}$1:${letters}${len(options)}"

    def _message(self, field: Field) -> str:
        facts = (self._kind(field), self._limits(field), one_line(field.hint), self.say[f"fill.{_word(field)}"])
        return "\n".join(one_line(fact) for fact in facts if fact)

    def _kind(self, field: Field) -> str:
        return self.say[f"kind.{_word(field)}"]

    def _limits(self, field: Field) -> str:
        limits = []
        if field.max_length:
            key = "template.max_files" if field.kind is FieldKind.FILE_LIST else "template.max_chars"
            limits.append(self.say[key].format(count=field.max_length))
        if field.file_types or field.file_extensions:
            types = ", ".join((*field.file_types, *field.file_extensions))
            limits.append(self.say["template.types"].format(types=types))
        return "; ".join(limits)

    def _write_fields_sheet(self) -> None:
        sheet = new_sheet(self.book, self.fields_name)
        columns = self._explanations()
        for column in range(len(columns)):
            sheet.set_column(column, column, 24, self.wrapped)
        about = self.say["template.about"].format(sheet=self.rows_name, app=one_line(self.app_name))
        _write_row(sheet, 0, [about])
        _write_row(sheet, 2, [self.say[f"template.{key}"] for key in columns], self.bold)
        for row, (header, field) in enumerate(zip(self.headers, self.form.fields, strict=True), start=3):
            texts = [header, *(explain(field) for key, explain in columns.items() if key != "column")]
            _write_row(sheet, row, texts, self.wrapped)

    def _explanations(self) -> dict[str, Callable[[Field], str]]:
        """The columns of the explaining sheet, in order. The first is filled from the headers."""
        return {
            "column": lambda _: "",
            "variable": lambda field: field.variable,
            "label": lambda field: field.label,
            "kind": self._kind,
            "required": lambda field: self.say["template.yes" if field.required else "template.no"],
            "limits": self._limits,
            "options": lambda field: "\n".join(_options(field)),
            "default": lambda field: _plain(field.default),
            "hint": lambda field: field.hint,
            "fill": lambda field: self.say[f"fill.{_word(field)}"],
            "example": self._example,
        }

    def _example(self, field: Field) -> str:
        if field.kind is FieldKind.SELECT:
            return next(iter(_options(field)), "")
        text = EXAMPLES.get(field.kind) or self.say[f"example.{_word(field)}"]
        return text[: field.max_length] if field.kind.is_text and field.max_length else text

    def _write_stamp(self) -> None:
        sheet = new_sheet(self.book, STAMP_SHEET)
        sheet.very_hidden()
        imprint = Imprint(Stamp(self.form.digest, self.headers), self.rows_name, self.fields_name)
        for row, line in enumerate(imprint_lines(imprint)):
            _write_row(sheet, row, line)

    def _write_options(self) -> None:
        """Column by column as in the rows sheet. Only if a list does not fit into its rule."""
        lists = [[] if _fits_in_rule(_options(field)) else _options(field) for field in self.form.fields]
        if not any(lists):
            return
        sheet = new_sheet(self.book, OPTIONS_SHEET)
        sheet.very_hidden()
        for row, options in enumerate(zip_longest(*lists, fillvalue="")):
            _write_row(sheet, row, options)


def _sheet_names(say: dict[str, str]) -> tuple[str, str]:
    rows = sheet_title(say["template.sheet"], ENGLISH["template.sheet"])
    fields = sheet_title(say["template.fields"], ENGLISH["template.fields"])
    return (rows, fields) if rows.casefold() != fields.casefold() else (rows, f"{fields[:29]} 2")


def _write_row(sheet: Any, row: int, texts: Iterable[str], style: Any = None) -> None:
    for column, text in enumerate(texts):
        if text:
            sheet.write_string(row, column, cut(clean(text), MAX_UNITS), style)


def _word(field: Field) -> str:
    return "query" if field.variable == QUERY else field.kind.value


def _options(field: Field) -> list[str]:
    """An empty option is chosen by leaving the cell empty."""
    return [option for option in field.options if option]


def _fits_in_rule(options: list[str]) -> bool:
    """A list inside a rule is split at commas and trimmed, and has a limited length."""
    plain = all(option == one_line(option) and not set(option) & set(',"') for option in options)
    return plain and units(",".join(options)) <= LIST_UNITS


def _letters(column: int) -> str:
    letters = ""
    number = column + 1
    while number:
        number, digit = divmod(number - 1, 26)
        letters = chr(ord("A") + digit) + letters
    return letters


def _width(header: str, field: Field) -> int:
    """In characters; Chinese ones are twice as wide."""
    text = sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in header) + 2
    if field.kind in (FieldKind.PARAGRAPH, FieldKind.JSON):
        return WIDEST
    return max(NARROWEST, min(WIDEST, text))


def _plain(default: Any) -> str:
    if default is None or isinstance(default, str):
        return default or ""
    return json.dumps(default, ensure_ascii=False)

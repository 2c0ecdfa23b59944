"""A batch's results as a file: the user's own rows in their order, with the answers in new columns."""

from __future__ import annotations

import json
import math
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowmill.domain.batch import RowState
from rowmill.domain.cell import Cell, JsonCell, as_text, to_json
from rowmill.domain.errors import UsageError, os_detail
from rowmill.domain.files import shown_inputs
from rowmill.domain.mapping import column_letter
from rowmill.domain.outputs import flatten
from rowmill.workbench.beside import Beside, listed
from rowmill.workbench.origins import origin_cells, origin_names, origin_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rowmill.ports.store import BatchRecord, RowResult
    from rowmill.workbench.tools import Tools

SERVICE_COLUMNS = ("status", "error", "cause", "tokens", "price", "currency", "seconds", "attempts", "run_id")
ENDINGS = (".xlsx", ".csv", ".jsonl")

# More different output keys than this is an app that uses its data as keys; Excel itself ends at 16,384 columns.
MOST_COLUMNS = 1000
REST = "more_outputs"

# A column of its own only where some row waits for a person.
ASKS = "asks"
# Only for chat apps.
TALK = "conversation_id"


def check_target(path: Path, sheet: Path | None = None) -> None:
    """Raises UsageError where results cannot be written, before a row is paid for."""
    if path.suffix.lower() not in ENDINGS:
        raise UsageError("output_ending", path=str(path), endings=ENDINGS)
    if not path.absolute().parent.is_dir():
        raise UsageError("output_folder_missing", path=str(path.absolute().parent))
    if path.is_dir():
        raise UsageError("output_is_folder", path=str(path))
    if sheet is not None and path.exists() and sheet.exists() and path.samefile(sheet):
        raise UsageError("output_is_sheet", path=str(path))
    _try_folder(path.absolute().parent)


def _try_folder(folder: Path) -> None:
    """Only trying tells: permissions, read-only disks and quotas look alike from outside."""
    try:
        Path(tempfile.mkdtemp(prefix=".rowmill-", dir=folder)).rmdir()
    except OSError as error:
        raise UsageError("output_not_writable", path=str(folder), detail=os_detail(error)) from None


@contextmanager
def writing(path: Path, code: str = "results_not_written") -> Iterator[None]:
    """What the disk refuses while a results file is written is about that file, not about the store under it."""
    try:
        yield
    except OSError as error:
        raise UsageError(code, path=str(path), detail=os_detail(error)) from error


@dataclass(frozen=True, slots=True)
class Exported:
    """Rows in the file that are no blank ones, and blank ones that are not in it: jsonl has no place for them."""

    rows: int
    left_out: int = 0


def export(tools: Tools, batch: BatchRecord, path: Path, words: Callable[[str], str], *, raw: bool = False) -> Exported:
    """Write all rows as they are now, from one consistent reading. `words` gives the texts `column.<name>` and
    `state.<name>`; `raw` writes csv without protection from formulas. Nothing stands under `path` before the file is
    whole."""
    check_target(path)
    if path.suffix.lower() == ".jsonl":
        return _export_lines(tools, batch, path)
    return _export_table(tools, batch, path, words, raw=raw)


def _export_lines(tools: Tools, batch: BatchRecord, path: Path) -> Exported:
    with writing(path):
        writer = tools.open_lines(path)
    names, beside = column_keys(batch.headers), Beside(tools.shelf, path, batch.appended)
    count = blank = 0
    try:
        with tools.store.snapshot(batch.id) as rows, writing(path):
            for row in rows:
                if row.state is RowState.SKIPPED:
                    blank += 1
                    continue
                writer.write_raw(result_line(row, names, beside.put(row), origin_values(batch, row)))
                count += 1
        with writing(path):
            writer.finish()
    except BaseException:
        writer.abandon()
        raise
    return Exported(count, blank)


def column_keys(headers: Sequence[str]) -> list[str]:
    """A name for each column of the sheet: its header, with the letter where that is empty or stands twice."""
    keys = []
    for index, header in enumerate(headers):
        letter = column_letter(index)
        twice = headers.count(header) > 1
        keys.append(f"{header} ({letter})" if header and twice else header or letter)
    return keys


def result_line(
    row: RowResult,
    names: Sequence[str],
    paths: dict[str, str] | None = None,
    more: dict[str, Any] | None = None,
) -> bytes:
    """One row as a JSON object on one line. Dify's outputs stand in it as they came; `files` beside them tells where
    the copies are (`paths`: by place), if there are files; `more` stands behind the rest. `names`: of the sheet's own
    columns, whose cells stand under `cells`."""
    cells = {name: _plain(cell) for name, cell in zip(names, row.cells, strict=False)}
    head = {"row": row.number, "status": row.state.value, "cells": cells, "inputs": shown_inputs(row.inputs)}
    tail = {
        **({"files": listed(row, paths or {})} if row.files else {}),
        "error": row.error,
        "cause": row.cause,
        "tokens": row.tokens,
        "price": row.price,
        "currency": row.currency,
        "seconds": row.seconds,
        "attempts": row.attempts,
        "run_id": row.run_id,
        "workflow_id": row.workflow_id,
        "conversation_id": row.conversation_id,
        "asks": json.loads(row.asks) if row.asks else None,
        **(more or {}),
    }
    # A line end inside JSON can only be white space between tokens.
    outputs = (row.outputs or "null").replace("\n", " ").replace("\r", " ")
    line = f'{_dumps(head)[:-1]},"outputs":{outputs},{_dumps(tail)[1:]}'
    return line.encode("utf-8", "backslashreplace")


def _plain(cell: Cell) -> Any:
    """As JSON has it; dates, errors and formulas as their texts."""
    if isinstance(cell, JsonCell):
        return cell.value
    finite = isinstance(cell, float) and math.isfinite(cell)
    return cell if cell is None or isinstance(cell, str | bool | int) or finite else as_text(cell)


def _dumps(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate cannot be written as UTF-8, but as an escape.
    return text if text.isascii() or _is_writable(text) else json.dumps(value, separators=(",", ":"))


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _export_table(tools: Tools, batch: BatchRecord, path: Path, words: Callable[[str], str], *, raw: bool) -> Exported:
    count, beside = 0, Beside(tools.shelf, path, batch.appended)
    with tools.store.snapshot(batch.id) as rows, writing(path):
        outputs = _output_columns(rows)
        service = _service(tools, batch)
        named = [words(f"column.{name}") for name in (*service, *origin_names(batch))]
        headers = _headers(batch.headers, outputs, named)
        writer = tools.open_table(path, headers, words, raw)
        try:
            for row in rows:
                cells = _cells(row, len(batch.headers), outputs, service, words, beside.put(row))
                cells += origin_cells(batch, row)
                writer.write([*cells, *[None] * (len(headers) - len(cells))])
                count += row.state is not RowState.SKIPPED
            writer.finish()
        except BaseException:
            writer.abandon()
            raise
    return Exported(count)


def _service(tools: Tools, batch: BatchRecord) -> list[str]:
    talk = [TALK] if batch.app.mode.is_chat else []
    return [*SERVICE_COLUMNS, *talk, *([ASKS] if tools.store.counts(batch.id).asking else [])]


def _output_columns(rows: Iterable[RowResult]) -> list[str]:
    seen: dict[str, None] = {}
    for row in rows:
        seen.update(dict.fromkeys(_flat(row)))
        if len(seen) > MOST_COLUMNS:
            return [*list(seen)[: MOST_COLUMNS - 1], REST]
    return list(seen)


def _flat(row: RowResult, paths: dict[str, str] | None = None) -> dict[str, Cell]:
    return flatten(json.loads(row.outputs), paths) if row.outputs else {}


def _headers(sheet: tuple[str, ...], outputs: list[str], service: list[str]) -> list[str]:
    """All headers, each once: an output that is named like a column of the sheet is told apart by `output.`."""
    taken, headers = set(sheet), list(sheet)
    for prefix, names in (("output", outputs), ("rowmill", service)):
        for name in names:
            header = name
            while header in taken:
                header = f"{prefix}.{header}"
            taken.add(header)
            headers.append(header)
    return headers


def _cells(
    row: RowResult,
    width: int,
    outputs: list[str],
    service: list[str],
    words: Callable[[str], str],
    paths: dict[str, str],
) -> list[Cell]:
    own: list[Cell] = [*row.cells, *([None] * (width - len(row.cells)))]
    if row.state is RowState.SKIPPED:
        return own
    flat = _flat(row, paths)
    told: dict[str, Cell] = {
        "status": words(f"state.{row.state.value}"),
        "error": row.error,
        "cause": row.cause,
        "tokens": row.tokens,
        "price": row.price,
        "currency": row.currency,
        "seconds": _rounded(row.seconds),
        "attempts": row.attempts,
        "run_id": row.run_id,
        TALK: row.conversation_id,
        ASKS: JsonCell(json.loads(row.asks)) if row.asks else None,
    }
    if outputs and outputs[-1] == REST and REST not in flat:
        flat[REST] = JsonCell({name: to_json(cell) for name, cell in flat.items() if name not in set(outputs)})
    return [*own, *(flat.get(name) for name in outputs), *(told[name] for name in service)]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)

"""What was typed, read into what the workbench wants. Raises UsageError that names the option."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING

from rowmill.domain.errors import UsageError
from rowmill.settings import Settings, read_settings

if TYPE_CHECKING:
    from rowmill.cli.session import Session
    from rowmill.ports.store import BatchRecord


# As many as a sheet of Excel's has.
MOST_ROWS = 1_048_576


def settings_for(session: Session, data_dir: Path | None) -> Settings:
    """Settings from the environment, with the data folder of the command line."""
    settings = read_settings(session.environ)
    session.data_dir = data_dir
    return replace(settings, data_dir=data_dir) if data_dir is not None else settings


def default_output(sheet: Path) -> Path:
    return Path(f"{sheet.stem}-results.xlsx")


def remembered_output(batch: BatchRecord) -> Path:
    """Where a batch's results went before. Raises UsageError if that folder is gone."""
    if batch.settings.output is None:
        return default_output(Path(batch.sheet_path))
    path = Path(batch.settings.output)
    if not path.parent.is_dir():
        raise UsageError("output_gone", path=str(path.parent), batch=batch.id)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def options_again(session: Session, batch: BatchRecord, output: Path | None = None) -> str:
    """What must be added to a command about this batch, so that it finds it and writes to the same file."""
    options = "" if session.data_dir is None else f" --data-dir {shlex.quote(str(session.data_dir))}"
    if output is not None and str(output.absolute()) != batch.settings.output:
        options += f" -o {shlex.quote(str(output))}"
    return options


def key_from(session: Session, typed: str | None, settings: Settings, *, needed: bool = True) -> str | None:
    """The API key; one in the command line is warned of, since the process list and the shell's history show it."""
    if typed:
        session.warn("key_in_command_line")
        return typed
    if settings.api_key is None and needed:
        raise UsageError("key_missing")
    return settings.api_key


def pairs(option: str, typed: list[str] | None) -> dict[str, str]:
    """`FIELD=VALUE` … -> a dict. The value may hold further `=`."""
    found: dict[str, str] = {}
    for text in typed or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError("pair_wrong", option=option, found=text)
        if name.strip() in found:
            raise UsageError("pair_twice", option=option, field=name.strip())
        found[name.strip()] = value
    return found


def row_range(typed: str | None) -> tuple[int, int | None] | None:
    """`3`, `1-20`, `100-` -> first and last data row, 1 being the first under the header."""
    if typed is None:
        return None
    match = re.fullmatch(r"\s*(\d{1,9})\s*(?:(-)\s*(\d{1,9})?)?\s*", typed)
    if match is None:
        raise UsageError("rows_wrong", found=typed)
    first = int(match.group(1))
    last = int(match.group(3)) if match.group(3) else (None if match.group(2) else first)
    if first < 1 or (last is not None and last < first):
        raise UsageError("rows_wrong", found=typed)
    return first, last


def row_numbers(typed: list[str] | None) -> list[int]:
    """`3`, `5-9` … -> row numbers of the sheet (header = 1), as the results show them."""
    numbers: list[int] = []
    for text in typed or []:
        match = re.fullmatch(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", text)
        last = int(match.group(2) or match.group(1)) if match else 0
        if match is None or last < int(match.group(1)) or last - int(match.group(1)) > MOST_ROWS:
            raise UsageError("row_wrong", found=text)
        numbers += range(int(match.group(1)), last + 1)
    return numbers


def amount(typed: str | None) -> str | None:
    """A positive decimal, as text: money is never a float."""
    if typed is None:
        return None
    try:
        number = Decimal(typed)
    except InvalidOperation:
        number = Decimal(0)
    if not number.is_finite() or number <= 0:
        raise UsageError("amount_wrong", found=typed)
    return f"{number:f}"

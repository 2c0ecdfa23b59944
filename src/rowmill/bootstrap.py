"""The one place that knows every concrete class.

What only some commands need is imported where it is used: aiohttp, XlsxWriter and jsonschema cost half of a start.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from rowmill.dify.versions import recovery
from rowmill.domain.errors import StoreError, UsageError, os_detail
from rowmill.engine.clock import SystemClock
from rowmill.files.shelf import FolderShelf
from rowmill.files.source import open_source
from rowmill.ports.sheets import Words
from rowmill.sheets.read import Sheets
from rowmill.store.lock import RunnerLock
from rowmill.store.seal import KEY_FILE_VARIABLE, KEY_VARIABLE, Seal, load_key
from rowmill.store.sent import SentFile
from rowmill.store.sql import open_store
from rowmill.workbench import Workbench
from rowmill.workbench.tools import LineWriter, Tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import jsonschema

    from rowmill.domain.form import Form, Mode
    from rowmill.engine.batches import Engine
    from rowmill.ports.dify import AppInfo, DifyApp
    from rowmill.ports.sheets import ResultWriter
    from rowmill.settings import Settings

# Files that no batch needs: kept this long, in case somebody is just reading a sheet that names them.
_SWEPT_AFTER = 3600.0


@contextmanager
def open_workbench(settings: Settings) -> Iterator[Workbench]:
    """The product on a data folder. May be opened while another process runs a batch there."""
    _make_folder(settings.data_dir)
    tools = _tools(settings)
    try:
        yield Workbench(tools)
    finally:
        tools.store.close()


@contextmanager
def open_runner(settings: Settings) -> Iterator[tuple[Workbench, Engine]]:
    """The product with the right to run batches: one process per data folder. Raises StoreError if it is taken."""
    _make_folder(settings.data_dir)
    from rowmill.engine.batches import Engine  # noqa: PLC0415 -- see above

    with RunnerLock(settings.data_dir):
        tools = _tools(settings)
        try:
            fence = tools.store.take_over(f"pid {os.getpid()}")
            # What a killed deletion left.
            while tools.store.purge():
                pass
            # Whoever was reading a sheet into a draft has died: there is one runner, and it is this one.
            tools.store.sweep_drafts(tools.clock.wall())
            tools.shelf.sweep(tools.store.needed_files(), time.time() - _SWEPT_AFTER)
            marks = partial(_open_marks, settings.data_dir)
            cap = settings.server_cap
            yield Workbench(tools), Engine(tools.store, marks, fence, tools.clock, server_cap=cap, shelf=tools.shelf)
        finally:
            tools.store.close()


def is_run_by_somebody(settings: Settings) -> bool:
    """Whether a process has the right to run batches of this data folder at the moment."""
    try:
        RunnerLock(settings.data_dir).release()
    except StoreError as error:
        if error.code != "store_in_use":
            raise
        return True
    return False


def _make_folder(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError("data_dir_unusable", path=str(data_dir), detail=os_detail(error)) from None


def _tools(settings: Settings) -> Tools:
    store = open_store(settings.data_dir)
    key = load_key(settings.data_dir, _key_source(settings))
    return Tools(
        store=store,
        clock=SystemClock(),
        sealer=Seal(key),
        sheets=Sheets(),
        probe=_probe,
        connect=_connect,
        recovery=recovery,
        write_template=_write_template,
        open_table=_open_table,
        open_lines=_open_lines,
        schema_check=check_schema,
        open_files=open_source,
        shelf=FolderShelf(settings.data_dir / "files"),
    )


def _open_marks(data_dir: Path, batch_id: str) -> SentFile:
    # One file per batch: slots are numbered per batch, and a batch must not write over what another one left.
    return SentFile(data_dir / f"sent-{batch_id}.marks")


def _key_source(settings: Settings) -> dict[str, str]:
    given = {KEY_VARIABLE: settings.secret_key, KEY_FILE_VARIABLE: settings.secret_key_file}
    return {name: str(value) for name, value in given.items() if value is not None}


async def _probe(base_url: str, api_key: str) -> AppInfo:
    from rowmill.dify.probe import probe  # noqa: PLC0415 -- see above

    return await probe(base_url, api_key)


def _connect(base_url: str, api_key: str, mode: Mode, row_timeout: float) -> DifyApp:
    from rowmill.dify.client import Deadlines, DifyClient  # noqa: PLC0415 -- see above

    return DifyClient(base_url, api_key, mode, deadlines=Deadlines(run=row_timeout))


def _open_table(path: Path, headers: Sequence[str], words: Callable[[str], str], raw: bool) -> ResultWriter:
    from rowmill.sheets.write import open_writer  # noqa: PLC0415 -- see above
    from rowmill.sheets.write_xlsx import RESULT_TEXTS  # noqa: PLC0415 -- see above

    say = Words({code: words(code) for code in RESULT_TEXTS})
    return open_writer(path, headers, sheet_name=words("results.sheet"), words=say, guard_formulas=not raw)


def _open_lines(path: Path) -> LineWriter:
    from rowmill.sheets.write import JsonLinesWriter  # noqa: PLC0415 -- see above

    return JsonLinesWriter(path)


def _write_template(form: Form, path: Path, words: Words, *, app_name: str) -> None:
    from rowmill.sheets.template import write_template  # noqa: PLC0415 -- see above

    write_template(form, path, words, app_name=app_name)


@lru_cache(maxsize=64)
def _validator(schema: str) -> jsonschema.Draft7Validator | None:
    import jsonschema  # noqa: PLC0415 -- see above

    try:
        parsed = json.loads(schema)
        jsonschema.Draft7Validator.check_schema(parsed)
    except (ValueError, jsonschema.SchemaError):
        return None  # the app's author wrote no schema: Dify itself will judge
    return jsonschema.Draft7Validator(parsed)


def check_schema(schema: str, value: Any) -> str | None:
    """What of a value does not fit a JSON Schema (draft 7, as Dify uses), in words; None if it fits."""
    validator = _validator(schema)
    if validator is None:
        return None
    error = next(iter(sorted(validator.iter_errors(value), key=lambda e: len(e.path))), None)
    if error is None:
        return None
    place = "/".join(str(part) for part in error.absolute_path)
    return f"{place}: {error.message}" if place else str(error.message)

"""Workbooks, read through a limited child process that a file may kill without harm."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from rowmill.domain.cell import from_json
from rowmill.domain.errors import SheetError
from rowmill.ports.sheets import SheetHead, SheetRow, Stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rowmill.domain.cell import Cell
    from rowmill.sheets.kinds import Kind
    from rowmill.sheets.limits import Limits

PIPE_READ = 1 << 20
# Rust ends the process by SIGABRT when memory is refused; the kernel's own choice is SIGKILL.
OUT_OF_MEMORY = (-signal.SIGABRT, -signal.SIGKILL)


class OpenWorkbook:
    """Rows come over a pipe as they are asked for: the child waits when nobody reads, so neither side piles up."""

    def __init__(
        self, path: Path, kind: Kind, sheet_name: str | None, limits: Limits, *, header_row: int | None = None
    ) -> None:
        self._child = _Child(path, kind, sheet_name, limits, header_row)
        self._messages = self._child.messages()
        try:
            self._head = _head(next(self._messages)["head"])
        except BaseException:
            self.close()
            raise

    @property
    def head(self) -> SheetHead:
        return self._head

    def rows(self) -> Iterator[list[SheetRow]]:
        try:
            for message in self._messages:
                first = message["first"]
                yield [SheetRow(n, _cells(values)) for n, values in enumerate(message["rows"], start=first)]
        finally:
            self.close()

    def close(self) -> None:
        self._child.end()


class _Child:
    """The process and its pipe. Ended for good by `end`, by an error, or when nothing refers to it any more."""

    def __init__(self, path: Path, kind: Kind, sheet_name: str | None, limits: Limits, header_row: int | None) -> None:
        self.limits = limits
        command = [sys.executable, "-P", "-s", "-B", "-m", "rowmill.sheets.reader_child"]
        self.process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            [*command, _request(path, kind, sheet_name, limits, header_row)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # What a crashing parser says may hold cells of the sheet, and tells a user nothing.
            stderr=subprocess.DEVNULL,
            env=_environment(),
            # Ctrl-C at a terminal is for the parent alone, which decides how to stop.
            start_new_session=True,
            bufsize=0,
        )
        self.end = weakref.finalize(self, _end, self.process)

    def messages(self) -> Iterator[dict[str, Any]]:
        for line in self._lines():
            message: dict[str, Any] = orjson.loads(line)
            if "error" in message:
                self.end()
                params = message["params"].items()
                raise SheetError(message["error"], **{k: tuple(v) if isinstance(v, list) else v for k, v in params})
            if "end" in message:
                return
            yield message
        raise SheetError("sheet_too_big_to_read", detail=self._cause_of_death())

    def _lines(self) -> Iterator[bytes]:
        pieces: list[bytes] = []
        while piece := self._read():
            *ends, rest = piece.split(b"\n")
            for end in ends:
                yield b"".join((*pieces, end))
                pieces = []
            pieces.append(rest)

    def _read(self) -> bytes:
        pipe = self.process.stdout
        if pipe is None or pipe.closed:
            return b""
        poll = select.poll()
        poll.register(pipe, select.POLLIN | select.POLLHUP)
        if not poll.poll(self.limits.wall_seconds * 1000):
            self.end()
            raise SheetError("sheet_too_big_to_read", detail="time")
        return os.read(pipe.fileno(), PIPE_READ)

    def _cause_of_death(self) -> str:
        """The pipe is at its end without a last word."""
        code = self.process.wait()
        self.end()
        if code == -signal.SIGXCPU:
            return "time"
        return "memory" if code in OUT_OF_MEMORY else "crash"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def _request(path: Path, kind: Kind, sheet_name: str | None, limits: Limits, header_row: int | None) -> str:
    return json.dumps(
        {
            "path": str(path.absolute()),
            "kind": kind.value,
            "sheet_name": sheet_name,
            "header_row": header_row,
            "max_columns": limits.max_columns,
            "max_rows": limits.max_rows,
            "cell_chars": limits.cell_chars,
            "memory_bytes": limits.memory_bytes,
            "cpu_seconds": limits.cpu_seconds,
        },
    )


def _environment() -> dict[str, str]:
    """Only what is needed to find the same modules: the child has no business with keys in the environment."""
    folders = (str(Path(folder).absolute()) for folder in sys.path if folder)
    return {"PYTHONPATH": os.pathsep.join(folders), "PYTHONUTF8": "1", "RUST_BACKTRACE": "0"}


def _head(facts: dict[str, Any]) -> SheetHead:
    stamp = Stamp(**facts["stamp"]) if facts["stamp"] else None
    notes = (("hidden_rows", str(facts["hidden"])),) if facts["hidden"] else ()
    return SheetHead(facts["sheet"], tuple(facts["headers"]), tuple(facts["others"]), stamp, notes)


def _cells(values: list[Any]) -> tuple[Cell, ...]:
    return tuple([_cell(value) if type(value) in (dict, float) else value for value in values])


def _cell(value: Any) -> Cell:
    if type(value) is float and value.is_integer():
        return int(value)
    return from_json(value)

"""What the workbench works with; rowmill.bootstrap puts the real things in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from rowmill.domain.form import Mode
    from rowmill.ports.clock import Clock
    from rowmill.ports.dify import AppInfo, DifyApp, Recovery
    from rowmill.ports.files import FileSource, Shelf
    from rowmill.ports.sheets import ResultWriter, SheetReader, TemplateWriter
    from rowmill.ports.store import Store


class Sealer(Protocol):
    """Keeps API keys unreadable at rest, bound to the app and the server they belong to."""

    def seal(self, secret: str, *, app_id: str, origin: str) -> bytes: ...

    def open(self, sealed: bytes, *, app_id: str, origin: str) -> str: ...


class LineWriter(Protocol):
    """A jsonl file; nothing stands under the final name until `finish`."""

    def write_raw(self, line: bytes) -> None: ...

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Tools:
    store: Store
    clock: Clock
    sealer: Sealer
    sheets: SheetReader
    probe: Callable[[str, str], Awaitable[AppInfo]]
    connect: Callable[[str, str, Mode, float], DifyApp]
    """(base URL, key, mode, seconds that a row may take)"""
    recovery: Callable[[str | None, Mode], Recovery]
    write_template: TemplateWriter
    open_table: Callable[[Path, Sequence[str], Callable[[str], str], bool], ResultWriter]
    """(path, headers, texts by code, whether csv is written without protection from formulas)"""
    open_lines: Callable[[Path], LineWriter]
    schema_check: Callable[[str, Any], str | None]
    open_files: Callable[[Path], FileSource]
    shelf: Shelf

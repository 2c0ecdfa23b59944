"""Batches whose rows name files, or put files out, run against a served fake."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowmill.domain.batch import BatchMove, BatchState, Settings
from rowmill.domain.files import KEPT
from rowmill.domain.form import Mode
from rowmill.domain.mapping import Mapping
from rowmill.engine.batches import Engine
from rowmill.files.shelf import FolderShelf
from rowmill.ports.store import AppRecord, BatchRecord, NewRow, RowResult, UploadRecord
from rowmill.store.sent import SentFile
from rowmill.store.sql import SqlStore
from rowmill.testing.clock import QuickClock
from rowmill.testing.fake_dify import FakeDify, Serving, serve
from tests.engine.running import DEADLINES, FORM, QUICK, SPEED, B, run_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rowmill.domain.events import Event
    from rowmill.engine.runner import Ending


@dataclass
class Bench:
    """One store, shelf and fake; `run` as often as wanted."""

    folder: Path
    serving: Serving
    key: str
    store: SqlStore
    shelf: FolderShelf
    events: list[Event] = field(default_factory=list)
    clock: QuickClock = field(default_factory=lambda: QuickClock(SPEED))
    engine: Engine | None = None

    @property
    def fake(self) -> FakeDify:
        return self.serving.fake

    @property
    def rows(self) -> list[RowResult]:
        return list(self.store.results(B))

    @property
    def facts(self) -> list[str]:
        return [event.fact.value for event in self.events]

    def keep(self, content: bytes) -> str:
        draft = self.shelf.draft()
        draft.write(content)
        return draft.keep().sha256

    def named(self, name: str, content: bytes | None = None) -> dict[str, Any]:
        """A placeholder, with its copy on the shelf."""
        content = name.encode() if content is None else content
        known = {"transfer_method": "local_file", "type": "document", KEPT: self.keep(content)}
        return {**known, "name": name, "size": len(content)}

    def upload(self, user: str, file: dict[str, Any]) -> UploadRecord | None:
        return self.store.find_upload("app", user, file[KEPT], file["name"])

    def fill(self, rows: list[dict[str, Any]], **settings: Any) -> None:
        known = Settings(**{"concurrency": 4, "lost_window": 15.0, "row_timeout": 20.0, **settings})
        app = self.store.save_app(
            AppRecord("app", self.serving.url, "files", Mode.WORKFLOW, self.fake.profile.version, b"", "")
        )
        draft = BatchState.DRAFT
        self.store.add_batch(
            BatchRecord(B, app, FORM, Mapping(()), known, draft, "r.csv", "r", "d", ("doc",), time.time())
        )
        self.store.add_rows(B, [NewRow(i, i + 2, ("",), inputs) for i, inputs in enumerate(rows)])
        self.store.move_batch(B, BatchMove.CHECKED)

    async def run(self, *, until: int | None = None, fetch: bool = True, **deadlines: Any) -> tuple[BatchState, Ending]:
        self.engine = Engine(
            self.store,
            lambda batch_id: SentFile(self.folder / f"sent-{batch_id}.marks"),
            self.store.take_over("test"),
            self.clock,
            QUICK,
            self.shelf if fetch else None,
        )
        known = type(DEADLINES)(**{name: getattr(DEADLINES, name) for name in DEADLINES.__slots__} | deadlines)
        return await run_engine(self.engine, self.store, self.key, self.events, deadlines=known, until=until)


def bench(folder: Path, key: str = "app-files", fake: FakeDify | None = None) -> Iterator[Bench]:
    with serve(fake or FakeDify(hold_ms=0, celery_slots=0)) as serving:
        store = SqlStore(folder / "rowmill.db")
        yield Bench(folder, serving, key, store, FolderShelf(folder / "files"))
        store.close()

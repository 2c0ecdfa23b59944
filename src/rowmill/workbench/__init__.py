"""What a user can do. Also the Python API in process: `rowmill.bootstrap.open_workbench` makes one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowmill.workbench import drafts, results
from rowmill.workbench.again import Since
from rowmill.workbench.apps import Apps
from rowmill.workbench.batches import Batches
from rowmill.workbench.drafts import Draft, Order

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rowmill.domain.form import Form
    from rowmill.domain.problem import Problem
    from rowmill.ports.dify import AppInfo
    from rowmill.ports.sheets import SheetHead, Words
    from rowmill.ports.store import AppRecord, BatchRecord
    from rowmill.workbench.tools import Tools

__all__ = ["Draft", "Order", "Since", "Workbench"]


class Workbench:
    """Apps, templates, drafts, batches, results; over the tools that bootstrap chose."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.apps = Apps(tools)
        self.batches = Batches(tools, self.apps)

    def write_template(self, info: AppInfo, path: Path, words: Words) -> None:
        """The workbook to be filled in. Raises UsageError where it cannot be written."""
        results.check_target(path)
        with results.writing(path, "template_not_written"):
            self._tools.write_template(info.form, path, words, app_name=info.name)

    def read_head(self, path: Path, sheet_name: str | None = None, header_row: int | None = None) -> SheetHead:
        """The headers of a sheet. Raises SheetError."""
        return drafts.read_head(self._tools, path, sheet_name, header_row)

    def digest(self, path: Path) -> str:
        return drafts.digest_of(path)

    def draft(
        self, order: Order, app: AppRecord, form: Form, sink: Callable[[Problem], None], step: Callable[[int], None]
    ) -> Draft:
        """See drafts.make_draft."""
        return drafts.make_draft(self._tools, order, app, form, sink, step)

    def append(
        self, order: Order, batch: BatchRecord, sink: Callable[[Problem], None], step: Callable[[int], None]
    ) -> Draft:
        """See drafts.append."""
        return drafts.append(self._tools, order, batch, sink, step)

    def accept(self, draft: Draft) -> BatchRecord:
        """The draft may be run."""
        drafts.accept(self._tools, draft)
        return self.batches.find(draft.batch.id)

    def discard(self, draft: Draft) -> None:
        """Nothing of the draft is kept."""
        self._tools.store.drop_batch(draft.batch.id)

    def export(
        self, batch: BatchRecord, path: Path, words: Callable[[str], str], *, raw: bool = False
    ) -> results.Exported:
        """See results.export. While the batch runs, too."""
        return results.export(self._tools, batch, path, words, raw=raw)

    def close(self) -> None:
        self._tools.store.close()

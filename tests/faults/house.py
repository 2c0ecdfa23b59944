"""One batch on one fake Dify, with `rowmill` processes that come and go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from rowmill.testing.fake_dify import FakeDify, Serving, serve
from rowmill.testing.fake_dify.apps import default_apps
from tests.faults import audit
from tests.faults.processes import KEY, Proc, batches, lines, rowmill, until, write_sheet

LOST_WINDOW = "3"
"""seconds in which these fakes start whatever they start"""


def make_fake(profile: str = "1.14", **how: Any) -> FakeDify:
    """A fake whose echo app has the canary key and takes long texts."""
    apps = default_apps()
    echo = deepcopy(apps["app-echo"])
    echo.key, echo.app_id, echo.workflow_id, echo.versions = KEY, "", "", []
    echo.__post_init__()
    echo.form[0]["text-input"]["max_length"] = 256
    settings: dict[str, Any] = {"hold_ms": 0, "celery_slots": 0, "latency_ms": 30, "jitter_ms": 90} | how
    return FakeDify(profile, {**apps, KEY: echo}, **settings)


class House:
    """A folder, a sheet, a served fake. `begin` starts the batch, `resume` goes on with it, `end` audits."""

    def __init__(self, folder: Path, fake: FakeDify, url: str, texts: int | list[str], width: int = 8) -> None:
        self.folder, self.fake, self.url, self.width = folder, fake, url, width
        self.data, self.target = folder / "data", folder / "results.jsonl"
        self.rows = texts if isinstance(texts, int) else len(texts)
        self.env: dict[str, str] = {"ROWMILL_LOST_WINDOW": LOST_WINDOW}
        self.said: list[str] = []
        self.batch = ""
        self.server: Serving
        write_sheet(folder / "rows.csv", texts)

    @property
    def posts(self) -> int:
        """Runs that were paid for so far."""
        return len(self.fake.ledger.runs)

    def begin(self, **how: Any) -> Proc:
        first = ["run", self.folder / "rows.csv", "--base-url", self.url, "--yes"]
        return self._start(*first, **how)

    def find_batch(self) -> str:
        """The batch's id; "" if the process died before there was one."""
        if not self.batch:
            found = batches(self.data, self.folder)
            self.batch = found[0]["id"] if found else ""
        return self.batch

    def go_on(self, **how: Any) -> Proc:
        """Resume, or begin anew if the process died before anything was to be resumed."""
        return self.resume(**how) if self.find_batch() else self.begin(**how)

    def resume(self, **how: Any) -> Proc:
        self.find_batch()
        return self._start("run", "--resume", self.batch, **how)

    def _start(self, *args: object, **how: Any) -> Proc:
        where = ["-o", self.target, "--data-dir", self.data, "--json", "-c", self.width]
        return rowmill(*args, *where, cwd=self.folder, **{**self.env, **how})

    def killed(self, proc: Proc) -> None:
        """kill -9, and keep what it said."""
        proc.kill()
        self.said += [proc.out, proc.err]

    def wait_for_runs(self, more: int, proc: Proc) -> bool:
        """Until so many more runs were paid for; False if the process ended before."""
        goal = self.posts + more
        return until(lambda: self.posts >= goal, proc, every=0.002)

    def recovery(self, proc: Proc, since: float) -> float:
        """Seconds from `since` until a run is started or the batch has ended."""
        self.wait_for_runs(1, proc)
        return time.monotonic() - since

    def end(self, proc: Proc, *, tried: int, unknown: int | None = 0, blind: bool = False) -> audit.Tally:
        """The batch's end, and the audit: see Tally.check."""
        result = proc.answer()
        assert proc.wait() == (1 if result["unknown"] else 0), proc.err
        audit.states_sum(result, self.rows)
        audit.no_secret(KEY, *self.said, proc.out, proc.err, folder=self.folder)
        rows = lines(self.target)
        assert len(rows) == self.rows
        counted = audit.tally(self.fake.ledger.runs, rows, tried=tried)
        counted.check(unknown=unknown, blind=blind)
        return counted


@contextmanager
def house(folder: Path, texts: int | list[str], *, fake: FakeDify | None = None, width: int = 8) -> Iterator[House]:
    """A House whose fake is served by this process."""
    folder.mkdir(parents=True, exist_ok=True)
    fake = fake or make_fake()
    with serve(fake) as server:
        place = House(folder, fake, server.url, texts, width)
        place.server = server
        yield place


__all__ = ["House", "Serving", "house", "make_fake"]

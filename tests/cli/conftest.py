from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rowmill.testing.fake_dify import FakeDify, Serving, serve
from tests.cli.calling import Caller

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def rowmill(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Caller:
    return Caller(capsys, tmp_path)


@pytest.fixture
def dify() -> Iterator[Serving]:
    """A served fake without delays."""
    with serve(FakeDify(hold_ms=0, celery_slots=0)) as serving:
        yield serving


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work

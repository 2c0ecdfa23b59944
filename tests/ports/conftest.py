from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rowmill.store.memory import MemoryStore
from rowmill.store.sql import SqlStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryStore | SqlStore]:
    """Every store that there is: what is promised of one is promised of all."""
    made = MemoryStore() if request.param == "memory" else SqlStore(tmp_path / "rowmill.db")
    yield made
    made.close()

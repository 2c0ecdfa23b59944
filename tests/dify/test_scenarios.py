"""What the logs of recorded scenarios show, read by the client's own readers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rowmill.dify.events import read_detail
from rowmill.domain.batch import RunStatus

FOLDER = Path(__file__).parent / "transcripts"
DETAIL = re.compile(r"^\s*detail.*? 200 (\{.*\})$", re.MULTILINE)
FILES = sorted(path for path in FOLDER.glob("*/*.txt") if path.stem.startswith(("09-", "10-")))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_run_details(path: Path) -> None:
    """Running at first, then ended or, after a stop, running for ever; outputs an object, or on 1.11.4 JSON text."""
    details = DETAIL.findall(path.read_text("utf-8"))
    assert details
    read = [read_detail(text.encode()) for text in details]
    assert read[0][1] is None
    if "stop" in path.stem:
        assert all(outcome is None for _, outcome in read)
        return
    detail, outcome = read[-1]
    assert outcome is not None
    assert outcome.status is RunStatus.SUCCEEDED
    outputs = json.loads(outcome.outputs)
    assert outputs["status_code"] == 200
    assert outcome.run_id == detail["id"]

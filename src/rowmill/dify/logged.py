"""Lines of the log and details of runs (contract §2.6, §2.8)."""

from __future__ import annotations

from typing import Any

from rowmill.dify.classify import read_http_date
from rowmill.dify.raw import read_json
from rowmill.ports.dify import LoggedRun


def read_inputs(value: Any) -> dict[str, Any]:
    """Run detail carries inputs as JSON text."""
    try:
        inputs = read_json(value) if isinstance(value, str) else value
    except ValueError:
        inputs = None
    return inputs if isinstance(inputs, dict) else {}


def read_logged(line: Any) -> LoggedRun | None:
    run = line.get("workflow_run") if isinstance(line, dict) else None
    if not isinstance(run, dict) or not run.get("id"):
        return None
    person = line.get("created_by_end_user")
    user = person.get("session_id") if isinstance(person, dict) else None
    created = run.get("created_at") or line.get("created_at")
    # Before 1.2 times are texts.
    moment = float(created) if isinstance(created, int | float) else read_http_date(str(created)) or 0.0
    return LoggedRun(str(run["id"]), str(run.get("status")), moment, user)

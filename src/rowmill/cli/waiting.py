"""Rows whose run waits for a person: which, and what Dify asks for."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rowmill.cli.session import Session
    from rowmill.ports.store import BatchRecord, RowResult
    from rowmill.workbench import Workbench

# More of them are in the results.
MOST_SHOWN = 20
LONGEST_TEXT = 200


def asking_json(workbench: Workbench, batch: BatchRecord) -> list[dict[str, Any]]:
    """The first rows that wait for a person, with Dify's own words."""
    return [
        {"row": row.number, "run_id": row.run_id, "asks": json.loads(row.asks) if row.asks else None}
        for row in workbench.batches.asking(batch.id, MOST_SHOWN)
    ]


def show_asking(session: Session, workbench: Workbench, batch: BatchRecord) -> None:
    for row in workbench.batches.asking(batch.id, MOST_SHOWN):
        _show_row(session, row)


def _show_row(session: Session, row: RowResult) -> None:
    asks = json.loads(row.asks) if row.asks else []
    if not asks:
        session.show(session.say("asks_nothing", row=row.number, run_id=row.run_id))
    for ask in asks:
        node = ask.get("node_title") or ask.get("node_id") or ask.get("TYPE")
        text = " ".join(str(ask.get("form_content") or ask.get("message") or "").split())[:LONGEST_TEXT]
        session.show(session.say("asks_line", row=row.number, node=node, text=text))
        if actions := _titles(ask.get("actions")):
            session.show(session.say("asks_actions", actions=actions))
        if ask.get("form_token"):
            session.show(session.say("asks_token", token=ask["form_token"]))
        if moment := _moment(ask.get("expiration_time")):
            session.show(session.say("asks_until", moment=moment))


def _titles(actions: Any) -> str:
    if not isinstance(actions, list):
        return ""
    return ", ".join(str(one.get("title") or one.get("id")) for one in actions if isinstance(one, dict))


def _moment(value: Any) -> str | None:
    if not isinstance(value, int | float) or not 0 < value < 1e11:  # noqa: PLR2004
        return None
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(value))

"""A store of a former Rowmill is brought to the newest tables, and keeps what it knows."""

from __future__ import annotations

import sqlite3

from alembic import command
from tests.ports.building import APP, B

from rowmill.store import revision
from rowmill.store.connect import Patience, open_engines
from rowmill.store.sql import open_store


def make_store(path, number):
    """As the version with this revision made it."""
    engines = open_engines(path, Patience())
    with engines.writer.connect() as conn, conn.begin():
        config = revision._config()
        config.attributes["connection"] = conn
        command.upgrade(config, number)
    engines.dispose()


def insert(raw, table, **values):
    columns, marks = ", ".join(values), ", ".join("?" * len(values))
    raw.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(values.values()))


def fill(raw):
    """A batch whose first row was run twice, its second once, its third never."""
    insert(raw, "apps", id=APP.id, base_url="u", name="n", mode="workflow", sealed_key=b"", key_hint="")
    texts = dict.fromkeys(("sheet_path", "sheet_name", "sheet_digest"), "s")
    empty = dict.fromkeys(("headers", "mapping", "form"), "[]")
    insert(raw, "batches", id=B, app_id=APP.id, state="completed", created_at=1.0, settings="{}", **texts, **empty)
    for position, tries in ((0, 2), (1, 1), (2, 0)):
        place = {"batch_id": B, "position": position}
        insert(raw, "rows", **place, number=position + 2, state="succeeded", tries=tries, inputs="{}", cells="[]")
        for number in range(1, tries + 1):
            told = {"workflow_id": f"v{number}", "sent_at": 10.0 * number - position}
            insert(raw, "attempts", **place, number=number, state="done", slot=0, slot_user="u", **told)


def test_what_attempts_told_of_versions_is_kept(tmp_path):
    make_store(tmp_path / "rowmill.db", "0001")
    with sqlite3.connect(tmp_path / "rowmill.db") as raw:
        fill(raw)
    raw.close()
    store = open_store(tmp_path)
    assert store.batch(B).workflow_id == "v1"
    assert [r.workflow_id for r in store.results(B)] == ["v2", "v1", None]
    store.close()

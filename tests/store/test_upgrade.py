"""A store of a former Rowmill is brought to the newest tables, and keeps what it knows."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from alembic import command
from tests.ports.building import APP, B, batch

from rowmill.domain.again import Reuse, input_hash
from rowmill.domain.batch import Settings
from rowmill.ports.store import NewRow
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


def test_conversations_and_rows_that_ask_are_kept_and_get_no_hash_that_is_not_theirs(tmp_path):
    make_store(tmp_path / "rowmill.db", "0004")
    with sqlite3.connect(tmp_path / "rowmill.db") as raw:
        fill(raw)
        raw.execute("UPDATE rows SET conversation = 'x', conversation_id = 'c' WHERE position = 1")
        raw.execute("UPDATE rows SET state = 'waiting', asks = '[1]' WHERE position = 2")
    raw.close()
    store = open_store(tmp_path)
    rows = list(store.results(B))
    assert [(row.conversation_id, row.asks, row.leader, row.origin) for row in rows] == [
        (None, None, None, None), ("c", None, None, None), (None, "[1]", None, None),
    ]  # fmt: skip
    store.add_batch(replace(batch("later"), settings=Settings(since=B)))
    store.add_rows("later", [NewRow(0, 2, (), {}, input_hash=input_hash({}))])
    assert store.plan_reuse("later", B, None, usable=True) == Reuse(reused=1)
    store.close()
    with sqlite3.connect(tmp_path / "rowmill.db") as raw:
        hashes = raw.execute(
            "SELECT input_hash IS NULL FROM rows WHERE batch_id = ? ORDER BY position", (B,)
        ).fetchall()
    raw.close()
    assert hashes == [(0,), (1,), (0,)]

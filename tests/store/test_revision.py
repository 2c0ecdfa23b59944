"""The tables and their revisions."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from tests.ports.building import B, fill, intend

from rowmill.domain.batch import BatchMove
from rowmill.domain.errors import StoreError
from rowmill.store import migrations, revision
from rowmill.store.sql import SqlStore, open_store
from rowmill.store.tables import metadata


def test_the_revisions_make_the_tables_that_the_code_knows(tmp_path):
    store = open_store(tmp_path)
    with store._reading() as conn:
        assert compare_metadata(MigrationContext.configure(conn), metadata) == []
    store.close()


def test_the_newest_revision_is_the_head():
    script = ScriptDirectory.from_config(revision._config())
    assert script.get_heads() == [migrations.NEWEST]


def first_version(path):
    """A store as the first version left it, with a batch of two rows."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as conn:
        config = revision._config()
        config.attributes["connection"] = conn
        command.upgrade(config, "0001")
        conn.exec_driver_sql("INSERT INTO apps VALUES ('app-1', 'http://d/v1', 'a', 'workflow', '1.14.2', x'00', '…1')")
        settings = '{"concurrency":4,"retries":1,"row_timeout":1800.0,"lost_window":300.0,"pinned_workflow":null}'
        batch = {"id": B, "app_id": "app-1", "state": "queued", "created_at": 1.0, "sheet_path": "a.csv"}
        batch |= {"sheet_name": "a", "sheet_digest": "d", "settings": settings, "headers": '["q"]', "mapping": "[]"}
        insert(conn, "batches", batch | {"form": "[]"})
        for position in range(2):
            row = {"batch_id": B, "position": position, "number": position + 2, "state": "pending"}
            insert(conn, "rows", row | {"inputs": '{"q":"x"}', "cells": '["x"]'})
    engine.dispose()


def insert(conn, table, values):
    names = ", ".join(values)
    conn.exec_driver_sql(
        f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(values))})", tuple(values.values())
    )


def test_a_store_from_the_first_version_keeps_what_it_holds(tmp_path):
    first_version(tmp_path / "rowmill.db")
    store = open_store(tmp_path)
    assert store.counts(B).total == 2
    assert [(row.inputs, row.cells, row.files) for row in store.results(B)] == [({"q": "x"}, ("x",), ())] * 2
    assert store.batch(B).settings.concurrency == 4
    assert store.needed_files() == set()
    store.move_batch(B, BatchMove.START, at=1.0)
    assert len(store.startable(B, 1.0, -1, 10, None)) == 2
    store.close()


def test_a_store_from_a_newer_version_is_refused_and_left_alone(tmp_path):
    store = open_store(tmp_path)
    fill(store)
    store.close()
    path = tmp_path / "rowmill.db"
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    before = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(StoreError) as raised:
        open_store(tmp_path)
    assert raised.value.code == "store_too_new"
    assert raised.value.params == {"path": str(path), "revision": "9999", "known": migrations.NEWEST}
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_a_store_of_the_first_revision_is_brought_up_to_date_with_its_rows(tmp_path):
    path = tmp_path / "rowmill.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as conn:
        config = revision._config()
        config.attributes["connection"] = conn
        command.upgrade(config, "0001")
        conn.exec_driver_sql("INSERT INTO apps VALUES ('a', 'u', 'n', 'workflow', NULL, x'00', '')")
        conn.exec_driver_sql(
            "INSERT INTO batches (id, app_id, state, created_at, sheet_path, sheet_name, sheet_digest, settings, "
            f"headers, mapping, form) VALUES ('{B}', 'a', 'queued', 1.0, 's', 's', 'd', '{{}}', '[]', '[]', '[]')"
        )
        conn.exec_driver_sql(
            "INSERT INTO rows (batch_id, position, number, state, inputs, cells) "
            f"VALUES ('{B}', 0, 2, 'pending', '{{}}', '[]')"
        )
    engine.dispose()
    store = open_store(tmp_path)
    assert [(row.position, row.state, row.asks) for row in store.results(B)] == [(0, "pending", None)]
    assert store.write([intend(0)], store.take_over("tests")) == [True]
    store.close()


def test_a_migration_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    real = command.upgrade

    def half(config, target):
        real(config, target)
        raise OSError(5, "half way")

    with monkeypatch.context() as patched:
        patched.setattr(command, "upgrade", half)
        with pytest.raises(StoreError):
            open_store(tmp_path)
    with sqlite3.connect(tmp_path / "rowmill.db") as raw:
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == []
    raw.close()
    open_store(tmp_path).close()


@pytest.mark.slow
def test_processes_that_make_the_store_at_the_same_moment_agree(tmp_path):
    code = (
        "import sys, pathlib; from rowmill.store.sql import open_store; import alembic.command;"
        "print('ready', flush=True); sys.stdin.readline(); open_store(pathlib.Path(sys.argv[1])).close()"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "data")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for child in started:
        assert child.stdout.readline() == b"ready\n"
    for child in started:
        child.stdin.write(b"go\n")
        child.stdin.flush()
    for child in started:
        child.communicate()
    assert [child.returncode for child in started] == [0] * 4


def test_an_up_to_date_store_opens_without_loading_alembic(tmp_path):
    open_store(tmp_path).close()
    code = (
        "import sys, pathlib; from rowmill.store.sql import open_store;"
        "open_store(pathlib.Path(sys.argv[1])).close(); sys.exit('alembic.command' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


def test_a_url_names_the_same_store_as_its_path(tmp_path):
    store = SqlStore(f"sqlite:///{tmp_path}/rowmill.db")
    fill(store)
    store.close()
    again = SqlStore(tmp_path / "rowmill.db")
    assert again.counts(B).total == 5
    again.close()


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (
            "SELECT state, count(*), sum(tokens) FROM rows WHERE batch_id = 'b' GROUP BY state",
            "COVERING INDEX rows_by_state",
        ),
        ("SELECT position FROM rows WHERE batch_id = 'b' AND state = 'waiting' AND due_at <= 1", "rows_waiting"),
    ],
)
def test_what_is_asked_often_has_an_index(tmp_path, statement, index):
    store = open_store(tmp_path)
    with store._reading() as conn:
        plan = str(conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}").all())
    store.close()
    assert index in plan


def test_the_readings_use_their_indexes(tmp_path):
    """The statements as they are sent, with their parameters."""
    store = open_store(tmp_path)
    fill(store)
    sent = []
    with store._reading() as conn:
        conn.connection.driver_connection.set_trace_callback(sent.append)
    store.startable(B, 1.0, 0, 5, 9)
    store.busy_slots(B)
    store.open_attempts(B)
    store.next_due(B)
    store.causes(B)
    store.known_runs(B, "u")
    store.counts(B)
    store.known_talk(B, "u", ["a", "b"])
    store.unsettled(B, "u")
    store.to_check(B, 0, 5)
    store.asking(B, 5)
    store.next_turns(B, [("a", 3)], 9)
    plans = []
    with store._reading() as conn:
        conn.connection.driver_connection.set_trace_callback(None)
        for statement in sent:
            if statement.startswith("SELECT"):
                steps = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}").all()
                plans.append(" ".join(step[3] for step in steps))
    store.close()
    wanted = [
        "rows_waiting", "rows_waiting", "rows_by_state", "attempts_open", "attempts_open", "rows_waiting",
        "rows_by_cause", "attempts_by_user", "rows_by_state", "rows_waiting", "attempts_by_user", "attempts_by_user",
        "attempts_by_user", "attempts_to_check", "autoindex_batches", "rows_waiting", "rows_by_conversation",
    ]  # fmt: skip
    assert len(plans) == len(wanted)
    for plan, index in zip(plans, wanted, strict=True):
        assert index in plan
        assert "SCAN" not in plan
        assert "TEMP B-TREE FOR ORDER BY" not in plan or index != "rows_waiting"


def test_rows_that_take_anothers_result_have_indexes(tmp_path):
    store = open_store(tmp_path)
    fill(store, 5, same=(0, 2))
    sent = []
    with store._reading() as conn:
        conn.connection.driver_connection.set_trace_callback(sent.append)
    store.share_results(B)
    store.followers(B)
    store.reuse(B)
    with store._reading() as conn:
        conn.connection.driver_connection.set_trace_callback(None)
        asked = [statement for statement in sent if statement.startswith("SELECT")]
        plans = [str(conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}").all()) for statement in asked]
    store.close()
    for plan, index in zip(plans, ("rows_following", "rows_following", "rows_reusing"), strict=True):
        assert index in plan
        assert "SCAN" not in plan

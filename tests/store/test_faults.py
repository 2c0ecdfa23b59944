"""Full, read-only, locked, damaged, too new: each says its own code, loses nothing and goes on when it is over."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy.exc import OperationalError
from tests.ports.building import APP, B, batch, fill, finish, intend, new_row

from rowmill.domain.batch import RowState
from rowmill.domain.errors import FencedError, StoreError
from rowmill.store import faults
from rowmill.store.connect import Patience
from rowmill.store.sql import SqlStore, open_store

IMPATIENT = Patience(busy=0.05, total=0.3)


@pytest.fixture
def store(tmp_path):
    made = SqlStore(tmp_path / "rowmill.db", IMPATIENT)
    yield made
    made.close()


def pragma(store, statement):
    raw = store._engines.writer.raw_connection()
    raw.driver_connection.execute(statement).close()
    raw.close()


def said(call, *arguments):
    with pytest.raises(StoreError) as raised:
        call(*arguments)
    return raised.value.code


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(store):
    fence = fill(store, 3)
    store.write([intend(p) for p in range(3)], fence)
    pragma(store, "PRAGMA max_page_count=1")
    big = finish(1, outputs="x" * 500_000)
    with pytest.raises(StoreError) as raised:
        store.write([finish(0), big, finish(2)], fence)
    assert raised.value.code == "store_full"
    assert raised.value.params["path"].endswith("rowmill.db")
    assert store.counts(B).by_state == {RowState.RUNNING: 3}
    pragma(store, "PRAGMA max_page_count=1000000")
    assert store.write([finish(0), big, finish(2)], fence) == [True] * 3


def test_a_read_only_store_can_be_read(store):
    fence = fill(store, 1)
    pragma(store, "PRAGMA query_only=ON")
    assert said(store.write, [intend(0)], fence) == "store_readonly"
    assert store.counts(B).total == 1


def test_another_writer_is_waited_for_and_then_named(store, tmp_path):
    fence = fill(store, 2)
    other = _holder(tmp_path / "rowmill.db", 20)
    try:
        start = time.monotonic()
        assert said(store.write, [intend(0)], fence) == "store_locked"
        assert 0.3 <= time.monotonic() - start < 3
        start = time.monotonic()
        assert store.counts(B).total == 2
        assert time.monotonic() - start < 1
    finally:
        other.kill()
        other.communicate()
    assert store.write([intend(0)], fence) == [True]


def test_a_short_lock_is_sat_out(tmp_path):
    patient = SqlStore(tmp_path / "rowmill.db", Patience(busy=0.05, total=20.0))
    fence = fill(patient, 1)
    with _holder(tmp_path / "rowmill.db", 0.6) as other:
        assert patient.write([intend(0)], fence) == [True]
        other.stdout.read()
    patient.close()


def _holder(path, seconds):
    """A process that holds the write lock."""
    code = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN IMMEDIATE'); print('held', flush=True); time.sleep(float(sys.argv[2])); c.execute('COMMIT')"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(path), str(seconds)], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    return other


def test_a_failed_write_to_the_disk_ends_the_connection(store, monkeypatch):
    fence = fill(store, 1)

    def fail(conn, records):
        cause = sqlite3.OperationalError("disk I/O error")
        cause.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise OperationalError("COMMIT", (), cause)

    before = _driver_connection(store)
    with monkeypatch.context() as patched:
        patched.setattr("rowmill.store.sql.apply_records", fail)
        assert said(store.write, [intend(0)], fence) == "store_io"
    assert store.write([intend(0)], fence) == [True]
    assert _driver_connection(store) is not before


def _driver_connection(store):
    raw = store._engines.writer.raw_connection()
    found = raw.driver_connection
    raw.close()
    return found


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(28, "No space left"), "store_full"),
        (OSError(30, "Read-only file system"), "store_readonly"),
        (OSError(5, "EIO"), "store_io"),
        (sqlite3.ProgrammingError("closed"), "store_io"),
    ],
)
def test_errors_below_the_database_have_codes_too(error, code):
    with pytest.raises(StoreError, match=code), faults.as_store_errors("here"):
        raise error


def test_errors_do_not_quote_what_the_rows_hold(store):
    fill(store, 1)
    store.save_app(APP)
    again = store.batch(B)
    with pytest.raises(StoreError) as raised:
        store.add_batch(again)
    assert "dify.example" not in str(raised.value)
    assert "表" not in str(raised.value)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a workbook", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_what_is_no_database_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "rowmill.db"
    path.write_bytes(content)
    assert said(SqlStore, path) == "store_damaged"
    assert path.read_bytes() == content


def test_a_damaged_page_is_found_at_the_start(tmp_path):
    store = open_store(tmp_path)
    fill(store, 2000)
    store.close()
    path = tmp_path / "rowmill.db"
    content = bytearray(path.read_bytes())
    for page in range(10, len(content) // 4096, 7):
        content[page * 4096 : page * 4096 + 200] = b"\xa5" * 200
    path.write_bytes(content)
    assert said(open_store, tmp_path) == "store_damaged"


def test_a_database_of_another_program_is_refused(tmp_path):
    path = tmp_path / "rowmill.db"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE theirs (a)")
    raw.close()
    assert said(SqlStore, path) == "store_damaged"


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    assert said(open_store, tmp_path / "file" / "data") == "store_io"
    assert said(SqlStore, tmp_path / "none" / "rowmill.db") == "store_io"


def test_files_are_for_the_owner_only(tmp_path):
    folder = tmp_path / "a" / "data"
    store = open_store(folder)
    fill(store)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"rowmill.db": 0o600, "rowmill.db-wal": 0o600, "rowmill.db-shm": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    store.close()
    (folder / "rowmill.db").chmod(0o644)
    open_store(folder).close()
    assert stat.S_IMODE((folder / "rowmill.db").stat().st_mode) == 0o600


def test_two_stores_on_one_file_and_only_the_newer_may_write(tmp_path):
    first, second = open_store(tmp_path), open_store(tmp_path)
    old = fill(first, 2)
    assert first.write([intend(0)], old) == [True]
    new = second.take_over("second")
    with pytest.raises(FencedError):
        first.write([finish(0)], old)
    assert second.write([finish(0)], new) == [True]
    assert first.counts(B).done == 1
    first.close()
    second.close()


def test_reads_wait_neither_for_an_export_nor_for_a_writer(store):
    fence = fill(store, 3000)
    exports = [store.results(B) for _ in range(8)]
    for export in exports:
        next(export)
    stop, errors = threading.Event(), []

    def write_on():
        try:
            for position in range(3000):
                if stop.is_set():
                    return
                store.write([intend(position)], fence)
        except StoreError as error:
            errors.append(error)

    writer = threading.Thread(target=write_on)
    writer.start()
    for _ in range(50):
        assert store.counts(B).total == 3000
    assert all(sum(1 for _ in export) == 2999 for export in exports)
    stop.set()
    writer.join()
    assert errors == []


def test_a_plain_copy_through_sqlite_is_a_backup(store, tmp_path):
    fence = fill(store, 1)
    store.write([intend(0), finish(0)], fence)
    source, target = sqlite3.connect(tmp_path / "rowmill.db"), sqlite3.connect(tmp_path / "copy.db")
    source.backup(target)
    source.close()
    target.close()
    copy = SqlStore(tmp_path / "copy.db")
    assert list(copy.results(B)) == list(store.results(B))
    copy.close()


def test_adding_many_rows_is_all_or_nothing(store):
    fill(store, 1)
    store.add_batch(batch("d2"))
    many = [new_row(p) for p in range(3000)]
    assert said(store.add_rows, "d2", [*many, new_row(5)]) == "store_conflict"
    assert list(store.results("d2")) == []

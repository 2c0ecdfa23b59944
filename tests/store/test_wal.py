"""A log that hides commits is refused; what a crash leaves behind is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.ports.building import B, fill, finish, intend

from rowmill.domain.errors import StoreError
from rowmill.store.sql import FILE_NAME, open_store

FRAME, HEAD = 24 + 4096, 32


def _left_behind(folder: Path, commits: int = 6) -> Path:
    """The files of a store that was never closed, as a killed process leaves them; returns the log's path."""
    live = folder / "live"
    store = open_store(live)
    fence = fill(store, commits)
    for place in range(commits):
        store.write([intend(place), finish(place)], fence)
    left = folder / "left"
    left.mkdir()
    for name in (FILE_NAME, f"{FILE_NAME}-wal"):
        shutil.copy(live / name, left / name)
    store.close()
    return left / f"{FILE_NAME}-wal"


def _done(folder: Path) -> int:
    store = open_store(folder)
    try:
        return store.counts(B).done
    finally:
        store.close()


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(content)


def _commits(log: Path) -> list[int]:
    """Numbers (from 0) of the frames that end a transaction."""
    content = log.read_bytes()
    frames = (len(content) - HEAD) // FRAME
    return [n for n in range(frames) if content[HEAD + n * FRAME + 4 : HEAD + n * FRAME + 8] != b"\0" * 4]


def test_a_whole_log_is_fine(tmp_path):
    log = _left_behind(tmp_path)
    assert _done(log.parent) == 6


@pytest.mark.parametrize("place", [0, 8, 16, 24, 100, 2000])
def test_a_flipped_byte_in_the_middle_is_found(tmp_path, place):
    """Wherever it stands in a frame: page number, salts, sums, content."""
    log = _left_behind(tmp_path)
    third_last = _commits(log)[-4]
    _flip(log, HEAD + third_last * FRAME + place)
    with pytest.raises(StoreError, match="store_damaged") as raised:
        open_store(log.parent)
    assert str(raised.value.params["path"]) == str(log)


@pytest.mark.parametrize("place", [0, 4, 13, 17, 25])
def test_a_broken_head_is_found(tmp_path, place):
    log = _left_behind(tmp_path)
    _flip(log, place)
    with pytest.raises(StoreError, match="store_damaged"):
        open_store(log.parent)


def test_the_last_transaction_may_be_torn(tmp_path):
    """Also out of order, as a power cut leaves it: its commit is there, a frame before it is not."""
    log = _left_behind(tmp_path)
    ends = _commits(log)
    content = log.read_bytes()
    for cut in range(ends[-2] + 1, ends[-1] + 1):
        log.write_bytes(content)
        _flip(log, HEAD + cut * FRAME + 50)
        for extra in log.parent.glob("*-shm"):
            extra.unlink()
        database = (log.parent / FILE_NAME).read_bytes()
        assert _done(log.parent) == 5
        (log.parent / FILE_NAME).write_bytes(database)


@pytest.mark.parametrize("bytes_left", [0, 10, 2000])
def test_a_cut_log_is_what_a_crash_leaves(tmp_path, bytes_left):
    log = _left_behind(tmp_path)
    end = _commits(log)[-2]
    log.write_bytes(log.read_bytes()[: HEAD + (end + 1) * FRAME + bytes_left])
    assert _done(log.parent) == 5


def test_what_an_earlier_round_left_is_not_looked_at(tmp_path):
    store = open_store(tmp_path)
    fence = fill(store, 40)
    for place in range(30):
        store.write([intend(place), finish(place)], fence)
    with store._engines.writer.connect() as conn:
        conn.exec_driver_sql("COMMIT")
        conn.exec_driver_sql("PRAGMA wal_checkpoint(RESTART)").close()
        conn.exec_driver_sql("BEGIN")
    store.write([intend(30), finish(30)], fence)
    assert len(_commits(tmp_path / f"{FILE_NAME}-wal")) > 5, "old frames are still there"
    assert _done(tmp_path) == 31
    store.close()


def test_a_writer_beside_us_is_no_damage(tmp_path):
    store = open_store(tmp_path)
    fence = fill(store, 300)
    for place in range(300):
        store.write([intend(place), finish(place)], fence)
        if place % 10 == 0:
            assert _done(tmp_path) == place + 1
    store.close()

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from rowmill.domain.errors import StoreError
from rowmill.files.shelf import FolderShelf


@pytest.fixture
def shelf(tmp_path: Path) -> FolderShelf:
    return FolderShelf(tmp_path / "files")


def keep(shelf: FolderShelf, content: bytes):
    draft = shelf.draft()
    draft.write(content[:3])
    draft.write(content[3:])
    assert draft.size == len(content)
    return draft.keep()


def test_a_file_is_kept_under_its_hash(shelf: FolderShelf, tmp_path: Path) -> None:
    kept = keep(shelf, b"content")
    assert (kept.sha256, kept.size, kept.new) == (hashlib.sha256(b"content").hexdigest(), 7, True)
    path = shelf.path(kept.sha256)
    assert path == tmp_path / "files" / kept.sha256
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_same_bytes_once(shelf: FolderShelf, tmp_path: Path) -> None:
    one, two = keep(shelf, b"content"), keep(shelf, b"content")
    assert (one.new, two.new, one.sha256) == (True, False, two.sha256)
    assert len(list((tmp_path / "files").iterdir())) == 1


def test_a_half_file_is_made_whole(shelf: FolderShelf, tmp_path: Path) -> None:
    kept = keep(shelf, b"content")
    (tmp_path / "files" / kept.sha256).write_bytes(b"con")
    assert keep(shelf, b"content").new
    assert shelf.path(kept.sha256).read_bytes() == b"content"


def test_an_abandoned_draft_leaves_nothing(shelf: FolderShelf, tmp_path: Path) -> None:
    draft = shelf.draft()
    draft.write(b"x")
    draft.abandon()
    draft.abandon()
    assert list((tmp_path / "files").iterdir()) == []


@pytest.mark.parametrize("name", ["../rowmill.db", "a" * 63, "A" * 64, "/etc/passwd", "", "g" * 64])
def test_names_that_are_no_hash(shelf: FolderShelf, name: str) -> None:
    assert shelf.path(name) is None
    shelf.remove(name)


def test_copies(shelf: FolderShelf, tmp_path: Path) -> None:
    kept, target = keep(shelf, b"content"), tmp_path / "out.txt"
    assert shelf.copy(kept.sha256, target)
    made = target.stat().st_ino
    assert shelf.copy(kept.sha256, target)
    assert target.stat().st_ino == made, "not copied again"
    target.write_bytes(b"CONTENT")
    assert shelf.copy(kept.sha256, target)
    assert target.read_bytes() == b"content", "the results' own"
    assert shelf.path(kept.sha256).stat().st_nlink == 1, "nobody's edit reaches the shelf"
    assert not shelf.copy("b" * 64, target)
    assert {path.name for path in tmp_path.iterdir()} == {"files", "out.txt"}


def test_a_sweep_takes_what_is_old_and_not_needed(shelf: FolderShelf, tmp_path: Path) -> None:
    assert shelf.sweep(set(), 1e12) == 0, "there is no shelf yet"
    needed, old, new = (keep(shelf, name).sha256 for name in (b"needed", b"old", b"new"))
    left = shelf.draft()
    (tmp_path / "files" / "notes.txt").touch()
    for name in (needed, old, left._path.name, "notes.txt"):
        os.utime(tmp_path / "files" / name, (100, 100))
    assert shelf.sweep({needed}, 200.0) == 2
    assert {path.name for path in (tmp_path / "files").iterdir()} == {needed, new, "notes.txt"}
    left.abandon()
    assert keep(shelf, b"needed").new is False
    assert shelf.sweep(set(), 200.0) == 0, "what was needed a moment ago is young"


def test_a_disk_that_refuses(shelf: FolderShelf, tmp_path: Path) -> None:
    (tmp_path / "files").touch()
    with pytest.raises(StoreError) as raised:
        shelf.draft()
    assert raised.value.code == "store_io"


def test_a_full_disk(shelf: FolderShelf) -> None:
    draft = shelf.draft()
    draft._file.close()
    draft._file = open("/dev/full", "wb")  # noqa: SIM115, PTH123
    with pytest.raises(StoreError) as raised:
        draft.write(bytes(1_000_000))
    assert raised.value.code == "store_full"
    draft.abandon()

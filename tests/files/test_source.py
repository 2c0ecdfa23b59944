"""Folders and zips that hold what a sheet names."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from rowmill.domain.errors import UsageError
from rowmill.files.limits import Limits
from rowmill.files.names import decoded
from rowmill.files.source import open_source

FEW = Limits(most_files=3, zip_bytes=10_000, zip_ratio=50, zip_ratio_from=1_000)


def read(source, name: str) -> bytes:
    with closing(source.open(name)) as file:
        parts = []
        while part := file.read(4):
            parts.append(part)
        return b"".join(parts)


def refusal(path: Path, limits: Limits | None = None) -> str:
    with pytest.raises(UsageError) as raised:
        open_source(path, limits).close()
    return raised.value.code


# ── folders ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "docs"
    for name in ("a.txt", "in/b.txt", "in/deep/表.txt", ".DS_Store", "Thumbs.db", "__MACOSX/a.txt", "in/._b.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, "utf-8")
    source = open_source(root)
    assert source.place == "docs"
    assert dict(source.sizes) == {"a.txt": 5, "in/b.txt": 8, "in/deep/表.txt": 15}
    assert read(source, "in/deep/表.txt") == "in/deep/表.txt".encode()
    source.close()


def test_links_stay_within_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "docs"
    root.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (root / "a.txt").write_text("a")
    (root / "inside.txt").symlink_to("a.txt")
    (root / "outside.txt").symlink_to("../secret.txt")
    (root / "broken.txt").symlink_to("nowhere")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    assert dict(open_source(root).sizes) == {"a.txt": 1, "inside.txt": 1}


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    source = open_source(tmp_path)
    (tmp_path / "a.txt").write_text("ab")
    with pytest.raises(OSError, match="changed"):
        source.open("a.txt")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(FileNotFoundError):
        source.open("a.txt")


def test_names_in_other_letters(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode("报告.txt".encode("gb18030"))).write_text("x")
    assert dict(open_source(tmp_path).sizes) == {"报告.txt": 1}


def test_too_many_files(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.txt").touch()
    assert refusal(tmp_path, FEW) == "files_too_many"


# ── zips ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def zipped(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_zip(tmp_path: Path) -> None:
    names = {"a.txt": b"first", "in/表.txt": b"second", "__MACOSX/a.txt": b"", "in/": b"", "../../up.txt": b"third"}
    source = open_source(zipped(tmp_path / "files.bin", **names))
    assert source.place == "files.bin"
    assert dict(source.sizes) == {"a.txt": 5, "in/表.txt": 6, "../../up.txt": 5}
    assert read(source, "../../up.txt") == b"third"
    source.close()


def raw_zip(path: Path, name: bytes, extra: bytes = b"", content: bytes = b"x", **lies: int) -> Path:
    """One stored entry whose name is not said to be UTF-8."""
    size, crc = lies.get("size", len(content)), zlib.crc32(content)
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, crc, len(content), size, len(name), len(extra))
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, crc, len(content), size, len(name), len(extra), 0, 0, 0, 0, 0
    )
    body = head + name + extra + content
    listed = entry + name + extra
    path.write_bytes(body + listed + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(listed), len(body), 0))
    return path


def unicode_path(raw: bytes, name: str) -> bytes:
    field = struct.pack("<BL", 1, zlib.crc32(raw)) + name.encode()
    return struct.pack("<HH", 0x7075, len(field)) + field


GBK = "报告 2024（一）.pdf".encode("gbk")
NAMES = {
    "GBK": (GBK, b"", "报告 2024（一）.pdf"),
    "UTF-8 that is not said to be": ("é 表.pdf".encode(), b"", "é 表.pdf"),
    "DOS": (b"r\x82sum\x82.pdf", b"", "résumé.pdf"),
    "the name beside it": (b"????.pdf", unicode_path(b"????.pdf", "表.pdf"), "表.pdf"),
    "the name beside another": (b"????.pdf", unicode_path(b"other", "表.pdf"), "????.pdf"),
    "a field without a name": (b"a.pdf", struct.pack("<HHB", 0x7075, 1, 1), "a.pdf"),
    "backslashes": (b"in\\a.pdf", b"", "in/a.pdf"),
    "absolute": (b"/etc/a.pdf", b"", "etc/a.pdf"),
}


@pytest.mark.parametrize(("raw", "extra", "name"), NAMES.values(), ids=NAMES)
def test_names_in_zips(tmp_path: Path, raw: bytes, extra: bytes, name: str) -> None:
    source = open_source(raw_zip(tmp_path / "files.zip", raw, extra))
    assert list(source.sizes) == [name]
    assert read(source, name) == b"x"
    source.close()


def test_decoding() -> None:
    assert decoded("ｆｕｌｌ 报告".encode("gb18030")) == "ｆｕｌｌ 报告"
    assert decoded(b"caf\x82") == "café"


def test_no_file_is_read_beyond_what_the_zip_says_of_it(tmp_path: Path) -> None:
    source = open_source(raw_zip(tmp_path / "lie.zip", b"a.txt", content=b"x" * 1000, size=10))
    with closing(source.open("a.txt")) as file, pytest.raises(OSError, match="CRC"):
        file.read(1_000_000)
    source.close()


def test_damaged_contents(tmp_path: Path) -> None:
    path = zipped(tmp_path / "files.zip", **{"a.txt": os.urandom(500)})
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(OSError, match=r"CRC|invalid|incorrect"):
        read(source, "a.txt")
    source.close()


def test_an_unknown_way_of_packing(tmp_path: Path) -> None:
    path = zipped(tmp_path / "files.zip", **{"a.txt": b"x"})
    data = bytearray(path.read_bytes())
    data[8] = 99
    data[data.index(b"PK\1\2") + 10] = 99
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(OSError, match="compression"):
        source.open("a.txt")
    source.close()


def test_refusals(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing") == "files_missing"
    text = tmp_path / "a.txt"
    text.write_text("hello")
    assert refusal(text) == "files_kind_unknown"
    cut = tmp_path / "cut.zip"
    cut.write_bytes(zipped(tmp_path / "whole.zip", a=b"x").read_bytes()[:20])
    assert refusal(cut) == "files_zip_damaged"
    many = zipped(tmp_path / "many.zip", **{f"{i}": b"" for i in range(4)})
    assert refusal(many, FEW) == "files_too_many"
    large = zipped(tmp_path / "large.zip", a=os.urandom(10_001))
    assert refusal(large, FEW) == "files_zip_size"
    bomb = zipped(tmp_path / "bomb.zip", a=bytes(9_000))
    assert refusal(bomb, FEW) == "files_zip_ratio"
    assert refusal(tmp_path / "bomb.zip", Limits(zip_ratio=5, zip_ratio_from=100)) == "files_zip_ratio"


def test_a_zip_whose_list_claims_to_be_huge(tmp_path: Path) -> None:
    path = zipped(tmp_path / "files.zip", a=b"x")
    data = bytearray(path.read_bytes())
    end = data.index(b"PK\5\6")
    struct.pack_into("<L", data, end + 12, 0xFFFFFFF0)
    path.write_bytes(data)
    assert refusal(path) == "files_zip_damaged"

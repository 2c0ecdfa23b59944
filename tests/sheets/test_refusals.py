from __future__ import annotations

import os
import zipfile
from contextlib import suppress

import pytest

from rowmill.domain.errors import SheetError
from rowmill.sheets.limits import Limits

from .conftest import read, refusal

OLE = bytes.fromhex("D0CF11E0A1B11AE1")


def test_no_such_file(tmp_path):
    path = tmp_path / "none.xlsx"
    assert refusal(path) == ("sheet_missing", {"path": str(path)})


def test_a_folder(tmp_path):
    assert refusal(tmp_path) == ("sheet_is_folder", {"path": str(tmp_path)})


def test_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    assert refusal(tmp_path / "pipe.csv")[0] == "sheet_kind_unknown"


NOBODY = 65534


def test_no_permission(file):
    path = file("a.csv", b"a\n1\n")
    path.chmod(0)
    own = os.geteuid()
    try:
        if own == 0:
            os.seteuid(NOBODY)  # root reads everything
        assert refusal(path)[0] == "sheet_unreadable"
    finally:
        os.seteuid(own)


@pytest.mark.parametrize("name", ["a.xlsx", "a.csv", "a.jsonl", "a.ods", "a.foo"])
def test_an_empty_file(file, name):
    assert refusal(file(name, b"")) == ("sheet_empty", {})


def test_an_encrypted_workbook(file):
    padding = b"\0" * (1 << 20)
    content = OLE + padding[:-20] + "EncryptedPackage".encode("utf-16-le") + padding
    assert refusal(file("a.xlsx", content)) == ("sheet_encrypted", {})


def test_an_old_workbook(file, book):
    assert refusal(file("a.xlsx", OLE + b"\0" * 5000)) == ("sheet_xls", {})
    assert refusal(file("a.XLS", b"a,b\n1,2\n")) == ("sheet_xls", {})
    assert refusal(book({"A1": "a"}, "really.xlsx").rename(file("b.xls", b""))) == ("sheet_xls", {})


def _zip(path, names: dict[str, bytes]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return path


def test_macros(tmp_path, file):
    path = _zip(tmp_path / "a.xlsx", {"xl/workbook.xml": b"x", "xl/vbaProject.bin": b"x"})
    assert refusal(path) == ("sheet_macros", {})
    assert refusal(file("a.xlsm", b"PK\x03\x04")) == ("sheet_macros", {})


def test_binary_workbooks(tmp_path, file):
    assert refusal(_zip(tmp_path / "a.xlsx", {"xl/workbook.bin": b"x"})) == ("sheet_xlsb", {})
    assert refusal(file("a.xlsb", b"PK\x03\x04")) == ("sheet_xlsb", {})


@pytest.mark.parametrize("name", ["a.xlsx", "a.zip", "a.csv"])
def test_a_zip_without_a_workbook(tmp_path, name):
    path = _zip(tmp_path / name, {"word/document.xml": b"x"})
    assert refusal(path) == ("sheet_not_workbook", {"ending": path.suffix})


def test_text_called_a_workbook(file):
    assert refusal(file("a.xlsx", b"<html></html>")) == ("sheet_not_workbook", {"ending": ".xlsx"})


@pytest.mark.parametrize("name", ["a.pdf", "a.json", "a"])
def test_an_unknown_kind(file, name):
    path = file(name, b"%PDF-1.4 ...")
    assert refusal(path) == ("sheet_kind_unknown", {"ending": path.suffix})


def test_a_zip_bomb(tmp_path):
    path = _zip(tmp_path / "a.xlsx", {"xl/workbook.xml": b"x", "xl/worksheets/sheet1.xml": b" " * (60 << 20)})
    code, params = refusal(path)
    assert (code, params["limit"]) == ("sheet_zip_ratio", 200)
    code, params = refusal(path, limits=Limits(zip_bytes=1 << 20))
    assert code == "sheet_zip_size"


def test_too_many_entries(tmp_path):
    path = _zip(tmp_path / "a.xlsx", {"xl/workbook.xml": b"x"} | {f"x{n}": b"" for n in range(2000)})
    assert refusal(path) == ("sheet_zip_entries", {"found": 2001, "limit": 2000})


def test_a_zip_that_lies_about_its_list_of_entries(book):
    content = bytearray(book({"A1": "a"}).read_bytes())
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = (1 << 30).to_bytes(4, "little")
    book({"A1": "a"}).write_bytes(content)
    assert refusal(book({"A1": "a"}, "b.xlsx").with_name("book.xlsx"))[0] == "sheet_damaged"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_workbook_cut_short(book, share):
    path = book({"A1": "a", "A2": 1})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert refusal(path)[0] == "sheet_damaged"


def test_a_workbook_with_broken_parts(tmp_path):
    path = _zip(tmp_path / "a.xlsx", {"xl/workbook.xml": b"<workbook", "[Content_Types].xml": b"no"})
    assert refusal(path)[0] in {"sheet_damaged", "sheet_empty"}


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_never_raise_anything_else(book, seed):
    path = book({"A1": "a", "A2": 1, "A3": "#N/A", "B3": "text"})
    content = bytearray(path.read_bytes())
    for step in range(6):
        content[(seed * 7919 + step * 104_729) % len(content)] ^= 0xFF
    path.write_bytes(content)
    with suppress(SheetError):
        read(path)


def test_a_billion_laughs(book):
    path = book({"A1": "a", "A2": "b"})
    laughs = '<!DOCTYPE x [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{("&" + chr(97 + n) + ";") * 10}">' for n in range(9)
    )
    xml = f'<?xml version="1.0"?>{laughs}]><sst count="1"><si><t>&j;</t></si></sst>'
    target = path.with_name("laughs.xlsx")
    with zipfile.ZipFile(path) as old:
        _zip(target, {name: old.read(name) for name in old.namelist()} | {"xl/sharedStrings.xml": xml.encode()})
    with suppress(SheetError):
        assert len(str(read(target)[1])) < 1000


def test_a_file_too_big(file):
    found = refusal(file("a.csv", b"a\n" + b"1\n" * 100), limits=Limits(file_bytes=100))
    assert found == ("sheet_file_too_big", {"size": 202, "limit": 100})

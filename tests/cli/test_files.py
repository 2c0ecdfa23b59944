"""Files as cells, from the command line, on real files and sockets."""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from pathlib import Path

import openpyxl
import pytest

from rowmill.testing.fake_dify import FakeDify, Fault, Serving, serve
from tests.cli.calling import Called, Caller

MB = 1024 * 1024


@pytest.fixture(autouse=True)
def _key(rowmill: Caller) -> None:
    rowmill.environ["ROWMILL_API_KEY"] = "app-files"


@pytest.fixture
def docs(folder: Path) -> Path:
    """A folder with some files."""
    docs = Path("docs")
    (docs / "in").mkdir(parents=True)
    for name, content in {"a.txt": "first", "b.md": "second", "in/c.pdf": "third", "报告 1.docx": "fourth"}.items():
        (docs / name).write_text(content, "utf-8")
    return docs


def sheet_of(*rows: dict[str, object], path: str = "rows.jsonl") -> Path:
    file = Path(path)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def lines(path: str = "out.jsonl") -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def run(rowmill: Caller, dify: Serving, sheet: Path, *args: object) -> Called:
    return rowmill("run", sheet, "--base-url", dify.url, "-o", "out.jsonl", "--json", *args)


def names_sent(dify: Serving) -> list[str]:
    return sorted(upload.name for upload in dify.fake.ledger.uploads)


def test_links_and_names_in_one_sheet(rowmill: Caller, dify: Serving, docs: Path) -> None:
    sheet = sheet_of(
        {"doc": "a.txt", "docs": "b.md, in/c.pdf\n报告 1.docx", "query": "all"},
        {"doc": "https://example.com/x.pdf", "docs": "c.pdf"},
    )
    called = run(rowmill, dify, sheet, "--files", docs)
    assert called.code == 0, called.text
    one, two = lines()
    shown = {"transfer_method": "local_file", "type": "document"}
    assert one["inputs"]["doc"] == {**shown, "name": "a.txt"}
    assert [file["name"] for file in one["inputs"]["docs"]] == ["b.md", "in/c.pdf", "报告 1.docx"]
    assert two["inputs"]["doc"]["url"] == "https://example.com/x.pdf"
    assert [file["filename"] for file in one["outputs"]["docs"]] == ["b.md", "c.pdf", "报告 1.docx"]
    assert {upload.name for upload in dify.fake.ledger.uploads} == {"a.txt", "b.md", "c.pdf", "报告 1.docx"}
    for run_ in dify.fake.ledger.runs:
        files = [run_.inputs["doc"], *run_.inputs["docs"]]
        assert all(set(file) <= {"transfer_method", "upload_file_id", "type", "url"} for file in files)


def test_a_file_is_uploaded_once_for_each_user(rowmill: Caller, dify: Serving, docs: Path) -> None:
    (docs / "same.txt").write_text("first")
    sheet = sheet_of(*[{"doc": "a.txt", "query": f"q{i}"} for i in range(30)], {"doc": "same.txt"})
    assert run(rowmill, dify, sheet, "--files", docs, "-c", "3").code == 0
    sent = Counter((upload.user, upload.sha256, upload.name) for upload in dify.fake.ledger.uploads)
    assert set(sent.values()) == {1}
    assert len({upload.user for upload in dify.fake.ledger.uploads if upload.name == "a.txt"}) < 15
    users = {run_.user for run_ in dify.fake.ledger.runs}
    assert {upload.user for upload in dify.fake.ledger.uploads} == users
    kept = [path for path in (rowmill.data / "files").iterdir() if path.is_file()]
    assert len(kept) == 1, "the same bytes are kept once"


def test_the_folder_may_go_once_the_sheet_is_checked(rowmill: Caller, dify: Serving, docs: Path) -> None:
    sheet = sheet_of(*[{"doc": "a.txt", "query": f"q{i}"} for i in range(3)])
    called = run(rowmill, dify, sheet, "--files", docs, "--sample", "1")
    assert lines()[0]["status"] == "succeeded"
    for path in sorted(docs.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    again = rowmill("run", "--resume", called.json["batch"], "-o", "out.jsonl", "--json")
    assert (again.code, again.json["succeeded"]) == (0, 3)


# cells of one row -> what is found wrong with it (code, and a word of the text)
WRONG = {
    "missing": ({"doc": "qqqqqqqqq.zz"}, "file_missing", "qqqqqqqqq.zz"),
    "nearly": ({"doc": "aa.txt"}, "file_missing_near", "near: a.txt"),
    "ambiguous": ({"doc": "twice.txt"}, "file_ambiguous", "x/twice.txt"),
    "too large": ({"doc": "large.txt"}, "file_too_large", "15.1 MB"),
    "image too large": ({"doc": "large.png"}, "file_too_large", "at most 10 MB"),
    "wrong kind": ({"doc": "song.mp3"}, "file_kind_refused", ".mp3"),
    "too many": ({"doc": "a.txt", "docs": "a.txt,b.md,c.pdf,a.txt"}, "file_too_many", "at most 3"),
    "two for one": ({"doc": "a.txt,b.md"}, "file_only_one", "found 2"),
    "outside": ({"doc": "../../etc/passwd"}, "file_missing", "passwd"),
    "a link out of the folder": ({"doc": "confidential"}, "file_missing", "confidential"),
}


@pytest.mark.parametrize(("cells", "code", "word"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_and_nothing_is_sent(
    rowmill: Caller, dify: Serving, docs: Path, cells: dict, code: str, word: str
) -> None:
    for name in ("x/twice.txt", "y/twice.txt", "song.mp3"):
        (docs / name).parent.mkdir(exist_ok=True)
        (docs / name).write_text("x")
    for name, size in (("large.txt", 15 * MB + 1), ("large.png", 10 * MB + 1)):
        with (docs / name).open("wb") as file:
            file.truncate(size)
    Path("secret").write_text("of this computer")
    (docs / "confidential").symlink_to(Path("secret").absolute())
    called = run(rowmill, dify, sheet_of({"doc": "a.txt"}, cells), "--files", docs)
    assert called.code == 2
    (problem,) = called.json["problems"]
    assert (problem["code"], problem["row"], problem["column"]) == (code, 3, list(cells)[-1])
    told = rowmill("run", "rows.jsonl", "--base-url", dify.url, "-o", "out.jsonl", "--files", docs)
    assert word in told.err
    assert dify.fake.ledger.uploads == []
    assert list((rowmill.data / "files").glob("*")) == [], "what was copied for nothing is gone"


def test_an_empty_file_is_worth_a_warning(rowmill: Caller, dify: Serving, docs: Path) -> None:
    (docs / "empty.txt").touch()
    called = rowmill("run", sheet_of({"doc": "empty.txt"}), "--base-url", dify.url, "-o", "o.jsonl", "--files", docs)
    assert called.code == 0
    assert "“empty.txt” is empty" in called.err
    assert dify.fake.ledger.uploads[0].size == 0


def test_names_without_a_folder(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = rowmill("run", sheet_of({"doc": "a.txt"}), "--base-url", dify.url, "-o", "out.jsonl")
    assert called.code == 2
    assert "--files" in called.err


def test_links_only_and_uploads_only(rowmill: Caller, dify: Serving, docs: Path) -> None:
    form = dify.fake.apps["app-files"].form
    form[0]["file"]["allowed_file_upload_methods"] = ["remote_url"]
    form[1]["file-list"]["allowed_file_upload_methods"] = ["local_file"]
    called = run(rowmill, dify, sheet_of({"doc": "a.txt", "docs": "https://e.com/x.pdf"}), "--files", docs)
    assert [problem["code"] for problem in called.json["problems"]] == ["file_uploads_refused", "file_links_refused"]


def test_a_constant_names_a_file_for_all_rows(rowmill: Caller, dify: Serving, docs: Path) -> None:
    sheet = sheet_of({"query": "one"}, {"query": "two"})
    called = run(rowmill, dify, sheet, "--files", docs, "--set", "doc=a.txt", "-c", "1")
    assert (called.code, set(names_sent(dify))) == (0, {"a.txt"})
    wrong = run(rowmill, dify, sheet, "--files", docs, "--set", "doc=qqqqqqqqq.zz", "--new")
    assert [problem["code"] for problem in wrong.json["problems"]] == ["file_missing"]


def test_a_json_object_that_looks_like_a_placeholder(rowmill: Caller, dify: Serving, docs: Path) -> None:
    rowmill.environ["ROWMILL_API_KEY"] = "app-echo"
    look = {"rowmill_file": "a" * 64, "transfer_method": "local_file", "type": "document", "name": "../x"}
    sheet = sheet_of({"query": "x", "obj": {**look, "type": 1}}, {"query": "y", "obj": look})
    assert run(rowmill, dify, sheet, "--rows", "1").code == 0
    assert dify.fake.ledger.runs[0].inputs["obj"] == {**look, "type": 1}
    assert run(rowmill, dify, sheet, "--files", docs, "--new").json["problems"][0]["code"] == "file_missing"
    assert run(rowmill, dify, sheet, "--rows", "2", "--new").code == 1, "the row alone fails"
    assert lines()[0]["cause"] == "file_gone"


# ── zips ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_from_a_zip(rowmill: Caller, dify: Serving, folder: Path) -> None:
    with zipfile.ZipFile("files.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("top/a.txt", "first")
        archive.writestr("top/报告.pdf", "second")
        archive.writestr("__MACOSX/top/._a.txt", "litter")
        archive.writestr("../../evil.txt", "third")
    sheet = sheet_of({"doc": "a.txt", "docs": "报告.pdf"}, {"doc": "evil.txt"})
    assert run(rowmill, dify, sheet, "--files", "files.zip").code == 0
    assert names_sent(dify) == ["a.txt", "evil.txt", "报告.pdf"]
    assert {path.name for path in Path().iterdir()} == {"files.zip", "rows.jsonl", "out.jsonl", "out-files"}


REFUSED = {
    "missing": ("nothing.zip", "files_missing"),
    "no zip": ("rows.jsonl", "files_kind_unknown"),
    "damaged": ("damaged.zip", "files_zip_damaged"),
    "encrypted": ("encrypted.zip", "files_zip_encrypted"),
    "bomb": ("bomb.zip", "files_zip_ratio"),
}


@pytest.mark.parametrize(("name", "code"), REFUSED.values(), ids=REFUSED)
def test_zips_that_are_refused(rowmill: Caller, dify: Serving, folder: Path, name: str, code: str) -> None:
    Path("damaged.zip").write_bytes(b"PK\x03\x04" + os.urandom(200))
    with zipfile.ZipFile("encrypted.zip", "w") as archive:
        archive.writestr("a.txt", "first")
    data = bytearray(Path("encrypted.zip").read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    Path("encrypted.zip").write_bytes(data)
    with (
        zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros.txt", "w") as file,
    ):
        for _ in range(101):
            file.write(bytes(MB))
    called = run(rowmill, dify, sheet_of({"doc": "a.txt"}), "--files", name)
    assert (called.code, called.json["error"]["code"]) == (2, code)
    assert dify.fake.ledger.runs == []


def test_a_damaged_file_in_a_zip_is_a_problem_of_its_row(rowmill: Caller, dify: Serving, folder: Path) -> None:
    with zipfile.ZipFile("files.zip", "w") as archive:
        archive.writestr("a.txt", "first")
        archive.writestr("b.txt", "second")
    Path("files.zip").write_bytes(Path("files.zip").read_bytes().replace(b"second", b"secoNd"))
    called = run(rowmill, dify, sheet_of({"doc": "a.txt"}, {"doc": "b.txt"}), "--files", "files.zip")
    (problem,) = called.json["problems"]
    assert (problem["code"], problem["row"], problem["letter"]) == ("file_unreadable", 3, "A")
    assert list((rowmill.data / "files").glob("*")) == []


# ── output files ────────────────────────────────────────────────────────────────────────────────────────────────────


def report(rowmill: Caller, dify: Serving, *rows: dict, output: str = "out.jsonl") -> Called:
    rowmill.environ["ROWMILL_API_KEY"] = "app-report"
    return rowmill("run", sheet_of(*rows), "--base-url", dify.url, "-o", output, "--json")


def test_output_files_are_beside_the_results(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = report(rowmill, dify, {"query": "one", "pages": 2}, {"query": "two", "size": 5 * MB})
    assert (called.code, called.json["output_files"], called.json["output_files_lost"]) == (0, 4, 0)
    one, two = lines()
    assert one["files"] == {
        "page 1.md": "out-files/2/page 1.md",
        "page 2.md": "out-files/2/page 2.md",
        "report.txt": "out-files/2/report.txt",
    }
    assert Path("out-files/2/page 2.md").read_text() == "# one 2\n"
    assert Path(two["files"]["report.txt"]).stat().st_size == 5 * MB
    assert one["outputs"]["report"]["url"].startswith(dify.url.removesuffix("/v1") + "/files/tools/")
    assert not any(download.authorized for download in dify.fake.links.downloads)


@pytest.mark.parametrize("output", ["out.xlsx", "out.csv"])
def test_cells_show_where_output_files_are(rowmill: Caller, dify: Serving, folder: Path, output: str) -> None:
    called = report(rowmill, dify, {"query": "one", "pages": 2}, output=output)
    assert called.code == 0
    assert "out-files/2/report.txt" in called_cells(output)
    assert "out-files/2/page 1.md\nout-files/2/page 2.md" in called_cells(output)
    shown = rowmill("show", called.json["batch"])
    assert "Output files: 3" in shown.out
    Path("out-files/2/report.txt").unlink()
    exported = rowmill("export", called.json["batch"], "-o", output)
    assert exported.code == 0
    assert Path("out-files/2/report.txt").read_text() == "report on one\n"


def called_cells(path: str) -> list[object]:
    if path.endswith(".csv"):
        import csv

        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return [cell for row in csv.reader(file) for cell in row]
    rows = openpyxl.load_workbook(path).worksheets[0].iter_rows(values_only=True)
    return [cell for row in rows for cell in row]


def test_rows_without_files_show_none(rowmill: Caller, dify: Serving, folder: Path) -> None:
    rowmill.environ["ROWMILL_API_KEY"] = "app-echo"
    called = rowmill("run", sheet_of({"query": "x"}), "--base-url", dify.url, "-o", "out.jsonl", "--json")
    assert called.code == 0
    assert "files" not in lines()[0]
    assert not Path("out-files").exists()


@pytest.mark.parametrize("files_url", ["", "http://api.invalid:5001", "http://169.254.169.254"])
def test_links_without_a_host_or_with_an_internal_one(rowmill: Caller, folder: Path, files_url: str) -> None:
    with serve(FakeDify(hold_ms=0, celery_slots=0, files_url=files_url)) as dify:
        called = report(rowmill, dify, {"query": "one"})
        assert called.json["output_files"] == 1
        assert Path("out-files/2/report.txt").read_text() == "report on one\n"


def test_a_link_that_is_dead(rowmill: Caller, folder: Path) -> None:
    with serve(FakeDify(hold_ms=0, celery_slots=0, link_life_s=0.0)) as dify:
        called = report(rowmill, dify, {"query": "one"})
        assert (called.code, called.json["output_files"], called.json["output_files_lost"]) == (0, 0, 1)
        (row,) = lines()
        assert (row["status"], row["files"]) == ("succeeded", {"report.txt": None})
        assert "could not be fetched" in rowmill("show", called.json["batch"]).out


HOSTILE = {
    "../../../etc/passwd": "passwd",
    "..": "file",
    "a\0b.txt": "a_b.txt",
    "CON.txt": "_CON.txt",
    "C:\\Windows\\x.dll": "x.dll",
    "x" * 4096 + ".pdf": "x" * 176 + ".pdf",
    "\u202egpj.exe": "_gpj.exe",
}


def test_hostile_names(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = report(rowmill, dify, *[{"query": f"q{i}", "name": name} for i, name in enumerate(HOSTILE)])
    assert called.code == 0, called.text
    found = [
        path.relative_to("out-files").as_posix() for path in sorted(Path("out-files").rglob("*")) if path.is_file()
    ]
    # The fake's inputs lose their NULs, as Dify's do.
    names = [name.replace("a_b", "ab") for name in HOSTILE.values()]
    assert sorted(found) == sorted(f"{i + 2}/{name}" for i, name in enumerate(names))
    assert {path.name for path in Path().iterdir()} == {"rows.jsonl", "out.jsonl", "out-files", "out-problems.csv"}


def test_the_same_name_twice(rowmill: Caller, dify: Serving, folder: Path) -> None:
    report(rowmill, dify, {"query": "one", "pages": 1, "name": "Page 1.md"})
    assert {path.name for path in Path("out-files/2").iterdir()} == {"page 1.md", "Page 1 (2).md"}


def test_faults_that_pass(rowmill: Caller, dify: Serving, folder: Path) -> None:
    dify.fake.faults.add(Fault("download_status", params={"code": 503}), Fault("download_cut"))
    called = report(rowmill, dify, {"query": "one"})
    assert called.json["output_files"] == 1
    assert len(dify.fake.links.downloads) == 3


def test_output_files_that_cannot_be_written_beside(rowmill: Caller, dify: Serving, folder: Path) -> None:
    Path("out-files").touch()
    called = report(rowmill, dify, {"query": "one"})
    assert (called.code, called.json["error"]["code"]) == (3, "output_files_unwritable")
    assert not Path("out.jsonl").exists()
    Path("out-files").unlink()
    batch = rowmill("batches", "--json").json[0]["id"]
    assert rowmill("export", batch, "-o", "out.jsonl").code == 0
    assert lines()[0]["files"] == {"report.txt": "out-files/2/report.txt"}

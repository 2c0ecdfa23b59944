"""Whatever is wrong: a clear error in both languages, exit 2, and nothing sent."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest
import xlsxwriter

from rowmill.testing.fake_dify import Serving
from tests.cli.calling import Caller

ENCRYPTED = bytes.fromhex("D0CF11E0A1B11AE1") + b"\x00" * 600 + "EncryptedPackage".encode("utf-16-le")
OLE = bytes.fromhex("D0CF11E0A1B11AE1")


def good(folder: Path) -> Path:
    path = folder / "good.csv"
    path.write_text("query,note\nhello,x\n", "utf-8")
    return path


def csv(text: str | bytes, name: str = "sheet.csv") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return make


def missing(folder: Path) -> Path:
    return folder / "none.xlsx"


def empty_workbook(folder: Path) -> Path:
    path = folder / "empty.xlsx"
    openpyxl.Workbook().save(path)
    return path


def workbook(folder: Path) -> Path:
    path = folder / "good.xlsx"
    book = openpyxl.Workbook()
    book.active.append(["query"])
    book.active.append(["hello"])
    book.save(path)
    return path


def uncalculated(folder: Path) -> Path:
    path = folder / "formulas.xlsx"
    book = openpyxl.Workbook()
    book.active.append(["query", "note"])
    book.active.append(['="a"&"b"', "x"])
    book.active.append(['="c"', None])
    book.save(path)
    return path


def far_corner(folder: Path) -> Path:
    path = folder / "corner.xlsx"
    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet()
        sheet.write(0, 0, "query")
        sheet.write(1_048_575, 16_383, "x")
    assert path.stat().st_size < 8_000
    return path


def zip_of_nothing(folder: Path) -> Path:
    path = folder / "strange.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "x")
    return path


LONG = f"query,note\n{'x' * 300},y\n"

# name -> (sheet, more arguments, error code)
SHEETS: dict[str, tuple[Callable[[Path], Path], list[str], str]] = {
    "missing file": (missing, [], "sheet_missing"),
    "empty file": (csv(""), [], "sheet_empty"),
    "empty sheet": (empty_workbook, [], "sheet_empty"),
    "no rows": (csv("query\n"), [], "sheet_no_rows"),
    "only blank rows": (csv("query,note\n,\n,\n"), [], "sheet_no_rows"),
    "wrong sheet name": (workbook, ["--sheet", "Nope"], "sheet_name_unknown"),
    "sheet name for a csv": (good, ["--sheet", "Nope"], "sheet_name_unknown"),
    "password": (csv(ENCRYPTED, "secret.xlsx"), [], "sheet_encrypted"),
    "old xls": (csv(OLE + b"\x00" * 600, "old.xls"), [], "sheet_xls"),
    "xls that is a csv": (csv("query\nx\n", "list.xls"), [], "sheet_xls"),
    "far corner": (far_corner, [], "sheet_too_"),
    "zip without a workbook": (zip_of_nothing, [], "sheet_not_workbook"),
    "csv with NUL": (csv(b"query,note\na\x00b,c\n"), [], "csv_nul"),
    "header twice": (csv("query,query\na,b\n"), [], "header_twice"),
    "column missing": (csv("note\na\n"), [], "required_not_mapped"),
    "too long": (csv(LONG), [], "checks_failed"),
    "folder": (lambda folder: folder, [], "sheet_is_folder"),
    "unknown ending": (csv("query\nx\n", "rows.docx"), [], "sheet_kind_unknown"),
    "unknown field in --map": (good, ["--map", "nope=query"], "field_unknown"),
    "unknown column in --map": (good, ["--map", "query=nope"], "column_unknown"),
    "--map without =": (good, ["--map", "query"], "pair_wrong"),
    "--set twice": (good, ["--set", "n=1", "--set", "n=2"], "pair_twice"),
    "--set that does not fit": (good, ["--set", "n=many"], "checks_failed_set"),
    "--set and --map": (good, ["--set", "n=1", "--map", "n=note"], "field_twice"),
    "a field by two of its names": (good, ["--set", "query=1", "--set", "Query=2"], "field_twice"),
    "folder that cannot be written": (good, ["-o", "/proc/out.xlsx"], "output_not_writable"),
    "data folder that cannot be made": (good, ["--data-dir", "/proc/rowmill"], "data_dir_unusable"),
    "data folder that is a file": (good, ["--data-dir", "good.csv"], "data_dir_unusable"),
    "formula without a value": (uncalculated, [], "checks_failed"),
    "--rows backwards": (good, ["--rows", "5-2"], "rows_wrong"),
    "--rows beyond the end": (good, ["--rows", "50-60"], "rows_beyond_end"),
    "unknown batch": (good, ["--resume", "zzzz"], "batch_unknown"),
    "unknown option": (good, ["--colour", "red"], "no_such_option"),
    "option without value": (good, ["--rows"], "option_needs_value"),
    "concurrency 0": (good, ["--concurrency", "0"], "bad_value_whole"),
    "sample 0": (good, ["--sample", "0"], "bad_value_whole_from"),
    "nearly an option": (good, ["--row", "1"], "no_such_option_near"),
    "two sheets": (good, ["other.csv"], "too_many_arguments"),
    "jsonl with a bad line": (csv('{"query": "x"}\n[]\n', "rows.jsonl"), [], "jsonl_bad_line"),
}  # fmt: skip


def check(called: object, code: str, chinese: bool) -> None:
    assert called.code == 2, called.text  # type: ignore[attr-defined]
    error = called.json["error"]  # type: ignore[attr-defined]
    assert error["code"].startswith(code)
    assert bool(re.search(r"[\u4e00-\u9fff]", error["message"])) == chinese
    assert "{" not in error["message"].replace('{"', "")
    assert "Traceback" not in called.text  # type: ignore[attr-defined]


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("name", SHEETS)
def test_bad_sheet(name: str, lang: str, rowmill: Caller, dify: Serving, folder: Path) -> None:
    make, more, code = SHEETS[name]
    sheet = make(folder)
    called = rowmill("run", sheet, "--base-url", dify.url, "-o", "out.xlsx", "--json", "--lang", lang, *more)
    check(called, code, lang == "zh")
    assert dify.fake.ledger.runs == []
    assert not Path("out.xlsx").exists()
    assert rowmill("batches", "--json").json == [], "nothing half done is left behind"


# name -> (base URL, key, error code)
APPS = {
    "not a URL": ("nonsense", "app-echo", "app_url_invalid"),
    "another scheme": ("ftp://{host}/v1", "app-echo", "app_url_invalid"),
    "nobody there": ("http://127.0.0.1:1/v1", "app-echo", "app_unreachable"),
    "unknown host": ("http://no-such-host.invalid/v1", "app-echo", "app_unreachable"),
    "no /v1": ("http://{host}", "app-echo", "app_url_without_v1"),
    "another path": ("http://{host}/elsewhere/v1", "app-echo", "app_not_dify"),
    "wrong key": ("http://{host}/v1", "app-wrong", "app_key_wrong"),
    "key with a space": ("http://{host}/v1", "app echo", "app_key_malformed"),
    "key of another app": ("http://{host}/v1", "app-slow", "required_not_mapped"),
    "key of an unknown mode": ("http://{host}/v1", "app-strange", "app_mode_unsupported"),
    "switched off": ("http://{host}/v1", "app-off", "app_forbidden"),
    "not published": ("http://{host}/v1", "app-unpublished", "app_unpublished"),
}


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("name", APPS)
def test_bad_app(name: str, lang: str, rowmill: Caller, dify: Serving, folder: Path) -> None:
    url, key, code = APPS[name]
    apps = dify.fake.apps
    apps["app-strange"] = type(apps["app-echo"])("app-strange", "strange", mode="rag-pipeline")
    apps["app-off"] = type(apps["app-echo"])("app-off", "off", enabled=False)
    sheet = good(folder)
    base = url.format(host=f"127.0.0.1:{dify.port}")
    called = rowmill("run", sheet, "--base-url", base, "-o", "out.xlsx", "--json", "--lang", lang, ROWMILL_API_KEY=key)
    check(called, code, lang == "zh")
    assert key not in called.text
    assert dify.fake.ledger.runs == []


# arguments -> error code
USES = {
    "nope": "no_such_command",
    "run": "sheet_argument_missing",
    "run good.csv": "url_missing",
    "run good.csv --base-url http://x/v1 -o out.pdf": "output_ending",
    "run good.csv --base-url http://x/v1 -o none/out.xlsx": "output_folder_missing",
    "run good.csv --base-url http://x/v1 -o good.csv": "output_is_sheet",
    "show": "missing_parameter",
    "show zzzz": "batch_unknown",
    "export zzzz -o out.xlsx": "batch_unknown",
    "export zzzz": "missing_parameter",
    "retry zzzz": "batch_unknown",
    "template --base-url nonsense -o t.xlsx": "app_url_invalid",
    "template --base-url http://127.0.0.1:1/v1 -o t.csv": "template_ending",
    "fake-dify --profile 0.1": "profile_unknown",
    "fake-dify --port seven": "bad_value_whole",
    "fake-dify --fail-rate 2": "bad_value_number",
}


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("line", USES)
def test_bad_command_line(line: str, lang: str, rowmill: Caller, folder: Path) -> None:
    good(folder)
    check(rowmill(*line.split(), "--json", "--lang", lang), USES[line], lang == "zh")


def test_missing_key(rowmill: Caller, folder: Path) -> None:
    called = rowmill("run", good(folder), "--base-url", "http://x/v1", ROWMILL_API_KEY="")
    assert called.code == 2
    assert "ROWMILL_API_KEY" in called.err


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("ROWMILL_CONCURENCY", "4", "setting_unknown"),
        ("ROWMILL_CONCURRENCY", "many", "setting_wrong"),
        ("ROWMILL_CONCURRENCY", "0", "setting_wrong"),
        ("ROWMILL_LOST_WINDOW", "-1", "setting_wrong"),
    ],
)
def test_bad_setting(name: str, value: str, code: str, rowmill: Caller) -> None:
    called = rowmill("batches", "--json", **{name: value})
    assert (called.code, called.json["error"]["code"]) == (2, code)


def test_key_in_the_command_line_is_warned_of(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = rowmill("doctor", "--base-url", dify.url, "--api-key", "app-echo")
    assert called.code == 0
    assert "ROWMILL_API_KEY" in called.err
    assert "app-echo" not in called.text


def test_all_problems_at_once(rowmill: Caller, dify: Serving, folder: Path) -> None:
    lines = [f"{'x' * 60},,fr,{n}" for n in range(30)]
    sheet = csv("query,note,lang,n\n" + "\n".join(lines) + "\n")(folder)
    called = rowmill("run", sheet, "--base-url", dify.url, "-o", "out.xlsx")
    assert called.code == 2
    assert "rows 2–31, column A “query”: at most" in called.err, "what is alike stands on one line"
    assert "rows 2–31, column C “lang”: “fr”" in called.err
    assert "more" not in called.err
    listed = Path("out-problems.csv").read_text("utf-8-sig").splitlines()
    assert len(listed) == 1 + 60
    assert dify.fake.ledger.runs == []
    program = rowmill("run", sheet, "--base-url", dify.url, "-o", "out.xlsx", "--json").json
    assert program["error"]["code"] == "checks_failed"
    assert (program["errors"], program["bad_rows"]) == (60, 30)
    assert {p["code"] for p in program["problems"]} == {"too_long", "option_unknown"}


def test_problems_that_differ_are_listed_one_by_one(rowmill: Caller, dify: Serving, folder: Path) -> None:
    sheet = csv("query,n\n" + "".join(f"a,x{n}\n" for n in range(30)))(folder)
    called = rowmill("run", sheet, "--base-url", dify.url, "-o", "out.xlsx", "--lang", "zh")
    assert called.err.count("列“n”：应为") == 20
    assert "另有 10 处" in called.err

"""The main job from the command line, on real files and sockets."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import openpyxl
import pytest

from rowmill.testing.fake_dify import FakeDify, Fault, Serving, serve
from tests.cli.calling import Caller


def sheet_of(rows: int, path: str = "rows.csv") -> Path:
    file = Path(path)
    file.write_text("id,query,note\n" + "".join(f"{i:03},row {i},n{i}\n" for i in range(rows)), "utf-8")
    return file


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def cells(path: str) -> list[tuple]:
    return list(openpyxl.load_workbook(path).worksheets[0].iter_rows(values_only=True))


SUMMARY = {"batch", "total", "succeeded", "partial", "failed", "unknown", "stopped", "tokens", "seconds", "output"}
LINE = {
    "row",
    "status",
    "cells",
    "inputs",
    "outputs",
    "error",
    "cause",
    "tokens",
    "price",
    "currency",
    "seconds",
    "attempts",
    "run_id",
    "workflow_id",
    "asks",
    "conversation_id",
}


def test_run_to_jsonl(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = rowmill("run", sheet_of(25), "--base-url", dify.url, "-o", "out.jsonl", "--json")
    assert called.code == 0
    assert called.json.keys() >= SUMMARY
    assert (called.json["total"], called.json["succeeded"]) == (25, 25)
    rows = lines("out.jsonl")
    assert [row["row"] for row in rows] == list(range(2, 27))
    assert all(set(row) == LINE for row in rows)
    assert rows[3]["inputs"] == {"query": "row 3", "note": "n3"}
    assert rows[3]["cells"] == {"id": "003", "query": "row 3", "note": "n3"}
    assert rows[3]["outputs"]["query"] == "row 3"
    assert rows[3]["run_id"] in {run.run_id for run in dify.fake.ledger.runs}
    (batch,) = rowmill("batches", "--json").json
    assert (batch["id"], batch["state"], batch["total"], batch["done"]) == (called.json["batch"], "completed", 25, 25)


def test_run_to_xlsx_keeps_rows_and_columns(rowmill: Caller, dify: Serving, folder: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["id", "Query *", "n"], ["007", "first", 3.0], [None, None, None], ["NA", "=1+1", 5]):
        book.active.append(row)
    book.active["B4"].data_type = "s"
    book.save("in.xlsx")
    called = rowmill("run", "in.xlsx", "--base-url", dify.url, "-o", "out.xlsx")
    assert called.code == 0
    head, first, blank, last = cells("out.xlsx")
    assert head[:4] == ("id", "Query *", "n", "query")
    assert first[:4] == ("007", "first", 3, "first")
    assert blank == (None,) * len(head)
    assert last[:2] == ("NA", "=1+1")
    assert "output.n" in head, "an output that is named like a column of the sheet is told apart"
    assert first[head.index("status")] == "succeeded"
    formulas = [
        c for row in openpyxl.load_workbook("out.xlsx").worksheets[0].iter_rows() for c in row if c.data_type == "f"
    ]
    assert formulas == []
    assert [run.inputs["n"] for run in dify.fake.ledger.runs] == [3, 5]


def test_run_to_csv(rowmill: Caller, dify: Serving, folder: Path) -> None:
    assert rowmill("run", sheet_of(3), "--base-url", dify.url, "-o", "out.csv").code == 0
    with Path("out.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["000", "001", "002"]
    assert {row["status"] for row in rows} == {"succeeded"}


def test_chinese_results(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = rowmill("run", sheet_of(2), "--base-url", dify.url, "-o", "out.xlsx", "--lang", "zh")
    assert called.code == 0
    assert "成功" in called.out
    head, first, _ = cells("out.xlsx")
    assert first[head.index("状态")] == "成功"


def test_some_fail(rowmill: Caller, dify: Serving, folder: Path) -> None:
    dify.fake.faults.add(Fault("run_failed", match="row 2", times=-1, params={"message": "node_broke"}))
    called = rowmill("run", sheet_of(5), "--base-url", dify.url, "-o", "out.jsonl", "--json")
    assert called.code == 1
    assert (called.json["succeeded"], called.json["failed"]) == (4, 1)
    batch = called.json["batch"]
    shown = rowmill("show", batch)
    assert "the run failed" in shown.out
    assert f"rowmill retry {batch}" in shown.out
    assert rowmill("show", batch, "--json").json["causes"][0]["cause"] == "run_failed"
    dify.fake.faults.clear()
    before = len(dify.fake.ledger.runs)
    again = rowmill("retry", batch, "-o", "again.jsonl", "--json")
    assert (again.code, again.json["succeeded"]) == (0, 5)
    assert len(dify.fake.ledger.runs) == before + 1, "what succeeded is never run again"
    assert [row["attempts"] for row in lines("again.jsonl")] == [1, 1, 2, 1, 1]
    nothing = rowmill("retry", batch, "-o", "again.jsonl")
    assert nothing.code == 0
    assert len(dify.fake.ledger.runs) == before + 1


def test_retry_of_one_cause(rowmill: Caller, dify: Serving, folder: Path) -> None:
    dify.fake.faults.add(
        Fault("run_failed", match="row 1", params={"message": "node_broke"}),
        Fault("run_failed", match="row 3", params={"message": "maximum_context_length"}),
    )
    called = rowmill("run", sheet_of(5), "--base-url", dify.url, "-o", "out.jsonl", "--json")
    batch = called.json["batch"]
    wrong = rowmill("retry", batch, "--cause", "nonsense", "--json")
    assert (wrong.code, wrong.json["error"]["code"]) == (2, "cause_unknown")
    one = rowmill("retry", batch, "--cause", "context_too_long", "-o", "out.jsonl", "--json")
    assert (one.code, one.json["succeeded"], one.json["failed"]) == (1, 4, 1)


def test_unknown_rows_only_by_their_cause(rowmill: Caller, dify: Serving, folder: Path) -> None:
    dify.fake.faults.add(Fault("reset_before", match="row 1"))
    called = rowmill("run", sheet_of(3), "--base-url", dify.url, "-o", "o.jsonl", "--json", ROWMILL_LOST_WINDOW="0")
    assert (called.code, called.json["unknown"]) == (1, 1)
    batch = called.json["batch"]
    assert lines("o.jsonl")[1]["cause"] == "reply_lost"
    shown = rowmill("show", batch).out
    assert "may have been paid for" in shown
    assert rowmill("retry", batch, "-o", "o.jsonl", "--json").json["unknown"] == 1
    again = rowmill("retry", batch, "--cause", "reply_lost", "-o", "o.jsonl", "--json")
    assert (again.code, again.json["succeeded"]) == (0, 3)


def test_rows_set_and_map(rowmill: Caller, dify: Serving, folder: Path) -> None:
    args = ["--rows", "2-3", "--set", "lang=de", "--map", "note=id", "--map", "query=B"]
    called = rowmill("run", sheet_of(10), "--base-url", dify.url, "-o", "out.jsonl", "--json", *args)
    assert (called.code, called.json["total"]) == (0, 2)
    rows = lines("out.jsonl")
    assert [row["row"] for row in rows] == [3, 4]
    assert rows[0]["inputs"] == {"query": "row 1", "note": "001", "lang": "de"}


def test_sample_then_resume(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = rowmill("run", sheet_of(12), "--base-url", dify.url, "-o", "out.xlsx", "--sample", "4", "--json")
    assert (called.code, called.json["succeeded"], called.json["pending"]) == (0, 4, 8)
    assert called.json["reason"] == "sample"
    second = rowmill("run", "rows.csv", "--base-url", dify.url, "-o", "out.xlsx", "--json")
    assert (second.code, second.json["error"]["code"]) == (2, "unfinished_batch")
    assert f"--resume {called.json['batch']}" in second.json["error"]["message"]
    resumed = rowmill("run", "--resume", called.json["batch"], "-o", "out.xlsx", "--json")
    assert (resumed.code, resumed.json["succeeded"]) == (0, 12)
    assert len(dify.fake.ledger.runs) == 12, "no row of the sample is run twice"
    done = rowmill("run", "--resume", called.json["batch"], "-o", "out.xlsx", "--json")
    assert (done.code, len(dify.fake.ledger.runs)) == (0, 12)


def test_new_batch_on_purpose(rowmill: Caller, dify: Serving, folder: Path) -> None:
    first = rowmill("run", sheet_of(4), "--base-url", dify.url, "-o", "o.jsonl", "--sample", "1", "--json").json
    second = rowmill("run", "rows.csv", "--base-url", dify.url, "-o", "o.jsonl", "--new", "--json").json
    assert first["batch"] != second["batch"]
    assert second["succeeded"] == 4


def test_resume_refuses_another_sheet_or_server(rowmill: Caller, dify: Serving, folder: Path) -> None:
    first = rowmill("run", sheet_of(4), "--base-url", dify.url, "-o", "o.jsonl", "--sample", "1", "--json").json
    other = sheet_of(5, "other.csv")
    called = rowmill("run", other, "--resume", first["batch"], "-o", "o.jsonl", "--json")
    assert called.json["error"]["code"] == "resume_other_sheet"
    called = rowmill("run", "--resume", first["batch"], "--base-url", "http://elsewhere/v1", "-o", "o.jsonl", "--json")
    assert called.json["error"]["code"] == "resume_other_url"


def test_resume_with_the_key_of_another_app(rowmill: Caller, dify: Serving, folder: Path) -> None:
    first = rowmill("run", sheet_of(4), "--base-url", dify.url, "-o", "o.jsonl", "--sample", "1", "--json").json
    other = rowmill("run", "--resume", first["batch"], "-o", "o.jsonl", "--json", ROWMILL_API_KEY="app-deadend")
    assert (other.code, other.json["error"]["code"]) == (2, "resume_other_app")
    assert len(dify.fake.ledger.runs) == 1
    dify.fake.apps["app-echo-new-key"] = dify.fake.apps["app-echo"]
    again = rowmill("run", "--resume", first["batch"], "-o", "o.jsonl", "--json", ROWMILL_API_KEY="app-echo-new-key")
    assert (again.code, again.json["succeeded"]) == (0, 4)


def test_resume_does_not_overwrite_the_sheet(rowmill: Caller, dify: Serving, folder: Path) -> None:
    first = rowmill("run", sheet_of(4), "--base-url", dify.url, "-o", "o.csv", "--sample", "1", "--json").json
    called = rowmill("run", "--resume", first["batch"], "-o", "rows.csv", "--json")
    assert (called.code, called.json["error"]["code"]) == (2, "output_is_sheet")
    assert rowmill("run", "--resume", first["batch"], "--json").json["output"] == "o.csv"


def test_batch_pauses_and_says_why(rowmill: Caller, dify: Serving, folder: Path) -> None:
    fault = Fault("status", times=-1, after=3, params={"code": 401, "dify_code": "unauthorized", "message": "invalid"})
    dify.fake.faults.add(fault)
    called = rowmill("run", sheet_of(10), "--base-url", dify.url, "-o", "o.jsonl")
    assert called.code == 1
    assert "the API key is not accepted" in called.out
    assert "--resume" in called.out


def test_bad_setup_met_by_the_canary_exits_2(rowmill: Caller, dify: Serving, folder: Path) -> None:
    params = {"code": 400, "dify_code": "provider_not_initialize", "message": "no"}
    dify.fake.faults.add(Fault("status", times=-1, params=params))
    called = rowmill("run", sheet_of(10), "--base-url", dify.url, "-o", "o.jsonl", "--json")
    assert (called.code, called.json["pending"]) == (2, 10)
    assert len(dify.fake.ledger.runs) == 0


def test_template_filled_in_and_run(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = rowmill("template", "--base-url", dify.url, "-o", "template.xlsx", ROWMILL_API_KEY="app-demo")
    assert called.code == 0
    book = openpyxl.load_workbook("template.xlsx")
    sheet = book.worksheets[0]
    headers = [cell.value for cell in sheet[1]]
    assert headers[0] == "Product * (product)"
    for row in range(2, 6):
        sheet.cell(row, 1, f"Cup {row}")
        sheet.cell(row, headers.index("Tone (tone)") + 1, "plain")
    book.save("filled.xlsx")
    run = rowmill("run", "filled.xlsx", "--base-url", dify.url, "-o", "o.jsonl", "--json", ROWMILL_API_KEY="app-demo")
    assert (run.code, run.json["succeeded"]) == (0, 4)
    assert lines("o.jsonl")[0]["outputs"]["title"]
    assert run.json["tokens"] > 0


def test_stale_template_is_noticed(rowmill: Caller, dify: Serving, folder: Path) -> None:
    rowmill("template", "--base-url", dify.url, "-o", "template.xlsx")
    book = openpyxl.load_workbook("template.xlsx")
    book.worksheets[0].cell(2, 1, "hello")
    book.save("filled.xlsx")
    dify.fake.apps["app-echo"].form[0]["text-input"]["max_length"] = 20
    called = rowmill("run", "filled.xlsx", "--base-url", dify.url, "-o", "o.jsonl")
    assert called.code == 0
    assert "older form" in called.err


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_template_in_both_languages(rowmill: Caller, dify: Serving, folder: Path, lang: str) -> None:
    assert rowmill("template", "--base-url", dify.url, "-o", "t.xlsx", "--lang", lang).code == 0
    names = openpyxl.load_workbook("t.xlsx").sheetnames
    assert names[:2] == (["Rows", "Fields"] if lang == "en" else ["数据", "字段说明"])


def test_export_in_three_formats(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = rowmill("run", sheet_of(6), "--base-url", dify.url, "-o", "o.jsonl", "--json").json["batch"]
    for ending in ("xlsx", "csv", "jsonl"):
        called = rowmill("export", batch[:4], "-o", f"again.{ending}", "--json")
        assert (called.code, called.json["rows"]) == (0, 6)
    assert Path("again.jsonl").read_bytes() == Path("o.jsonl").read_bytes()


def test_doctor(rowmill: Caller, dify: Serving) -> None:
    called = rowmill("doctor", "--base-url", dify.url)
    assert called.code == 0
    assert "Dify 1.14.2" in called.out
    told = rowmill("doctor", "--base-url", dify.url, "--json").json
    full = {"by_run_id": True, "by_user": True, "from_start": True, "by_message": False, "silent_refusals": True}
    assert told["recovery"] == full


def test_old_version_is_warned_of(rowmill: Caller, folder: Path) -> None:
    with serve(FakeDify("1.8", hold_ms=0)) as server:
        called = rowmill("run", sheet_of(2), "--base-url", server.url, "-o", "o.jsonl")
    assert called.code == 0
    assert "cannot be asked about lost replies" in called.err


def test_chatflow(rowmill: Caller, dify: Serving, folder: Path) -> None:
    Path("chat.csv").write_text("query,name\nhi,Bo\n你好,陈\n", "utf-8")
    called = rowmill("run", "chat.csv", "--base-url", dify.url, "-o", "o.jsonl", ROWMILL_API_KEY="app-chatflow")
    assert called.code == 0
    assert [row["outputs"]["answer"] for row in lines("o.jsonl")] == ["echo: hi name=Bo", "echo: 你好 name=陈"]


def test_key_is_nowhere_on_disk(rowmill: Caller, dify: Serving, folder: Path) -> None:
    key = "app-canary-0123456789"
    app = dify.fake.apps["app-echo"]
    dify.fake.apps[key] = app
    called = rowmill("run", sheet_of(3), "--base-url", dify.url, "-o", "o.xlsx", ROWMILL_API_KEY=key)
    assert called.code == 0
    assert key not in called.text
    for path in [*rowmill.data.rglob("*"), *folder.rglob("*")]:
        assert not path.is_file() or key.encode() not in path.read_bytes(), path
    batch = rowmill("batches", "--json").json[0]["id"]
    assert rowmill("retry", batch, "-o", "o.xlsx", ROWMILL_API_KEY="").code == 0, "the sealed key is enough"


def test_second_runner_is_refused(rowmill: Caller, dify: Serving, folder: Path) -> None:
    from rowmill.store.lock import RunnerLock

    rowmill.data.mkdir(parents=True)
    with RunnerLock(rowmill.data):
        called = rowmill("run", sheet_of(3), "--base-url", dify.url, "-o", "o.jsonl", "--json")
    assert (called.code, called.json["error"]["code"]) == (2, "store_in_use")
    assert dify.fake.ledger.runs == []


def test_help_in_both_languages(rowmill: Caller) -> None:
    assert "Check a sheet" in rowmill("--help").out
    assert "检查表格" in rowmill("--help", "--lang", "zh").out
    assert "--concurrency" in rowmill("run", "--help").out
    assert "help." not in rowmill("run", "--help", "--lang", "zh").out
    assert "rowmill 0." in rowmill("--version").out

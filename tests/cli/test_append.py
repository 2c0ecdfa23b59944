"""Rows of further sheets in one batch, from the command line."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from rowmill.domain.batch import BatchMove
from rowmill.store.sql import SqlStore, open_store
from rowmill.testing.fake_dify import Serving
from tests.cli.calling import Called, Caller
from tests.cli.test_run import cells, lines, sheet_of


def more(text: str, path: str = "more.csv") -> Path:
    file = Path(path)
    file.write_text(text, "utf-8")
    return file


def ran(dify: Serving) -> list[str]:
    return [run.inputs["query"] for run in dify.fake.ledger.runs]


def begin(rowmill: Caller, dify: Serving, *args: object) -> str:
    called = rowmill("run", sheet_of(3), "--base-url", dify.url, "-o", "o.jsonl", "--json", *args)
    assert called.code == 0
    return called.json["batch"]


def go_on(rowmill: Caller, batch: str, target: str = "o.jsonl") -> Called:
    return rowmill("run", "--resume", batch, "-o", target, "--json")


def test_rows_are_appended_and_only_they_are_run(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = begin(rowmill, dify)
    called = rowmill("append", batch[:5], more("note,id,query,extra\nn,x,hello,1\n,,,\nn,y,bye,2\n"), "--json")
    assert (called.code, called.json["appended"], called.json["total"], called.json["state"]) == (0, 2, 5, "queued")
    assert len(ran(dify)) == 3, "appending sends nothing"
    assert go_on(rowmill, batch).json["succeeded"] == 5
    assert sorted(ran(dify)[3:]) == ["bye", "hello"]
    rows = lines("o.jsonl")
    assert [(row["row"], row.get("sheet")) for row in rows] == [
        (2, None), (3, None), (4, None), (2, "more.csv"), (4, "more.csv"),
    ]  # fmt: skip
    assert "sheet" not in rows[0]
    assert [row["inputs"]["query"] for row in rows[3:]] == ["hello", "bye"]
    shown = rowmill("show", batch)
    assert "With 3 rows of more.csv" in shown.out
    assert rowmill("show", batch, "--json").json["appended"][0]["sheet"] == "more.csv"


def test_the_results_workbook_keeps_columns_in_place(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = begin(rowmill, dify)
    rowmill("append", batch, more("query,note,id\nhello,n,x\n"))
    go_on(rowmill, batch, "o.xlsx")
    head, *rows = cells("o.xlsx")
    assert [row[:3] for row in rows[2:]] == [("002", "row 2", "n2"), ("x", "hello", "n")]
    assert [row[head.index("sheet")] for row in rows] == ["rows.csv"] * 3 + ["more.csv"]


def test_sheets_of_one_workbook_are_told_apart(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = begin(rowmill, dify)
    book = openpyxl.Workbook()
    for name in ("Jan", "Feb"):
        page = book.create_sheet(name)
        for line in (["id", "query", "note"], [1, f"in {name}", None]):
            page.append(line)
    book.save("year.xlsx")
    for name in ("Jan", "Feb"):
        assert rowmill("append", batch, "year.xlsx", "--sheet", name).code == 0
    go_on(rowmill, batch)
    assert [row.get("sheet") for row in lines("o.jsonl")][3:] == ["year.xlsx:Jan", "year.xlsx:Feb"]


def test_nothing_is_appended_if_any_row_has_errors(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = begin(rowmill, dify)
    bad = more("id,query,note\n1,fine,\n2,,\n3," + "x" * 49 + ",\n", "bad.csv")
    called = rowmill("append", batch, bad)
    assert called.code == 2
    assert "row 3, column B “query”" in called.err
    assert "Nothing was appended" in called.err
    assert "bad-problems.csv" in called.err
    told = rowmill("append", batch, bad, "--json").json
    assert (told["error"]["code"], told["errors"]) == ("append_failed", 2)
    shown = rowmill("show", batch, "--json").json
    assert (shown["total"], shown["state"], shown["appended"]) == (3, "completed", [])


def test_mapping_and_constants_are_those_of_the_batch(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = begin(rowmill, dify, "--map", "note=id", "--set", "lang=de")
    rowmill("append", batch, more("query,note,id\nhello,unused,007\n"))
    go_on(rowmill, batch)
    assert dify.fake.ledger.runs[-1].inputs == {"query": "hello", "note": "007", "lang": "de"}


def test_a_batch_that_shares_shares_with_appended_rows(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = begin(rowmill, dify, "--share-duplicates")
    rowmill("append", batch, more("id,query,note\n9,row 1,n1\n8,new,\n7,new,\n"))
    done = go_on(rowmill, batch).json
    assert (done["succeeded"], done["shared"], ran(dify)[3:]) == (6, 2, ["new"])
    rows = lines("o.jsonl")[3:]
    assert [(row["shared_with"], row.get("shared_with_sheet", "same")) for row in rows] == [
        (3, None), (None, "same"), (3, "same"),
    ]  # fmt: skip
    go_on(rowmill, batch, "o.xlsx")
    head, *table = cells("o.xlsx")
    assert [row[head.index("shared_with")] for row in table[3:]] == ["rows.csv:3", None, 3]


def test_a_paused_batch_goes_on_with_what_was_appended(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = begin(rowmill, dify, "--sample", 1)
    assert rowmill("append", batch, more("id,query,note\n1,a,\n2,b,\n3,c,\n"), "--rows", "2-3").code == 0
    assert rowmill("show", batch, "--json").json["state"] == "paused"
    assert go_on(rowmill, batch).json["succeeded"] == 5
    assert sorted(ran(dify)) == ["b", "c", "row 0", "row 1", "row 2"]


def test_the_same_sheet_is_not_appended_twice_by_mistake(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = begin(rowmill, dify)
    own = rowmill("append", batch, "rows.csv", "--json")
    assert (own.code, own.json["error"]["code"]) == (2, "append_twice")
    sheet = more("id,query,note\n1,a,\n")
    assert [rowmill("append", batch, sheet).code for _ in range(2)] == [0, 2]
    assert rowmill("append", batch, sheet, "--twice").code == 0
    assert rowmill("show", batch, "--json").json["total"] == 5


@pytest.mark.parametrize(
    ("text", "code"),
    [("id,query\n1,a\n", "append_headers"), ("id,query,note\n", "sheet_no_rows"), ("", "sheet_empty")],
)
def test_sheets_that_cannot_be_appended(rowmill: Caller, dify: Serving, folder: Path, text: str, code: str) -> None:
    batch = begin(rowmill, dify)
    called = rowmill("append", batch, more(text), "--json")
    assert (called.code, called.json["error"]["code"]) == (2, code)
    assert rowmill("show", batch, "--json").json["state"] == "completed"


def test_a_batch_that_was_running_is_resumed_first(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = begin(rowmill, dify, "--sample", 1)
    store = open_store(rowmill.data)
    store.move_batch(batch, BatchMove.START)
    store.close()
    called = rowmill("append", batch, more("id,query,note\n1,a,\n"), "--json")
    assert (called.code, called.json["error"]["code"]) == (2, "append_running")


def test_a_crash_while_appending_leaves_nothing(
    rowmill: Caller, dify: Serving, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = begin(rowmill, dify)
    sheet = more("id,query,note\n" + "1,a,\n" * 1200)
    with monkeypatch.context() as patched:
        for name in ("append_rows", "drop_batch"):
            patched.setattr(SqlStore, name, _killed)
        assert rowmill("append", batch, sheet).code == 130
    assert rowmill("show", batch, "--json").json["total"] == 3
    assert rowmill("append", batch, sheet, "--json").json["total"] == 1203
    store = open_store(rowmill.data)
    with store._reading() as conn:
        assert conn.exec_driver_sql("SELECT DISTINCT batch_id FROM rows").scalars().all() == [batch]
    store.close()


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_append_speaks_chinese(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = begin(rowmill, dify)
    called = rowmill("append", batch, more("id,query,note\n1,a,\n"), "--lang", "zh")
    assert f"已向批次 {batch} 追加 1 行" in called.err

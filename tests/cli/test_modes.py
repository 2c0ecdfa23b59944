"""All kinds of apps from the command line, on real files and sockets."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path

import openpyxl
import pytest

from rowmill.testing.fake_dify import FakeDify, Fault, Serving, serve
from tests.cli.calling import Called, Caller


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def write(text: str, path: str = "rows.csv") -> Path:
    file = Path(path)
    file.write_text(text, "utf-8")
    return file


# ── prices ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_prices_are_decimal_texts_and_their_sum_is_exact(rowmill: Caller, dify: Serving, folder: Path) -> None:
    sheet = write("product\n" + "".join(f"lamp {i}\n" for i in range(12)))
    called = rowmill("run", sheet, "--base-url", dify.url, "-o", "out.jsonl", "--json", ROWMILL_API_KEY="app-demo")
    rows = lines("out.jsonl")
    assert all(isinstance(row["price"], str) and row["currency"] == "USD" for row in rows)
    assert called.json["price"] == {"USD": str(sum(Decimal(row["price"]) for row in rows))}
    assert f"Cost: {called.json['price']['USD']} USD" in rowmill("show", called.json["batch"]).out
    assert rowmill("show", called.json["batch"], "--json").json["price"] == called.json["price"]
    rowmill("export", called.json["batch"], "-o", "out.csv")
    with Path("out.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["price"] for row in csv.DictReader(file)] == [row["price"] for row in rows]


# ── rows that wait for a person ─────────────────────────────────────────────────────────────────────────────────


def pausing(rowmill: Caller, dify: Serving, rows: int = 5) -> Called:
    dify.fake.faults.add(Fault("run_paused", match="row 2"))
    sheet = write("query\n" + "".join(f"row {i}\n" for i in range(rows)))
    return rowmill("run", sheet, "--base-url", dify.url, "-o", "out.jsonl", "--json")


def test_a_paused_row_is_shown_with_what_it_asks(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = pausing(rowmill, dify)
    assert called.code == 1
    assert (called.json["state"], called.json["waiting"], called.json["asking"]) == ("completed", 1, 1)
    row = lines("out.jsonl")[2]
    assert (row["status"], row["cause"], row["asks"][0]["node_title"]) == ("waiting", "needs_person", "Approval")
    batch = called.json["batch"]
    shown = rowmill("show", batch).out
    assert "Row 4 waits at “Approval”: Please approve this answer." in shown
    assert "choices: Approve, Reject" in shown
    assert f"form token: form-{row['run_id']}" in shown
    assert f"rowmill check {batch}" in shown
    assert "第 4 行停在“Approval”" in rowmill("show", batch, "--lang", "zh").out
    told = rowmill("show", batch, "--json").json
    assert (told["asking"][0]["row"], told["asking"][0]["run_id"]) == (4, row["run_id"])
    assert told["asking"][0]["asks"] == row["asks"]
    rowmill("export", batch, "-o", "out.csv")
    with Path("out.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [bool(row["asks"]) for row in csv.DictReader(file)] == [False, False, True, False, False]


@pytest.mark.parametrize("how", [("check",), ("run", "--resume")])
def test_an_answered_row_settles_without_being_paid_again(
    rowmill: Caller, dify: Serving, folder: Path, how: tuple[str, ...]
) -> None:
    batch = pausing(rowmill, dify).json["batch"]
    run_id = lines("out.jsonl")[2]["run_id"]
    still = rowmill(*how, batch, "-o", "out.jsonl")
    assert still.code == 1
    assert "1 rows that were unknown or waited for a person were looked up again: 0 are known now." in still.err
    assert dify.fake.execution.answer_form(f"form-{run_id}", "yes")
    done = rowmill(*how, batch, "-o", "out.jsonl", "--json")
    assert (done.code, done.json["succeeded"], done.json["asking"]) == (0, 5, 0)
    assert [row["status"] for row in lines("out.jsonl")] == ["succeeded"] * 5
    assert lines("out.jsonl")[2]["asks"] is None
    assert len(dify.fake.ledger.runs) == 5


def test_check_of_a_batch_that_has_nothing_to_check(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = rowmill("run", write("query\na\n"), "--base-url", dify.url, "-o", "o.jsonl", "--json").json["batch"]
    called = rowmill("check", batch, "-o", "o.jsonl", "--json")
    assert (called.code, called.json["succeeded"]) == (0, 1)
    assert rowmill("check", "nothing").code == 2
    assert rowmill("check", batch, "-o", "o.jsonl", ROWMILL_API_KEY="app-wrong").code == 2


def test_a_paused_row_can_be_run_anew(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = pausing(rowmill, dify).json["batch"]
    assert rowmill("retry", batch, "-o", "out.jsonl").code == 1
    assert len(dify.fake.ledger.runs) == 5, "not without being asked for"
    called = rowmill("retry", batch, "--cause", "needs_person", "-o", "out.jsonl", "--json")
    assert (called.code, called.json["succeeded"]) == (0, 5)
    assert len(dify.fake.ledger.runs) == 6


# ── chats ───────────────────────────────────────────────────────────────────────────────────────────────────────

CHATS = {"app-chatflow": "advanced-chat", "app-chat": "chat", "app-agent": "agent-chat"}


@pytest.mark.parametrize("key", CHATS)
def test_a_chat_app_over_a_sheet(rowmill: Caller, dify: Serving, folder: Path, key: str) -> None:
    sheet = write("query,name\nhello,Ann\n你好,\n")
    called = rowmill("run", sheet, "--base-url", dify.url, "-o", "out.jsonl", "--json", ROWMILL_API_KEY=key)
    assert called.code == 0
    first, second = lines("out.jsonl")
    assert (first["outputs"], second["outputs"]) == ({"answer": "echo: hello name=Ann"}, {"answer": "echo: 你好 name="})
    assert first["conversation_id"] != second["conversation_id"]
    assert (first["price"], first["currency"]) == ("0.0000400", "USD")
    rowmill("export", called.json["batch"], "-o", "out.csv")
    with Path("out.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["conversation_id"] for row in csv.DictReader(file)] == [
            first["conversation_id"],
            second["conversation_id"],
        ]


def test_a_completion_app_over_a_sheet(rowmill: Caller, dify: Serving, folder: Path) -> None:
    sheet = write("query\nhello\n")
    called = rowmill("run", sheet, "--base-url", dify.url, "-o", "o.jsonl", "--json", ROWMILL_API_KEY="app-completion")
    assert called.code == 0
    (row,) = lines("o.jsonl")
    assert (row["inputs"], row["conversation_id"]) == ({"query": "hello"}, None)
    assert set(row["outputs"]) == {"answer"}


@pytest.mark.parametrize(
    "header", ["conversation", "conversation_id", "会话", "对话", "Conversation (sys.conversation)"]
)
def test_rows_of_one_conversation(rowmill: Caller, dify: Serving, folder: Path, header: str) -> None:
    sheet = write(f"{header},query\nann,a1\nbob,b1\nann,a2\n,alone\n ann ,a3\nbob,b2\n")
    called = rowmill("run", sheet, "--base-url", dify.url, "-o", "out.jsonl", "--json", ROWMILL_API_KEY="app-chatflow")
    assert called.code == 0
    ids = [row["conversation_id"] for row in lines("out.jsonl")]
    assert ids[0] == ids[2] == ids[4]
    assert ids[1] == ids[5]
    assert len(set(ids)) == 3
    asked = [run.query for run in dify.fake.ledger.runs]
    assert [query for query in asked if query[0] == "a" and query != "alone"] == ["a1", "a2", "a3"]
    assert all("sys.conversation" not in run.inputs for run in dify.fake.ledger.runs), "ours, not Dify's"


def test_a_broken_conversation_is_explained(rowmill: Caller, dify: Serving, folder: Path) -> None:
    dify.fake.faults.add(Fault("run_failed", match="'a1'", params={"message": "node_broke"}))
    sheet = write("conversation,query\nann,a1\nann,a2\n")
    environ = {"ROWMILL_API_KEY": "app-chatflow"}
    called = rowmill("run", sheet, "--base-url", dify.url, "-o", "out.jsonl", "--json", **environ)
    assert (called.code, called.json["failed"]) == (1, 2)
    shown = rowmill("show", called.json["batch"]).out
    assert "an earlier turn of its conversation has no answer [conversation_broken]" in shown
    again = rowmill("retry", called.json["batch"], "--cause", "run_failed", "-o", "out.jsonl", "--json", **environ)
    assert (again.code, again.json["succeeded"]) == (0, 2)
    assert [run.query for run in dify.fake.ledger.runs] == ["a1", "a1", "a2"]


def test_the_template_of_a_chat_explains_conversations(rowmill: Caller, dify: Serving, folder: Path) -> None:
    environ = {"ROWMILL_API_KEY": "app-chat"}
    assert rowmill("template", "--base-url", dify.url, "-o", "t.xlsx", **environ).code == 0
    book = openpyxl.load_workbook("t.xlsx")
    headers = [cell.value for cell in book.worksheets[0][1]]
    assert headers[-1] == "Conversation (sys.conversation)"
    told = " ".join(str(value) for row in book["Fields"].iter_rows(values_only=True) for value in row if value)
    assert "turns of one conversation" in told
    assert "conversation" not in str(rowmill("doctor", "--base-url", dify.url, "--json").json["form"])


@pytest.mark.parametrize(
    ("key", "profile", "words"),
    [
        ("app-chatflow", "1.14", "by its run id or in its conversation"),
        ("app-chat", "1.14", "found again in its conversation"),
        ("app-agent", "1.16", "found again in its conversation"),
        ("app-completion", "1.14", "cannot be asked about lost replies"),
    ],
)
def test_doctor_says_what_is_found_again(rowmill: Caller, folder: Path, key: str, profile: str, words: str) -> None:
    with serve(FakeDify(profile, hold_ms=0)) as server:
        called = rowmill("doctor", "--base-url", server.url, ROWMILL_API_KEY=key)
    assert called.code == 0
    assert words in called.out

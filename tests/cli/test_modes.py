"""All kinds of apps from the command line, on real files and sockets."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path

import pytest

from rowmill.testing.fake_dify import Fault, Serving
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

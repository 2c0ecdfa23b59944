"""Questions before anything is sent or replaced, at a terminal and without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from rowmill.cli.session import Session
from rowmill.testing.fake_dify import Fault, Serving
from tests.cli.calling import Caller
from tests.cli.test_run import lines, sheet_of


class Person:
    """Sits at the terminal, is asked, and answers in order; `None` takes what the question proposes."""

    def __init__(self) -> None:
        self.answers: list[bool | None] = []
        self.asked: list[str] = []

    def confirm(self, question: str, default: bool | None = None) -> bool:
        self.asked.append(question)
        answer = self.answers.pop(0)
        assert answer is not None or default is not None
        return bool(default if answer is None else answer)


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Person:
    somebody = Person()
    monkeypatch.setattr(Session, "interactive", property(lambda _: True))
    monkeypatch.setattr("typer.confirm", somebody.confirm)
    return somebody


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_sample_says_how_many(rowmill: Caller, dify: Serving, folder: Path, person: Person, lang: str) -> None:
    person.answers = [False]
    args = ["--base-url", dify.url, "-o", "o.jsonl", "--sample", "2", "--lang", lang]
    called = rowmill("run", sheet_of(30), *args)
    assert called.code == 0
    assert ("Run 2 of 30 rows" if lang == "en" else "30 行中的 2 行") in person.asked[0]
    assert dify.fake.ledger.runs == []


def test_sample_of_more_than_there_is(rowmill: Caller, dify: Serving, folder: Path, person: Person) -> None:
    person.answers = [True]
    assert rowmill("run", sheet_of(1), "--base-url", dify.url, "-o", "o.jsonl", "--sample", "5").code == 0
    assert person.asked == ["Run 1 row on “echo” now?"]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_finished_sheet_again(rowmill: Caller, dify: Serving, folder: Path, person: Person, lang: str) -> None:
    args = ["run", sheet_of(3), "--base-url", dify.url, "-o", "o.jsonl", "--lang", lang]
    person.answers = [True]
    assert rowmill(*args).code == 0
    person.answers = [True, None]
    called = rowmill(*args)
    assert called.code == 0
    assert ("ran this sheet already: 3 of 3 rows succeeded" if lang == "en" else "3 行中有 3 行成功") in called.err
    assert "--new" in called.err
    assert len(dify.fake.ledger.runs) == 3, "what costs again is not proposed"
    person.answers = [True, True, True]
    assert rowmill(*args).code == 0
    assert len(dify.fake.ledger.runs) == 6


def test_finished_sheet_again_with_nobody_there(rowmill: Caller, dify: Serving, folder: Path) -> None:
    args = ["run", sheet_of(2), "--base-url", dify.url, "-o", "o.jsonl"]
    assert "already" not in rowmill(*args).err
    again = rowmill(*args)
    assert (again.code, "! Batch " in again.err) == (0, True)
    assert "o.jsonl exists already; it is replaced" in again.err
    assert "! " not in rowmill(*args, "--yes").err
    assert "ran this sheet" not in rowmill(*args, "--new").err
    assert "ran this sheet" not in rowmill("run", sheet_of(3), *args[2:]).err, "another sheet"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_resume_declined(rowmill: Caller, dify: Serving, folder: Path, person: Person, lang: str) -> None:
    args = ["run", sheet_of(4), "--base-url", dify.url, "-o", "o.jsonl", "--lang", lang]
    person.answers = [True, False]
    assert rowmill(*args, "--sample", "1").code == 0
    person.answers = [False]
    called = rowmill(*args)
    assert called.code == 0
    assert "--new" in called.err
    assert ("Nothing was sent." if lang == "en" else "没有发送任何内容。") in called.err
    assert len(dify.fake.ledger.runs) == 1
    person.answers = [None]
    assert rowmill("run", "rows.csv", *args[2:4]).code == 0, "to go on is proposed"
    assert len(lines("o.jsonl")) == 4


@pytest.mark.parametrize("command", ["run", "resume", "retry", "export"])
def test_a_file_of_somebody_else(rowmill: Caller, dify: Serving, folder: Path, person: Person, command: str) -> None:
    dify.fake.faults.add(Fault("run_failed", match="row 1", params={"message": "maximum_context_length"}))
    person.answers = [True, False]
    sheet = sheet_of(4)
    rowmill("run", sheet, "--base-url", dify.url, "-o", "o.jsonl", "--sample", "3")
    batch = rowmill("batches", "--json").json[0]["id"]
    Path("mine.jsonl").write_text("precious", "utf-8")
    person.answers = [False]
    typed = {
        "run": ["run", sheet, "--base-url", dify.url, "--new"],
        "resume": ["run", "--resume", batch],
        "retry": ["retry", batch],
        "export": ["export", batch],
    }[command]
    runs = len(dify.fake.ledger.runs)
    called = rowmill(*typed, "-o", "mine.jsonl")
    assert called.code == 0
    assert "mine.jsonl" in person.asked[-1]
    assert Path("mine.jsonl").read_text("utf-8") == "precious"
    assert len(dify.fake.ledger.runs) == runs


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_retry_with_nothing_to_do(rowmill: Caller, dify: Serving, folder: Path, lang: str) -> None:
    batch = rowmill("run", sheet_of(2), "--base-url", dify.url, "-o", "o.jsonl", "--json").json["batch"]
    Path("o.jsonl").unlink()
    called = rowmill("retry", batch, "--lang", lang)
    assert (called.code, called.out, len(called.err.splitlines())) == (0, "", 1)
    assert not Path("o.jsonl").exists()
    assert rowmill("retry", batch, "--json").json["output"] is None


ENDS = ["/workflows/run", "/chat-messages", "/info", "/parameters", "/files/upload/"]


@pytest.mark.parametrize("end", ENDS)
def test_address_of_a_call(rowmill: Caller, dify: Serving, folder: Path, end: str) -> None:
    called = rowmill("run", sheet_of(1), "--base-url", dify.url + end, "--json")
    assert (called.code, called.json["error"]["code"]) == (2, "app_url_is_endpoint")
    assert called.json["error"]["params"]["better"] == dify.url


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_key_of_a_chat_app(rowmill: Caller, dify: Serving, folder: Path, lang: str) -> None:
    Path("in.csv").write_text("text\nx\n", "utf-8")
    args = ["run", "in.csv", "--base-url", dify.url, "--lang", lang]
    called = rowmill(*args, ROWMILL_API_KEY="app-chatflow")
    assert called.code == 2
    assert ("This is a chat app" if lang == "en" else "这是聊天类应用") in called.err

"""What the program says: in both languages, with the names of things, and nothing of the machinery."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import openpyxl
import pytest

from rowmill.cli.watch import duration
from rowmill.store.lock import RunnerLock
from rowmill.testing.fake_dify import Serving
from rowmill.texts import Speech
from tests.cli.calling import Caller
from tests.cli.test_bad_use import good

COMMANDS = ["", "template", "run", "batches", "show", "export", "retry", "doctor", "demo", "fake-dify"]


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help(rowmill: Caller, command: str, lang: str) -> None:
    called = rowmill(*command.split(), "--help", "--lang", lang)
    assert called.code == 0
    assert "help." not in called.out
    assert "--lang en|zh" in called.out
    if command in ("", "run", "retry"):
        assert "130" in called.out, "exit codes"
    english = ("Usage", "Options:", "Commands:", "Arguments:", "required", "default:", "Show this")
    if lang == "zh":
        assert not any(word in called.out for word in english)
        assert "用法" in called.out
    else:
        assert "Usage: rowmill" in called.out


@pytest.mark.parametrize(
    ("args", "english", "chinese"),
    [
        ("--lang=fr", "Known: en, zh", "Known: en, zh"),
        ("run x.csv --concurrency 0", "--concurrency expects a whole number from 1 to 1000, found “0”", "1 到 1000"),
        ("run x.csv --sample x", "--sample expects a whole number, 1 or more, found “x”", "不小于 1 的整数"),
        ("run x.csv --rowz 1", "Did you mean --rows", "是否想用 --rows"),
        ("run x.csv y.csv", "too many arguments: y.csv", "参数过多：y.csv"),
        ("template --base-url http://x/v1 -o t.csv", "A template is an .xlsx file", "模板必须是 .xlsx 文件"),
        ("run bad.jsonl --base-url {url}", "Line 2 is no JSON object", "第 2 行不是 JSON 对象"),
        ("run good.csv --base-url http://127.0.0.1:1/v1", "the connection is refused", "连接被拒绝"),
        ("run good.csv --base-url http://no-such-host.invalid/v1", "name of the server is not known", "名称无法解析"),
        ("run good.csv --base-url {url} --map query=nope", "Columns: query, note", "现有列：query、note"),
    ],
)
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_errors(rowmill: Caller, dify: Serving, folder: Path, args: str, english: str, chinese: str, lang: str) -> None:
    good(folder)
    Path("bad.jsonl").write_text('{"query": "x"}\n{"query"\n', "utf-8")
    typed = args.format(url=dify.url).split()
    called = rowmill(*typed, *([] if "--lang=fr" in typed else ["--lang", lang]))
    assert called.code == 2
    assert (english if lang == "en" else chinese) in called.err


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_unreadable_sheet(
    rowmill: Caller, dify: Serving, folder: Path, monkeypatch: pytest.MonkeyPatch, lang: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "good.csv")

    sheet = good(folder)
    monkeypatch.setattr("rowmill.sheets.read.kind_of", refuse)
    called = rowmill("run", sheet, "--base-url", dify.url, "--lang", lang)
    assert called.code == 2
    assert ("cannot be read: no permission" if lang == "en" else "：没有权限") in called.err


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_second_runner_is_told_when_the_first_began(rowmill: Caller, dify: Serving, folder: Path, lang: str) -> None:
    rowmill.data.mkdir(parents=True)
    with RunnerLock(rowmill.data):
        called = rowmill("run", good(folder), "--base-url", dify.url, "--lang", lang)
    assert time.strftime("%Y-%m-%d") in called.err
    assert not re.search(r"\d{9}", called.err)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_doctor_in_words(rowmill: Caller, dify: Serving, lang: str) -> None:
    called = rowmill("doctor", "--base-url", dify.url, "--lang", lang)
    assert not re.search(r"text-input|file_size_limit|json_object", called.out)
    words = ["short text", "at most 48 characters", "one of: en, de, zh", "at most 15 MB"]
    if lang == "zh":
        words = ["短文本", "最多 48 个字符", "可选：en、de、zh", "最大 15 MB"]
    for word in words:
        assert word in called.out, called.out


def test_chinese_template_is_chinese(rowmill: Caller, dify: Serving, folder: Path) -> None:
    rowmill("template", "--base-url", dify.url, "-o", "t.xlsx", "--lang", "zh")
    book = openpyxl.load_workbook("t.xlsx")
    texts = [str(cell.value) for row in book["字段说明"].iter_rows(min_row=3) for cell in row if cell.value]
    assert "任意文本。" in texts
    assert "一段短文本" in texts
    prompts = [rule.prompt for rule in book["数据"].data_validations.dataValidation]
    assert not any("Any text" in prompt or "Choose" in prompt for prompt in prompts)


@pytest.mark.parametrize(
    ("seconds", "english", "chinese"),
    [(1, "1 s", "1 秒"), (125, "2 min", "2 分钟"), (12_000, "3 h 20 min", "3 小时 20 分钟")],
)
def test_durations(seconds: float, english: str, chinese: str) -> None:
    assert duration(Speech("en"), seconds) == english
    assert duration(Speech("zh"), seconds) == chinese


def test_plurals() -> None:
    say = Speech("en")
    assert say("rows_checked", rows=1, blank=1) == "1 row checked, 1 blank one keeps its place."
    assert say("rows_checked", rows=3, blank=2) == "3 rows checked, 2 blank ones keep their place."
    assert say("problems_head.error", count=1, rows=1) == "1 problem in 1 row:"
    assert say("problems_head.error", count=4, rows=2) == "4 problems in 2 rows:"
    assert say("problem_line", text={}) == "    {}"


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_fake_on_a_port_that_is_taken(rowmill: Caller, lang: str, more: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        called = rowmill("fake-dify", "--port", taken.getsockname()[1], "--lang", lang, *more)
    assert called.code == 2
    if more:
        assert called.json["error"]["code"] == "port_taken"
    else:
        assert called.out == ""
    assert ("another program listens there" if lang == "en" else "已有其他程序在监听") in called.text


def test_fake_says_where_it_is_once_it_is_there(rowmill: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rowmill.testing.fake_dify.server.uvicorn.Server.serve", leave)
    called = rowmill("fake-dify", "--port", "0", "--json")
    assert re.fullmatch(r"http://127.0.0.1:[1-9]\d*/v1", called.json["url"])

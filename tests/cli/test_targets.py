"""Where results go: the folder that cannot be written, the file that is remembered, the disk that fills up."""

from __future__ import annotations

import errno
from pathlib import Path

import openpyxl
import pytest

from rowmill.sheets.draft import Draft
from rowmill.testing.fake_dify import Serving
from tests.cli.calling import Called, Caller
from tests.cli.test_run import lines, sheet_of


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_folder_that_cannot_be_written_is_found_first(rowmill: Caller, dify: Serving, folder: Path, lang: str) -> None:
    called = rowmill("run", sheet_of(3), "--base-url", dify.url, "-o", "/proc/out.xlsx", "--lang", lang)
    assert called.code == 2
    assert "/proc" in called.err
    assert ("Nothing can be written" if lang == "en" else "无法写入") in called.err
    assert dify.fake.ledger.runs == []


@pytest.mark.parametrize("target", ["out.xlsx", "out.csv", "out.jsonl"])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_disk_that_fills_up_at_the_end(
    rowmill: Caller, dify: Serving, folder: Path, monkeypatch: pytest.MonkeyPatch, target: str, lang: str
) -> None:
    def full(_: Draft) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Draft, "finish", full)
        called = rowmill("run", sheet_of(3), "--base-url", dify.url, "-o", target, "--lang", lang)
    assert called.code == 3
    batch = rowmill("batches", "--json").json[0]["id"]
    assert target in called.err
    assert f"rowmill export {batch} -o" in called.err
    assert ("Nothing was sent" if lang == "en" else "没有发送") not in called.err
    assert "rowmill.db" not in called.err
    assert ("the disk is full" if lang == "en" else "磁盘已满") in called.err
    assert len(dify.fake.ledger.runs) == 3
    assert rowmill("export", batch, "-o", target).code == 0


def test_disk_that_fills_up_for_programs(
    rowmill: Caller, dify: Serving, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Draft) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Draft, "finish", full)
    called = rowmill("run", sheet_of(3), "--base-url", dify.url, "-o", "o.csv", "--json")
    assert (called.code, called.json["error"]["code"]) == (3, "results_not_written")
    assert (called.json["succeeded"], called.json["output"]) == (3, None)
    called = rowmill("export", called.json["batch"], "-o", "o.csv", "--json")
    assert (called.code, called.json["error"]["code"]) == (3, "results_not_written")
    called = rowmill("template", "--base-url", dify.url, "-o", "t.xlsx", "--json")
    assert (called.code, called.json["error"]["code"]) == (2, "template_not_written")


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("command", ["batches", "show x", "export x -o o.csv", "retry x"])
def test_data_folder_that_cannot_be_made(rowmill: Caller, folder: Path, lang: str, command: str) -> None:
    called = rowmill(*command.split(), "--data-dir", "/proc/rowmill", "--lang", lang)
    assert (called.code, called.out) == (2, "")
    assert len(called.err.splitlines()) == 1
    assert "/proc/rowmill" in called.err
    assert "--data-dir" in called.err


def test_whatever_else_the_system_refuses(
    rowmill: Caller, folder: Path, monkeypatch: pytest.MonkeyPatch, dify: Serving
) -> None:
    Path("o-problems.csv").mkdir()
    called = rowmill("run", sheet_of(1), "--base-url", dify.url, "-o", "o.csv")
    assert called.code == 2
    assert "o-problems.csv" in called.err
    assert "Traceback" not in called.err


def sampled(rowmill: Caller, dify: Serving, *more: str) -> Called:
    return rowmill("run", sheet_of(4), "--base-url", dify.url, "--sample", "2", *more)


def test_output_is_remembered(rowmill: Caller, dify: Serving, folder: Path) -> None:
    Path("results").mkdir()
    first = sampled(rowmill, dify, "-o", "results/out.jsonl", "--json").json
    resumed = rowmill("run", "--resume", first["batch"], "--json").json
    assert resumed["output"] == "results/out.jsonl"
    assert len(lines("results/out.jsonl")) == 4
    assert rowmill("retry", first["batch"], "-o", "other.csv").code == 0
    assert not Path("rows-results.xlsx").exists()


def test_remembered_from_another_folder(
    rowmill: Caller, dify: Serving, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = sampled(rowmill, dify, "-o", "out.jsonl", "--json").json
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert rowmill("run", "--resume", first["batch"], "--json").json["output"] == str(folder / "out.jsonl")


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_remembered_folder_is_gone(rowmill: Caller, dify: Serving, folder: Path, lang: str) -> None:
    Path("results").mkdir()
    first = sampled(rowmill, dify, "-o", "results/out.jsonl", "--json").json
    Path("results/out.jsonl").unlink()
    Path("results").rmdir()
    called = rowmill("run", "--resume", first["batch"], "--lang", lang)
    assert called.code == 2
    assert ("is no longer there" if lang == "en" else "已不存在") in called.err
    assert rowmill("run", "--resume", first["batch"], "-o", "out.jsonl").code == 0
    assert len(lines("out.jsonl")) == 4


def test_advice_is_complete(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = sampled(rowmill, dify, "-o", "out.jsonl", "--data-dir", "my data")
    batch = rowmill("batches", "--data-dir", "my data", "--json").json[0]["id"]
    assert f"rowmill run --resume {batch} --data-dir 'my data'\n" in called.out
    again = rowmill("run", "--resume", batch, "-o", "other.jsonl", "--sample", "1", "--data-dir", "my data")
    assert f"--resume {batch} --data-dir 'my data' -o other.jsonl\n" in again.out


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_value_of_set_that_does_not_fit(rowmill: Caller, dify: Serving, folder: Path, lang: str) -> None:
    called = rowmill("run", sheet_of(2), "--base-url", dify.url, "--set", "n=many", "--lang", lang)
    assert called.code == 2
    assert "--set" in called.err
    assert not any(word in called.err for word in ("0 rows", "(rows )", "0 行", "（行 ）"))
    assert "many" in called.err


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_uncalculated_formula_of_the_users_own(rowmill: Caller, dify: Serving, folder: Path, lang: str) -> None:
    book = openpyxl.Workbook()
    for row in (["query", "sum"], ["a", "=1+1"], ["b", "=1+2"], [None, "=1+3"]):
        book.active.append(row)
    book.save("in.xlsx")
    sheet = ["run", "in.xlsx", "--base-url", dify.url, "--rows", "1-2", "--lang", lang]
    called = rowmill(*sheet, "-o", "out.csv")
    assert called.code == 0
    assert called.err.count("=1+") == 1, "one warning for a column"
    assert ("has never been calculated" if lang == "en" else "从未计算过") in called.err
    assert "a,'=1+1," in Path("out.csv").read_text("utf-8-sig")

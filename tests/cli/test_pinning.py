"""Versions of the app from the command line: pinned, or noticed when they change."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from rowmill.cli.pinning import spell_out
from rowmill.testing.fake_dify import Serving
from tests.cli.calling import Caller
from tests.cli.test_run import lines, sheet_of

ID = "3f1b6a52-7d7c-4c5f-9a55-0f3d7a1b2c3d"


def republish(dify: Serving, **asked: object) -> dict[str, str]:
    """As another process would."""
    url = dify.url.replace("/v1", "/_fake/republish")
    request = urllib.request.Request(url, json.dumps(asked).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def versions_run(dify: Serving) -> list[str]:
    return [run.workflow_id for run in dify.fake.ledger.runs]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["run", "--pin", "rows.csv"], ["run", "--pin=first", "rows.csv"]),
        (["run", "rows.csv", "--pin"], ["run", "rows.csv", "--pin=first"]),
        (["run", "--pin", ID, "rows.csv"], ["run", f"--pin={ID}", "rows.csv"]),
        (["run", f"--pin={ID}"], ["run", f"--pin={ID}"]),
        (["run", "rows.csv"], ["run", "rows.csv"]),
        ([], []),
    ],
)
def test_pin_with_and_without_a_version(typed: list[str], meant: list[str]) -> None:
    assert spell_out(typed) == meant


def test_republished_in_mid_batch_is_told_and_shown(rowmill: Caller, dify: Serving, folder: Path) -> None:
    first = dify.fake.apps["app-echo"].workflow_id
    republish(dify, app="app-echo", after=12)
    called = rowmill("run", sheet_of(30), "--base-url", dify.url, "-o", "out.jsonl", "-c", 2)
    assert called.code == 0
    second = dify.fake.apps["app-echo"].workflow_id
    assert versions_run(dify) == [first] * 12 + [second] * 18
    assert called.err.count("published again") == 1
    assert second[:8] in called.err
    assert f"2 versions of the app: {second[:8]}: 18 rows, {first[:8]}: 12 rows" in called.out
    of_run = {run.run_id: run.workflow_id for run in dify.fake.ledger.runs}
    assert all(row["workflow_id"] == of_run[row["run_id"]] for row in lines("out.jsonl"))
    batch = rowmill("batches", "--json").json[0]["id"]
    shown = rowmill("show", batch, "--json").json
    assert (shown["workflow_id"], shown["pin"]) == (first, None)
    assert shown["versions"] == [{"workflow_id": second, "rows": 18}, {"workflow_id": first, "rows": 12}]


def test_what_was_told_is_not_told_again_by_a_resume(rowmill: Caller, dify: Serving, folder: Path) -> None:
    republish(dify, app="app-echo", after=3)
    args = ["--base-url", dify.url, "-o", "out.jsonl", "-c", 1]
    assert "published again" in rowmill("run", sheet_of(9), *args, "--sample", 5).err
    batch = rowmill("batches", "--json").json[0]["id"]
    assert "published again" not in rowmill("run", "--resume", batch, "-o", "out.jsonl").err
    assert len(set(versions_run(dify))) == 2


def test_pinned_to_the_version_of_the_first_run(rowmill: Caller, dify: Serving, folder: Path) -> None:
    first = dify.fake.apps["app-echo"].workflow_id
    republish(dify, app="app-echo", after=1)
    args = ["--base-url", dify.url, "-o", "out.jsonl", "--pin"]
    called = rowmill("run", *args, sheet_of(20), "--sample", 10)
    assert called.code == 0
    assert "published again" not in called.err
    assert f"Pinned to version {first[:8]}" in called.out
    batch = rowmill("batches", "--json").json[0]["id"]
    resumed = rowmill("run", "--resume", batch, "-o", "out.jsonl", "--json").json
    assert (resumed["pin"], resumed["succeeded"]) == (first, 20)
    assert versions_run(dify) == [first] * 20
    assert dify.fake.apps["app-echo"].workflow_id != first


def test_pinned_to_a_version_that_was_replaced(rowmill: Caller, dify: Serving, folder: Path) -> None:
    old = dify.fake.apps["app-echo"].workflow_id
    republish(dify)
    called = rowmill("run", sheet_of(5), "--base-url", dify.url, "-o", "out.jsonl", "--pin", old)
    assert called.code == 0
    assert versions_run(dify) == [old] * 5


def test_a_batch_that_met_a_new_version_can_go_on_with_the_old_one(
    rowmill: Caller, dify: Serving, folder: Path
) -> None:
    old = dify.fake.apps["app-echo"].workflow_id
    args = ["--base-url", dify.url, "-o", "out.jsonl", "--json"]
    batch = rowmill("run", sheet_of(8), *args, "--sample", 2).json["batch"]
    republish(dify)
    assert rowmill("run", "--resume", batch, "-o", "out.jsonl", "--pin").code == 0
    assert versions_run(dify) == [old] * 8


def test_a_chatflow_is_pinned_in_the_body(rowmill: Caller, dify: Serving, folder: Path) -> None:
    old = dify.fake.apps["app-chatflow"].workflow_id
    republish(dify, app="app-chatflow", after=1)
    Path("chat.csv").write_text("query\n" + "".join(f"hi {n}\n" for n in range(6)), "utf-8")
    args = ["--base-url", dify.url, "-o", "o.jsonl", "--pin"]
    assert rowmill("run", "chat.csv", *args, ROWMILL_API_KEY="app-chatflow").code == 0
    assert versions_run(dify) == [old] * 6


def test_a_version_that_is_gone_pauses(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = rowmill("run", sheet_of(5), "--base-url", dify.url, "-o", "o.jsonl", "--json", "--pin", ID)
    assert (called.code, called.json["reason"], called.json["pending"]) == (2, "workflow_version_gone", 5)
    assert dify.fake.ledger.runs == []


@pytest.mark.parametrize(
    ("key", "pin", "code"),
    [("app-echo", "--pin=newest", "pin_wrong"), ("app-completion", "--pin", "pin_no_versions")],
)
def test_pins_that_cannot_be(rowmill: Caller, dify: Serving, folder: Path, key: str, pin: str, code: str) -> None:
    called = rowmill("run", sheet_of(2), "--base-url", dify.url, "--json", pin, ROWMILL_API_KEY=key)
    assert (called.code, called.json["error"]["code"]) == (2, code)
    assert dify.fake.ledger.runs == []

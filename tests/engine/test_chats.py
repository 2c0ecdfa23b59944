"""Chat apps through the whole engine: what becomes of a lost answer, by version and kind of app."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rowmill.domain.batch import BatchState, RowState
from rowmill.domain.form import Mode
from rowmill.testing.fake_dify import FakeDify
from tests.engine.running import Ran, queries, run_batch

OK, UNKNOWN = RowState.SUCCEEDED, RowState.UNKNOWN
KEYS = {
    Mode.CHATFLOW: "app-chatflow",
    Mode.CHAT: "app-chat",
    Mode.AGENT_CHAT: "app-agent",
    Mode.COMPLETION: "app-completion",
}


async def chat(folder: Path, texts: list[str], mode: Mode, profile: str = "1.14", **more: object) -> Ran:
    fake = FakeDify(profile, hold_ms=0, celery_slots=0)
    return await run_batch(folder, texts, fake, key=KEYS[mode], mode=mode, **more)  # type: ignore[arg-type]


def paid(ran: Ran, text: str) -> int:
    return sum(text in (run.query, run.inputs.get("query")) for run in ran.fake.ledger.runs)


@pytest.mark.parametrize("mode", KEYS)
async def test_every_kind_of_app_runs(tmp_path: Path, mode: Mode) -> None:
    texts = queries(12, r5="你好 😀")
    ran = await chat(tmp_path, texts, mode)
    assert ran.states == {OK: 12}
    said = [json.loads(row.outputs or "{}") for row in ran.rows]
    # A completion app has no question: its text is an input like any other.
    expected = [f"echo: {'' if mode is Mode.COMPLETION else text} name=" for text in texts]
    assert said == [{"answer": answer} for answer in expected]
    assert all(row.price is not None and row.currency == "USD" for row in ran.rows)
    assert all(run.response_mode == "streaming" for run in ran.fake.ledger.runs)
    talks = [run.conversation_id for run in ran.fake.ledger.runs]
    assert len(set(talks)) == (1 if mode is Mode.COMPLETION else 12), "a conversation of its own for every row"


# mode, version, fault -> what becomes of the row, and how often it was paid for. A chat's answer is saved by what
# consumes its stream, and only when it is whole; a chatflow's by the worker from 1.13 on [contract §7.1].
LOST = {
    (Mode.CHATFLOW, "1.14", "reset_after"): (OK, 1),
    (Mode.CHATFLOW, "1.14", "cut_started"): (OK, 1),
    (Mode.CHATFLOW, "1.14", "cut_end"): (OK, 1),
    (Mode.CHATFLOW, "1.14", "reset_before"): (UNKNOWN, 0),
    (Mode.CHATFLOW, "1.11", "reset_after"): (UNKNOWN, 1),
    (Mode.CHATFLOW, "1.11", "cut_started"): (OK, 1),
    (Mode.CHATFLOW, "1.8", "cut_started"): (UNKNOWN, 1),
    (Mode.CHATFLOW, "1.8", "cut_end"): (OK, 1),
    (Mode.CHAT, "1.14", "reset_after"): (UNKNOWN, 1),
    (Mode.CHAT, "1.14", "cut_started"): (UNKNOWN, 1),
    (Mode.CHAT, "1.14", "cut_end"): (OK, 1),
    (Mode.CHAT, "1.8", "cut_end"): (OK, 1),
    (Mode.CHAT, "1.14", "status code=500"): (OK, 1),
    (Mode.AGENT_CHAT, "1.14", "cut_end"): (OK, 1),
    (Mode.AGENT_CHAT, "1.14", "reset_after"): (UNKNOWN, 1),
    (Mode.COMPLETION, "1.14", "cut_end"): (UNKNOWN, 1),
    (Mode.COMPLETION, "1.14", "reset_after"): (UNKNOWN, 1),
}


@pytest.mark.parametrize(("mode", "profile", "fault"), LOST, ids=str)
async def test_lost_answers(tmp_path: Path, mode: Mode, profile: str, fault: str) -> None:
    text = f"[[fault:{fault}]]"
    fake = FakeDify(profile, hold_ms=0, celery_slots=0)
    fake.apps["app-completion"].form[0]["text-input"]["max_length"] = 256
    ran = await run_batch(tmp_path, queries(6, r3=text), fake, key=KEYS[mode], mode=mode)
    row = ran.rows[3]
    assert (row.state, paid(ran, text)) == LOST[mode, profile, fault]
    assert ran.state is BatchState.COMPLETED
    assert ran.states[OK] == 5 + (row.state is OK)
    if row.state is OK:
        assert json.loads(row.outputs or "{}")["answer"] == f"echo: {text} name="


@pytest.mark.parametrize("mode", [Mode.CHATFLOW, Mode.CHAT])
async def test_rows_that_ask_the_same_are_not_taken_for_one_another(tmp_path: Path, mode: Mode) -> None:
    same = "[[fault:cut_end times=-1]]"
    ran = await chat(tmp_path, [same] * 8, mode)
    assert ran.states == {OK: 8}
    assert len(ran.fake.ledger.runs) == 8
    with ran.store._reading() as conn:
        ids = conn.exec_driver_sql("SELECT message_id FROM attempts").scalars().all()
    assert len(set(ids)) == 8


async def test_the_title_of_a_conversation_is_not_paid_for(tmp_path: Path) -> None:
    """Dify writes one by an extra call of the model, unless it is told not to."""
    bodies = []
    fake = FakeDify(hold_ms=0, celery_slots=0)
    start = fake.execution.start

    async def note(app, body, *rest):  # type: ignore[no-untyped-def]
        bodies.append(body)
        await start(app, body, *rest)

    fake.execution.start = note  # type: ignore[method-assign]
    await run_batch(tmp_path, ["hello"], fake, key="app-chat", mode=Mode.CHAT)
    assert [(body["auto_generate_name"], body.get("conversation_id")) for body in bodies] == [(False, None)]

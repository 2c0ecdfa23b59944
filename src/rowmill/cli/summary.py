"""What a batch looks like when it stands still: counts, causes with advice, how to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rowmill.cli.again import show_taken
from rowmill.cli.given import options_again
from rowmill.cli.pinning import show_versions
from rowmill.cli.waiting import show_asking
from rowmill.cli.watch import duration, reason_text
from rowmill.domain.batch import UNFINISHED, RowState
from rowmill.domain.mapping import column_letter
from rowmill.domain.money import show_price
from rowmill.workbench.beside import folder_of

if TYPE_CHECKING:
    from decimal import Decimal
    from pathlib import Path

    from rowmill.cli.session import Session
    from rowmill.domain.progress import Counts
    from rowmill.ports.store import BatchRecord
    from rowmill.workbench import Draft, Workbench


def counts_json(counts: Counts) -> dict[str, int]:
    """Rows by state; `total` leaves out what is skipped, `asking` are those of the waiting that wait for a person."""
    by_state = {state.value: counts.of(state) for state in RowState}
    return {"total": counts.total, "done": counts.done, **by_state, "asking": counts.asking, "tokens": counts.tokens}


def summary_json(
    batch: BatchRecord,
    counts: Counts,
    prices: dict[str, Decimal],
    files: tuple[int, int],
    seconds: float,
    output: Path | None,
) -> dict[str, Any]:
    """`files`: output files that are kept, and that could not be; `seconds`: how long this call ran the batch. Prices
    stay texts: a JSON number would be read as a float."""
    return {
        "batch": batch.id,
        "state": batch.state.value,
        "reason": batch.reason,
        "detail": batch.detail,
        **counts_json(counts),
        "price": {currency: show_price(price) for currency, price in prices.items()},
        "seconds": round(seconds, 3),
        "output_files": files[0],
        "output_files_lost": files[1],
        "output": str(output) if output else None,
    }


def show_mapping(session: Session, draft: Draft) -> None:
    """Which column feeds which field and why, what is constant, what is not used."""
    headers = draft.head.headers
    fields = {spec.variable: spec for spec in draft.batch.form.fields}
    for feed in draft.batch.mapping.feeds:
        title = fields[feed.variable].title
        reason = session.say(f"reason.{feed.reason.value}")
        if feed.column is None:
            session.tell("mapping_constant", field=title, value=feed.constant)
        else:
            letter = column_letter(feed.column)
            session.tell("mapping_line", field=title, column=headers[feed.column], letter=letter, reason=reason)
    fed = {feed.variable for feed in draft.batch.mapping.feeds}
    empty = [spec.title for spec in draft.batch.form.fields if spec.variable not in fed]
    unused = [h for i, h in enumerate(headers) if i not in draft.batch.mapping.columns_used() and h]
    if empty:
        session.tell("mapping_empty", fields=session.say.listed(empty))
    if unused:
        session.tell("mapping_unused", columns=session.say.listed(unused[:20]) + (" …" if len(unused) > 20 else ""))  # noqa: PLR2004
    for code, detail in draft.head.notes:
        if code == "hidden_rows":
            session.warn("hidden_rows", count=detail)
    code = "rows_checked" if draft.report.blank else "rows_checked_all"
    session.tell(code, rows=draft.report.rows, blank=draft.report.blank)


def show_summary(
    session: Session, workbench: Workbench, batch: BatchRecord, output: Path | None, seconds: float | None = None
) -> None:
    """For people, at the end of a run and for `show`."""
    counts = workbench.batches.counts(batch.id)
    session.show(_state_line(session, batch))
    for state in RowState:
        if count := counts.of(state):
            session.show(session.say("count_line", state=session.say(f"state.{state.value}"), count=f"{count:,}"))
    session.show(session.say("total_line", total=f"{counts.total:,}", tokens=f"{counts.tokens:,}"))
    for currency, price in workbench.batches.prices(batch.id).items():
        session.show(session.say("cost_line", price=show_price(price), currency=currency))
    if seconds:
        session.show(session.say("time_line", time=duration(session.say, seconds)))
    for sheet in batch.appended:
        session.show(session.say("appended_line", sheet=sheet.label, rows=f"{sheet.rows:,}"))
    show_taken(session, workbench, batch)
    show_versions(session, batch, workbench.batches.versions(batch.id))
    _show_causes(session, workbench, batch)
    show_asking(session, workbench, batch)
    if output is not None:
        session.show(session.say("results_at", path=str(output)))
    _show_files(session, *workbench.batches.output_files(batch.id), output)
    _show_next(session, batch, counts, options_again(session, batch, output))


def _show_files(session: Session, kept: int, lost: int, output: Path | None) -> None:
    if kept and output is not None:
        session.show(session.say("files_beside", count=f"{kept:,}", folder=str(folder_of(output))))
    elif kept:
        session.show(session.say("files_kept", count=f"{kept:,}"))
    if lost:
        session.show(session.say("files_lost", count=f"{lost:,}"))


def _state_line(session: Session, batch: BatchRecord) -> str:
    state = session.say(f"batch_state.{batch.state.value}")
    line = session.say("batch_line", batch=batch.id, state=state)
    if batch.reason and batch.state in UNFINISHED:
        why = reason_text(session, batch.reason)
        line += " " + session.say("batch_reason", reason=why, detail=f" ({batch.detail})" if batch.detail else "")
    return line


def _show_causes(session: Session, workbench: Workbench, batch: BatchRecord) -> None:
    for cause, state, count in workbench.batches.causes(batch.id):
        if state is RowState.SUCCEEDED:
            continue
        name = session.say(f"cause.{cause}")
        state_name = session.say(f"state.{state.value}")
        session.show(session.say("cause_line", count=f"{count:,}", state=state_name, cause=name, code=cause))
        session.show(session.say("advice_line", advice=session.say(f"advice.{cause}")))


def _show_next(session: Session, batch: BatchRecord, counts: Counts, options: str) -> None:
    if batch.state in UNFINISHED:
        if batch.reason and session.say.knows(f"advice.{batch.reason}"):
            session.show(session.say("advice_line", advice=session.say(f"advice.{batch.reason}")))
        session.show(session.say("how_to_resume", batch=batch.id, options=options))
    if counts.of(RowState.FAILED, RowState.STOPPED):
        session.show(session.say("how_to_retry", batch=batch.id, options=options))
    if counts.asking or counts.of(RowState.UNKNOWN):
        session.show(session.say("how_to_check", batch=batch.id))
    if counts.of(RowState.UNKNOWN):
        session.show(session.say("how_to_resend", batch=batch.id, options=options))

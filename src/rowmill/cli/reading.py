"""Commands that only read: batches, show, export, template, doctor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rowmill.bootstrap import open_workbench
from rowmill.cli import options
from rowmill.cli.again import taken_json
from rowmill.cli.asking import may_replace
from rowmill.cli.given import key_from, settings_for
from rowmill.cli.pinning import versions_json
from rowmill.cli.run import guarantee_code
from rowmill.cli.session import Session
from rowmill.cli.summary import counts_json, show_summary, summary_json
from rowmill.cli.waiting import asking_json
from rowmill.cli.watch import run_loop
from rowmill.domain.batch import UNFINISHED
from rowmill.domain.errors import UsageError
from rowmill.domain.form import QUERY, FieldKind, form_to_json
from rowmill.ports.sheets import Words
from rowmill.workbench.results import check_target

if TYPE_CHECKING:
    from rowmill.domain.form import Field
    from rowmill.ports.dify import AppInfo
    from rowmill.ports.store import BatchSummary

Target = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="help.output")]
Raw = Annotated[bool, typer.Option("--raw", help="help.raw")]
TemplateTarget = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="help.template_output")]


def batches(context: typer.Context, data_dir: options.DataDir = None, as_json: options.AsJson = False) -> None:
    session: Session = context.obj
    session.json = as_json
    with open_workbench(settings_for(session, data_dir)) as workbench:
        found = workbench.batches.all()
    session.answer([_summary(batch) for batch in found])
    if session.json:
        return
    if not found:
        session.tell("no_batches")
        return
    table = Table(*(session.say(f"batches.{name}") for name in ("id", "state", "done", "app", "sheet", "created")))
    for batch in found:
        table.add_row(
            batch.id,
            session.say(f"batch_state.{batch.state.value}"),
            f"{batch.counts.done:,}/{batch.counts.total:,}",
            batch.app_name,
            Path(batch.sheet_path).name,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(batch.created_at)),
        )
    session.out.print(table)


def _summary(batch: BatchSummary) -> dict[str, object]:
    return {
        "id": batch.id,
        "state": batch.state.value,
        "reason": batch.reason,
        "app": batch.app_name,
        "base_url": batch.base_url,
        "sheet": batch.sheet_path,
        "created_at": batch.created_at,
        **counts_json(batch.counts),
    }


def show(
    context: typer.Context,
    batch_id: options.BatchId,
    data_dir: options.DataDir = None,
    as_json: options.AsJson = False,
) -> None:
    session: Session = context.obj
    session.json = as_json
    with open_workbench(settings_for(session, data_dir)) as workbench:
        batch = workbench.batches.find(batch_id)
        if not session.json:
            show_summary(session, workbench, batch, None)
            return
        causes = [
            {"cause": cause, "state": state.value, "rows": rows, "advice": session.say(f"advice.{cause}")}
            for cause, state, rows in workbench.batches.causes(batch.id)
        ]
        batches = workbench.batches
        counts, prices, files = batches.counts(batch.id), batches.prices(batch.id), batches.output_files(batch.id)
        summary = summary_json(batch, counts, prices, files, 0.0, None)
        del summary["output"], summary["seconds"]
        summary |= versions_json(batch, batches.versions(batch.id)) | taken_json(workbench, batch)
        summary["appended"] = [{"sheet": one.label, "path": one.path, "rows": one.rows} for one in batch.appended]
        app = {"name": batch.app.name, "base_url": batch.app.base_url, "mode": batch.app.mode.value}
        asking = asking_json(workbench, batch)
        session.answer({**summary, "app": app, "sheet": batch.sheet_path, "causes": causes, "asking": asking})


def export(
    context: typer.Context,
    batch_id: options.BatchId,
    output: Target,
    raw: Raw = False,
    data_dir: options.DataDir = None,
    as_json: options.AsJson = False,
) -> None:
    session: Session = context.obj
    session.json = as_json
    check_target(output)
    with open_workbench(settings_for(session, data_dir)) as workbench:
        batch = workbench.batches.find(batch_id)
        check_target(output, Path(batch.sheet_path))
        if not may_replace(session, output, batch.settings.output):
            session.tell("nothing_written")
            return
        done = workbench.export(batch, output, session.say.raw, raw=raw)
        counts = workbench.batches.counts(batch.id)
    session.answer({"batch": batch.id, "rows": done.rows, "blank_left_out": done.left_out, "output": str(output)})
    code = "exported_without_blank" if done.left_out else "exported"
    session.show(session.say(code, rows=f"{done.rows:,}", blank=f"{done.left_out:,}", path=str(output)))
    if batch.state in UNFINISHED:
        session.show(session.say("exported_unfinished", done=f"{counts.done:,}", total=f"{counts.total:,}"))


def template(
    context: typer.Context,
    base_url: options.BaseUrl,
    output: TemplateTarget,
    api_key: options.ApiKey = None,
    as_json: options.AsJson = False,
) -> None:
    session: Session = context.obj
    session.json = as_json
    settings = settings_for(session, None)
    if output.suffix.lower() != ".xlsx":
        raise UsageError("template_ending", path=str(output))
    check_target(output)
    key = key_from(session, api_key, settings)
    with open_workbench(settings) as workbench:
        info = run_loop(workbench.apps.probe(base_url, key or ""))
        workbench.write_template(info, output, Words(_words(session)))
    session.answer({"output": str(output), "app": info.name, "form": info.form.digest, "fields": len(info.form.fields)})
    session.show(session.say("template_written", path=str(output), app=info.name, fields=len(info.form.fields)))


def _words(session: Session) -> dict[str, str]:
    """The texts of a template: codes as rowmill.sheets.template names them."""
    parts = (session.say.part(f"{name}.") for name in ("template", "kind", "fill", "example"))
    return {code: text for part in parts for code, text in part.items()}


def doctor(
    context: typer.Context, base_url: options.BaseUrl, api_key: options.ApiKey = None, as_json: options.AsJson = False
) -> None:
    session: Session = context.obj
    session.json = as_json
    settings = settings_for(session, None)
    key = key_from(session, api_key, settings)
    with open_workbench(settings) as workbench:
        info: AppInfo = run_loop(workbench.apps.probe(base_url, key or ""))
    session.answer(_doctor_json(session, info))
    if not session.json:
        _show_doctor(session, info, base_url)


def _doctor_json(session: Session, info: AppInfo) -> dict[str, object]:
    return {
        "app": info.name,
        "mode": info.mode.value,
        "version": info.version,
        "form": form_to_json(info.form),
        "limits": info.system_limits,
        "recovery": {
            "by_run_id": info.recovery.by_run_id,
            "by_user": info.recovery.by_user,
            "from_start": info.recovery.from_start,
            "by_message": info.recovery.by_message,
            "silent_refusals": info.recovery.silent_refusals,
        },
        "guarantee": session.say(guarantee_code(info)),
    }


def _show_doctor(session: Session, info: AppInfo, base_url: str) -> None:
    say = session.say
    session.show(say("app_found", app=info.name, mode=info.mode.value, version=info.version or "?", url=base_url))
    for field in info.form.fields:
        session.show(_field_line(session, field))
    session.show(say(guarantee_code(info)))
    if info.recovery.silent_refusals:
        session.show(say("guarantee.silent"))
    for name, value in info.system_limits.items():
        known = say.knows(f"limit.{name}")
        session.show(say("limit_line", text=say(f"limit.{name}", value=value) if known else f"{name}: {value}"))
    session.show(say("doctor_pace"))


def _field_line(session: Session, field: Field) -> str:
    say = session.say
    facts = [say("kind.query" if field.variable == QUERY else f"kind.{field.kind.value}")]
    facts.append(say("required") if field.required else say("optional"))
    if field.max_length:
        files = field.kind is FieldKind.FILE_LIST
        facts.append(say("template.max_files" if files else "template.max_chars", count=field.max_length))
    if field.options:
        facts.append(say("field_options", options=tuple(option for option in field.options if option)))
    if field.file_types:
        facts.append(say("field_files", types=field.file_types))
    return say("field_line", field=field.title, variable=field.variable, facts=tuple(facts))

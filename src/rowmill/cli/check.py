"""`rowmill check`: what became of rows that are unknown or wait for a person. Runs nothing."""

from __future__ import annotations

from pathlib import Path

import typer

from rowmill.bootstrap import open_runner
from rowmill.cli import options
from rowmill.cli.given import default_output, key_from, settings_for
from rowmill.cli.run import Job, check_again, ready, report
from rowmill.cli.session import Session
from rowmill.workbench.results import check_target


def check(
    context: typer.Context,
    batch_id: options.BatchId,
    api_key: options.ApiKey = None,
    output: options.Output = None,
    data_dir: options.DataDir = None,
    as_json: options.AsJson = False,
) -> None:
    session: Session = context.obj
    session.json = as_json
    settings = settings_for(session, data_dir)
    key = key_from(session, api_key, settings, needed=False)
    with open_runner(settings) as (workbench, engine):
        batch = workbench.batches.find(batch_id)
        target = output or default_output(Path(batch.sheet_path))
        check_target(target, Path(batch.sheet_path))
        job = Job(session, settings, workbench, engine, key, target, yes=True)
        check_again(job, ready(job, batch))
        code = report(job, batch, None)
    raise typer.Exit(code)

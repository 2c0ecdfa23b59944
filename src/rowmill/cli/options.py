"""Options that several commands share. Each `help` is a code that rowmill.cli.main puts into words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BaseUrl = Annotated[str, typer.Option("--base-url", metavar="URL", help="help.base_url")]
OptionalUrl = Annotated[str | None, typer.Option("--base-url", metavar="URL", help="help.base_url")]
ApiKey = Annotated[str | None, typer.Option("--api-key", metavar="KEY", help="help.api_key")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="help.output")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", metavar="DIR", help="help.data_dir")]
AsJson = Annotated[bool, typer.Option("--json", help="help.json")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="help.yes")]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", "-c", metavar="N", min=1, max=1000, help="help.concurrency")
]
Retries = Annotated[int | None, typer.Option("--retries", metavar="N", min=0, max=20, help="help.retries")]
BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="help.batch")]
HeaderRow = Annotated[int | None, typer.Option("--header-row", metavar="N", min=1, help="help.header_row")]
SheetName = Annotated[str | None, typer.Option("--sheet", metavar="NAME", help="help.sheet_name")]

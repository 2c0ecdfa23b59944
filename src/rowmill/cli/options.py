"""Options that several commands share. Each `help` is a code that rowmill.cli.main puts into words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rowmill.domain.pace import ResponseMode

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
Most = Annotated[int | None, typer.Option("--most", metavar="N", min=1, max=1000, help="help.most")]
PerMinute = Annotated[float | None, typer.Option("--per-minute", metavar="N", min=0.01, help="help.per_minute")]
Gap = Annotated[float | None, typer.Option("--gap", metavar="SECONDS", min=0, help="help.gap")]
Mode = Annotated[ResponseMode | None, typer.Option("--response-mode", help="help.response_mode")]
Priority = Annotated[float | None, typer.Option("--priority", metavar="N", min=0.1, max=100, help="help.priority")]
MaxFailures = Annotated[
    float | None, typer.Option("--max-failures", metavar="SHARE", min=0, max=1, help="help.max_failures")
]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", metavar="N", min=1, help="help.max_tokens")]
MaxRows = Annotated[int | None, typer.Option("--max-rows", metavar="N", min=1, help="help.max_rows")]
MaxPrice = Annotated[str | None, typer.Option("--max-price", metavar="AMOUNT", help="help.max_price")]
MaxMinutes = Annotated[float | None, typer.Option("--max-minutes", metavar="N", min=0.01, help="help.max_minutes")]

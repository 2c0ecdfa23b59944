"""All kinds of apps from the command line, on real files and sockets."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path

from rowmill.testing.fake_dify import Serving
from tests.cli.calling import Caller


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def write(text: str, path: str = "rows.csv") -> Path:
    file = Path(path)
    file.write_text(text, "utf-8")
    return file


# ── prices ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_prices_are_decimal_texts_and_their_sum_is_exact(rowmill: Caller, dify: Serving, folder: Path) -> None:
    sheet = write("product\n" + "".join(f"lamp {i}\n" for i in range(12)))
    called = rowmill("run", sheet, "--base-url", dify.url, "-o", "out.jsonl", "--json", ROWMILL_API_KEY="app-demo")
    rows = lines("out.jsonl")
    assert all(isinstance(row["price"], str) and row["currency"] == "USD" for row in rows)
    assert called.json["price"] == {"USD": str(sum(Decimal(row["price"]) for row in rows))}
    assert f"Cost: {called.json['price']['USD']} USD" in rowmill("show", called.json["batch"]).out
    assert rowmill("show", called.json["batch"], "--json").json["price"] == called.json["price"]
    rowmill("export", called.json["batch"], "-o", "out.csv")
    with Path("out.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["price"] for row in csv.DictReader(file)] == [row["price"] for row in rows]

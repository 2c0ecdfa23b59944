"""The picture of docs/design/pace.md, written by hand as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.pace.servers import KINDS, play
from benchmarks.pace.table import POLICIES
from benchmarks.pace.world import HOUR

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.pace.table import Score

COLOURS = {"fixed 10": "#8a8a8a", "AIMD": "#c0562f", "Gradient2": "#b8932b", "Rowmill": "#1f6f8b"}
WIDTH, HEIGHT = 440, 260
STEP = 15.0
INK, PAPER, GRID = "#30343a", "#ffffff", "#d9dce0"


@dataclass(frozen=True, slots=True)
class Axes:
    """A panel at `left`, with values x from 0 to `x_most` and y from 0 to `y_most`."""

    left: float
    x_most: float
    y_most: float

    def at(self, x: float, y: float) -> str:
        share = min(1.0, y / self.y_most)
        return f"{self.left + WIDTH * x / self.x_most:.1f},{40 + HEIGHT * (1 - share):.1f}"

    def line(self, points: Iterable[tuple[float, float]], colour: str, width: float = 1.8, dash: str = "") -> str:
        path = " ".join(self.at(x, y) for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        return f'<polyline fill="none" stroke="{colour}" stroke-width="{width}"{dashes} points="{path}"/>'

    def frame(self, title: str, x_label: str, ticks_x: Sequence[tuple[float, str]], ticks_y: Sequence[float]) -> str:
        parts = [text(self.left, 24, title, 14, weight="600")]
        for value in ticks_y:
            x, y = self.at(0, value).split(",")
            parts.append(f'<line x1="{x}" y1="{y}" x2="{self.left + WIDTH}" y2="{y}" stroke="{GRID}"/>')
            parts.append(text(self.left - 6, float(y) + 4, f"{value:g}", 11, anchor="end"))
        for value, label in ticks_x:
            x = float(self.at(value, 0).split(",")[0])
            parts.append(text(x, 40 + HEIGHT + 16, label, 11, anchor="middle"))
        parts.append(text(self.left + WIDTH / 2, 40 + HEIGHT + 34, x_label, 12, anchor="middle"))
        return "".join(parts)


def text(
    x: float, y: float, words: str, size: int, *, anchor: str = "start", weight: str = "400", fill: str = INK
) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{fill}">{words}</text>'
    )


def sampled(trace: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """In flight every few seconds, as a mean of what was seen."""
    points, at, current = [], 0, 0.0
    for step in range(int(HOUR / STEP)):
        seen = []
        while at < len(trace) and trace[at][0] < (step + 1) * STEP:
            seen.append(trace[at][1])
            at += 1
        current = sum(seen) / len(seen) if seen else current
        points.append(((step + 0.5) * STEP, current))
    return points


def draw(scores: Sequence[Score], seed: int) -> str:
    """Left: in flight while a server loses its workers. Right: goodput of all random servers, worst first."""
    kind = next(one for one in KINDS if one.changes)
    over_time = Axes(50, HOUR, 80)
    minutes = [(60.0 * minute, str(minute)) for minute in range(0, 61, 10)]
    parts = [
        over_time.frame(
            "In flight: 32, then 4, then 32 workers (above 80 cut off)", "minute", minutes, range(0, 81, 20)
        )
    ]
    slots = [(float(t), round((kind.slots or 0) * kind.factor(t))) for t in range(0, int(HOUR), 10)]
    parts.append(over_time.line(slots, INK, 1.2, "5 4"))
    parts += [over_time.line(sampled(play(kind, seed, POLICIES[name](kind)).trace), COLOURS[name]) for name in POLICIES]
    spread = Axes(570, 100, 100)
    shares = [(float(share), f"{share} %") for share in range(0, 101, 20)]
    parts.append(
        spread.frame(
            "Goodput, % of an oracle, on random servers", "share of the servers, worst first", shares, range(0, 101, 20)
        )
    )
    for name in POLICIES:
        ordered = sorted(100 * one.late for one in scores if one.policy == name)
        parts.append(spread.line(((100 * n / (len(ordered) - 1), y) for n, y in enumerate(ordered)), COLOURS[name]))
    for number, name in enumerate(POLICIES):
        x = 300 + 130 * number
        parts.append(f'<rect x="{x}" y="352" width="16" height="4" fill="{COLOURS[name]}"/>')
        parts.append(text(x + 22, 358, name, 12))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1030 372" font-family="system-ui, sans-serif">'
        f'<title>The pace against fixed 10, AIMD, Gradient2</title><rect width="1030" height="372" fill="{PAPER}"/>'
        + "\n".join(parts)
        + "</svg>\n"
    )

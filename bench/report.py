"""The page: docs/benchmarks.md, with a plot of each comparison, out of what was kept."""

import statistics
from collections.abc import Iterable
from html import escape

from bench.results import ROOT, Row

PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images"
#: The page's own words, about misses and how to read it; kept by hand.
NOTES = ROOT / "docs" / "benchmarks-notes.md"
COLOURS = ("#2f6f4f", "#b0b7bd")


def write(rows: dict[str, Row]) -> None:
    """Writes the page and its plots anew."""
    measured = [row for row in rows.values() if not row.failed]
    shown = [row for row in measured if "theirs" in row.sides and row.name.split("-")[-1].isdigit()]
    rates = [row for row in shown if row.at_least]
    (IMAGES / "benchmarks-rates.svg").write_text(_bars("Output tokens a second", rates))
    (IMAGES / "benchmarks-bars.svg").write_text(_bars_of(measured))
    notes = NOTES.read_text() if NOTES.exists() else ""
    PAGE.write_text(f"{HEAD}\n{_table(rows.values())}\n{PLOTS}\n{notes}\n{_machines(rows.values())}")


HEAD = """# Benchmarks

Written by `make bench`, out of benchmarks.json: `make bench ROWS="vllm relay"` measures some rows anew, in under
an hour `make bench` all of them, and `make bench ROWS=--quick` some in five minutes: shorter runs, which replace none
of the full form's. Each comparison runs both sides in turns on the same machine, model, prompts and
lengths (SmolLM2 135M; 64 random tokens in, 64 out, greedy), by vLLM's own benchmark client over
`/v1/chat/completions`, streaming. A ratio is the median of the pairs' ratios. "Load by others" is how many others
wanted the cores when a row began: beyond a half, rates and latencies are those of a part of the machine, and only
ratios, counts and processor times can be compared.
"""
PLOTS = """
![Output tokens a second, ours and theirs](images/benchmarks-rates.svg)

![Each figure in parts of its bar](images/benchmarks-bars.svg)
"""


def _table(rows: Iterable[Row]) -> str:
    lines = ["| what | measured | bar | | form | load by others |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        sign = "at least" if row.at_least else "at most"
        note = f"<br>{row.note.strip()}" if row.note else ""
        met = "met" if row.met else "**missed**"
        where = f"{row.form} | {row.machine.get('load at the start', '')}"
        if row.failed:
            lines.append(f"| {row.what}{note} | | | **failed** | {where} |")
            continue
        lines.append(f"| {row.what}{note} | {row.value:g} {row.unit} | {sign} {row.bar:g} | {met} | {where} |")
    return "\n".join(lines)


def _machines(rows: Iterable[Row]) -> str:
    """Where the rows were measured; those of one run share a paragraph."""
    found: dict[str, list[str]] = {}
    for row in rows:
        text = ", ".join(f"{name} {value}" for name, value in row.machine.items())
        found.setdefault(text, []).append(row.name)
    return "## Where\n\n" + "\n".join(f"- {', '.join(names)}: {text}." for text, names in found.items()) + "\n"


def _bars(title: str, rows: list[Row]) -> str:
    """Two bars a row: the medians of both sides."""
    most = max((max(map(statistics.median, row.sides.values())) for row in rows), default=1)
    parts = []
    for row in rows:
        parts.append((row.what, 0.0, "", ""))
        for colour, side in zip(COLOURS, ("ours", "theirs"), strict=True):
            value = statistics.median(row.sides[side])
            parts.append((side, value / most, f"{value:.0f}", colour))
    return _svg(title, parts)


def _bars_of(rows: Iterable[Row]) -> str:
    """How far each figure is above its bar, whichever side is the good one; 1 is the bar itself."""
    parts = []
    for row in rows:
        good = row.value / row.bar if row.at_least else row.bar / max(row.value, 1e-9)
        parts.append((row.name, min(good, 3) / 3, f"{good:.2f}", COLOURS[0] if row.met else "#b5482f"))
    return _svg("In parts of the bar: 1 and more is met", parts)


def _svg(title: str, parts: list[tuple[str, float, str, str]]) -> str:
    """Lines of a label, a bar's length from 0 to 1, its value, its colour; a line without a colour is a heading."""
    lines = [f'<text x="8" y="20" font-weight="bold">{escape(title)}</text>']
    for number, (label, length, value, colour) in enumerate(parts):
        y = 44 + number * 20
        if not colour:
            lines.append(f'<text x="8" y="{y}">{escape(label)}</text>')
            continue
        lines.append(f'<text x="150" y="{y}" text-anchor="end">{escape(label)}</text>')
        lines.append(f'<rect x="158" y="{y - 12}" width="{length * 420:.0f}" height="14" fill="{colour}"/>')
        lines.append(f'<text x="{164 + length * 420:.0f}" y="{y}">{value}</text>')
    height = 54 + len(parts) * 20
    size = f'width="680" height="{height}" font-family="sans-serif" font-size="13"'
    lines.insert(0, '<rect width="100%" height="100%" fill="white"/>')
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(lines)}</svg>\n'

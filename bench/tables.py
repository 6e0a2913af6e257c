"""The tables of bench/README.md and of the README, written from the results of all machines."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Row = dict[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """A number that the bench is to show, and its bound."""

    words: str
    part: str
    value: Callable[[list[Row]], float | None]
    bound: float
    at_least: bool = True
    unit: str = ""
    chief: bool = False
    """Whether the project's README has it too."""

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def shown(self, value: float) -> str:
        if self.unit == "%":
            return f"{100 * value:.1f} %"
        return f"{value:.1f} {self.unit}" if self.unit else f"{value:.2f}"


def against(width: int, other: str, own: str = "dense") -> Callable[[list[Row]], float | None]:
    """How many times faster `own` is than `other` at a width."""

    def value(rows: list[Row]) -> float | None:
        speeds = {row["name"]: row["speed"] for row in rows if row["width"] == width}
        return speeds[own] / speeds[other] if {own, other} <= speeds.keys() else None

    return value


def worst_layer(width: int) -> Callable[[list[Row]], float | None]:
    """The largest ratio of a factorised layer's time to its floor, over shapes and aligned ranks."""

    def value(rows: list[Row]) -> float | None:
        own = [row for row in rows if row["width"] == width]
        times = {(row["shape"], row["name"]): row["milliseconds"] for row in own}
        prefix = "floor of "
        ratios = [
            times[shape, name.removeprefix(prefix)] / floor
            for (shape, name), floor in times.items()
            if name.startswith(prefix)
        ]
        return max(ratios, default=None)

    return value


def largest_share(*starts: str) -> Callable[[list[Row]], float | None]:
    """The largest share of the time in steps, over tracks."""
    return lambda rows: max(
        (row["share"] for row in rows if row["name"].startswith(starts)), default=None
    )


def most(*starts: str) -> Callable[[list[Row]], float | None]:
    """The most of what is called so."""
    return lambda rows: max(
        (r["value"] for r in rows if r["name"].startswith(starts)), default=None
    )


def of_most(start: str, least: int) -> Callable[[list[Row]], float | None]:
    """The value of the largest number of what is called so, if that is large enough; it follows the words."""

    def value(rows: list[Row]) -> float | None:
        sizes = {
            int(row["name"].removeprefix(start).split()[0].replace(",", "")): row["value"]
            for row in rows
            if row["name"].startswith(start)
        }
        return sizes[max(sizes)] if sizes and max(sizes) >= least else None

    return value


def image_speed(rows: list[Row]) -> float | None:
    """The lowest speed of a factorised image model relative to the dense one."""
    speeds = [row["speed"] for row in rows if row["name"].startswith("rank")]
    return min(speeds, default=None)


NANO, TANH, STOCK = "nanoGPT-like", "nanoGPT-like, tanh GELU", "transformers"
GOALS = (
    *(Goal(f"GPT-2 of width {w}, times {NANO}", "language", against(w, NANO), b, chief=True)
      for w, b in ((64, 1.15), (256, 1.05), (768, 1.05))),
    *(Goal(f"GPT-2 of width {w}, times {NANO} with GPT-2's tanh GELU", "language", against(w, TANH), b)
      for w, b in ((64, 1.15), (256, 1.05), (768, 1.05))),
    *(Goal(f"GPT-2 of width {w}, times that of {STOCK}", "language", against(w, STOCK), b, chief=True)
      for w, b in ((64, 1.5), (256, 1.25), (768, 1.25))),
    *(Goal(f"GPT-2 of width {w}, times its bare products", "language", against(w, "floor of dense"), b)
      for w, b in ((64, 0.75), (256, 0.85), (768, 0.85))),
    *(Goal(f"rank 0.25 at width {w}, times dense", "language",
           against(w, "dense", "rank 0.25"), 1.9, chief=True) for w in (256, 768)),
    *(Goal(f"bare products of rank 0.25 at width {w}, times those of dense", "language",
           against(w, "floor of dense", "floor of rank 0.25"), 1.9) for w in (256, 768)),
    *(Goal(f"factorised layer of width {w}, its time over that of its bare products, at worst", "layers",
           worst_layer(w), 1.1, False, chief=True) for w in (64, 256, 768)),
    Goal("image models in factors, times dense, at worst", "images", image_speed, 1.0, chief=True),
    *(Goal(words, "around", largest_share(start), bound, False, "%") for words, start, bound in (
        ("decay, share of the time in steps at worst", "decay", 0.02),
        ("spectra and ranks", "probe", 0.01),
        ("data", "batch", 0.02),
        ("checkpoints", "checkpoint", 0.02))),
    *(Goal(words, "pipeline", most(start), bound, False, "s", chief) for words, start, bound, chief in (
        ("CPU of a training process until its first step, at worst", "training process", 2.5, True),
        ("CPU of figures and paper from published tables", "figures and paper", 45, False),
        ("smoke from nothing, on two cores", "all figures of smoke, on", 45, True),
        ("CPU of a call with nothing to do, at worst", "the same with nothing", 2, False))),
    Goal("CPU time in jobs that train, laptop scale", "whole", most("share of CPU"), 0.9, True, "%", True),
    Goal("time of two cores that is used, laptop scale", "whole", most("share of the time"), 0.9, True, "%"),
    Goal("a step of four times the tokens, over four times a step", "growth", most("a step of"), 1.05, False),
    Goal("CPU of reading 10,000 cells", "growth", of_most("reading a configuration of ", 10_000), 20,
         False, "s"),
    Goal("memory of a training process at 1 GB of text, times that at 1 MB", "growth",
         most("the second over"), 1.1, False),
    Goal("tokenising, on two cores", "growth", most("tokenising"), 5, True, "MB/s"),
    Goal("CPU of gathering the tables of 10,000 runs", "growth",
         of_most("gathering the tables of ", 10_000), 10, False, "s"),
)  # fmt: skip


def measured(goal: Goal, results: Sequence[Result]) -> list[float | None]:
    """A goal's number on each machine."""
    parts = [result["parts"].get(goal.part) for result in results]
    return [goal.value(part["rows"]) if part else None for part in parts]


def goals_table(results: Sequence[Result], chief: bool = False) -> str:
    """A line a goal that was measured somewhere, a column a machine; what misses its bound is in italics. With
    `chief` only those of the README, and how many there are and miss theirs in all."""
    names = [f"{r['machine']['device']}, {r['machine']['capability']}" for r in results]
    lines = [f"| speed | goal | {' | '.join(names)} |", f"|---|---:|{'---:|' * len(names)}"]
    known = {goal: measured(goal, results) for goal in GOALS}
    known = {goal: values for goal, values in known.items() if any(v is not None for v in values)}
    for goal, values in known.items():
        if chief and not goal.chief:
            continue
        texts = ["" if value is None else goal.shown(value) for value in values]
        fields = [
            text if value is None or goal.met(value) else f"*{text}*"
            for text, value in zip(texts, values, strict=True)
        ]
        sign = "≥" if goal.at_least else "≤"
        lines.append(f"| {goal.words} | {sign} {goal.shown(goal.bound)} | {' | '.join(fields)} |")
    if chief:
        missed = sum(
            any(value is not None and not goal.met(value) for value in values)
            for goal, values in known.items()
        )
        lines += [
            "",
            f"Of all {len(known)} goals that were measured {missed} are missed somewhere.",
        ]
    return "\n".join(lines)


def part_table(rows: list[Row]) -> str:
    """Milliseconds with quartiles, speed and FLOPs relative to dense, and shares where there are any."""
    if "value" in rows[0]:
        lines = [f"| {row['name']} | {row['value']:.2f} | {row['unit']} |" for row in rows]
        return "\n".join(["| | | |", "|---|---:|---|", *lines])
    places = [key for key in ("width", "shape", "track") if key in rows[0]]
    shares = any(row.get("share") is not None for row in rows)
    last = ["share of a run's steps"] if shares else ["FLOPs"]
    head = [*places, "", "ms", "quartiles", f"speed ({rows[0]['name']} = 1)", "quartiles", *last]
    lines = [
        f"| {' | '.join(head)} |",
        f"|{'---|' * (len(places) + 1)}{'---:|' * (len(head) - len(places) - 1)}",
    ]
    for row in rows:
        flops, share = row.get("kept_flops"), row.get("share")
        lines.append(
            "| "
            + " | ".join(
                [
                    *(str(row[place]) for place in places),
                    row["name"],
                    f"{row['milliseconds']:.3g}",
                    f"{row['low']:.3g} to {row['high']:.3g}",
                    f"{row['speed']:.2f}",
                    f"{row['speed_low']:.2f} to {row['speed_high']:.2f}",
                    (f"{100 * share:.2f} %" if share is not None else "")
                    if shares
                    else (f"{flops:.2f}" if flops is not None else ""),
                ]
            )
            + " |"
        )
    return "\n".join(lines)


def write_tables(results: Sequence[Result]) -> None:
    """Put the chief goals into the README, all and every row into bench/README.md."""
    replace(HERE.parent / "README.md", goals_table(results, chief=True))
    sections = [f"## Goals\n\n{goals_table(results)}"]
    for result in results:
        facts = result["machine"]
        sections.append(
            f"## {facts['device']}, {facts['capability']}\n\ntorch {facts['torch']}, transformers "
            f"{facts['transformers']}, {facts['threads']} thread of {facts['cores']} cores."
        )
        for name, part in result["parts"].items():
            load = statistics.fmean([part["load"]])
            sections.append(
                f"### {name}\n\n{part['date']}, load {load}.\n\n{part_table(part['rows'])}"
            )
    replace(HERE / "README.md", "\n\n".join(sections))


def replace(path: Path, text: str) -> None:
    """Put a text between the marks of a document."""
    document = path.read_text(encoding="utf-8")
    new, found = re.subn(
        r"(<!-- bench[^\n]*-->\n).*(<!-- end of bench -->)",
        lambda match: f"{match[1]}\n{text}\n\n{match[2]}",
        document,
        flags=re.S,
    )
    assert found == 1, f"{path} has no place for the bench"
    path.write_text(new, encoding="utf-8")

"""The numbers of a figure as a table: the columns that are shown, rounded and in the figure's units.

As CSV all numbers are written in full precision and in the units of the study's tables; as JSON, which
the report reads, the fields are as they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lowrank import escape
from lowrank.analysis.measures import NONE, number, significant
from lowrank.plot.results import Quality

STYLE = (
    "body{font:14px sans-serif;margin:1em}table{border-collapse:collapse}"
    "th,td{padding:.25em .6em;border-bottom:1px solid #ddd}th{border-bottom:2px solid #333}"
    ".n{text-align:right}.w{text-align:left;max-width:40em;overflow-wrap:break-word}"
    "h1{font-size:1.4em}h2{font-size:1.1em;margin:1.6em 0 .4em}p{max-width:60em}"
)


@dataclass(frozen=True)
class Column:
    """One shown column: its heading and how a row of the table becomes its text."""

    heading: str
    text: Callable[[Any], str]
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """The numbers of a figure and the columns by which they are shown."""

    numbers: pd.DataFrame
    columns: Sequence[Column]

    def shown(self) -> pd.DataFrame:
        """The table as text, one string a field."""
        rows = list(self.numbers.itertuples(index=False))
        return pd.DataFrame({c.heading: [c.text(row) for row in rows] for c in self.columns})

    def _repr_html_(self) -> str:
        return notebook_html(self.html_table())

    def html(self, title: str) -> str:
        """A page of its own that needs nothing else."""
        return html_page(title, self.html_table())

    def html_table(self) -> str:
        """The table alone, numbers to the right."""
        shown = self.shown()
        align = ["n" if column.numeric else "w" for column in self.columns]

        def row(cell: str, fields: Iterable[Any]) -> str:
            texts = zip(align, fields, strict=True)
            return "".join(
                f'<{cell} class="{a}">{escape.markup(str(t))}</{cell}>' for a, t in texts
            )

        body = "\n".join(f"<tr>{row('td', fields)}</tr>" for fields in shown.to_numpy())
        head = f"<thead><tr>{row('th', shown.columns)}</tr></thead>"
        return f"<table>{head}<tbody>\n{body}\n</tbody></table>"

    def csv(self) -> str:
        """Every column of the numbers."""
        return self.numbers.to_csv(index=False, lineterminator="\n")

    def fields(self) -> list[list[str]]:
        """The heading, then a list of texts a row: what the report sets."""
        shown = self.shown()
        lines = [list(shown.columns), *shown.to_numpy().tolist()]
        return [[escape.visible(text) for text in line] for line in lines]

    def markdown(self) -> str:
        """A GitHub table; numbers to the right."""
        shown = self.shown()
        header = [escape.markdown(name) for name in shown.columns]
        rule = ["---:" if column.numeric else ":---" for column in self.columns]
        body = [[escape.markdown(text) for text in row] for row in shown.to_numpy()]
        return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *body))

    def latex(self) -> str:
        """A tabular in the manner of booktabs, without a float around it."""
        shown = self.shown()
        spec = "".join("r" if column.numeric else "l" for column in self.columns)
        lines = [shown.columns, *shown.to_numpy()]
        rows = [" & ".join(escape.latex(text) for text in line) + " \\\\\n" for line in lines]
        return (
            "% needs \\usepackage{booktabs}\n"
            f"\\begin{{tabular}}{{{spec}}}\n\\toprule\n{rows[0]}\\midrule\n{''.join(rows[1:])}"
            "\\bottomrule\n\\end{tabular}\n"
        )


# Fields


def plain(heading: str, column: str, digits: int = 2, factor: float = 1.0) -> Column:
    """A number."""
    return Column(heading, lambda row: number(factor * getattr(row, column), digits))


def order(heading: str, column: str) -> Column:
    """A number whose size varies widely: three significant digits."""
    return Column(heading, lambda row: significant(getattr(row, column)))


def count(heading: str, column: str) -> Column:
    """A whole number."""

    def text(row: Any) -> str:
        value = getattr(row, column)
        return NONE if pd.isna(value) else f"{value:,.0f}"

    return Column(heading, text)


def words(heading: str, text: str | Callable[[Any], str]) -> Column:
    """A column of the table, or what a function makes of a row, as it stands."""
    get = text if callable(text) else lambda row: getattr(row, text)
    return Column(heading, lambda row: NONE if pd.isna(get(row)) else str(get(row)), numeric=False)


def estimate(heading: str, column: str, digits: int = 3, factor: float = 1.0) -> Column:
    """A mean over seeds with half of its 95 % t interval, `3.646 ± 0.012`, or with both ends where
    one is cut, `99.10 [98.20, 100.00]`."""

    def text(row: Any) -> str:
        mean, low, high = (factor * getattr(row, f"{column}{end}") for end in ("", "_low", "_high"))
        half = high - mean
        if not math.isfinite(half):
            return number(mean, digits)
        if not math.isclose(half, mean - low, rel_tol=1e-6, abs_tol=1e-9):
            return f"{number(mean, digits)} [{number(low, digits)}, {number(high, digits)}]"
        return f"{number(mean, digits)} ± {number(half, digits)}"

    return Column(heading, text)


def difference(heading: str, column: str, digits: int = 3, factor: float = 1.0) -> Column:
    """A paired difference with its 95 % t interval, `−0.012 [−0.020, −0.004]`, starred where its
    Holm-corrected p is below 0.05."""

    def text(row: Any) -> str:
        value, low, high = (getattr(row, f"{column}{end}") for end in ("", "_low", "_high"))
        if not math.isfinite(value):
            return NONE
        shown = number(factor * value, digits)
        if math.isfinite(low) and math.isfinite(high):
            shown += f" [{number(factor * low, digits)}, {number(factor * high, digits)}]"
        return shown + ("*" if getattr(row, f"{column}_p") < 0.05 else "")

    return Column(heading, text)


def costs() -> list[Column]:
    """What an arm keeps of the dense model, beside its rank fraction."""
    return [
        plain("rank fraction", "rank_fraction"),
        plain("kept parameters", "kept_parameters"),
        plain("kept FLOPs", "kept_flops"),
    ]


def seeds(row: Any) -> str:
    """How many seeds a mean is of; with the diverged ones and the first step at which one did."""
    if not row.diverged:
        return f"{row.seeds:.0f}"
    where = f" at step {row.diverged_at:.0f}" if pd.notna(row.diverged_at) else ""
    return f"{row.seeds:.0f} ({row.diverged:.0f} diverged{where})"


def qualities(quality: Quality) -> list[Column]:
    """Seeds, the track's quality with its interval, and the metrics beside it."""
    return [
        Column("seeds", seeds),
        estimate(
            f"{quality.label} ({quality.unit})", quality.metric, quality.digits, quality.factor
        ),
        *(plain(heading, column, digits) for column, (heading, digits) in quality.beside.items()),
    ]


# Pages


def html_page(title: str, body: str) -> str:
    """A document of its own in the tables' style."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape.markup(title)}</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def notebook_html(body: str) -> str:
    """The body of a page for a notebook, which would set what is between dollars."""
    return f'<div class="tex2jax_ignore mathjax_ignore">{body}</div>'

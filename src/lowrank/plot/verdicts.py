"""The page of the claims: each in words with its verdict and a line of evidence, then its contrasts.

It is the file to open first (`claims.md`, `claims.html`). Nothing is computed here: the table
`claims` judged, `lowrank.analysis.evidence` says it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from lowrank.analysis import evidence
from lowrank.analysis.evidence import judged, margin_text, p_text, side_text
from lowrank.analysis.measures import Measure, counted, measure, number
from lowrank.analysis.next_runs import next_runs
from lowrank.plot.page import Page, Part
from lowrank.plot.table import NONE, Column, Table, words

READING = (
    "A verdict says at how many contrasts of how many it holds: mixed (2 of 3) is supported at two of three, "
    "not reproduced (1 of 3) refuted at one and supported at none; a claim that something can be ('up to') is shown at "
    "1 of 3 (one is enough), and not reproduced only if refuted at all; a test cannot tell where the smallest effect "
    "that its seeds settle is larger than the margin (no power: they settle none), and is inconclusive where it is "
    "neither supported nor refuted although they settle less, or has no margin. "
    "Each line of evidence counts a claim's contrasts by verdict and quotes the least sure of those that "
    "say what its verdict says; controls stand beside a claim and do not decide it. A contrast is the difference of an arm from its reference (arm "
    "minus reference; × is a ratio), paired over seeds, with its interval, uncorrected: that of the two "
    "one-sided tests where the margin is what counts as a difference, else the two-sided one. p is "
    "Holm-corrected within a test, for the claim or against it. An interaction has nothing to explain where what it is "
    "compared with is below the margin. The ledger of claims says what was chosen after looking. "
    "Arms are named as their cells are; a name leaves out what its track does by default, such as its decay. "
    "Verdicts hold for this scale."
)


NEXT = (
    "Of each claim the undecided contrast that is cheapest to settle: the seeds that it has, those at which it would "
    "be settled with a power of four in five if the true difference is the estimated one, and the price of the "
    "runs that are missing, by the times of those that ran. Seeds that are added because of what these show are a "
    "second look at the same question, for which p does not account: fresh seeds alone answer it anew."
)


def page(claims: pd.DataFrame) -> Page:
    """The table `claims` as a page; as LaTeX its contrasts, as CSV all its rows."""
    scale = next(iter(claims["scale"].dropna()), "")
    found = evidence.verdicts(claims)
    summary = Table(
        pd.DataFrame(found, columns=["claim", "statement", "verdict", "evidence", "tracks"]),
        [
            words("claim", "statement"),
            words("verdicts", "tracks"),
            words("evidence", "evidence"),
        ],
    )
    parts = [
        Part(table=summary),
        Part(text=evidence.not_run(claims)),
        Part("How to read", READING),
    ]
    undecided = following(claims)
    if len(undecided.numbers):
        parts.append(Part("What would change our mind", NEXT, undecided))
    for claim in found:
        contrasts = judged(claims[claims["claim"] == claim.claim]).reset_index(drop=True)
        text = f"{claim.tracks[:1].upper()}{claim.tracks[1:]}."
        parts.append(Part(claim.statement, text, Table(contrasts, columns(contrasts))))
    title = "The paper's claims" + (f" at the {scale} scale" if scale else "")
    contrasts = judged(claims).reset_index(drop=True)
    whole = Table(contrasts, [words("claim", "claim"), *columns(contrasts)])
    return Page(title, parts, whole, claims)


def following(claims: pd.DataFrame) -> Table:
    """What would change our mind, as a table."""
    return Table(
        next_runs(claims),
        [
            *(words(name, name) for name in ("claim", "where", "contrast")),
            Column("seeds", lambda row: str(row.seeds)),
            Column("needed", lambda row: str(row.needed)),
            Column("core-minutes", lambda row: number(row.core_minutes, 0)),
        ],
    )


def _shown(row: Any) -> Measure:
    return measure(row.metric, row.unit).telling(row.low, row.high)


def columns(contrasts: pd.DataFrame) -> list[Column]:
    """How contrasts are shown; the paper's numbers only where it gives some."""
    shown = [
        words("track", "track"),
        words("arm", lambda row: side_text(row, "arm")),
        words("against", lambda row: side_text(row, "reference")),
        words("measure", lambda row: measure(row.metric, row.unit).heading),
        Column("estimate", lambda row: _shown(row).number(row.estimate)),
        Column("interval", lambda row: _shown(row).interval(row.low, row.high)),
        Column("corrected p", p_text),
        Column("margin", margin_text),
        Column("pairs", lambda row: counted(int(row.pairs), measure(row.metric).pairs)),
        words("verdict", lambda row: row.verdict + (" (control)" if row.control else "")),
    ]
    if contrasts["paper_value"].fillna("").any():
        shown.append(words("the paper's numbers", lambda row: row.paper_value or NONE))
    return shown

"""The page of the claims: each in words with its verdict and a line of evidence, then its contrasts.

It is the file to open first (`claims.md`, `claims.html`). Nothing is computed here: the table
`claims` judged, `lowrank.analysis.evidence` says it.
"""

from __future__ import annotations

import pandas as pd

from lowrank.analysis import evidence
from lowrank.analysis.evidence import counted, judged, margin_text, measure, p_text, side_text
from lowrank.plot.page import Page, Part
from lowrank.plot.table import NONE, Column, Table, words

READING = (
    "Each line of evidence counts a claim's contrasts by verdict and quotes the least sure of those that "
    "say what the claim's verdict says. A contrast is the difference of an arm from its reference (arm "
    "minus reference; × is a ratio), paired over seeds, with its interval, uncorrected: that of the two "
    "one-sided tests where the margin is what counts as a difference, else the two-sided one. p is "
    "Holm-corrected within a test, for the claim or against it. Margins were fixed beforehand. "
    "Arms are named as their cells are; a name leaves out what its track does by default, such as its decay. "
    "Verdicts hold for this scale."
)


def page(claims: pd.DataFrame) -> Page:
    """The table `claims` as a page; as LaTeX its contrasts, as CSV all its rows."""
    scale = next(iter(claims["scale"].dropna()), "")
    found = evidence.verdicts(claims)
    summary = Table(
        pd.DataFrame(found, columns=["claim", "statement", "verdict", "evidence", "tracks"]),
        [
            words("claim", "statement"),
            words("verdict", "verdict"),
            words("evidence", "evidence"),
        ],
    )
    parts = [
        Part(table=summary),
        Part(text=evidence.not_run(claims)),
        Part("How to read", READING),
    ]
    for claim in found:
        contrasts = judged(claims[claims["claim"] == claim.claim]).reset_index(drop=True)
        text = f"Together: {claim.verdict}. By track: {claim.tracks}."
        parts.append(Part(claim.statement, text, Table(contrasts, columns(contrasts))))
    title = "The paper's claims" + (f" at the {scale} scale" if scale else "")
    contrasts = judged(claims).reset_index(drop=True)
    whole = Table(contrasts, [words("claim", "claim"), *columns(contrasts)])
    return Page(title, parts, whole, claims)


def columns(contrasts: pd.DataFrame) -> list[Column]:
    """How contrasts are shown; the paper's numbers only where it gives some."""
    shown = [
        words("track", "track"),
        words("arm", lambda row: side_text(row, "arm")),
        words("against", lambda row: side_text(row, "reference")),
        words("measure", lambda row: measure(row.metric, row.unit).heading),
        Column("estimate", lambda row: measure(row.metric, row.unit).number(row.estimate)),
        Column("interval", lambda row: measure(row.metric, row.unit).interval(row.low, row.high)),
        Column("corrected p", p_text),
        Column("margin", margin_text),
        Column("pairs", lambda row: counted(int(row.pairs), measure(row.metric).pairs)),
        words("verdict", "verdict"),
    ]
    if contrasts["paper_value"].fillna("").any():
        shown.append(words("the paper's numbers", lambda row: row.paper_value or NONE))
    return shown

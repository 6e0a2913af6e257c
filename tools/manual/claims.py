"""The pages of the claims: verdict, evidence, figure, tests and contrasts, from the published tables."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import pandas as pd

from lowrank.analysis import evidence, settled
from lowrank.analysis.claims import judge_scale
from lowrank.analysis.ledger import Claim, Ledger, Rows, read_ledger
from lowrank.analysis.measures import measure
from lowrank.analysis.publish import read_published
from lowrank.escape import markdown
from lowrank.experiment.config import Config, parse
from lowrank.files import read_json
from lowrank.plot.claims import draw, of_tests
from lowrank.plot.table import Table
from lowrank.plot.verdicts import NEXT, READING, columns, following

INTRODUCTION = """# The paper's claims

Each claim of the paper is put to tests with margins that were fixed before any run, in
`config/claims.yaml`. The verdicts are those of the published results of the scale **{scale}**
({runs} runs): what holds at this scale need not hold at the paper's.

{table}

A verdict says at how many contrasts of how many it holds: *mixed (2 of 3)* is supported at two of three, *not
reproduced (1 of 3)* refuted at one and supported at none. A claim that something can be ("up to") is *shown at 1 of 3
(one is enough)*, and not reproduced only if all refute it. A test *cannot tell* where the smallest effect that its seeds
settle is larger than its margin, and that is no refutation.

## What would change our mind

{reason}

{following}

## What was chosen after looking

{looked}

## How a claim is judged

::: lowrank.analysis.claims
    options:
        members: false
        show_root_heading: false
        show_root_toc_entry: false
"""

PAGE = """---
hide: [toc]
---

# {statement}

!!! abstract "Verdict at the scale {scale}"

{verdicts}

{evidence}

<div class="figure" markdown>
![The contrasts of this claim with their intervals, by track]({name}.svg)
</div>

## How it is tested

{origin} {resolution}

{tests}

{margins}

## Every contrast

{contrasts}

{reading}
"""

ORIGIN = {
    True: "The claim was read in a public source that quotes the paper.",
    False: "The claim is the paper's argument as understood here; its wording was not seen.",
}


@cache
def published(root: Path) -> tuple[Ledger, Config, dict[str, pd.DataFrame], pd.DataFrame]:
    """Ledger, configuration and tables of the published laptop scale, and its claims as judged now."""
    folder = root / "published/laptop"
    ledger = read_ledger(root / "config/claims.yaml")
    config = parse(read_json(folder / "config.json"), str(folder))
    tables = read_published(folder)
    tables.pop("claims", None)
    return ledger, config, tables, of_tests(judge_scale(ledger, config, tables))


def names(root: Path) -> list[str]:
    """The ids of the claims, which are the names of their pages."""
    return [claim.id for claim in read_ledger(root / "config/claims.yaml").claims]


def pages(root: Path) -> dict[str, str | bytes]:
    """The overview, and a page and a figure a claim."""
    ledger, config, tables, judged = published(root)
    found = {verdict.claim: verdict for verdict in evidence.verdicts(judged)}
    rows = ["| claim | verdicts by track |", "|---|---|"]
    written: dict[str, str | bytes] = {}
    for claim in ledger.claims:
        own = judged[judged["claim"] == claim.id]
        verdict = found.get(claim.id)
        lines = _verdicts(own)
        rows.append(f"| [{markdown(claim.sentence)}]({claim.id}.md) | {'<br>'.join(lines)} |")
        contrasts = evidence.judged(own).reset_index(drop=True)
        written[f"claims/{claim.id}.md"] = PAGE.format(
            statement=markdown(claim.sentence),
            scale=config.scale,
            verdicts="\n".join(f"    - {line}" for line in lines),
            evidence=markdown(f"{verdict.evidence}.") if verdict else "",
            name=claim.id,
            origin=ORIGIN[claim.verified],
            resolution=settled.resolution(own),
            tests=_tests(claim, ledger),
            margins=_margins(claim, ledger),
            contrasts=Table(contrasts, columns(contrasts)).markdown(),
            reading=READING,
        )
        written[f"claims/{claim.id}.svg"] = _figure(own)
    runs = len(tables["runs"])
    text = INTRODUCTION.format(
        scale=config.scale,
        runs=runs,
        table="\n".join(rows),
        reason=NEXT,
        following=following(judged).markdown(),
        looked=ledger.chosen_after_looking,
    )
    return {"claims/index.md": text, **written}


def _verdicts(claim: pd.DataFrame) -> list[str]:
    """A line a track."""
    tests = evidence.deciding_tests(claim)
    return [
        f"**{track}**: {', '.join(dict.fromkeys(evidence.apart(list(rows.itertuples(index=False)))))}"
        for track, rows in tests[tests["verdict"] != "not run"].groupby("track", sort=False)
    ] or ["not run"]


def _figure(claim: pd.DataFrame) -> bytes:
    figure, _ = draw(claim)
    written = io.BytesIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()


def _tests(claim: Claim, ledger: Ledger) -> str:
    rows = ["| tasks | measure | kind | arm | against | margin | of the family |", "|---" * 7 + "|"]
    for test in claim.tests:
        margin = ledger.margin(test)
        shown = measure(test.metric, margin.unit if margin else "absolute")
        cells = (
            ", ".join(test.tasks),
            shown.heading,
            f"`{test.kind}`" + (", control" if test.control else ""),
            _facts(test.arm),
            _facts(test.reference)
            + (
                f", less {_facts(test.against.arm)} against {_facts(test.against.reference)}"
                if test.against
                else ""
            ),
            f"{shown.number(margin.value)} ({test.margin})" if margin else "–",
            test.aggregate,
        )
        rows.append(f"| {' | '.join(cells)} |")
    why = " ".join(test.why for test in claim.tests if test.why)
    return "\n".join([*rows, "", why])


def _facts(rows: Rows) -> str:
    """In words; a brace at the end of a cell would be read as an attribute of it."""
    return markdown(str(rows)).replace("{", "\\{")


def _margins(claim: Claim, ledger: Ledger) -> str:
    used = dict.fromkeys(test.margin for test in claim.tests if test.margin)
    return "\n".join(f"**Margin {name}.** {ledger.margins[name].reason}\n" for name in used)

"""All published scales side by side: each claim's verdict, and its controls, on every track of every scale, judged now."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lowrank.analysis.claims import judge_scale
from lowrank.analysis.evidence import apart, deciding_tests, facts, judged
from lowrank.analysis.ledger import PLACEHOLDER, Ledger, read_ledger
from lowrank.analysis.measures import measure
from lowrank.analysis.publish import LEDGER, read_published
from lowrank.experiment.config import parse
from lowrank.files import MANIFEST, read_json

WORDS = {"rate_factor 0.5": "half the learning rate", "": "the arm's own"}
"""Of facts that one side of a control has alone."""


def judged_now(folder: Path, ledger: Ledger, name: str = "claims") -> pd.DataFrame | None:
    """The table `claims` of a published scale, from its runs and this ledger; None if nothing is published, or
    its ledger is not the one of this name."""
    if not (folder / MANIFEST).is_file():
        return None
    config = parse(read_json(folder / "config.json"), str(folder / "config.json"))
    if config.ledger != name:
        return None
    tables = read_published(folder)
    claims = tables.pop("claims", None)
    own = read_ledger(folder / LEDGER) if (folder / LEDGER).is_file() else None
    if claims is not None and own and own.model_dump_json() == ledger.model_dump_json():
        return claims  # which was held against the same ledger as it was read
    return judge_scale(ledger, config, tables)


def published_scales(root: Path, ledger: Ledger, name: str = "claims") -> list[pd.DataFrame]:
    """Those of each scale in the folder `published` whose ledger has this name and at which something could
    be judged, that with most contrasts first."""
    folders = sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))
    found = [judged_now(folder, ledger, name) for folder in folders]
    known = [claims for claims in found if claims is not None and len(judged(claims))]
    return sorted(known, key=lambda claims: -len(judged(claims)))


def side_by_side(scales: list[pd.DataFrame]) -> pd.DataFrame:
    """A row a claim (column `claim`: its sentence), a column `scale: track` each with its verdicts in words,
    a dash where the claim is not about such a track; no column for a track of which nothing was judged yet."""
    found: dict[str, dict[str, str]] = {}
    for claims in scales:
        ran = set(judged(claims)["track"])
        for statement, rows in claims.groupby("statement", sort=False):
            row = found.setdefault(str(statement), {"claim": str(statement)})
            tests = deciding_tests(rows)
            for track, own in tests[tests["track"].isin(ran)].groupby("track", sort=False):
                told = apart(list(own.itertuples(index=False)))
                row[f"{claims['scale'].iloc[0]}: {track}"] = ", ".join(dict.fromkeys(told))
    return pd.DataFrame(found.values()).fillna("–")


def controls_side_by_side(scales: list[pd.DataFrame]) -> pd.DataFrame:
    """A row a control (column `control`: its two sides), a column `scale: track` each with the difference and interval
    of every arm, as `side_by_side` has the claims."""
    found: dict[str, dict[str, str]] = {}
    for claims in scales:
        rows = judged(claims)
        for row in rows[rows["control"].eq(True)].itertuples():
            test = claims.loc[row.Index :].query("level == 'test'").iloc[0]
            shown = measure(row.metric, row.unit).telling(row.low, row.high)
            text = f"{row.arm} {shown.number(row.estimate)} {shown.interval(row.low, row.high)} {shown.unit}"
            known = found.setdefault(_sides(test), {"control": _sides(test)})
            column = f"{row.scale}: {row.track}"
            known[column] = f"{known[column]}; {text}" if column in known else text
    return pd.DataFrame(found.values()).fillna("–")


def _sides(test: pd.Series) -> str:
    """What sets the two sides of a test apart: `he_scaled against he`."""
    arm, reference = (
        {
            f"{fact} {value}" if fact != "init" else str(value)
            for fact, value in facts(test, side).items()
            if not PLACEHOLDER.fullmatch(str(value))
        }
        for side in ("arm", "reference")
    )
    first, second = (", ".join(sorted(own)) for own in (arm - reference, reference - arm))
    return WORDS.get(first, first) + f" against {second or WORDS['']}"

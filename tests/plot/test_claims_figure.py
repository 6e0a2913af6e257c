"""The figure of the claims draws what was judged, whatever ran and whatever did not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lowrank.analysis.claims import judge
from lowrank.analysis.evidence import told
from lowrank.analysis.ledger import read_ledger
from lowrank.errors import LowrankError
from lowrank.parquet import read_table, write_table
from lowrank.plot import claims
from lowrank.plot.wording import LONGEST, labels, sides

TRACKS = {"language": "language", "small-images": "images", "large-images": "images"}


@pytest.fixture(scope="module")
def judged(tables, tmp_path_factory):
    """A folder with the verdicts on the synthetic tables."""
    folder = tmp_path_factory.mktemp("claims")
    known = {path.stem: read_table(path) for path in tables.glob("*.parquet")}
    ledger = read_ledger("config/claims.yaml")
    write_table(folder / "claims.parquet", judge(ledger, known, scale="synthetic", tracks=TRACKS))
    return folder


def test_every_contrast_that_ran_is_drawn_in_the_colour_of_its_verdict(judged):
    table = claims.read(judged)
    figure, _ = claims.draw(table)
    ran = table[(table["level"] == "member") & table["estimate"].notna()]
    ran = ran[ran["control"].ne(True)]
    drawn = [
        line.get_color()
        for ax in figure.axes
        for line in ax.lines
        if line.get_marker() not in ("None", None, "")
    ]
    wanted = ran["verdict"].map(lambda verdict: claims.LOOKS[verdict].color)
    assert sorted(drawn) == sorted(wanted) and len(drawn) > 10


def test_no_interval_or_margin_ends_at_the_edge_of_its_panel(judged):
    table = claims.read(judged)
    wide = table["estimate"] + 3 * (table["high"] - table["low"])
    for changed in (table, table.assign(high=wide, low=table["low"] - (wide - table["high"]))):
        figure, _ = claims.draw(changed)
        seen = 0
        for ax in figure.axes:
            low, high = ax.get_xlim()
            drawn = [line.get_xdata() for line in ax.lines]
            drawn += [segment[:, 0] for bars in ax.collections for segment in bars.get_segments()]
            drawn += [patch.get_bbox().intervalx for patch in ax.patches]
            for ends in drawn:
                seen += 1
                assert low < min(ends) and max(ends) < high
        assert seen > 30


@pytest.mark.parametrize("tracks", [["language"], ["small-images"], ["language", "small-images"]])
def test_claims_stand_in_words_over_their_panels_and_nothing_is_cut_off(judged, tracks):
    table = claims.read(judged)
    table = table[table["track"].isin(tracks) | (table["level"] == "claim")].copy()
    judged_ = table[(table["level"] == "member") & (table["verdict"] != "not run")]
    first = judged_.drop_duplicates("claim").set_index("claim")["verdict"]
    whole = table["level"] == "claim"
    table.loc[whole, "verdict"] = table.loc[whole, "claim"].map(first).fillna("not run")
    figure, _ = claims.draw(table)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    texts = [*figure.legends[0].get_texts(), *(text for ax in figure.axes for text in ax.texts)]
    for ax in figure.axes:
        texts += [ax.xaxis.label, *ax.get_yticklabels()] if ax.axison else []
    texts = [text for text in texts if text.get_text().strip()]
    words = " ".join(" ".join(text.get_text().split()) for text in texts)
    ran = table[(table["level"] == "member") & table["estimate"].notna()]
    for claim in ran["claim"].unique():
        row = table[(table["level"] == "claim") & (table["claim"] == claim)].iloc[0]
        assert row["statement"] in words
        assert f" {claim}" not in words or claim in row["statement"]
    for text in texts:
        box = text.get_window_extent(renderer)
        assert box.x0 >= -1 and box.x1 <= figure.bbox.width + 1, text.get_text()
        assert box.y0 >= -1 and box.y1 <= figure.bbox.height + 1, text.get_text()
    headings = [text for text in texts if text.get_weight() == "bold"]
    boxes = [text.get_window_extent(renderer) for text in headings]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_an_axis_says_which_side_is_taken_from_which(judged):
    figure, _ = claims.draw(claims.read(judged))
    labels = {ax.get_xlabel() for ax in figure.axes if ax.axison}
    assert "test loss (nats/token): spectral ones − spectral" in labels
    assert "effective rank: L2 − Frobenius" in labels
    assert "distance to dense: pre-trained − from scratch" in labels


RANK = {"rank_fraction": "{rank}"}


@pytest.mark.parametrize(
    ("arm", "reference", "words"),
    [
        ({"init": "spectral", **RANK}, {"init": "he", **RANK}, "spectral − He"),
        ({"decay": "l2", "rate_factor": 0.5}, {"decay": "l2"}, "half rate − chosen rate"),
        ({}, {"method": "pretrained", "pretraining": "{share}"}, "from scratch − pre-trained"),
        ({"init": "spectral", **RANK}, {"init": "dense"}, "spectral − dense"),
        ({"init": "spectral"}, {"table": "posthoc", "method": "{m}"}, "trained − truncated"),
        ({"init": "my_own"}, {"init": "spectral"}, "my own − spectral"),
        ({"init": "$x$"}, {"init": "spectral"}, r"\$x\$ − spectral"),
        ({"length": 2.0}, {}, "length 2.0 − without"),
    ],
)
def test_sides_in_words(arm, reference, words):
    asked = {"arm_asked": arm, "reference_asked": reference}
    texts = {k: json.dumps({"table": "runs", **v}) for k, v in asked.items()}
    assert sides({**texts, "against_asked": "[]"}) == words


def test_an_interaction_in_words():
    arm, reference = ({"table": "runs", "decay": decay} for decay in ("frobenius", "l2"))
    half = [json.dumps(side | {"rate_factor": 0.5}) for side in (arm, reference)]
    asked = {"arm_asked": half[0], "reference_asked": half[1]}
    assert sides({**asked, "against_asked": json.dumps([arm, reference])}) == (
        "(Frobenius − L2) half rate − chosen rate"
    )


def test_a_panel_says_at_how_many_contrasts_its_verdict_holds_and_controls_have_none(judged):
    table = claims.read(judged)
    figure, _ = claims.draw(table)
    titles = {text.get_text() for ax in figure.axes for text in ax.texts}
    tests = table[(table["level"] == "test") & (table["ran"] > 0)]
    shown = tests[tests["control"] == False]  # noqa: E712
    assert len(tests) > len(shown) > 8
    for row in shown.itertuples():
        assert f"{row.track}: {told(row, brief=True)}" in titles
    assert not any("random" in ax.get_xlabel() for ax in figure.axes)
    assert any("not reproduced (" in title for title in titles)


def test_a_strangers_words_are_text(judged):
    table = claims.read(judged)
    table["statement"] = "$\\frac{$ and $\\input{x}$ " + "long " * 200
    table["arm"] = table["arm"].str.replace("spectral", "$\\nothing$")
    table["verdict"] = table["verdict"].replace("refuted", "$$")
    table["test_told"] = table["test_told"].str.replace("not reproduced", "$\\$$")
    figure, _ = claims.draw(table)
    figure.draw(FigureCanvasAgg(figure).get_renderer())


@pytest.mark.parametrize("scale", ["laptop", "digits", "desk"])
def test_panels_of_published_scales_are_wide_enough_to_be_read(scale):
    """However long the names of arms are; nor are ticks so near that they touch."""
    figure, _ = claims.draw(claims.read(Path("published") / scale))
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    panels = [ax for ax in figure.axes if ax.axison]
    assert len(panels) > 3
    for ax in panels:
        assert ax.get_window_extent().width / figure.dpi > 1.0
        low, high = sorted(ax.get_xlim())
        shown = [
            text.get_window_extent(renderer)
            for value, text in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
            if low <= value <= high
        ]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(shown))


def test_contrasts_that_differ_in_how_their_decay_enters_say_so(judged):
    """Though the other side of both has none."""
    facts = [{"table": "runs", "init": "spectral", "decay_coupled": how} for how in (True, False)]
    asked = [{**facts[0], "decay": "frobenius", "decay_coupled": "{coupled}", "swept": "x"}] * 2
    panel = pd.DataFrame(
        {
            "arm": ["spectral-frobenius-coupled", "spectral-frobenius"],
            "arm_facts": [json.dumps(side) for side in facts],
            "reference_facts": json.dumps({"table": "runs", "decay_coupled": "nan"}),
            "arm_asked": [json.dumps(side) for side in asked],
        }
    )
    assert labels(panel) == ["coupled", "spectral-frobenius"]


def test_a_label_that_is_too_long_keeps_what_tells_it_apart():
    arm = {"table": "runs", "init": "spectral"}
    names = [f"a-very-long-name-of-one-arm-number-{k}" for k in (1, 2)]
    panel = pd.DataFrame({"arm": names, "arm_facts": json.dumps(arm)})
    panel = panel.assign(arm_asked=json.dumps(arm), reference_facts=json.dumps(arm))
    found = labels(panel)
    assert all(label.startswith("…") and len(label) == LONGEST for label in found)
    assert len(set(found)) == 2
    panel["arm"] = [f"{k}-{'same-ending-' * 3}" for k in (1, 2)]
    assert labels(panel) == list(panel["arm"])


def test_labels_within_a_panel_differ(judged):
    figure, _ = claims.draw(claims.read(judged))
    for ax in figure.axes:
        labels = [text.get_text() for text in ax.get_yticklabels() if ax.axison]
        assert len(labels) == len(set(labels)), labels


def test_missing_claims_are_told(tmp_path):
    with pytest.raises(LowrankError, match="judge the claims first"):
        claims.read(tmp_path)


def test_a_figure_without_contrasts_says_so(tmp_path):
    write_table(
        tmp_path / "claims.parquet", judge(read_ledger("config/claims.yaml"), {}, tracks=TRACKS)
    )
    figure, page = claims.draw(claims.read(tmp_path))
    assert "No claim has a contrast that ran" in [text.get_text() for text in figure.texts]
    assert "Not tested: " in page.markdown() and len(page.numbers)

"""Every figure: its files exist, carry the numbers of the tables, and can be read."""

from __future__ import annotations

import importlib
import itertools
import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.text import Text

from lowrank.analysis.shown import shown
from lowrank.analysis.stats import mean_interval
from lowrank.analysis.tables import all_contrasts
from lowrank.errors import LowrankError
from lowrank.experiment.expand import expand
from lowrank.experiment.study import studies
from lowrank.parquet import read_table, write_table
from lowrank.plot import publish, read_results, style

FIGURES = {figure.name: figure.drawn_by for study in studies().values() for figure in study.figures}
TRACKS = ("language", "small-images")


@pytest.fixture(scope="module")
def drawn(tables):
    """Each figure of each track, drawn once."""
    made = {}

    def draw(track, name):
        if (track, name) not in made:
            module, function = FIGURES[name]
            draw_it = getattr(importlib.import_module(f"lowrank.plot.{module}"), function)
            made[track, name] = draw_it(read_results(tables, track))
        return made[track, name]

    return draw


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("name", FIGURES)
def test_figure_has_sane_widths_and_no_text_that_is_small_cut_off_or_overlapping(
    track, name, drawn
):
    figure, _ = drawn(track, name)
    assert figure.get_figwidth() in (style.COLUMN, style.FULL)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    width, height = figure.bbox.width, figure.bbox.height
    for text in figure.findobj(Text):
        if not (text.get_visible() and text.get_text().strip()):
            continue
        assert text.get_fontsize() >= 7, text.get_text()
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1
        for ax in figure.axes:
            assert box.y1 <= ax.get_tightbbox(renderer).y0 + 1, "the legend lies on an axes"
    for ax in figure.axes:
        box = ax.get_tightbbox(renderer)
        assert box.x0 >= -2 and box.x1 <= width + 2 and box.y1 <= height + 2
        for axis in (ax.xaxis, ax.yaxis):
            boxes = [
                label.get_window_extent(renderer)
                for label in axis.get_ticklabels()
                if label.get_visible() and label.get_text().strip()
            ]
            for first, second in itertools.pairwise(boxes):
                assert not first.overlaps(second), f"tick labels of {name} touch"


@pytest.mark.parametrize("name", FIGURES)
def test_publish_writes_picture_and_table(name, drawn, tmp_path):
    figure, table = drawn("language", name)
    publish(figure, table, tmp_path / "language" / name)
    files = {
        e: tmp_path / f"language/{name}.{e}" for e in ("pdf", "png", "csv", "json", "md", "tex")
    }
    assert files["pdf"].read_bytes().startswith(b"%PDF")
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert len(pd.read_csv(files["csv"])) == len(table.numbers)
    heading, *rows = json.loads(files["json"].read_text(encoding="utf-8"))
    assert heading == list(table.shown().columns) and len(rows) == len(table.numbers)
    assert files["md"].read_text(encoding="utf-8") == table.markdown()
    assert files["tex"].read_text(encoding="utf-8") == table.latex()


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("name", FIGURES)
def test_tables_have_the_structure_that_markdown_and_latex_need(track, name, drawn):
    _, table = drawn(track, name)
    lines = table.markdown().splitlines()
    assert len(lines) == len(table.numbers) + 2
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    _assert_compiles(table.latex(), len(table.numbers))


def _assert_compiles(source: str, rows: int) -> None:
    """The structure LaTeX needs: balanced braces, one rule each, as many fields as columns."""
    bare = source.replace("\\{", "").replace("\\}", "").replace("\\$", "").replace("\\&", "")
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    columns = source.split("\\begin{tabular}{")[1].split("}")[0]
    body = [line for line in bare.splitlines() if line.endswith(r"\\")]
    assert len(body) == rows + 1
    assert {line.count("&") for line in body} == {len(columns) - 1}
    for command in ("\\toprule", "\\midrule", "\\bottomrule", "\\end{tabular}"):
        assert source.count(command) == 1
    assert source.isascii()


@pytest.mark.parametrize("track", TRACKS)
def test_table_carries_means_and_intervals_of_the_runs(track, drawn, tables):
    _, table = drawn(track, "initialisation")
    runs = pd.read_parquet(tables / "runs.parquet")
    metric = "test_loss" if track == "language" else "test_accuracy"
    cell = f"{track}/spectral-r0.25"
    expected = mean_interval(runs.loc[runs["cell"] == cell, metric])
    row = table.numbers.set_index("cell").loc[cell]
    assert row[metric] == pytest.approx(expected.estimate)
    assert row[f"{metric}_low"] == pytest.approx(expected.low)
    assert row["seeds"] == 3
    assert row["kept_parameters"] == pytest.approx(0.65)
    half = expected.high - expected.estimate
    shown = f"{expected.estimate:.3f} ± {half:.3f}"
    if track != "language":
        shown = f"{100 * expected.estimate:.2f} ± {100 * half:.2f}"
    assert shown in table.markdown()


def test_initialisations_and_controls_stand_in_the_order_of_their_ranks(drawn):
    ranks = drawn("language", "initialisation")[1].numbers["rank_fraction"].dropna()
    assert list(ranks) == sorted(ranks) and ranks.nunique() > 1


def test_table_carries_the_paired_difference_of_the_contrasts(drawn, tables):
    _, table = drawn("language", "initialisation")
    contrasts = pd.read_parquet(tables / "contrasts.parquet")
    row = table.numbers.set_index("cell").loc["language/he-r0.5"]
    for column, reference in (("to_dense", "dense"), ("to_spectral", "spectral-r0.5")):
        found = contrasts[
            (contrasts["study"] == "initialisation")
            & (contrasts["metric"] == "test_loss")
            & (contrasts["arm"] == "language/he-r0.5")
            & (contrasts["reference"] == f"language/{reference}")
        ].iloc[0]
        assert row[column] == pytest.approx(found["estimate"])
        assert row[f"{column}_low"] == pytest.approx(found["low"])
        assert row[f"{column}_p"] == pytest.approx(found["p_corrected"])


def test_diverged_run_is_marked_with_its_step_and_left_out_of_the_mean(drawn, tables):
    figure, table = drawn("language", "initialisation")
    row = table.numbers.set_index("cell").loc["language/he-r0.25"]
    runs = pd.read_parquet(tables / "runs.parquet")
    good = runs[(runs["cell"] == "language/he-r0.25") & ~runs["diverged"]]
    assert row["test_loss"] == pytest.approx(good["test_loss"].mean())
    assert "2 (1 diverged at step 7)" in table.markdown()
    assert "diverged" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert _crosses(figure) == 1


def test_arm_whose_every_run_diverged_still_has_its_row_and_its_mark(drawn):
    figure, table = drawn("small-images", "initialisation")
    assert "0 (3 diverged at step 3)" in table.markdown()
    assert _crosses(figure) == 1


def _crosses(figure) -> int:
    lines = [line for ax in figure.axes for line in ax.get_lines()]
    return sum(len(line.get_xdata()) for line in lines if line.get_marker() == "x")


def test_sweep_marks_the_chosen_rate_an_edge_and_what_diverged(drawn):
    figure, table = drawn("language", "learning_rate")
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"chosen", "chosen, at an edge of the sweep", "diverged"} <= set(legend)
    dense = table.numbers.set_index("group").loc["language/dense"]
    assert dense["value"] == 0.03
    assert dense["at_edge"]
    assert "0.03: diverged" in table.numbers.set_index("group").loc["language/he-r0.5", "losses"]


def test_strengths_and_rates_after_the_switch_are_shown_beside_the_rates(drawn):
    figure, table = drawn("small-images", "learning_rate")
    titles = [ax.get_title(loc="left").split(") ")[1] for ax in figure.axes]
    assert titles[-5:] == ["decay", "switch", *(f"switch, width {width}" for width in (2, 3, 4))]
    rows = table.shown()[table.numbers["choice"] == "decay_strength"]
    assert rows["arm"].tolist() == ["spectral, L2 on the factors", "spectral, Frobenius"]
    assert set(rows["chosen"]) == {"0.1"}  # the last but one of 0.3, 1 and 3 times 0.1
    rows = table.shown()[table.numbers["choice"] == "switch_rate"]
    assert rows["arm"].tolist()[:2] == ["spectral, after 25 % dense", "spectral, after 50 % dense"]
    assert set(rows["chosen"]) == {"0.5"}


def test_arms_of_a_swept_rate_are_the_plain_switches_beside_those_of_a_fixed_one(drawn):
    _, table = drawn("small-images", "pretraining")
    switched = table.numbers[table.numbers["pretraining"] > 0].set_index("arm")
    assert switched["variant"].to_dict() == {
        **{f"{init}-r0.5-pre{fraction}-swept": "" for init in ("spectral", "spectral_ones")
           for fraction in ("0.25", "0.5")},
        "spectral-r0.5-pre0.25-rate1": "rate",
        "spectral-r0.5-pre0.25": "half",
        "spectral-r0.5-pre0.25-swept-reset": "reset",
    }  # fmt: skip
    labels = switched["label"]
    assert labels["spectral-r0.5-pre0.5-swept"] == "spectral, after 50 % dense, swept rate × 1"
    assert switched["to_plain"].notna().equals(switched["variant"] != "")


def test_decays_of_swept_strength_are_compared_with_the_tracks_own_swept(drawn):
    _, table = drawn("small-images", "decay")
    own = table.numbers.set_index("arm")["to_own_decay"].notna()
    assert own.to_dict() == {
        **{f"spectral-r0.5-none{half}": True for half in ("", "-halfrate")},
        **{f"spectral-r0.5-l2-swept{half}": False for half in ("", "-halfrate")},
        **{f"spectral-r0.5-frobenius-swept{half}": True for half in ("", "-halfrate")},
    }


def test_speed_is_shown_by_processor_width_and_reading_of_the_rank(drawn):
    figure, table = drawn("language", "speed")
    titles = [ax.get_title(loc="left").split(") ")[1] for ax in figure.axes]
    assert titles == ["One", "Other"]
    rows = table.numbers.set_index(["processor", "arm"])["speedup"]
    assert rows["One", "spectral-kept0.5-w16"] == pytest.approx(1 / 0.9, rel=0.02)
    assert rows["Other", "spectral-r0.25"] == pytest.approx(2, rel=0.02)
    assert set(table.numbers["label"]) == {
        *("dense", "0.5 of the parameters"),
        *(f"rank {rank} of the smaller side" for rank in (0.25, 0.5)),
    }
    assert set(table.shown()["training state over dense"]) == {"1.00", "0.80"}


def test_perplexity_scale_reads_the_loss_scale(drawn):
    figure, _ = drawn("language", "initialisation")
    (ax,) = figure.axes
    (right,) = ax.child_axes
    figure.draw(FigureCanvasAgg(figure).get_renderer())
    assert np.log(right.get_ylim()) == pytest.approx(ax.get_ylim())


def test_scaling_table_states_the_fitted_exponent_with_its_interval(drawn):
    _, table = drawn("language", "scaling")
    fits = table.numbers.groupby("group")[["exponent", "exponent_low", "exponent_high"]].first()
    assert len(fits) == 3
    assert (fits["exponent_low"] < fits["exponent"]).all()
    assert (fits["exponent"] < 0).all()


def test_truncations_with_batch_norm_are_shown_with_the_statistics_they_had_before(drawn):
    _, table = drawn("small-images", "posthoc")
    shown = table.shown()["with old batch norm"]
    truncated = table.numbers["method"].notna().to_numpy()
    assert shown[truncated].str.startswith("12.5").all()
    assert "with old batch norm" not in drawn("language", "posthoc")[1].shown()


def test_truncations_are_paired_with_training_at_the_same_rank(drawn, tables):
    _, table = drawn("language", "posthoc")
    truncated = pd.read_parquet(tables / "posthoc.parquet")
    runs = pd.read_parquet(tables / "runs.parquet")
    chosen = truncated[
        (truncated["track"] == "language")
        & (truncated["method"] == "plain")
        & (truncated["rank_fraction"] == 0.25)
        & (truncated["fine_tune_steps"] == 0)
    ]
    trained = runs[runs["cell"] == "language/spectral-r0.25"]
    difference = chosen["test_loss"].to_numpy() - trained["test_loss"].to_numpy()
    rows = table.numbers
    row = rows[
        (rows["method"] == "plain")
        & (rows["rank_fraction"] == 0.25)
        & (rows["fine_tune_steps"] == 0)
    ].iloc[0]
    assert row["to_trained"] == pytest.approx(difference.mean())


@pytest.fixture(scope="module")
def one_seed(tables, synthetic, tmp_path_factory):
    """The tables of a configuration with a single seed: no interval, no p."""
    folder = tmp_path_factory.mktemp("one-seed")
    kept = {}
    for path in tables.glob("*.parquet"):
        table = pd.read_parquet(path)
        kept[path.stem] = table[table["seed"] == 0] if "seed" in table else table
    kept["contrasts"] = all_contrasts(synthetic, kept)
    for name, table in kept.items():
        write_table(folder / f"{name}.parquet", table)
    return folder


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("name", FIGURES)
def test_one_seed_is_drawn_without_intervals(track, name, one_seed):
    module, function = FIGURES[name]
    drawing = getattr(importlib.import_module(f"lowrank.plot.{module}"), function)
    figure, table = drawing(read_results(one_seed, track))
    figure.draw(FigureCanvasAgg(figure).get_renderer())
    assert len(table.numbers)
    assert "±" not in table.markdown() and "*" not in table.markdown().replace("\\*", "")


OWN = ["$\\frac{$", "_hidden", "<b>x</b>", "a | b", "z" * 200, *(f"own_{n}" for n in range(6))]


def _more_inits(kept):
    """Eleven own initialisations, decays and truncations, some with names of a stranger's."""
    for name in OWN:
        for track in TRACKS:
            for rank in ("0.25", "0.5"):
                _copy(kept, f"{track}/he-r{rank}", f"{track}/{name}-r{rank}", init=name)
            old = f"{track}/spectral-r0.5-frobenius"
            _copy(kept, old, f"{track}/spectral-r0.5-{name}", decay=name)
        rows = kept["posthoc"][kept["posthoc"]["method"] == "plain"]
        kept["posthoc"] = pd.concat([kept["posthoc"], rows.assign(method=name)], ignore_index=True)
    kept["posthoc"]["stale_test_loss"] = kept["posthoc"]["stale_test_accuracy"] = 9.0
    kept["runs"]["device"] = "$\\input{$"


def _twelve_ranks(kept):
    for index in range(12):
        rank = round(0.03 + 0.08 * index, 2)
        for track, init in itertools.product(TRACKS, ("he", "spectral")):
            facts = {"rank_fraction": rank, "studies": "initialisation,posthoc"}
            _copy(kept, f"{track}/{init}-r0.5", f"{track}/{init}-r{rank:g}", **facts)


def _one_rank(kept):
    for name, column in (("runs", "cell"), ("rates", "group"), ("layers", "cell")):
        kept[name] = kept[name][~kept[name][column].str.contains("r0.25")]
    kept["posthoc"] = kept["posthoc"][kept["posthoc"]["rank_fraction"] == 0.5]


def _an_arm_diverged(kept):
    _diverge(kept["runs"], kept["runs"]["init"].isin(["spectral_ones", "dense"]))
    kept["posthoc"]["diverged"] = kept["posthoc"]["method"] == "plain"
    _diverge(kept["posthoc"], kept["posthoc"]["diverged"])


def _all_diverged(kept):
    _diverge(kept["runs"], kept["runs"]["seed"] >= 0)
    kept["rates"]["validation_loss"] = np.inf


def _perfect(kept):
    """Accuracies whose t intervals reach beyond what an accuracy can be."""
    for name in ("runs", "posthoc"):
        kept[name]["test_accuracy"] = kept[name]["seed"].map({0: 1.0, 1: 0.99, 2: 1.0})


def _copy(kept, old, new, **facts):
    for name in ("runs", "layers", "spectra", "rates"):
        column = "group" if name == "rates" else "cell"
        rows = kept[name][kept[name][column] == old].assign(**{column: new})
        if name == "runs":
            rows = rows.assign(arm=new.split("/")[1], **facts)
        kept[name] = pd.concat([kept[name], rows], ignore_index=True)


def _diverge(table, lost):
    metrics = [c for c in table if c.startswith("test_") or c.endswith("_rank")]
    table.loc[lost, metrics] = np.nan
    table.loc[lost, "diverged"] = True


@pytest.fixture(
    scope="module",
    params=[_more_inits, _twelve_ranks, _one_rank, _an_arm_diverged, _all_diverged],
    ids=lambda change: change.__name__.strip("_"),
)
def strange(request, tables, tmp_path_factory):
    """Tables of a study that nobody thought of."""
    folder = tmp_path_factory.mktemp("strange")
    kept = {path.stem: pd.read_parquet(path) for path in tables.glob("*.parquet")}
    request.param(kept)
    for name, table in kept.items():
        write_table(folder / f"{name}.parquet", table)
    return folder


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FIGURES)
def test_strange_tables_are_drawn_with_their_whole_legend_and_nothing_cut_off(name, strange):
    module, function = FIGURES[name]
    drawing = getattr(importlib.import_module(f"lowrank.plot.{module}"), function)
    figure, table = drawing(read_results(strange, "language"))
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    legend = figure.legends[0]
    box = legend.get_window_extent(renderer)
    assert box.x0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y0 >= -1
    for ax in figure.axes:
        inner = ax.get_window_extent(renderer)
        assert box.y1 <= ax.get_tightbbox(renderer).y0 + 1, "the legend lies on an axes"
        assert inner.height > 60 and inner.width > 60, "the legend leaves the axes no room"
    handles = [h for h in legend.legend_handles if h.get_label() and hasattr(h, "get_marker")]
    drawn = [(h.get_color(), str(h.get_marker()), str(h.get_linestyle())) for h in handles]
    drawn = [look for look in drawn if look[1] not in ("None", "", "|", "_", "x")]
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(set(labels)) == len(labels)
    if name != "spectra":  # there colours mean one thing in some panels, another in others
        assert len(set(drawn)) == len(drawn)
    assert table.markdown() and table.latex() and table.html("x") and table._repr_html_()


def test_accuracies_end_at_100_per_cent_in_figure_table_and_legend(tables, tmp_path):
    kept = {path.stem: pd.read_parquet(path) for path in tables.glob("*.parquet")}
    _perfect(kept)
    for name, rows in kept.items():
        write_table(tmp_path / f"{name}.parquet", rows)
    for module in ("initialisation", "posthoc", "layers", "pretraining"):
        drawing = importlib.import_module(f"lowrank.plot.{module}")
        figure, table = drawing.draw(read_results(tmp_path, "small-images"))
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert "95 % t interval, 3 seeds (ends at 100 %)" in legend
        numbers = table.numbers[table.numbers["seeds"] > 1]
        assert (numbers["test_accuracy_high"] == 1.0).all()
        low = mean_interval([1.0, 0.99, 1.0]).low
        assert numbers["test_accuracy_low"].to_numpy() == pytest.approx(low)
        assert f"99.67 [{100 * low:.2f}, 100.00]" in table.markdown()
        bars = [bars for ax in figure.axes for bars in ax.collections]
        ends = [
            segment[:, 1 if module != "layers" else 0] for b in bars for segment in _segments(b)
        ]
        assert len(ends) > 2 and max(map(max, ends)) == pytest.approx(100)


def _segments(bars):
    return [
        s for s in getattr(bars, "get_segments", list)() if len(s) == 2 and np.isfinite(s).all()
    ]


def test_a_line_to_a_model_without_a_run_is_not_taken_for_the_control(tables):
    from lowrank.plot import interpolation

    results = read_results(tables, "language")
    runs = results.table("runs")
    runs.loc[runs["cell"] == "language/spectral-r0.5-pre0.25", "cell"] = "language/elsewhere"
    _, table = interpolation.draw(results)
    assert list(table.numbers["label"]) == ["spectral, from scratch", "dense, next seed (control)"]


def test_switches_stand_in_the_place_of_their_share(drawn):
    figure, table = drawn("language", "pretraining")
    ax = figure.axes[0]
    labels = [text.get_text() for text in ax.get_xticklabels()]
    shares = {f"{100 * share:g} %": share for share in (0, 0.25, 0.5)}
    assert [label.split("\n")[0] for label in labels] == list(shares)
    rows = table.numbers[(table.numbers["init"] != "dense") & (table.numbers["steps"] == 20)]
    places = {
        round(float(y), 9): float(x)
        for line in ax.lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }
    assert {"rate", "reset"} <= set(rows["variant"])
    for row in rows.itertuples():
        nearest = labels[round(places[round(row.test_loss, 9)])]
        assert shares[nearest.split("\n")[0]] == row.pretraining
        assert nearest.split("\n")[1] == f"{row.dense_steps:g}"


def test_points_of_the_parameters_figure_lie_at_their_parameters(drawn):
    figure, table = drawn("language", "parameters")
    at = {
        float(x)
        for line in figure.axes[0].lines
        if line.get_linestyle() == "None"
        for x in line.get_xdata()
    }
    assert at == set(table.numbers["parameters"].astype(float))


def test_every_panel_of_the_sweeps_labels_most_of_its_rates(drawn):
    figure, _ = drawn("language", "learning_rate")
    for ax in figure.axes:
        rates = {x for line in ax.lines for x in line.get_xdata() if np.isfinite(x)}
        labels = [label for label in ax.get_xticklabels() if label.get_text()]
        assert len(labels) >= min(3, len(rates))


def test_own_methods_look_the_same_in_every_figure(tables, tmp_path):
    kept = {path.stem: pd.read_parquet(path) for path in tables.glob("*.parquet")}
    for name in ("own_b", "own_a"):
        for track in TRACKS if name == "own_a" else ("small-images",):
            _copy(kept, f"{track}/he-r0.5", f"{track}/{name}-r0.5", init=name)
    for name, rows in kept.items():
        write_table(tmp_path / f"{name}.parquet", rows)
    seen = set()
    for track, module in itertools.product(TRACKS, ("initialisation", "learning_rate", "spectra")):
        drawing = importlib.import_module(f"lowrank.plot.{module}")
        figure, _ = drawing.draw(read_results(tmp_path, track))
        for handle in figure.legends[0].legend_handles:
            if handle.get_label().endswith("own a"):
                seen.add((handle.get_color(), str(handle.get_marker())))
    assert len(seen) == 1


def test_same_kind_has_the_same_colour_in_every_figure(drawn):
    colors = set()
    for name in ("initialisation", "pretraining", "scaling", "posthoc", "learning_rate"):
        figure, _ = drawn("language", name)
        for handle in figure.legends[0].legend_handles:
            if handle.get_label().split("\n")[0] in ("dense", "dense throughout", "(b) dense"):
                colors.add(handle.get_color())
    assert colors == {style.BLACK}


def test_missing_study_is_named(tables, tmp_path):
    runs = pd.read_parquet(tables / "runs.parquet")
    runs["studies"] = "decay"
    runs.to_parquet(tmp_path / "runs.parquet")
    from lowrank.plot import layers

    with pytest.raises(LowrankError, match="the study 'layers' of language has no runs"):
        layers.draw(read_results(tmp_path, "language"))


def test_missing_tables_are_named_with_a_remedy(tmp_path):
    with pytest.raises(LowrankError, match="snakemake --cores all tables"):
        read_results(tmp_path, "language")


def test_decays_are_compared_with_the_tracks_own_even_where_another_study_trained_it(tables):
    from lowrank.plot import decay

    results = read_results(tables, "language")
    runs = results.table("runs")
    own = runs["cell"] == "language/spectral-r0.5"
    results.table("runs").loc[own, "studies"] = "initialisation"  # the decay study lacks it
    _, table = decay.draw(results)
    rows = table.numbers.set_index("cell")
    assert "language/spectral-r0.5" not in rows.index
    assert np.isfinite(rows.loc["language/spectral-r0.5-frobenius", "to_own_decay"])


@pytest.fixture(scope="module")
def cells_of(synthetic):
    """The cells that a figure shows, by the workflow's rule."""
    grid = expand(synthetic)
    cells = shown(synthetic, grid)

    def cells_shown(track, name):
        _, of = synthetic.tracks[track].figures()[name]
        return {cell for study in of for cell in cells[track, study]}

    return cells_shown


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("name", [name for name in FIGURES if name != "learning_rate"])
def test_a_figure_shows_no_cell_but_those_it_is_drawn_again_for(
    track, name, synthetic, tables, cells_of, tmp_path
):
    """Without all other cells' rows, and other studies' contrasts, it is the same to the pixel."""
    cells = cells_of(track, name)
    _, of = synthetic.tracks[track].figures()[name]
    for source in tables.glob("*.parquet"):
        table = read_table(source)
        if source.stem in ("runs", "layers", "spectra"):
            assert not cells.issuperset(table["cell"])
            table = table[table["cell"].isin(cells)]
        if source.stem == "contrasts":
            table = table[table["study"].isin(of)]
            assert cells.issuperset(
                table.loc[table["track"] == track, ["arm", "reference"]].stack()
            )
        write_table(tmp_path / source.name, table)
    module, function = FIGURES[name]
    draw = getattr(importlib.import_module(f"lowrank.plot.{module}"), function)
    figure, table = draw(read_results(tmp_path, track))
    expected_figure, expected = draw(read_results(tables, track))
    pd.testing.assert_frame_equal(table.shown(), expected.shown())
    pixels = [np.asarray(_canvas(each).buffer_rgba()) for each in (figure, expected_figure)]
    assert np.array_equal(*pixels)


def _canvas(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def _dots(ax) -> list[tuple[float, float]]:
    dots = [c for c in ax.collections if isinstance(c, PathCollection)]
    return sorted(tuple(map(float, dot)) for c in dots for dot in c.get_offsets())


def test_every_seed_that_ended_is_a_dot_in_the_row_of_its_arm(tables):
    from lowrank.plot import layers

    results = read_results(tables, "small-images")
    figure, table = layers.draw(results)
    runs = results.table("runs")
    expected = [
        (100 * value, row)
        for row, cell in enumerate(table.numbers["cell"])
        for value in runs.loc[(runs["cell"] == cell) & ~runs["diverged"], "test_accuracy"]
    ]
    assert len(expected) >= 6
    assert np.array(_dots(figure.axes[0])) == pytest.approx(np.array(sorted(expected)))


def test_every_layer_is_a_dot_at_its_mean_over_seeds_at_the_end(tables):
    from lowrank.plot import effective_rank

    results = read_results(tables, "language")
    figure, table = effective_rank.draw(results)
    rows = results.table("layers")
    rows = rows[rows["step"] == 20]
    for ax, measure in zip(figure.axes, effective_rank.MEASURES, strict=False):
        means = rows.groupby(["cell", "layer"])[measure].mean()
        cells = enumerate(table.numbers["cell"])
        expected = [(place, value) for place, cell in cells for value in means[cell]]
        dots = [dot for dot in _dots(ax) if np.isfinite(dot).all()]
        assert np.array(dots) == pytest.approx(np.array(sorted(expected)))

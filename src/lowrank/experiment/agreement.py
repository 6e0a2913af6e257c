"""Numbers that follow from others, checked against them.

A manifest says that files are as they were written, not that what was written is true: whoever changes
a number and the manifest with it goes unnoticed by sums. Here a run's row has to follow from its
history, its layers and its spectra, and each table of a scale from its own columns. Somebody who changes
everything consistently is not found; only training anew tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lowrank.experiment.compared import (
    COPIED,
    MEASURED,
    close,
    different,
    label,
    marked,
    numbers,
    shown,
    tracks_of,
    uneven,
)
from lowrank.experiment.metrics import task_of
from lowrank.experiment.shares import switch_step
from lowrank.exponential import exp
from lowrank.methods import IMPLIED

KEY = ["cell", "seed"]
RANKS = ("effective_rank", "entropy_rank", "stable_rank")
Tables = Mapping[str, pd.DataFrame]
NEEDED = {
    "runs": [*KEY, "track", "arm", "family", "width", "data_digest", "diverged"],
    "history": [*KEY, "step"],
    "layers": [*KEY, "step", "layer", "largest_possible_rank", *RANKS],
    "spectra": [*KEY, "layer", "index", "singular_value"],
    "rates": ["group", "seed", "learning_rate", "validation_loss", "chosen"],
    "posthoc": ["track", "seed", "rank_fraction"],
    "interpolation": [*KEY, "t", "loss"],
    "barriers": [*KEY, "barrier"],
    "baselines": ["track"],
    "speed": ["track"],
}
"""Columns without which nothing can be compared; numbers that are missing elsewhere are missed there."""


def disagreement(tables: Tables) -> str | None:
    """What in the tables of runs contradicts the rest, in half a sentence; None if nothing does.

    tables: `runs`, `history`, `layers` and `spectra`, each with cell and seed, and whatever others there are.
    """
    runs = tables["runs"]
    if runs.empty:
        return None
    if found := lacking(tables):
        return found
    if runs.duplicated(KEY).any():
        return f"{label(runs[runs.duplicated(KEY)].iloc[0])} has two rows in runs"
    for check in CHECKS:
        if found := next(check(tables), None):
            return found
    return None


def lacking(tables: Tables) -> str | None:
    """What is not there of the tables of runs, in half a sentence: which is to be asked of each run by itself,
    for put together with others it has their columns."""
    runs = tables["runs"]
    for name, columns in NEEDED.items():
        table = tables.get(name, runs[:0])
        missing = [column for column in columns if column not in table.columns]
        if len(table) and missing:
            return f"{name} has no column {missing[0]}"
    if (~marked(runs, "diverged") & _implied(runs)).any():
        for name in ("layers", "spectra"):
            if not {*KEY, "layer"} <= set(tables[name].columns):
                return f"{name} has no rows"
    return None


def _of_runs(tables: Tables) -> Iterator[str]:
    runs = tables["runs"]
    own, dense = numbers(runs, "parameters"), numbers(runs, "dense_parameters")
    yield from different(runs, "kept_parameters", own / dense, "parameters over dense_parameters")
    alike = runs.assign(
        track=runs[["track", "width", "data_digest"]].astype(str).agg(" ".join, axis=1)
    )
    yield from uneven(alike, dense, "dense_parameters")
    flops, kept = numbers(runs, "flops_per_position"), numbers(runs, "kept_flops")
    yield from uneven(alike, flops / kept, "flops_per_position over kept_flops")
    lost = marked(runs, "diverged")
    for name, expected in (
        ("train_loss", ~lost),
        ("validation_loss", ~lost),
        ("diverged_at", lost),
    ):
        wrong = np.isfinite(numbers(runs, name)) != expected
        if wrong.any():
            row = runs[wrong].iloc[0]
            word = "no" if expected[wrong][0] else "a"
            yield f"{label(row)} has {word} {name}, and diverged is {row['diverged']}"
    steps = numbers(runs, "steps")
    dense_steps = [
        switch_step(share, int(total)) if np.isfinite(share * total) else 0
        for share, total in zip(np.nan_to_num(numbers(runs, "pretraining")), steps, strict=True)
    ]
    share = np.array(dense_steps) / steps
    positions = numbers(runs, "positions_per_second") * numbers(runs, "train_seconds")
    total = 3 * positions * (share * flops / kept + (1 - share) * flops)
    known = ~lost & _implied(runs)
    yield from different(
        runs[known], "training_flops", total[known], "steps, speed and FLOPs a position"
    )


def _of_measures(tables: Tables) -> Iterator[str]:
    """Perplexities are exponentials of losses, and on one data set all measures are so by one rule."""
    tracks = tables["runs"][["track", "family"]].drop_duplicates()
    text = [t for t, family in tracks.itertuples(index=False) if task_of(family).language]
    for name, table in tables.items():
        for column in table.columns:
            if not column.endswith("loss"):
                continue
            loss, stem = numbers(table, column), column.removesuffix("loss")
            loss[~tracks_of(table).isin(text)] = np.nan
            if f"{stem}perplexity" in table:
                yield from different(table, f"{stem}perplexity", exp(loss), f"{column} in {name}")
            if f"{stem}bits_per_byte" in table:
                ratio = numbers(table, f"{stem}bits_per_byte") / loss
                yield from uneven(table, ratio, f"{stem}bits_per_byte over {column} in {name}")
            if f"{stem}word_perplexity" in table:
                with np.errstate(divide="ignore"):
                    ratio = np.log(numbers(table, f"{stem}word_perplexity")) / loss
                yield from uneven(
                    table, ratio, f"log {stem}word_perplexity over {column} in {name}"
                )


def _of_history(tables: Tables) -> Iterator[str]:
    runs, history = tables["runs"], tables["history"]
    yield from _strangers(tables, "history")
    if len(history) and (history.groupby(KEY, sort=False)["step"].diff() <= 0).any():
        yield "the steps in history do not rise"
    finished = runs[~marked(runs, "diverged")]
    last = finished[KEY].merge(
        history.groupby(KEY).tail(1) if len(history) else runs[KEY][:0], "left", KEY
    )
    yield from different(finished, "steps", numbers(last, "step"), "the last row in history")
    for name in ("train_loss", "validation_loss", "validation_accuracy"):
        yield from different(finished, name, numbers(last, name), "the last row in history")
    seconds = numbers(last, "seconds") - numbers(finished, "train_seconds")
    if (wrong := seconds > 0).any():
        yield f"{label(finished[wrong].iloc[0])} has taken longer in history than its train_seconds"


def _of_layers(tables: Tables) -> Iterator[str]:
    """Ranks of a run are means over its layers, and those of its layers follow from their spectra.

    Other methods may change a layer after it was measured, or have layers without a weight.
    """
    runs, layers, spectra = (tables[name] for name in ("runs", "layers", "spectra"))
    yield from _strangers(tables, "layers")
    yield from _strangers(tables, "spectra")
    finished = runs[~marked(runs, "diverged") & _implied(runs)].reset_index(drop=True)
    if not len(finished):
        return
    last = finished[[*KEY, "steps"]].merge(
        layers, "inner", left_on=[*KEY, "steps"], right_on=[*KEY, "step"]
    )
    means = finished[KEY].merge(last.groupby(KEY)[list(RANKS)].mean().reset_index(), "left", KEY)
    for name in RANKS:
        yield from different(
            finished, name, numbers(means, name), "the mean over layers at the end"
        )
    sizes = last[[*KEY, "layer", "largest_possible_rank"]]
    values = spectra.merge(sizes, "left", [*KEY, "layer"])
    group = (numbers(values, "index") - 1) // numbers(values, "largest_possible_rank")
    measured = _measures(values.assign(group=group))
    measured = last[[*KEY, "layer"]].merge(measured, "left", [*KEY, "layer"])
    for name in ("product_norm", *RANKS):
        yield from different(last, name, numbers(measured, name), "the spectrum", MEASURED)
    known = np.isfinite(numbers(last, "effective_step_size") * numbers(last, "product_norm"))
    rates = tables["history"].merge(last[[*KEY, "step"]].drop_duplicates(), "inner", [*KEY, "step"])
    rates = last[[*KEY, "step"]].merge(rates, "left", [*KEY, "step"])
    rate = np.where(known, numbers(rates, "learning_rate"), np.nan)
    yield from different(
        last,
        "effective_step_size",
        rate / numbers(last, "product_norm") ** 2,
        "history's rate over the squared norm",
    )


def _measures(values: pd.DataFrame) -> pd.DataFrame:
    """Norm and ranks of each layer from its singular values, means over the groups of a convolution."""
    by = [*KEY, "layer", "group"]
    s = numbers(values, "singular_value")
    groups = values[by].assign(s=s)
    largest = groups.groupby(by, sort=False)["s"].transform("max").to_numpy()
    share = s / np.where(largest == 0, 1, largest)
    total = groups.assign(s=share).groupby(by, sort=False)["s"].transform("sum").to_numpy()
    p = share / np.where(total == 0, 1, total)
    entropy = -p * np.log(np.where(p > 0, p, 1))
    found = (
        groups[by]
        .assign(product_norm=s**2, effective_rank=share, stable_rank=share**2, entropy_rank=entropy)
        .groupby(by, sort=False)
        .sum()
    )
    found["entropy_rank"] = np.where(found["effective_rank"] == 0, 0, np.exp(found["entropy_rank"]))
    layers = found.groupby(by[:-1], sort=False)
    means = layers[list(RANKS)].mean()
    return means.assign(product_norm=np.sqrt(layers["product_norm"].sum())).reset_index()


def _of_sweeps(tables: Tables) -> Iterator[str]:
    """The chosen value is that of the least mean loss of its sweep, and the cell that was swept was trained at it;
    where a seed of the cell is the sweep's, with its loss."""
    rates = tables.get("rates")
    if rates is None or not len(rates):
        return
    losses = pd.Series(numbers(rates, "validation_loss"), rates.index).fillna(np.inf)
    marks, by = pd.Series(marked(rates, "chosen"), rates.index), [rates["group"], _tried(rates)]
    means = losses.groupby(by, dropna=False).transform("mean")
    best = means.groupby(rates["group"]).transform("min")
    chosen = rates[marks]
    values = marks.groupby(by, dropna=False).agg(["any", "all"])
    if (values["any"] != values["all"]).any() or (values["all"].groupby(level=0).sum() != 1).any():
        yield "rates does not say of every sweep which rate was chosen"
    wrong = means[chosen.index] > best[chosen.index] * (1 + COPIED)
    if wrong.any():
        yield f"the chosen rate of {chosen[wrong]['group'].iloc[0]} is not the best in rates"
    for name, also in (("learning_rate", []), ("validation_loss", ["seed"])):
        swept = tables["runs"].merge(
            chosen,
            "inner",
            left_on=["cell", *also],
            right_on=["group", *also],
            suffixes=("", "_swept"),
        )
        yield from different(swept, name, numbers(swept, f"{name}_swept"), "rates")


def _tried(rates: pd.DataFrame) -> pd.Series:
    """The value that each row of sweeps tried of what is swept; before anything else was, a learning rate."""
    choice = rates.get("choice", pd.Series("learning_rate", rates.index)).fillna("learning_rate")
    tried = np.full(len(rates), np.nan)
    for name in choice.unique():
        tried = np.where(choice == name, numbers(rates, str(name)), tried)
    return pd.Series(tried, rates.index)


def _of_truncations(tables: Tables) -> Iterator[str]:
    table, runs = tables.get("posthoc"), tables["runs"]
    if table is None or not len(table):
        return
    dense = runs[runs["arm"] == "dense"].rename(columns={"training_flops": "dense_flops"})
    rows = table.merge(dense[["track", "seed", "dense_flops", "steps"]], "inner", ["track", "seed"])
    added = numbers(rows, "fine_tune_steps") / numbers(rows, "steps") * numbers(rows, "kept_flops")
    total = numbers(rows, "dense_flops") * (1 + added)
    yield from different(rows, "training_flops", total, "dense runs and kept_flops in posthoc")
    sizes = [numbers(table, name) for name in ("kept_parameters", "kept_flops")]
    by = table["track"].astype(str) + " rank " + table["rank_fraction"].astype(str)
    for name, size in zip(("kept_parameters", "kept_flops"), sizes, strict=True):
        yield from uneven(table.assign(track=by), size, f"{name} in posthoc")
    # Truncated layers get the ranks that they have in low-rank training.
    at_rank = runs.merge(table[["track", "rank_fraction"]].drop_duplicates())
    for (track, rank), rows in table.groupby(["track", "rank_fraction"], sort=False):
        cells = at_rank[(at_rank["track"] == track) & (at_rank["rank_fraction"] == rank)]
        for name in ("kept_parameters", "kept_flops"):
            value = numbers(rows, name)[0]
            if len(cells) and not close(numbers(cells, name), value, COPIED).any():
                yield f"{name} of {track} rank {rank} is {shown(value)} in posthoc, and in no run"


def _of_barriers(tables: Tables) -> Iterator[str]:
    points, barriers = tables.get("interpolation"), tables.get("barriers")
    if points is None or barriers is None or not len(points):
        return
    t, loss = numbers(points, "t"), pd.Series(numbers(points, "loss"), points.index)
    lines = points[KEY].assign(loss=loss).groupby(KEY, sort=False)["loss"]
    line = (1 - t) * lines.transform("first") + t * lines.transform("last")
    highest = points[KEY].assign(above=loss - line).groupby(KEY, sort=False)["above"].max()
    expected = barriers[KEY].merge(highest.reset_index(), "left", KEY)
    yield from different(
        barriers, "barrier", numbers(expected, "above"), "the losses in interpolation"
    )


def _of_speed(tables: Tables) -> Iterator[str]:
    table = tables.get("speed")
    if table is not None and len(table):
        positions = numbers(table, "positions_per_second") * numbers(table, "step_seconds")
        yield from uneven(table, positions, "positions a step in speed")


CHECKS: tuple[Callable[[Tables], Iterator[str]], ...] = (
    *(_of_runs, _of_measures, _of_history, _of_layers),
    *(_of_sweeps, _of_truncations, _of_barriers, _of_speed),
)


def _implied(runs: pd.DataFrame) -> NDArray[np.bool_]:
    """The runs of no method but U V^T from the first step or the switch, or dense."""
    known = (None, np.nan, *IMPLIED)
    return runs["method"].isin(known).to_numpy() if "method" in runs else np.ones(len(runs), bool)


def _strangers(tables: Tables, name: str) -> Iterator[str]:
    table = tables[name]
    if len(table):
        known = pd.MultiIndex.from_frame(tables["runs"][KEY])
        strange = ~pd.MultiIndex.from_frame(table[KEY]).isin(known)
        if strange.any():
            yield f"{label(table[strange].iloc[0])} is in {name} and not in runs"

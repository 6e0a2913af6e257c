"""Synthetic tables of two tracks: real cells of a real grid, made-up metrics with known effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lowrank.analysis.tables import all_contrasts
from lowrank.experiment import config as settings
from lowrank.experiment.expand import expand, timed_cells
from lowrank.parquet import write_table

SEEDS = (0, 1, 2)
LAYERS = {"block.0.attention": 16, "block.0.mlp": 32}
STEPS = (1, 10, 20)

STUDIES = {
    "initialisation": {
        "ranks": [0.25, 0.5],
        "controls": ["random_spectral", "he_scaled"],
        "control_ranks": [0.5],
    },
    "decay": {"decays": [{"kind": "none"}, {"kind": "l2"}, {"kind": "frobenius"}]},
    "pretraining": {"fractions": [0.25, 0.5], "variants_at": [0.25], "longer": [1.5]},
    "scaling": {"widths": [16, 32, 48, 64]},
    "layers": {"groups": ["attention"], "dense_blocks": ["first"]},
    "interpolation": {"points": 5, "fractions": [0.25]},
    "posthoc": {"ranks": [0.25, 0.5], "fine_tune_steps": [0, 5]},
    "speed": {"widths": [16, 32], "ranks": [0.25, 0.5], "kept": [0.5]},
    "methods": {
        "methods": [
            {"name": "refactorize"},
            {"name": "galore"},
            {"name": "self_guided"},
            {"name": "khodak", "decay": {"kind": "frobenius"}, "ranks": [0.5]},
            {"name": "relora", "pretraining": {"fraction": 0.25}, "ranks": [0.5]},
        ],
        "ranks": [0.25, 0.5],
        "flops_ranks": [0.25],
    },
}
SWEPT = {"kind": "l2", "strength": "swept"}
LANGUAGE = {
    "data": {"kind": "text", "source": "embedded", "vocabulary": 300},
    "model": {"family": "gpt2", "width": 32, "depth": 1, "heads": 2, "context": 32},
    "training": {"steps": 20, "batch": 8},
    "factors": {"rank_fraction": 0.5, "rank_multiple": 4},
    "sweep": {"rates": [0.003, 0.01, 0.03]},
    "studies": STUDIES,
}
IMAGES = {
    "data": {"kind": "images", "source": "embedded"},
    "model": {"family": "wide_resnet", "width": 1, "depth": 10, "channels": 1},
    "training": {"steps": 20, "batch": 8, "optimizer": "sgd"},
    "factors": {"rank_fraction": 0.5, "rank_multiple": 1},
    "sweep": {"rates": [0.05, 0.1], "decay_strengths": [0.3, 1, 3], "switch_rates": [0.5, 1]},
    "studies": {
        **STUDIES,
        "decay": {"decays": [{"kind": "none"}, SWEPT, {**SWEPT, "kind": "frobenius"}]},
        "scaling": {"widths": [1, 2, 3, 4]},
        "speed": {"widths": [1, 2], "ranks": [0.5], "kept": [0.5]},
        "layers": {"dense_blocks": ["last"]},
    },
}

DIVERGED = {
    ("language/he-r0.25", 1): 7,
    ("language/spectral-r0.5-galore", 2): 9,
    **{("small-images/spectral_ones-r0.5", seed): 3 for seed in SEEDS},
}


@pytest.fixture(scope="session")
def synthetic():
    """The configuration that the tables are of."""
    tracks = {"language": LANGUAGE, "small-images": IMAGES}
    return settings.parse({"scale": "synthetic", "seeds": list(SEEDS), "tracks": tracks})


@pytest.fixture(scope="session")
def tables(tmp_path_factory, synthetic):
    """The folder of all tables."""
    folder = tmp_path_factory.mktemp("tables")
    config = synthetic
    grid = expand(config)
    rng = np.random.default_rng(0)
    runs = pd.DataFrame([_run(cell, seed, rng) for cell in grid.cells.values() for seed in SEEDS])
    write_table(folder / "runs.parquet", runs)
    per_layer = [
        (cell, seed, layer, side)
        for cell in grid.cells.values()
        for seed in SEEDS
        for layer, side in LAYERS.items()
    ]
    write_table(folder / "layers.parquet", pd.DataFrame(_layers(per_layer, rng)))
    write_table(folder / "spectra.parquet", pd.DataFrame(_spectra(per_layer, rng)))
    write_table(folder / "rates.parquet", pd.DataFrame(_rates(grid)))
    lines, barriers = _lines(rng)
    write_table(folder / "interpolation.parquet", lines)
    write_table(folder / "barriers.parquet", barriers)
    write_table(folder / "posthoc.parquet", pd.DataFrame(_posthoc(rng)))
    write_table(folder / "baselines.parquet", _baselines())
    write_table(folder / "speed.parquet", pd.DataFrame(_speed(config, rng)))
    write_table(
        folder / "contrasts.parquet", all_contrasts(config, {"runs": runs, "barriers": barriers})
    )
    return folder


def _run(cell, seed, rng):
    facts = cell.facts(dict.fromkeys(cell.groups, 1.0))
    kept = 1.0 if facts["init"] == "dense" else 0.4 + facts["rank_fraction"]
    loss = 4.0 + 0.3 * (1 - kept) - 0.1 * np.log(facts["width"]) + 0.1 * (facts["init"] == "he")
    loss += 0.01 * seed + 0.002 * rng.standard_normal()
    size = 100 * facts["width"] ** 2
    metrics = {
        "effective_rank": 5.0 + rng.random(),
        "entropy_rank": 9.0 + rng.random(),
        "stable_rank": 2.0 + rng.random(),
        "test_loss": loss,
    }
    if cell.track == "language":
        metrics |= {
            "test_perplexity": np.exp(loss),
            "test_word_perplexity": np.exp(3 * loss),
            "test_bits_per_byte": loss,
        }
    else:
        metrics["test_accuracy"] = 1 - loss / 10
    step = DIVERGED.get((cell.name, seed))
    if step is not None:
        metrics = dict.fromkeys(metrics, np.nan)
    return {
        **facts,
        "seed": seed,
        "learning_rate": 0.01,
        "diverged": step is not None,
        "diverged_at": step,
        **metrics,
        "parameters": round(kept * size),
        "kept_parameters": kept,
        "kept_flops": kept,
        "training_flops": 1e4 * kept * size * facts["steps"],
        "train_seconds": kept * size / 1e4 + 0.01 * rng.random(),
        "state_bytes": round(16 * kept * size),
        "peak_memory_bytes": 3e8,
        "device": "Some Processor",
    }


def _layers(per_layer, rng):
    for cell, seed, layer, side in per_layer:
        for step in STEPS:
            norm = 1.0 + 0.1 * step + 0.01 * rng.random()
            yield {
                "cell": cell.name,
                "seed": seed,
                "step": step,
                "layer": layer,
                "product_norm": norm,
                "update_norm": 0.1 / step,
                "effective_step_size": 0.01 / norm**2,
                "effective_rank": 5.0 + rng.random(),
                "entropy_rank": 9.0 + rng.random(),
                "stable_rank": 2.0 + rng.random(),
                "largest_possible_rank": side,
            }


def _spectra(per_layer, rng):
    for cell, seed, layer, side in per_layer:
        rank = side if cell.factors is None else round(cell.factors.rank_fraction * side)
        for index in range(1, rank + 1):
            value = 2.0 * np.exp(-0.2 * index) * (1 + 0.001 * rng.random())
            yield {"layer": layer, "index": index, "singular_value": value} | {
                "cell": cell.name,
                "seed": seed,
            }


def _rates(grid):
    """The best rate is the last but one, or the last for dense: at an edge; the others' last diverges."""
    for sweep in grid.sweeps.values():
        dense = sweep.cell.factors is None
        rates = sweep.values
        best = rates[-1] if dense else rates[-2]
        for index, rate in enumerate(rates):
            loss = np.inf if rate > best else 4.0 - 0.1 * index
            yield {
                "group": sweep.name,
                "track": sweep.track,
                **sweep.facts(),
                "seed": 0,
                "learning_rate": 0.01,
                sweep.choice: rate,
                "validation_loss": loss,
                "chosen": rate == best,
                "at_edge": dense,
            }


def _lines(rng):
    points, barriers = [], []
    for track, switch in (("language", "pre0.25"), ("small-images", "pre0.25-swept")):
        ends = {"spectral-r0.5": 1.2, f"spectral-r0.5-{switch}": 0.5, "dense-other-seed": 1.4}
        for arm, distance in ends.items():
            for seed in SEEDS:
                key = {"cell": f"{track}/{arm}", "track": track, "seed": seed}
                for t in np.linspace(0, 1, 5):
                    loss = 4.0 + distance * t * (1 - t) + 0.01 * rng.random()
                    points.append({**key, "t": t, "loss": loss})
                noise = 0.01 * rng.random()
                barriers.append(
                    {**key, "barrier": distance / 4 + noise, "distance": distance + noise}
                    | {
                        "cosine_distance": distance / 3 + noise,
                        "disagreement": distance / 2 + noise,
                    }
                    | {"floor": None if "other" in arm else 0.4 + noise}
                )
    return pd.DataFrame(points), pd.DataFrame(barriers)


def _posthoc(rng):
    for track in ("language", "small-images"):
        for method in ("plain", "whitened", "fisher"):
            for rank in (0.25, 0.5):
                for length in (0, 5):
                    for seed in SEEDS:
                        loss = 5.0 - rank - 0.1 * length + 0.01 * rng.random()
                        yield {
                            "track": track,
                            "method": method,
                            "rank_fraction": rank,
                            "fine_tune_steps": length,
                            "seed": seed,
                            "test_loss": loss,
                            "test_perplexity": np.exp(loss),
                            "test_word_perplexity": np.exp(3 * loss),
                            "test_bits_per_byte": loss,
                            "test_accuracy": 1 - loss / 10,
                            "stale_test_accuracy": None if track == "language" else 0.125,
                            "kept_parameters": 0.4 + rank,
                            "kept_flops": 0.4 + rank,
                            "training_flops": 1e9,
                        }


def _speed(config, rng):
    """On two processors; a factorised step takes half as long on the second."""
    for track, section in config.tracks.items():
        for one in timed_cells(track, section, {}).values():
            dense = one.cell.factors is None
            for processor, seconds in (("One", 0.9), ("Other", 0.5)):
                for turn in range(3):
                    yield {
                        **one.cell.facts(),
                        "kept_share": one.kept,
                        "kept_parameters": 1.0 if dense else 0.8,
                        "processor": processor,
                        "seed": turn,
                        "step_seconds": (1.0 if dense else seconds) * (1 + 0.01 * rng.random()),
                        "state_bytes": 1000 if dense else 800,
                    }


def _baselines():
    rows = [
        {
            "track": "language",
            "model": name,
            "test_loss": loss,
            "test_perplexity": np.exp(loss),
            "test_word_perplexity": np.exp(3 * loss),
            "test_bits_per_byte": loss,
        }
        for name, loss in (("unigram", 6.0), ("bigram", 3.95))
    ]
    return pd.DataFrame(rows)

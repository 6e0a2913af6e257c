"""From the tables of single jobs to the tables that notebooks and the paper read.

`runs` has one row a run; its columns are described in `COLUMNS`, and a test holds the two in step.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from lowrank.analysis.contrasts import all_contrasts
from lowrank.analysis.described import as_configured, described
from lowrank.analysis.publish import read_published
from lowrank.analysis.said import diverged, mixed_processors, say_what_differs
from lowrank.errors import LowrankError
from lowrank.experiment.agreement import disagreement
from lowrank.experiment.config import Config
from lowrank.experiment.experiment import Experiment
from lowrank.experiment.facts import FACTS
from lowrank.experiment.ground import Published, prepared
from lowrank.experiment.rates import read_sweep
from lowrank.files import damaged
from lowrank.frames import concat
from lowrank.parquet import in_pandas, read_arrow, read_table, write_table

if TYPE_CHECKING:
    import pyarrow

PER_CELL = ("runs", "history", "layers", "spectra")

COLUMNS = {
    **FACTS,
    "digest": "digest of spec, data and training version; the run's folder in the cache",
    "seed": "seed of initialisation and data order",
    "learning_rate": "peak learning rate (after the switch, if there is one)",
    "diverged": "whether the loss or a gradient stopped being finite",
    "diverged_at": "the step at which it did",
    "train_loss": "mean training loss of the last logging interval, nats a token or image",
    "validation_loss": "loss on validation data after the last step",
    "validation_perplexity": "exp of the validation loss",
    "validation_word_perplexity": "perplexity a white-space word on validation data",
    "validation_bits_per_byte": "bits a byte of UTF-8 on validation data",
    "validation_accuracy": "top-1 accuracy on validation images, 0 to 1",
    "effective_rank": "nuclear over operator norm of the products, mean over layers, at the end",
    "entropy_rank": "exp of the entropy of normalised singular values, mean over layers",
    "stable_rank": "squared Frobenius over squared operator norm, mean over layers",
    "parameters": "parameters, tied weights counted once",
    "dense_parameters": "parameters of the dense model",
    "kept_parameters": "parameters over the dense model's",
    "flops_per_position": "forward FLOPs a token or image (a multiply-add is two)",
    "kept_flops": "forward FLOPs over the dense model's",
    "training_flops": "FLOPs of the whole run, a backward pass counted as two forward ones",
    "train_seconds": "seconds of training steps, without evaluation and probes",
    "positions_per_second": "tokens or images trained on in a second",
    "state_bytes": "bytes of parameters, gradients and optimiser state, the most where a method changes layers",
    "peak_memory_bytes": "peak memory: resident set of the process, or allocated on the GPU",
    "data_digest": "digest of the prepared data",
    "devices": "devices the run was spread over",
    "device": "processor or GPU",
    "processor": "the GPU, or the processor with its instruction set: runs repeat to the bit on one alone",
    "torch": "version of torch",
    "transformers": "version of transformers",
    "lowrank": "version of this package",
    "source": "digest of this package's source when the run was made",
    "training_version": "version of what a run computes (lowrank.versions)",
    "threads": "processor threads of the process",
    "finished_at": "when the run ended, UTC",
    "evaluation_version": "version of how the test metrics are read (lowrank.versions)",
    "test_examples": "test examples read at most",
    "test_loss": "loss on test data, nats a token or image",
    "test_perplexity": "exp of the test loss",
    "test_word_perplexity": "perplexity a white-space word on test data",
    "test_bits_per_byte": "bits a byte of UTF-8 on test data",
    "test_accuracy": "top-1 accuracy on test images, 0 to 1",
}


def collect(
    config: Config,
    cells: Iterable[Path],
    evaluations: Iterable[Path],
    rates: Iterable[Path],
    others: dict[str, list[Path]],
    output: Path,
    published: Path | None = None,
    data: Path | None = None,
) -> None:
    """Write all tables of a scale.

    `cells` are folders of cells' tables, `evaluations` test metrics, `rates` sweep results, `others`
    those of studies' jobs by name. With `published`, tables found there are the base: the given ones replace
    the rows of their cells. With `data` too, where the tracks' data are prepared, only what belongs to the
    configuration and to these data is taken from there, and a run that is in neither is a LowrankError.
    """
    folders = list(cells)
    tables = {name: _of_cells(f / f"{name}.parquet" for f in folders) for name in PER_CELL}
    test = concat(_of_track(path) for path in evaluations)
    if len(test):
        tables["runs"] = tables["runs"].merge(test, on=["cell", "seed"], how="left")
    tables["rates"] = _rates(rates)
    for name, paths in others.items():
        tables[name] = concat(_with_track(read_table(path), path.stem) for path in paths)
    if len(tables["runs"]):
        tables |= described(config, tables)
    if contradiction := disagreement(tables):
        raise LowrankError(
            f"The results do not agree: {contradiction}. Delete what was changed and run again."
        )
    if published is not None:
        ground = read_published(published)
        for name in ("claims", "processors"):
            ground.pop(name, None)
    if published is not None and data is not None:
        tables = _joined(config, tables, ground, data)
    elif published is not None:
        say_what_differs(ground["runs"], tables["runs"])
        tables["rates"] = _beside(tables["rates"], ground, tables["runs"])
        tables = {name: over(ground.get(name), tables.get(name)) for name in {**tables, **ground}}
    runs = tables["runs"]
    if not len(runs):
        raise LowrankError("There is no run to make tables of: train or publish some first.")
    tables["runs"] = runs.reindex(columns=[name for name in COLUMNS if name in runs.columns])
    tables["contrasts"] = all_contrasts(config, tables)
    for name, table in tables.items():
        write_table(output / f"{name}.parquet", table)
    for sentence in filter(None, (diverged(runs), mixed_processors(runs))):
        print(sentence, flush=True)


def _joined(
    config: Config,
    fresh: dict[str, pd.DataFrame],
    published: dict[str, pd.DataFrame],
    data: Path,
) -> dict[str, pd.DataFrame]:
    """Fresh tables and the published rows of the same configuration and data."""
    here = prepared(data, config.tracks)
    experiment = Experiment(config, Published(published, here))
    assert experiment.ground is not None
    none = pd.DataFrame()
    found = {
        name: concat(
            [
                experiment.ground.take(name, published.get(name, none)),
                fresh.get(name, none),
            ]
        )
        for name in {**fresh, **published}
        if name != "contrasts"
    }
    runs = found["runs"]
    there = set(zip(runs["cell"], runs["seed"], strict=True)) if len(runs) else set()
    for cell in experiment.grid.cells.values():
        if lost := [seed for seed in cell.seeds if (cell.name, seed) not in there]:
            raise LowrankError(
                f"{cell.name} has no run of seed {lost[0]}: the data of {cell.track} that were prepared here "
                "may be others than those of the published runs, or these have changed: run again."
            )
    found["runs"] = as_configured(config, runs)
    return found


def _with_track(table: pd.DataFrame, track: str) -> pd.DataFrame:
    """A table of one track, which it says."""
    return table if "track" in table or not len(table) else table.assign(track=track)


def _of_cells(paths: Iterable[Path]) -> pd.DataFrame:
    """The cells' tables one below the other, as `concat` puts them; put together by pyarrow, since thousands
    of small data frames take many times as long."""
    import pyarrow

    found: dict[Path, pyarrow.Table] = {path: _of_cell(path) for path in paths}
    columns = dict.fromkeys(name for table in found.values() for name in table.column_names)
    kept = [
        table.select([name for name in table.column_names if table[name].null_count < len(table)])
        for table in found.values()
        if len(table)
    ]
    if not kept:
        return pd.DataFrame()
    try:
        joined = pyarrow.concat_tables(kept, promote_options="permissive")
        table = joined.replace_schema_metadata(None).to_pandas()
    except pyarrow.ArrowException:
        # Columns of types that only pandas puts together, or one is damaged.
        return concat(in_pandas(table, path) for path, table in found.items())
    return table.reindex(columns=list(columns))


def _of_cell(path: Path) -> pyarrow.Table:
    """A cell's table; one that lies in another cell's folder is a LowrankError that names it."""
    table = read_arrow(path)
    for cell in table["cell"].unique() if "cell" in table.column_names else ():
        if not path.absolute().parent.as_posix().endswith(f"/{cell}"):
            raise damaged(path, f"it is a table of {cell}")
    return table


def _of_track(path: Path) -> pd.DataFrame:
    """Test metrics of a track's runs, one row a run; another table is a LowrankError that names it."""
    table = read_table(path)
    if not len(table):
        return table
    tracks = {str(cell).split("/")[0] for cell in table.get("cell", [""])}
    if tracks != {path.stem} or "seed" not in table or table.duplicated(["cell", "seed"]).any():
        raise damaged(path, f"it holds no test metrics of {path.stem}, one row a run")
    return table


def over(ground: pd.DataFrame | None, fresh: pd.DataFrame | None) -> pd.DataFrame:
    """A published table with the rows of freshly made cells in the place of its own."""
    tables = [table for table in (ground, fresh) if table is not None and len(table)]
    if len(tables) < 2:
        return concat(tables)
    old, new = tables
    key = "cell" if "cell" in old else "group"
    return concat([old[~old[key].isin(new[key].unique())], new])


def _beside(
    fresh: pd.DataFrame, ground: dict[str, pd.DataFrame], runs: pd.DataFrame
) -> pd.DataFrame:
    """The sweeps that take the place of published ones: not those of cells whose published runs stay,
    for a sweep is shown with the runs that were trained at its rate."""
    old, new = (set(table["cell"]) if len(table) else set() for table in (ground["runs"], runs))
    return fresh[~fresh["group"].isin(old - new)] if len(fresh) else fresh


def _rates(paths: Iterable[Path]) -> pd.DataFrame:
    """One row a value that a sweep tried: its validation loss, whether it was chosen, and if at the edge."""
    rows = []
    for path in paths:
        sweep = read_sweep(path)
        for row in sweep["rates"]:
            rows.append(
                {
                    "group": sweep["group"],
                    "track": sweep["track"],
                    "choice": (choice := sweep["choice"]),
                    **row,
                    "chosen": row[choice] == sweep[choice],
                    "at_edge": sweep["at_edge"],
                }
            )
    return pd.DataFrame(rows)

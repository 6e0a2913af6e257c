# Configuration, paths and everything that is computed while the workflow is read.
import contextlib
import json
import sys
from pathlib import Path

from lowrank import interrupt
from lowrank.data import originals
from lowrank.errors import LowrankError
from lowrank.files import write_sealed
from lowrank.experiment import config as settings
from lowrank.report.closing import closing
from lowrank.analysis.contrasts import contrasts
from lowrank.experiment.extensions import announce
from lowrank.analysis.shown import names_beside, shown, studies_of
from lowrank.experiment.expand import arm_name, interpolation_arms, timed_arms
from lowrank.experiment.expand import expand as expand_grid
from lowrank.experiment.targets import check_targets
from lowrank.versions import VERSIONS
from snakemake.logging import logger
from snakemake.utils import update_config

interrupt.on_signals()


@contextlib.contextmanager
def one_sentence():
    """What is wrong with the configuration or its folder is said in a sentence, as by `lowrank`."""
    try:
        yield
    except LowrankError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


def read_config():
    """The scale's file, or those of --configfile, with what --config overrides.

    The files are read anew: Snakemake's own reader takes the last of two equal keys, and 1:30 for 90.
    """
    values = {}
    for path in workflow.configfiles:
        update_config(values, settings.read_section(path))
    overrides = dict(workflow.config_settings.config)
    if "tracks" in values:
        source = str(workflow.configfiles[-1])
    else:
        scale = overrides.pop("scale", values.pop("scale", "laptop"))
        source = f"config/{scale}.yaml"
        values = {**settings.read_section(source), **values}
    update_config(values, overrides)
    return settings.parse(values, source)


with one_sentence():
    CONFIG = read_config()
    GRID = expand_grid(CONFIG)

RESULTS = f"results/{CONFIG.scale}"
TRACKS = list(CONFIG.tracks)
PUBLISHED = f"published/{CONFIG.scale}"
PUBLISHED_FILES = (
    [f"{PUBLISHED}/manifest.json"] if CONFIG.results_from == "published" else []
)
with one_sentence():
    if PUBLISHED_FILES and not Path(PUBLISHED_FILES[0]).is_file():
        raise LowrankError(
            f"results_from: {PUBLISHED_FILES[0]} is missing: the scale {CONFIG.scale} has no "
            "published tables here; train it, or run `snakemake --cores 1 publish` where it was."
        )
CELL_TABLES = ["runs", "history", "layers", "spectra"]


# The smoke scale is there to be quick: its times mean nothing.
MEASURED = CONFIG.scale != "smoke"

GPUS = CONFIG.devices if CONFIG.device == "cuda" else 0
# Jobs that only read trained models use one, however many a run is spread over.
GPU = min(GPUS, 1)

# What starts a training job: one process, or one for each device.
LAUNCH = "lowrank"
if CONFIG.devices > 1:
    LAUNCH = (
        "OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 torchrun --standalone"
        f" --nproc-per-node {CONFIG.devices} -m lowrank"
    )


def data_folder(wildcards):
    return f"{RESULTS}/data/{wildcards.track}"


def files_state(wildcards):
    """Changes when the user's own text or images do, so that the data are prepared again."""
    spec = CONFIG.tracks[wildcards.track].data
    return originals.state(spec, data_folder(wildcards), remember=not workflow.dryrun)


# What every job that touches a model is told. The cache keeps finished runs and checkpoints: no rule
# declares it, so a failed job does not lose them.
JOB = dict(data=data_folder, cache=f"{RESULTS}/runs", device=CONFIG.device)

# What is trained: all cells, or with published results only those named in `retrain`.
TRAINED = list(GRID.cells) if CONFIG.results_from == "train" else list(CONFIG.retrain)


# The cells that the figures of each (track, study) show.
SHOWN = shown(CONFIG, GRID)

# What turns the results of jobs into tables.
TABLE_SOURCES = [
    f"src/lowrank/analysis/{name}.py" for name in ("contrasts", "stats", "tables")
]


wildcard_constraints:
    track="[a-z][a-z0-9-]*",
    arm="[A-Za-z0-9._-]+",


def write_specs():
    """One small file for each job's part of the configuration; one that says so already is left
    alone, so a job is run again when its own part changes and not otherwise."""
    tracks = CONFIG.tracks.items()
    specs = {
        "cells": GRID.cells,
        "sweeps": GRID.sweeps,
        "posthoc": GRID.posthoc,
        "data": {name: track.data for name, track in tracks},
        "interpolation": {name: track.studies.interpolation for name, track in tracks},
    }
    for kind, named in specs.items():
        for name, spec in named.items():
            if spec is not None:
                write_sealed(
                    f"{RESULTS}/specs/{kind}/{name}.json", spec.model_dump(mode="json")
                )
    for part, number in VERSIONS.items():
        write_sealed(version(part), {"version": number})
    compared, beside = contrasts(CONFIG), names_beside(CONFIG, GRID)
    for (track, study), names in SHOWN.items():
        values = {"cells": names, "contrasts": compared.get((track, study), [])}
        values["beside"] = beside.get((track, study), [])
        values["trained"] = [name for name in names if name in TRAINED]
        write_sealed(shown_spec(track, study), values)
    write_sealed(f"{RESULTS}/specs/config.json", CONFIG.model_dump(mode="json"))


def shown_spec(track, study):
    """The file that says what a study shows and where it comes from: an input of its figures."""
    return f"{RESULTS}/specs/shown/{track}/{study}.json"


def version(part):
    """The file that says the version of a part of the code: an input of what that part makes, so
    that raising it makes that anew."""
    return f"{RESULTS}/specs/versions/{part}.json"


with one_sentence():
    write_specs()
    for line in announce(GRID.extensions, Path(f"{RESULTS}/specs/extensions.json")):
        print(line, file=sys.stderr)


def waited_for(files, reasons, product):
    """Files that a job reads or waits for, but that are no reason to make its product again: the
    `reasons` are. Snakemake overlooks them while it makes files again that are marked so, hence the
    mark is left out when a reason is newer than the product."""
    made = Path(product).stat().st_mtime if Path(product).exists() else 0
    newer = any(
        Path(path).stat().st_mtime > made for path in reasons if Path(path).exists()
    )
    return files if newer else list(map(ancient, files))


def cell_spec(name):
    return f"{RESULTS}/specs/cells/{name}.json"


def cell_tables(name):
    return [f"{RESULTS}/cells/{name}/{table}.parquet" for table in CELL_TABLES]


def rate_files(*names):
    groups = dict.fromkeys(group for name in names for group in GRID.cells[name].groups)
    return [f"{RESULTS}/rates/{group}.json" for group in groups]


def prepared(track):
    """The manifest stands for the data: it carries the SHA-256 of every file."""
    return f"{RESULTS}/data/{track}/manifest.json"


def trunk_of(name):
    """The dense cell whose checkpoints a pre-trained cell forks from, if any."""
    trunk = GRID.cells[name].trunk
    return trunk if trunk in GRID.cells else None


def trunk_tables(name):
    trunk = trunk_of(name)
    return cell_tables(trunk)[:1] if trunk else []


def fork_steps(name):
    """The steps at which pre-trained cells fork from this dense cell."""
    return sorted(
        {cell.fork_step for cell in GRID.cells.values() if cell.trunk == name}
    )


def kept_steps(wildcards):
    return [
        f"--keep {step}" for step in fork_steps(f"{wildcards.track}/{wildcards.arm}")
    ]


def trained(track):
    return [name for name in TRAINED if GRID.cells[name].track == track]


def interpolated(track):
    """The dense cell and the cells at the other ends of the lines."""
    section = CONFIG.tracks[track]
    return [f"{track}/{arm_name(arm, section)}" for arm in interpolation_arms(section)]


def timed(track):
    if CONFIG.parallel == "fsdp" and CONFIG.devices > 1:
        return []  # one device would have to hold whole models, side by side
    section = CONFIG.tracks[track]
    return list(
        dict.fromkeys(
            f"{track}/{arm_name(arm, section)}" for arm in timed_arms(section)
        )
    )


def with_study(study):
    return [track for track in TRACKS if getattr(CONFIG.tracks[track].studies, study)]


# Tables that only some tracks contribute to, and those tracks.
CONTRIBUTORS = {
    "interpolation": with_study("interpolation"),
    "barriers": with_study("interpolation"),
    "posthoc": with_study("posthoc"),
    "baselines": [track for track in TRACKS if CONFIG.tracks[track].task.language],
    "speed": [track for track in TRACKS if timed(track)],
}
CONTRIBUTORS = {name: tracks for name, tracks in CONTRIBUTORS.items() if tracks}
COLLECTED = [
    (name, f"{RESULTS}/{name}/{track}.parquet")
    for name, tracks in CONTRIBUTORS.items()
    for track in tracks
    if CONFIG.results_from == "train"
]
GATHERED = expand(
    f"{RESULTS}/tables/{{table}}.parquet",
    table=[*CELL_TABLES, "rates", "contrasts", *CONTRIBUTORS],
)
TABLES = [*GATHERED, f"{RESULTS}/tables/claims.parquet"]

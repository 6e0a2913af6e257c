"""A misspelt target is one sentence that names what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.expand import expand
from lowrank.experiment.targets import check_targets

ROOT = Path(__file__).parents[2]
GRID = expand(config.read_config(ROOT / "config/smoke.yaml"))
RULES = ("figures", "tables", "paper", "publish")
FILES = {
    *(
        f"results/smoke/cells/{name}/{table}.parquet"
        for name in GRID.cells
        for table in ("runs", "history")
    ),
    *(f"results/smoke/rates/{name}.json" for name in GRID.sweeps),
    *(f"results/smoke/data/{track}/manifest.json" for track in ("language", "small-images")),
    *(f"results/smoke/tables/{table}.parquet" for table in ("runs", "claims", "contrasts")),
    *(
        f"figures/smoke/{name}.{ending}"
        for name in ("language/decay", "language/scaling", "claims")
        for ending in ("png", "md")
    ),
    "paper/smoke/paper.pdf",
}


def check(*targets: str) -> None:
    check_targets(
        targets, rules=RULES, files=FILES, grid=GRID, scale="smoke", scales=("smoke", "laptop")
    )


def test_rules_and_files_that_can_be_made_pass():
    check(*RULES, *FILES, "./figures/smoke/claims.png", str(Path.cwd() / "paper/smoke/paper.pdf"))


def test_a_cells_path_is_judged_as_retrain_is():
    with pytest.raises(LowrankError) as by_path:
        check("results/smoke/cells/langage/dense/runs.parquet")
    values = config.read_yaml(ROOT / "config/smoke.yaml")
    with pytest.raises(LowrankError) as by_retrain:
        expand(config.parse({**values, "retrain": ["langage/dense"]}))
    assert str(by_path.value) == str(by_retrain.value).replace(" in retrain", "")
    assert "did you mean 'language/dense'?" in str(by_path.value)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("results/smoke/cells/language/dense/run.parquet", "'run': did you mean 'runs'?"),
        ("results/smoke/cells/language/dense", "is a folder: name a file in it, such as results/"),
        (
            "results/smoke/rates/small-image/dense.json",
            "Unknown sweep 'small-image/dense': did you mean 'small-images/dense'?",
        ),
        ("results/smoke/data/langage/manifest.json", "did you mean 'language'?"),
        ("results/smoke/tables/contrast.parquet", "'contrast': did you mean 'contrasts'?"),
        ("results/smoke/table/runs.parquet", "did you mean 'tables'?"),
        ("figures/smoke/langage/decay.png", "in figures/smoke 'langage': did you mean 'language'?"),
        ("figures/smoke/language/decoy.png", "'decoy': did you mean 'decay'?"),
        ("figures/smoke/language/decay.jpg", "known are decay.md, decay.png."),
        ("figures/smoke/language", "is a folder"),
        ("figures/laptop/language/decay.png", "is of the scale laptop: add --config scale=laptop."),
        ("figures/smok/language/decay.png", "did you mean 'smoke'?"),
        ("paper/smoke/papr.pdf", "did you mean 'paper'?"),
        ("figurs", "Unknown target 'figurs': did you mean 'figures'?"),
        ("../elsewhere", "Unknown target"),
    ],
)
def test_the_first_part_of_a_path_that_leads_nowhere_is_named(target, sentence):
    with pytest.raises(LowrankError) as error:
        check("figures", target)
    assert sentence in str(error.value)

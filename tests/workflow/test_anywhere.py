"""The workflow is read without a trace, and works from another folder and in another workflow."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_pipeline import ROOT, copy_project, planned, snakemake

pytestmark = pytest.mark.pipeline

IDEA = """
from lowrank.factor.init import initialisation


@initialisation("mine")
def mine(weight, rank, generator, scale=1.0):
    return weight[..., :rank].clone(), weight[..., :rank, :].mT.clone()
"""

OUTER = """
module lowrank:
    snakefile: "{snakefile}"
    config: {{"scale": "smoke", "seeds": [5]}}

use rule * from lowrank as lowrank_*

onstart:
    lowrank.onstart()

rule count:
    default_target: True
    input: "results/smoke/data/small-images/manifest.json"
    output: "counted.txt"
    shell: "wc -c < {{input}} > {{output}}"
"""


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file but Snakemake's own book, with the time when it was last changed."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {".snakemake", "__pycache__"} & {*path.parts}
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("anywhere") / "project")


@pytest.mark.parametrize(
    "way", [["-n"], ["--lint"], ["--summary"], ["--list-rules"], ["--rulegraph"], ["--unlock"]]
)
def test_reading_the_workflow_writes_nothing(way, project):
    (project / "idea.py").write_text(IDEA, encoding="utf-8")
    before = contents(project)
    target = [] if way[0] in ("--lint", "--list-rules") else ["figures"]
    extensions = "extensions={mine: idea.py}"
    output = snakemake(project, *target, *way, "--config", extensions, "seeds=[3]")
    assert "extensions.mine: idea.py is a program that runs with your rights" in output
    assert contents(project) == before


def test_the_linter_has_nothing_to_say():
    assert "your workflow is in a good condition" in snakemake(ROOT, "--lint")


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_it_plans_the_same_from_another_folder(snakefile, project, tmp_path):
    here = planned(snakemake(project, "figures", "-n"))
    where = ["--snakefile", str(project / snakefile), "--directory", str(tmp_path)]
    where += ["--workflow-profile", str(project / "profiles/default")]
    assert planned(snakemake(tmp_path, "figures", "-n", *where)) == here
    assert here["train_cell"] > 5


def test_results_lie_in_the_folder_that_is_named_and_sources_beside_the_workflow(project, tmp_path):
    """A figure and the report's tables of the published results, of which the project has a copy."""
    shutil.copytree(ROOT / "published/laptop", project / "published/laptop", dirs_exist_ok=True)
    before = contents(project)
    figure = "figures/laptop/language/initialisation.md"
    where = ["--snakefile", str(project / "Snakefile"), "--directory", str(tmp_path)]
    settings = ["--config", "scale=laptop", "results_from=published"]
    snakemake(tmp_path, figure, *where, *settings)
    assert (tmp_path / figure).stat().st_size > 100
    assert (tmp_path / "results/laptop/config.json").is_file()
    assert contents(project) == before
    assert "Nothing to be done" in snakemake(tmp_path, figure, *where, *settings)


def test_it_is_a_module_of_another_workflow(project, tmp_path):
    snakefile = project / "workflow/Snakefile"
    (tmp_path / "Snakefile").write_text(OUTER.format(snakefile=snakefile), encoding="utf-8")
    profile = ["--workflow-profile", str(project / "profiles/default")]
    output = snakemake(tmp_path, *profile)
    assert "Preparing the data of small-images" in output
    assert int((tmp_path / "counted.txt").read_text(encoding="utf-8")) > 0
    assert '"seeds": [\n    5\n  ]' in (tmp_path / "results/smoke/config.json").read_text("utf-8")
    jobs = planned(snakemake(tmp_path, "lowrank_tables", "-n", *profile))
    assert jobs["lowrank_train_cell"] > 5 and "lowrank_prepare_data" in jobs

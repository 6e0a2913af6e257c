"""The whole pipeline at smoke scale, as a newcomer and a returning user meet it."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import snakemake_process
import yaml
from browser import chromium, hidden

from lowrank.analysis.claims import judge_scale
from lowrank.analysis.contrasts import all_contrasts
from lowrank.analysis.ledger import read_ledger
from lowrank.analysis.publish import publish
from lowrank.analysis.tables import COLUMNS
from lowrank.experiment import config as settings
from lowrank.experiment.expand import expand
from lowrank.experiment.study import jobs
from lowrank.parquet import read_table
from lowrank.versions import VERSIONS

ROOT = Path(__file__).parent.parent
SOURCES = ("Snakefile", "workflow", "profiles", "config", "notebooks", "src", "paper")

pytestmark = pytest.mark.pipeline


def copy_project(folder: Path) -> Path:
    """The project's files in a new folder, without results."""
    folder.mkdir(parents=True, exist_ok=True)
    ignore = shutil.ignore_patterns("*.egg-info", "*.pdf", "*.pyc.*")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignore)
        elif source.exists():
            shutil.copy(source, folder / name)
    return folder


def snakemake(folder: Path, *arguments: str, scale: str = "smoke", status: int = 0) -> str:
    """Run Snakemake in `folder`; what it printed. The status is asserted."""
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}
    given = not scale or any("scale=" in a for a in arguments)
    settings = [] if given else ["--config", f"scale={scale}"]
    if "--config" in arguments and settings:
        at = arguments.index("--config") + 1
        arguments, settings = (*arguments[:at], settings[1], *arguments[at:]), []
    returned, output = snakemake_process.call(
        folder, ["--cores", "2", *arguments, *settings], environment
    )
    assert returned == status, output
    return output


def planned(output: str) -> dict[str, int]:
    """The jobs of a run, or of a dry one, by rule."""
    jobs = re.search(r"to do:((?: \d+ \w+,?)+|(?:\n +\d+ \w+)+)", output)
    rows = re.findall(r"(\d+) (\w+)", jobs[1]) if jobs else []
    counts = {name: int(count) for count, name in rows}
    return {name: count for name, count in counts.items() if name not in ("figures", "tables")}


def of_one_age(folder: Path) -> Path:
    """Give all files the same date, so that none is newer than what was made from it."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (1e9, 1e9))
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A fresh copy of the project in which every figure has been made at smoke scale."""
    folder = copy_project(tmp_path_factory.mktemp("pipeline") / "project")
    (folder / "output.log").write_text(snakemake(folder, "figures"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def published(project):
    """The same project with its tables published."""
    snakemake(project, "publish")
    return project


def test_every_figure_has_its_table_and_its_executed_notebook(project):
    pictures = sorted((project / "figures/smoke").rglob("*.png"))
    assert {path.stem for path in pictures} >= {"initialisation", "decay", "posthoc"}
    for picture in pictures:
        for ending in (".pdf", ".csv", ".json", ".md", ".tex"):
            assert picture.with_suffix(ending).stat().st_size > 0
    executed = project / "results/smoke/notebooks/language/initialisation.ipynb"
    assert '"output_type"' in executed.read_text(encoding="utf-8")


def test_a_run_is_a_line_a_job_and_ends_with_the_verdicts(project):
    lines = (project / "output.log").read_text(encoding="utf-8").splitlines()
    done = [line for line in lines if re.match(r"\[ *\d+/\d+\] ", line)]
    assert any("Training language/dense" in line for line in done)
    closing = lines[lines.index(done[-1]) + 1 :]
    assert closing[0].startswith("The figures are in figures/smoke")
    assert len(closing) <= 14
    assert re.search(
        r": language (supported|not reproduced|mixed|cannot tell|inconclusive)", "".join(closing)
    )
    assert len(lines) - len(done) - len(closing) < 10, "progress of slow jobs, nothing else"
    assert not any("Reason" in line or "Warning" in line for line in lines)


def test_runs_has_a_row_a_run_with_documented_columns(project):
    runs = pd.read_parquet(project / "results/smoke/tables/runs.parquet")
    assert set(runs.columns) <= set(COLUMNS)
    assert not runs.duplicated(["cell", "seed"]).any()
    assert (runs.groupby("cell")["seed"].nunique() == 2).all()
    assert runs["data_digest"].notna().all()
    assert runs["test_loss"].notna().all()


def test_nothing_is_done_twice(project):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "figures", "-n"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [*command, "--config", "scale=smoke"], cwd=project, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.returncode == 0 and "Nothing to be done" in run.stdout + run.stderr
    assert after.ru_utime - before.ru_utime < 15  # CPU seconds; 4 where the machine is quiet


def test_touching_files_reruns_nothing(project):
    for path in (project / "results/smoke").rglob("*"):
        if path.is_file() and path.suffix in (".json", ".bin", ".npy"):
            path.touch()
    for path in (project / "src").rglob("*.py"):
        path.touch()
    assert "Nothing to be done" in snakemake(project, "figures", "-n")


def test_one_cell_reruns_by_its_file(project):
    target = "results/smoke/cells/language/spectral-r0.5/runs.parquet"
    output = snakemake(project, target, "-n", "--forcerun", "train_cell")
    assert planned(output) == {"train_cell": 1}


def test_changing_one_cells_configuration_reruns_it_and_its_readers_only(project):
    """Another fraction of dense steps renames one arm: that cell is new, all others stay."""
    values = yaml.safe_load((project / "config/smoke.yaml").read_text(encoding="utf-8"))
    values["tracks"]["language"]["studies"]["pretraining"]["fractions"] = [0.75]
    values["tracks"]["language"]["studies"]["interpolation"]["fractions"] = []
    changed = project / "config/changed.yaml"
    changed.write_text(yaml.safe_dump(values), encoding="utf-8")
    jobs = planned(
        snakemake(project, "tables", "-n", "--configfile", str(changed), "--config", "scale=smoke")
    )
    # The dense cell leaves a checkpoint at another step; its finished runs are found.
    assert jobs.get("train_cell", 0) <= 2
    assert "prepare_data" not in jobs


CELLS = Counter(
    cell.track
    for cell in expand(settings.read_config(ROOT / "config/smoke.yaml"), ROOT).cells.values()
)
ALL_TABLES = {"collect_tables": 1, "judge_claims": 1}
IMAGE_CELLS = CELLS["small-images"] + CELLS["large-images"]
DEPENDENTS = {
    "text": {"prepare_data": 1, "train_cell": CELLS["language"], "evaluate_track": 1}
    | {f"measure_{study}": 1 for study in ("baselines", "interpolation", "posthoc", "speed")},
    "images": {"prepare_data": 2, "train_cell": IMAGE_CELLS, "evaluate_track": 2}
    | {"sweep_rate": 2, "measure_speed": 2},
    "training": {"sweep_rate": 2, "train_cell": CELLS.total(), "evaluate_track": 3}
    | {"measure_interpolation": 1, "measure_posthoc": 1},
    "evaluation": {"evaluate_track": 3},
    "interpolation": {"measure_interpolation": 1},
    "posthoc": {"measure_posthoc": 1},
    "baselines": {"measure_baselines": 1},
    "speed": {"measure_speed": 3},
}


@pytest.mark.parametrize("part", DEPENDENTS)
def test_a_raised_version_reruns_what_depends_on_it_and_nothing_else(
    part, project, tmp_path, monkeypatch
):
    """In an edited copy of the sources, with all metadata there and no input changed."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.pyc.*"))
    study = jobs().get(part)
    file = f"studies/{part}.py" if study else "versions.py"
    before, line = (study.version, "version={},") if study else (VERSIONS[part], f'"{part}": {{}},')
    source = tmp_path / "src/lowrank" / file
    text = source.read_text(encoding="utf-8")
    assert line.format(before) in text
    source.write_text(text.replace(line.format(before), line.format(before + 1)), encoding="utf-8")
    for path in (project / "results/smoke/speed").iterdir():
        path.touch()  # newer than the data that other tests have touched
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "src"))
    assert planned(snakemake(project, "tables", "-n")) == DEPENDENTS[part] | ALL_TABLES


@pytest.fixture(scope="module")
def drawn(published, tmp_path_factory):
    """A project without runs whose figures have been drawn from the published tables."""
    fresh = copy_project(tmp_path_factory.mktemp("drawn") / "project")
    for part in ("published", "figures", "results/smoke/tables"):
        shutil.copytree(published / part, fresh / part)
    settings = ["--config", "results_from=published"]
    snakemake(
        fresh, "figures", "--touch", "--forceall", *settings
    )  # as if they had been drawn here
    return fresh


@pytest.mark.parametrize(
    ("cell", "figures"),
    [
        ("language/he-r0.5", {"initialisation of language", "spectra of language"}),
        (
            "language/spectral-r0.5-pre0.25",
            {"pretraining of language", "interpolation of language"},
        ),
        (
            "large-images/spectral-r0.5",
            {"initialisation of large-images", "spectra of large-images"},
        ),
    ],
)
def test_retraining_a_cell_draws_only_the_figures_that_show_it(cell, figures, drawn):
    output = snakemake(drawn, "figures", "-n", "--config", "results_from=published")
    assert not planned(output)
    settings = ["results_from=published", f"retrain=[{cell}]"]
    output = snakemake(drawn, "figures", "-n", "--config", *settings)
    jobs = planned(output)
    assert (jobs["render_figure"], jobs["render_claims"]) == (len(figures), 1)
    assert jobs["train_cell"] == (2 if "-pre" in cell else 1)  # it forks from the dense one
    for figure in figures:
        assert figure in output


def test_figures_of_published_results_are_drawn_again_where_they_showed_trained_ones(published):
    """Their tables are made again too, which alone is no reason."""
    of_one_age(published)
    jobs = planned(snakemake(published, "figures", "-n", "--config", "results_from=published"))
    drawn = planned(snakemake(published, "figures", "-n", "--forcerun", "render_figure"))
    assert jobs["render_figure"] == drawn["render_figure"] > 10 and jobs["collect_tables"] == 1
    tables = planned(snakemake(published, "figures", "-n", "--forcerun", "collect_tables"))
    assert "render_figure" not in tables


def test_an_edited_figure_is_drawn_again_beside_new_tables(published, tmp_path):
    fresh = of_one_age(shutil.copytree(published, tmp_path / "project"))
    module = fresh / "src/lowrank/plot/decay.py"
    module.write_text(module.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    output = snakemake(fresh, "figures", "-n", "--forcerun", "collect_tables")
    assert planned(output)["render_figure"] == 1 and "decay of small-images" in output


def test_without_snakemakes_book_results_of_another_configuration_are_refused(published, tmp_path):
    fresh = of_one_age(shutil.copytree(published, tmp_path / "project"))
    shutil.rmtree(fresh / ".snakemake")
    text = (fresh / "config/smoke.yaml").read_text(encoding="utf-8")
    assert "Nothing to be done" in snakemake(fresh, "figures", "-n")
    (fresh / "config/smoke.yaml").write_text(
        text.replace("depth: 1\n", "depth: 2\n"), encoding="utf-8"
    )
    output = snakemake(fresh, "figures", "-n", status=2)
    assert "results/smoke holds results of another configuration" in output


def test_published_tables_render_every_figure_and_train_nothing(published, tmp_path):
    fresh = copy_project(tmp_path / "fresh")
    shutil.copytree(published / "published", fresh / "published")
    jobs = planned(snakemake(fresh, "figures", "-n", "--config", "results_from=published"))
    assert jobs["render_figure"] > 10
    assert not {"prepare_data", "train_cell", "sweep_rate", "evaluate_track"} & set(jobs)
    snakemake(
        fresh, "figures/smoke/language/initialisation.md", "--config", "results_from=published"
    )
    ours = (fresh / "figures/smoke/language/initialisation.md").read_text(encoding="utf-8")
    assert ours == (published / "figures/smoke/language/initialisation.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("few", "figures"),
    [
        (["language/dense"], set()),
        (["language/spectral-r0.5"], {"initialisation", "spectra"}),
        (["language/spectral-r0.5", "language/he-r0.5"], {"initialisation", "spectra"}),
    ],
)
def test_of_a_few_published_cells_the_figures_and_the_report_are_made(
    few, figures, published, tmp_path
):
    fresh, tables = copy_project(tmp_path / "fresh"), tmp_path / "tables"
    tables.mkdir()
    for name in ("runs", "history", "layers", "spectra"):
        table = pd.read_parquet(published / f"results/smoke/tables/{name}.parquet")
        table[table["cell"].isin(few)].to_parquet(tables / f"{name}.parquet")
    config, ledger = published / "results/smoke/config.json", fresh / "config/claims.yaml"
    asked, found = settings.read_config(config), {"runs": read_table(tables / "runs.parquet")}
    found["contrasts"] = all_contrasts(asked, found)
    found["contrasts"].to_parquet(tables / "contrasts.parquet")
    claims = judge_scale(read_ledger(ledger), asked, found)
    claims.to_parquet(tables / "claims.parquet")
    publish(tables, config, ledger, fresh / "published/smoke")
    options = ["--config", "results_from=published", "retrain=[]"]
    snakemake(fresh, "figures", "paper", *options)
    made = {str(path.relative_to(fresh / "figures/smoke")) for path in fresh.rglob("*.png")}
    assert made == {"claims.png", *(f"language/{name}.png" for name in figures)}
    assert (fresh / "paper/smoke/paper.pdf").read_bytes().startswith(b"%PDF")
    options[-1] = "retrain=[small-images/spectral-r0.3]"
    another = "figures/smoke/small-images/initialisation.png"
    assert planned(snakemake(fresh, another, "-n", *options))["render_figure"] == 1


def test_with_published_results_one_cell_is_retrained_alone(published, tmp_path):
    fresh = copy_project(tmp_path / "fresh")
    shutil.copytree(published / "published", fresh / "published")
    settings = ["results_from=published", "retrain=[small-images/spectral-r0.3]"]
    output = snakemake(fresh, "tables", "--config", *settings)
    assert planned(output) == {
        "prepare_data": 1,
        "sweep_rate": 1,
        "train_cell": 1,
        "evaluate_track": 1,
        "collect_tables": 1,
        "judge_claims": 1,
    }
    before = pd.read_parquet(published / "results/smoke/tables/runs.parquet")
    after = pd.read_parquet(fresh / "results/smoke/tables/runs.parquet")
    assert len(before) == len(after)
    key = ["cell", "seed", "test_loss"]
    pd.testing.assert_frame_equal(
        before[key].sort_values(key, ignore_index=True),
        after[key].sort_values(key, ignore_index=True),
    )


def test_with_published_results_further_seeds_cost_only_themselves(published, tmp_path):
    fresh = copy_project(tmp_path / "fresh")
    shutil.copytree(published / "published", fresh / "published")
    values = yaml.safe_load((fresh / "config/smoke.yaml").read_text(encoding="utf-8"))
    values["tracks"]["small-images"]["seeds"] = [0, 1, 5]
    (fresh / "config/smoke.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    settings = ["--config", "results_from=published"]
    output = snakemake(fresh, "publish", *settings)
    cells = CELLS["small-images"]
    missing = f"{cells} in {cells} cells are trained here."
    assert re.search(rf"published/smoke holds \d+ of the \d+ runs .*: {missing}", output)
    assert planned(output) == {
        "prepare_data": 1,
        "train_cell": cells,
        "evaluate_track": 1,
        **ALL_TABLES,
        "publish": 1,
    }
    assert f"{cells} added" in output
    before, after = (
        pd.read_parquet(folder / "published/smoke/runs.parquet").set_index(["cell", "seed"])
        for folder in (published, fresh)
    )
    assert set(after.index) - set(before.index) == {
        (name, 5) for name in after.index.unique("cell") if name.startswith("small-images/")
    }
    pd.testing.assert_frame_equal(after.loc[before.index], before)
    output = snakemake(fresh, "figures", "-n", *settings)
    assert not {"prepare_data", "train_cell"} & set(planned(output)) and "holds" not in output


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_a_damaged_published_table_is_refused_by_name(damage, published, tmp_path):
    fresh = copy_project(tmp_path / "fresh")
    shutil.copytree(published / "published", fresh / "published")
    table = fresh / "published/smoke/runs.parquet"
    content = table.read_bytes()
    if damage == "missing":
        table.unlink()
    else:
        table.write_bytes(
            content[:-9] if damage == "truncated" else content[:99] + b"!" + content[100:]
        )
    output = snakemake(fresh, "tables", "--config", "results_from=published", status=2)
    assert "published/smoke/runs.parquet" in output and "Traceback" not in output
    assert "restore it (`git checkout published/smoke`)" in output and "delete" not in output


def test_the_manifest_of_published_tables_says_where_they_came_from(published):
    manifest = json.loads((published / "published/smoke/manifest.json").read_text(encoding="utf-8"))
    assert {"commit", "date", "torch", "processors", "data_digests", "files"} <= set(manifest)


def test_an_unknown_key_is_one_sentence_with_the_nearest_name(project, tmp_path):
    output = snakemake(project, "figures", "-n", "--config", "sedes=[1]", status=2)
    assert "did you mean 'seeds'?" in output
    assert "Traceback" not in output


def test_paper_of_the_smoke_scale_is_written(project):
    snakemake(project, "paper")
    assert (project / "paper/smoke/paper.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.browser
def test_report_shows_figures_tables_workflow_and_configuration_offline(project):
    with chromium() as window:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.wait import WebDriverWait

        page = project / "results/smoke/report.html"
        snakemake(project, "paper")
        snakemake(
            project,
            *("figures", "paper", "--configfile", "config/smoke.yaml", "--report", str(page)),
            *("--config", "scale=smoke"),
        )
        window.get(page.as_uri())

        def click(path: str) -> None:
            window.execute_script("arguments[0].click()", window.find_element(By.XPATH, path))

        def view(track: str) -> None:
            click(f"//td[text()='{track}']/following::a[1]")

        wait = WebDriverWait(window, 10)
        graph = (By.CSS_SELECTOR, "canvas, svg.marks")  # of the rules
        wait.until(lambda _: any(e.size["height"] > 100 for e in window.find_elements(*graph)))
        for size in ((1400, 1000), (1000, 600), (700, 400)):
            window.set_window_size(*size)
            assert not hidden(window), f"the first page is cut off at {size}"
        window.set_window_size(1400, 1000)
        window.find_element(By.TAG_NAME, "summary").click()
        assert '"rank_fraction"' in window.find_element(By.TAG_NAME, "body").text
        assert not hidden(window), "the first page is cut off by the configuration"
        click("//*[text()='Initialisation of the factors']")
        view("language")
        picture = window.find_element(By.XPATH, "//img[starts-with(@src, 'data:image/png')]")
        wait.until(lambda _: int(picture.get_attribute("naturalWidth")) > 500)
        window.set_window_size(1400, 500)
        assert not hidden(window), "a figure larger than the window is cut off"
        window.set_window_size(1400, 1000)
        click("//*[@id='toggle-shown-table']")
        view("language")
        window.switch_to.frame(window.find_element(By.TAG_NAME, "iframe"))
        table = window.find_element(By.TAG_NAME, "table").text
        assert "kept parameters" in table and "spectral" in table

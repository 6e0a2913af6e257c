"""The report compiles from whatever ran, prints only numbers it read, and only the paper's verified ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lowrank.errors import LowrankError
from lowrank.files import write_table
from lowrank.plot import claims as claims_figure
from lowrank.plot import publish
from lowrank.study import paper
from lowrank.study.claims import judge, load
from lowrank.study.config import load as load_config

ROOT = Path(__file__).parents[2]


def prose() -> str:
    """The report's source without comments, formulas, settings of the page and calls."""
    text = (ROOT / "paper/main.typ").read_text(encoding="utf-8")
    text = "\n".join(
        line for line in text.splitlines() if not line.startswith(("//", "#set", "#show"))
    )
    text = re.sub(r"\$[^$]*\$|`[^`]*`|@[\w-]+", "", text)
    text = re.sub(
        r"\b(?:size|width|widths|row|gutter|spacing|inset|left|most|digits|columns|x|y): [^\n]*",
        "",
        text,
    )
    return re.sub(r"#?\b(?:v|at|slice|min|max|range|num)\([^\n]*", "", text)


def test_no_result_is_typed_into_the_report():
    found = re.findall(r".*\d+\.\d+.*|.*\d ?%.*", re.sub(r"< 0\.001|\"<0\.001\"", "", prose()))
    assert not found, found


def test_none_of_the_papers_numbers_is_typed_into_the_report():
    ledger = yaml.safe_load((ROOT / "config/claims.yaml").read_text(encoding="utf-8"))
    for source in ("main.typ", "facts.typ"):
        text = (ROOT / "paper" / source).read_text(encoding="utf-8")
        assert not [n["value"] for n in ledger["paper"] if f"{n['value']:g}" in text]


def runs_of(track: str, arms: dict[str, float]) -> pd.DataFrame:
    rows = []
    for arm, loss in arms.items():
        for seed in (0, 1, 2):
            value = loss + 0.01 * seed + 0.001 * (seed == 1) * len(arm)
            rows.append(
                {"cell": f"{track}/{arm}", "track": track, "arm": arm, "seed": seed}
                | {"test_loss": value, "test_perplexity": 2.718281828**value}
                | {"parameters": 1000, "training_flops": 1e9, "train_seconds": 2.0}
                | {"diverged": False, "effective_rank": 5.0 - loss, "device": "Some Processor"}
                | {"finished_at": "2020-01-01T00:00:00", "torch": "1", "data_digest": "abc"}
            )
    return pd.DataFrame(rows)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one track, three arms, and claims judged on them."""
    shutil.copytree(ROOT / "paper", tmp_path / "paper", ignore=shutil.ignore_patterns("*.pdf"))
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    runs = runs_of("language", {"dense": 3.0, "spectral-r0.5": 3.2, "spectral_ones-r0.5": 3.5})
    ledger = load(ROOT / "config/claims.yaml")
    tables = tmp_path / "tables"
    write_table(tables / "runs.parquet", runs)
    write_table(tables / "claims.parquet", judge(ledger, {"runs": runs}, scale="smoke"))
    publish(*claims_figure.draw(claims_figure.read(tables)), tmp_path / "figures/claims")
    return tmp_path


def export(project: Path) -> dict:
    config = load_config(ROOT / "config/smoke.yaml")
    ledger = load(ROOT / "config/claims.yaml")
    paper.export(config, ledger, project / "tables", project / "figures", project / "data")
    return json.loads((project / "data/facts.json").read_text(encoding="utf-8"))


def test_report_compiles_when_most_studies_did_not_run(project):
    facts = export(project)
    assert facts["claims"]["direction"]["verdict"] == "refuted"
    assert facts["claims"]["closeness"]["verdict"] == "not run"
    output = project / "paper.pdf"
    paper.compile_paper(Path("paper/main.typ"), project / "data", project / "figures", output)
    assert output.read_bytes().startswith(b"%PDF")


def test_verified_numbers_stand_beside_ours(project):
    rows = {(row["track"], row["arm"]): row for row in export(project)["paper"]}
    dense = rows["language", "dense"]
    assert dense["value"] == 37.67
    assert dense["ours"][0] == pytest.approx(2.718281828**3.01, rel=1e-2)
    assert rows["language", "he-r0.62"]["ours"] is None
    assert rows["language", "he-r0.62"]["gap"] == pytest.approx(0.04997, abs=1e-4)


def test_every_setting_of_the_configuration_is_listed():
    rows = {
        row["key"]: row for row in paper.hyper_parameters(load_config(ROOT / "config/laptop.yaml"))
    }
    assert rows["model.width"]["language"] == "64"
    assert rows["factors.decay.kind"]["small-images"] == "l2"
    assert rows["studies.scaling.widths"] == {
        "key": "studies.scaling.widths",
        "language": "32, 48, 64, 96",
        "small-images": "–",
        "large-images": "–",
    }
    assert rows["seeds"]["language"] == "0, 1, 2"


def test_markdown_is_read_back_as_it_was_shown(tmp_path):
    path = tmp_path / "table.md"
    path.write_text("| a\\_b | c \\| d |\n| :--- | ---: |\n| 1 | 0.5\\* |\n", encoding="utf-8")
    assert paper.read_markdown(path) == [["a_b", "c | d"], ["1", "0.5*"]]


def test_a_source_that_is_wrong_is_told_in_a_sentence(project):
    export(project)
    (project / "paper/wrong.typ").write_text("#nonsense", encoding="utf-8")
    with pytest.raises(LowrankError, match="does not compile: unknown variable"):
        paper.compile_paper(
            Path("paper/wrong.typ"), project / "data", project / "figures", project / "x.pdf"
        )
    with pytest.raises(LowrankError, match="lies outside"):
        paper.compile_paper(
            Path("paper/main.typ"), Path("/"), project / "figures", project / "x.pdf"
        )

"""The report compiles from whatever ran, prints only numbers it read, and only the paper's verified ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import typst
import yaml
from named_arms import facts

from lowrank import escape
from lowrank.analysis.claims import Ledger, judge
from lowrank.analysis.ledger import read_ledger
from lowrank.analysis.next_runs import next_runs
from lowrank.analysis.publish import read_published
from lowrank.errors import LowrankError
from lowrank.experiment.config import Config, Studies, read_config
from lowrank.experiment.config import parse as parse_config
from lowrank.experiment.study import STUDIES, Figure, Study
from lowrank.files import write_json
from lowrank.parquet import write_table
from lowrank.plot import claims as claims_figure
from lowrank.plot import initialisation, leaderboard, publish, read_results
from lowrank.reports import paper

TRACKS = {"language": "language", "small-images": "images", "large-images": "images"}
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
                {"cell": f"{track}/{arm}", "track": track, **facts(arm), "seed": seed}
                | {"test_loss": value, "test_perplexity": 2.718281828**value}
                | {"parameters": 1000, "dense_parameters": 1000}
                | {"training_flops": 1e9, "train_seconds": 2.0}
                | {"diverged": False, "effective_rank": 5.0 - loss, "device": "Some Processor"}
                | {"finished_at": "2020-01-01T00:00:00", "torch": "1", "data_digest": "abc"}
            )
    return pd.DataFrame(rows)


ARMS = {"dense": 3.0, "spectral-r0.5": 3.2, "spectral_ones-r0.5": 3.5}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A project with one track, three arms, and claims judged on them."""
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copytree(ROOT / "paper", folder / "paper", ignore=shutil.ignore_patterns("*.pdf"))
    (folder / "Snakefile").touch()
    runs = runs_of("language", ARMS)
    ledger = read_ledger(ROOT / "config/claims.yaml")
    tables = folder / "tables"
    write_table(tables / "runs.parquet", runs)
    write_table(
        tables / "claims.parquet", judge(ledger, {"runs": runs}, scale="smoke", tracks=TRACKS)
    )
    publish(*claims_figure.draw(claims_figure.read(tables)), folder / "figures/claims")
    return folder


@pytest.fixture
def project(prepared, tmp_path, monkeypatch):
    """A copy of it, which is the current folder."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(project: Path, config: Config | None = None, tables: str = "tables") -> dict:
    config = config or read_config(ROOT / "config/smoke.yaml")
    ledger = read_ledger(ROOT / f"config/{config.ledger}.yaml")
    paper.export(config, ledger, project / tables, project / "figures", project / "data")
    return json.loads((project / "data/facts.json").read_text(encoding="utf-8"))


def compiled(project: Path) -> bytes:
    output = project / "paper.pdf"
    paper.compile_paper(Path("paper/main.typ"), project / "data", project / "figures", output)
    return output.read_bytes()


def elements(project: Path, selector: str) -> list[dict]:
    """What the report consists of, by Typst's own account."""
    inputs = {"data": "/data", "figures": "/figures"}
    source = str(project / "paper/main.typ")
    return json.loads(typst.query(source, selector, root=str(project), sys_inputs=inputs))


def test_report_compiles_when_most_studies_did_not_run(project):
    facts = export(project)
    assert facts["claims"]["direction"]["verdict"] == "refuted"
    assert facts["claims"]["closeness"]["verdict"] == "not run"
    assert compiled(project).startswith(b"%PDF")
    titles = [heading["body"].get("text", "") for heading in elements(project, "heading")]
    assert "Initialisation" in titles and "Truncation after training" not in titles


@pytest.mark.parametrize("scale", sorted(path.name for path in (ROOT / "published").iterdir()))
def test_every_published_scale_makes_its_report(scale, project):
    """Its real tables, and for every figure one picture."""
    settings = read_config(ROOT / "published" / scale / "config.json")
    tables = read_published(ROOT / "published" / scale)
    folder = project / "published-tables"
    for name, table in tables.items():
        write_table(folder / f"{name}.parquet", table)
    ledger = read_ledger(ROOT / f"config/{settings.ledger}.yaml")
    claims = judge(ledger, tables, scale=scale, tracks=settings.tasks)
    write_table(folder / "claims.parquet", claims)
    there = set(tables["runs"]["track"])  # a scale is published as it grows
    for name, track in settings.tracks.items():
        if name not in there:
            continue
        of = {"effective_rank": "decay", "leaderboard": "methods"}  # figures by another name
        for study in (*of, *Studies.model_fields):
            if getattr(track.studies, of.get(study, study)):
                for ending in ("pdf", "json"):
                    path = project / f"figures/{name}/{study}.{ending}"
                    path.parent.mkdir(exist_ok=True)
                    shutil.copy(project / f"figures/claims.{ending}", path)
        for module, study in ((initialisation, "initialisation"), (leaderboard, "methods")):
            if getattr(track.studies, study):  # what is quoted from their tables
                _, table = module.draw(read_results(folder, name))
                path = project / f"figures/{name}/{module.__name__.rpartition('.')[2]}.json"
                write_json(path, table.fields())
    facts = export(project, settings, "published-tables")
    assert compiled(project).startswith(b"%PDF")
    boxes = sum(claim["verdict"] != "not run" for claim in facts["claims"].values())
    assert boxes and len(elements(project, "figure.where(kind: image)")) > 1
    assert facts["next"] == next_runs(claims).to_dict("records")
    assert facts["scales"] == []
    paper.export(
        settings,
        ledger,
        folder,
        project / "figures",
        project / "data",
        ROOT / "published" / scale,
    )
    facts = json.loads((project / "data/facts.json").read_text(encoding="utf-8"))
    assert len(facts["scales"]) == 1 + len(ledger.claims)
    assert compiled(project).startswith(b"%PDF")
    said = json.dumps(elements(project, "par"))
    assert "of seeds alone" in said
    assert ("chosen after looking" in said) == bool(ledger.chosen_after_looking)
    shown = "".join(json.dumps(it) for it in elements(project, "image"))
    for name, track in settings.tracks.items():
        for study in ("initialisation", "pretraining", "posthoc") if name in there else ():
            if getattr(track.studies, study):
                assert f"figures/{name}/{study}.pdf" in shown


DATA = {
    "embedded text": ("language", {}, "the documentation of installed packages (300 tokens)"),
    "local text": (
        "language",
        {"source": "local", "train": ["a/*.txt", "b"]},
        "local files a/*.txt, b (300 tokens)",
    ),
    "hub text": (
        "language",
        {"source": "hub", "name": "some/text", "tokenizer": "gpt2"},
        "some/text (gpt2)",
    ),
    "embedded images": ("small-images", {}, "scikit-learn's digits"),
    "local images": ("small-images", {"source": "local", "path": "my/images"}, "my/images"),
    "hub images": ("small-images", {"source": "hub", "path": "some/images"}, "some/images"),
}


def changed(*tracks: str, **sections: dict) -> Config:
    """The smoke scale with these tracks (all, if none is named) and sections of them changed."""
    values = yaml.safe_load((ROOT / "config/smoke.yaml").read_text(encoding="utf-8"))
    values["tracks"] = {name: values["tracks"][name] for name in tracks or values["tracks"]}
    for track in values["tracks"].values():
        for section, entries in sections.items():
            track[section] = {**track[section], **entries}
    return parse_config(values)


@pytest.mark.parametrize("case", DATA)
def test_report_names_the_data_of_every_source_and_kind(case, project):
    track, data, words = DATA[case]
    vocabulary = {"vocabulary": 300} if track == "language" else {}
    facts = export(project, changed(track, data={**data, **vocabulary}))
    assert words in facts["tracks"][track]["data"]
    assert compiled(project).startswith(b"%PDF")


@pytest.mark.parametrize(
    ("config", "runs"),
    [
        pytest.param(changed("language"), runs_of("language", ARMS), id="one track"),
        pytest.param(changed("small-images"), runs_of("language", ARMS), id="a track without runs"),
        pytest.param(changed(), runs_of("language", ARMS).query("seed == 0"), id="one seed"),
        pytest.param(
            changed("language", training={"learning_rate": 0.01}),
            runs_of("language", ARMS),
            id="no sweep",
        ),
        pytest.param(changed(), runs_of("language", {"dense": 3.0}), id="no claim tested"),
        pytest.param(changed(), runs_of("language", {"spectral-r0.5": 3.0}), id="no dense model"),
        pytest.param(
            changed(),
            runs_of("language", ARMS | {"orthogonal-r0.5-mine0.1": 3.3}),
            id="an extension's methods",
        ),
        pytest.param(
            changed(),
            runs_of("language", ARMS).assign(device=["a", "b", "c"] * 3, threads=[1, 2, 4] * 3),
            id="several devices",
        ),
        pytest.param(
            changed(),
            runs_of("language", ARMS).assign(device=None, data_digest=None, finished_at=None),
            id="machine not known",
        ),
        pytest.param(
            changed(),
            runs_of("language", ARMS).assign(diverged=True, test_loss=float("nan")),
            id="all diverged",
        ),
    ],
)
def test_report_compiles_whatever_ran(config, runs, project):
    write_table(project / "tables/runs.parquet", runs)
    judged = judge(read_ledger(ROOT / "config/claims.yaml"), {"runs": runs}, tracks=config.tasks)
    write_table(project / "tables/claims.parquet", judged)
    export(project, config)
    assert compiled(project).startswith(b"%PDF")


def test_claims_of_another_ledger_are_reported_too(project):
    values = yaml.safe_load((ROOT / "config/claims.yaml").read_text(encoding="utf-8"))
    own = values["claims"][0] | {"id": "mine", "statement": "My own claim holds."}
    ledger = Ledger.model_validate(values | {"claims": [own]})
    runs = pd.read_parquet(project / "tables/runs.parquet")
    write_table(project / "tables/claims.parquet", judge(ledger, {"runs": runs}, tracks=TRACKS))
    settings = read_config(ROOT / "config/smoke.yaml")
    paper.export(settings, ledger, project / "tables", project / "figures", project / "data")
    assert compiled(project).startswith(b"%PDF")
    assert any("Further claims" in json.dumps(h) for h in elements(project, "heading"))


def test_a_study_of_ones_own_has_a_section_with_its_figure(project, monkeypatch):
    figures = (Figure("lengths", ("runs",)),)
    monkeypatch.setitem(STUDIES, "lengths", Study("Length of training", figures=figures))
    folder = project / "figures/language"
    folder.mkdir(exist_ok=True)
    shutil.copy(project / "figures/claims.pdf", folder / "lengths.pdf")
    write_json(folder / "lengths.json", [["arm"], ["dense"]])
    export(project, read_config(ROOT / "config/smoke.yaml"))
    assert compiled(project).startswith(b"%PDF")
    headings = [json.dumps(heading) for heading in elements(project, "heading")]
    assert sum("Length of training" in heading for heading in headings) == 1
    assert not any("Learning rates" in heading for heading in headings), "it has no section"


HOSTILE = [
    '#eval("1") #panic() #read("/facts.json") #image("/x.png")',
    '= Heading\n#link("https://example.org")[x] https://example.org',
    "]] *bold* _it_ `raw` $ x^2 $ @label <label> // comment /* more",
    "```typ #heading[x]``` \\u{1F600} \x00\x1b[31m \u202e é" * 5,
    "../../../etc/passwd",
]


def test_how_processors_differ_is_said_where_runs_were_published_from_several(project):
    runs = runs_of("language", ARMS).assign(digest=lambda t: t["cell"] + t["seed"].astype(str))
    runs[["processor", "family"]] = ["one", "gpt2"]
    again = runs[["digest", "test_loss"]].assign(processor="other")
    for name, table in (("runs", runs), ("processors", again)):
        write_table(project / f"tables/published/{name}.parquet", table)
    config, ledger = (
        read_config(ROOT / "config/smoke.yaml"),
        read_ledger(ROOT / "config/claims.yaml"),
    )
    folders = project / "tables", project / "figures", project / "data"
    paper.export(config, ledger, *folders, project / "tables/published")
    facts = json.loads((project / "data/facts.json").read_text(encoding="utf-8"))
    assert facts["processors"].startswith("On language 9 runs were made on several processors")
    assert compiled(project).startswith(b"%PDF")
    assert "between machines" in json.dumps(elements(project, "table"))


def test_names_from_tables_stay_text_in_the_report(project):
    """The report has the same headings, links, pictures, labels and formulas with a stranger's names."""
    selectors = (
        "heading",
        "link",
        "image",
        "math.equation",
        "figure",
        "ref",
        "raw.where(block: true)",
    )

    def counts(strange: bool) -> dict[str, int]:
        runs = runs_of("language", ARMS)
        ledger = read_ledger(ROOT / "config/claims.yaml").model_dump()
        judged = judge(Ledger.model_validate(ledger), {"runs": runs}, tracks=TRACKS)
        if strange:
            runs["device"] = [HOSTILE[i % len(HOSTILE)] for i in range(len(runs))]
            for column in ("torch", "lowrank", "data_digest", "finished_at", "threads"):
                runs[column] = runs["device"]
            for column in ("arm", "reference", "track", "note"):
                shuffled = [HOSTILE[i % len(HOSTILE)] for i in range(len(judged))]
                member = judged["level"] == "member"
                judged[column] = judged[column].where(~member, pd.Series(shuffled))
            ledger["claims"][0]["statement"] = HOSTILE[0]
            ledger["claims"][1]["statement"] = HOSTILE[1]
        write_table(project / "tables/runs.parquet", runs)
        write_table(project / "tables/claims.parquet", judged)
        rows = [["arm", "test loss", HOSTILE[0]], ["a", HOSTILE[1], HOSTILE[2]]] if strange else []
        rows = rows or [["arm", "test loss", "x"], ["a", "b", "c"]]
        folder = project / "figures/language"
        folder.mkdir(exist_ok=True)
        fields = [[escape.visible(text) for text in row] for row in rows]
        write_json(folder / "initialisation.json", fields)
        shutil.copy(project / "figures/claims.pdf", folder / "initialisation.pdf")
        settings = read_config(ROOT / "config/smoke.yaml")
        known = Ledger.model_validate(ledger)
        paper.export(settings, known, project / "tables", project / "figures", project / "data")
        assert compiled(project).startswith(b"%PDF")
        return {selector: len(elements(project, selector)) for selector in selectors}

    plain = counts(strange=False)
    assert plain["heading"] > 5 and plain["image"] > 1
    assert counts(strange=True) == plain


def test_the_reports_sources_evaluate_no_text():
    for path in (ROOT / "paper").glob("*.typ"):
        assert not re.search(r"\b(eval|plugin|read)\(", path.read_text(encoding="utf-8")), path


def test_tracks_whose_rates_are_swept_are_those_that_try_several(project):
    config = read_config(ROOT / "config/smoke.yaml")
    assert export(project, config)["swept"] == ["small-images"], "the text's rate is given"
    raw = config.model_dump(mode="json")
    raw["tracks"]["small-images"]["sweep"]["rates"] = [0.01]
    assert export(project, parse_config(raw))["swept"] == []


def test_verified_numbers_stand_beside_ours(project):
    rows = {(row["track"], row["arm"]): row for row in export(project)["paper"]}
    dense = rows["language", "dense"]
    assert dense["value"] == 37.67
    assert dense["ours"][0] == pytest.approx(2.718281828**3.01, rel=1e-2)
    assert rows["language", "he-r0.62"]["ours"] is None
    assert rows["language", "he-r0.62"]["gap"] == pytest.approx(0.04997, abs=1e-4)


def test_every_setting_of_the_configuration_is_listed():
    rows = {
        row["key"]: row for row in paper.hyper_parameters(read_config(ROOT / "config/laptop.yaml"))
    }
    assert rows["model.width"]["language"] == "64"
    assert rows["factors.decay.kind"]["small-images"] == "l2"
    assert rows["studies.scaling.widths"] == {
        "key": "studies.scaling.widths",
        "language": "32, 64, 96",
        "small-images": "–",
        "large-images": "–",
    }
    assert rows["seeds"]["language"] == "100, 101, 102, 103, 104"


def test_the_report_is_written_in_another_folder_than_its_source(project, tmp_path, monkeypatch):
    export(project)
    other = tmp_path / "other"
    other.mkdir()
    for folder in ("data", "figures"):
        (project / folder).rename(other / folder)
    monkeypatch.chdir(other)
    paper.compile_paper(project / "paper/main.typ", Path("data"), Path("figures"), Path("x.pdf"))
    assert (other / "x.pdf").read_bytes().startswith(b"%PDF")


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

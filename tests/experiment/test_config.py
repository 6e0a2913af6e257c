"""The configuration: one truth for types, names, reference and shipped files."""

from __future__ import annotations

import json
import re
import tomllib
import typing
from pathlib import Path

import pandas as pd
import pytest
import yaml
from pydantic import BaseModel

from lowrank.analysis.contrasts import contrasts
from lowrank.errors import LowrankError
from lowrank.experiment import config, sections
from lowrank.experiment.expand import expand
from lowrank.experiment.track import arm_name
from lowrank.parquet import write_table
from lowrank.reports.reference import SECTIONS, _bars, _reading, write_reference

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = [ROOT / "environment.yml", ROOT / "workflow/envs/lowrank.yaml"]
SCALES = sorted(p for p in (ROOT / "config").glob("*.yaml") if p.stem not in ("claims", "field"))


@pytest.mark.parametrize("path", SCALES, ids=lambda path: path.stem)
def test_every_shipped_configuration_expands(path):
    settings = config.read_config(path)
    assert settings.scale == path.stem
    grid = expand(settings)
    assert {cell.track for cell in grid.cells.values()} == set(settings.tracks)
    for cell in grid.cells.values():
        assert all(group in grid.sweeps for group in cell.groups)
        assert cell.trunk is None or cell.trunk in grid.cells


@pytest.mark.parametrize("path", SCALES, ids=lambda path: path.stem)
def test_every_contrast_compares_cells_of_the_grid(path):
    settings = config.read_config(path)
    grid = expand(settings)
    for (track, study), pairs in contrasts(settings).items():
        for cell, _ in pairs:
            assert study in grid.cells[cell].studies
            assert cell.startswith(f"{track}/")


@pytest.mark.parametrize("path", [p for p in SCALES if p.stem != "smoke"], ids=lambda p: p.stem)
def test_shipped_sweeps_have_seeds_of_their_own(path):
    """Else runs would be chosen for what they are then compared by; only smoke saves them."""
    settings = config.read_config(path)
    for name, track in settings.tracks.items():
        assert not {*track.sweep.seeds} & {*settings.seeds_of(name)}


def test_the_one_seed_of_sweeps_that_were_published_before_there_could_be_several_is_read():
    values = config.read_section(ROOT / "config/smoke.yaml")
    sweep = values["tracks"]["language"]["sweep"]
    for given, expected in (({"seed": 3}, (3,)), ({}, (1000,)), ({"seeds": [4, 3]}, (4, 3))):
        sweep.pop("seeds", None)
        values["tracks"]["language"]["sweep"] = {**sweep, **given}
        assert config.parse(values).tracks["language"].sweep.seeds == expected
    values["tracks"]["language"]["sweep"] = {**sweep, "seed": 1, "seeds": [2]}
    with pytest.raises(LowrankError, match="seed"):
        config.parse(values)


def test_strengths_cannot_be_swept_over_a_decay_of_zero():
    values = config.read_section(ROOT / "config/smoke.yaml")
    track = values["tracks"]["language"]
    track["training"]["weight_decay"] = 0
    track["sweep"]["decay_strengths"] = [1]
    track["studies"] = {"decay": {"decays": [{"kind": "l2", "strength": "swept"}]}}
    with pytest.raises(LowrankError, match=r"weight_decay: strengths of decay are swept over"):
        config.parse(values)


def test_arms_that_two_studies_share_are_one_cell():
    cell = expand(config.read_config(ROOT / "config/laptop.yaml")).cells["language/spectral-r0.62"]
    assert {"initialisation", "scaling", "layers", "posthoc"} <= set(cell.studies)


def test_reference_and_readme_are_in_step_with_what_they_are_written_from(monkeypatch):
    monkeypatch.chdir(ROOT)
    readme, published = ROOT / "README.md", ROOT / "published"
    assert write_reference(ROOT / "config", True, readme, published) == []
    assert "supported" in readme.read_text(encoding="utf-8")


def sections_in(annotation) -> set[type[BaseModel]]:
    """The sections that a key's type holds, and those within them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.values()
        return {annotation}.union(*(sections_in(field.annotation) for field in fields))
    return set().union(*map(sections_in, typing.get_args(annotation)))


@pytest.mark.parametrize(
    ("seeds", "said"), [([0, 1, 0, 1], "2 seeds"), ([0, 1, 2, 0], "1 to 3 seeds")]
)
def test_the_leaderboard_s_caption_counts_the_seeds(seeds, said, tmp_path):
    cells = ["a", "a", "b", "b"] if said.startswith("2") else ["a", "a", "a", "b"]
    write_table(tmp_path / "runs.parquet", pd.DataFrame({"cell": cells, "seed": seeds}))
    assert f" {said}, corrected over all pairs" in _reading(tmp_path)


def test_the_bench_names_the_weakest_of_the_n_grams_that_no_method_reaches(tmp_path):
    runs = {"track": "text", "arm": ["a", "a", "b"], "steps": [50, 50, 1200]}
    losses = {"unigram": 5.0, "bigram": 3.0, "trigram": 2.0}
    grams = {"model": list(losses), "test_loss": list(losses.values()), "track": "text"}
    write_table(tmp_path / "baselines.parquet", pd.DataFrame(grams))
    for last, expected in ((4.5, "bigram model's 3.00"), (1.5, None)):
        write_table(
            tmp_path / "runs.parquet", pd.DataFrame({**runs, "test_loss": [3.2, 3.4, last]})
        )
        sentences = _bars(tmp_path)
        assert len(sentences) == (expected is not None)
        assert all(expected in text and "3.30" in text and "1,200" in text for text in sentences)


def test_every_section_is_documented():
    assert sections_in(config.Config) == set(SECTIONS.values())


def test_every_key_is_described_unless_it_is_a_study():
    for section in SECTIONS.values():
        if section is not config.Studies:
            assert all(field.description for field in section.model_fields.values()), section


def test_the_names_known_to_the_configuration_are_the_registered_ones():
    from lowrank.factor.decay import DECAYS
    from lowrank.factor.init import INITIALISATIONS
    from lowrank.factor.truncate import TRUNCATIONS

    def own(registry):  # other tests may have registered methods of their own
        entries = {name: getattr(entry, "factorise", entry) for name, entry in registry.items()}
        return {name for name, entry in entries.items() if entry.__module__.startswith("lowrank.")}

    assert own(INITIALISATIONS) == sections.INITIALISATIONS
    assert own(DECAYS) == sections.DECAYS
    assert own(TRUNCATIONS) == sections.TRUNCATIONS


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each package in a lock."""
    entries = re.split(
        r"^(?=[a-z])", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE
    )[1:]
    parts = [(entry.split("==", 1), entry.count("--hash=sha256:")) for entry in entries]
    return {name: (rest.split()[0], hashes) for (name, rest), hashes in parts}


def test_every_dependency_is_locked_with_a_hash():
    names = ("", "-torch", "-cpu", "-docs", "-slurm", "-trackers")
    locks = {name: locked(f"requirements{name}.lock") for name in names}
    assert all(hashes for lock in locks.values() for _, hashes in lock.values())
    assert locks["-cpu"]["torch"][0] == locks["-torch"]["torch"][0] + "+cpu"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"]]
    assert {re.split(r"[<>=]", name)[0].lower() for name in wanted} <= {*locks[""], "torch"}
    for extra in ("docs", "slurm", "trackers"):
        assert {name.partition("[")[0] for name in extras[extra]} <= set(locks[f"-{extra}"])


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.name)
def test_conda_and_make_install_the_same_locks(path):
    environment = yaml.safe_load(path.read_text(encoding="utf-8"))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    locks = [(path.parent / one.removeprefix("-r ")).resolve() for one in pip]
    assert locks == [ROOT / "requirements.lock", ROOT / "requirements-torch.lock"]
    installed = re.findall(
        r"-r (requirements\S*\.lock)", (ROOT / "Makefile").read_text(encoding="utf-8")
    )
    assert {lock.name for lock in locks} < set(installed)


def test_the_bill_of_materials_names_what_is_locked():
    rows = re.findall(
        r"^\| (\S+) \| (\S+) \| (.+) \|$",
        (ROOT / "docs/packages.md").read_text(encoding="utf-8"),
        re.M,
    )
    bill = {name.replace("_", "-").replace(".", "-"): version for name, version, _ in rows[1:]}
    locks = {
        k: v
        for part in ("", "-docs", "-trackers")
        for k, v in locked(f"requirements{part}.lock").items()
    }
    versions = {name: version for name, (version, _) in locks.items()}
    assert bill.pop("torch").split("+")[0] == locked("requirements-torch.lock")["torch"][0]
    bill.pop("pip", None)
    assert bill and bill.items() <= versions.items()
    components = json.loads((ROOT / "docs/packages.json").read_text(encoding="utf-8"))["components"]
    assert {c["name"].lower() for c in components} - {name for name, _, _ in rows} <= {"lowrank"}


def test_a_track_may_have_seeds_of_its_own():
    values = yaml.safe_load((ROOT / "config/smoke.yaml").read_text(encoding="utf-8"))
    values["tracks"]["small-images"]["seeds"] = [0, 1, 2, 3]
    seeds = {cell.track: cell.seeds for cell in expand(config.parse(values)).cells.values()}
    assert seeds == {"language": (0, 1), "small-images": (0, 1, 2, 3), "large-images": (0, 1)}


def test_kernels_read_otherwise_are_an_arm_compared_and_timed():
    values = yaml.safe_load((ROOT / "config/smoke.yaml").read_text(encoding="utf-8"))
    values["tracks"]["small-images"]["studies"]["layers"] = {"matricisations": ["spatial"]}
    settings = config.parse(values)
    track, name = settings.tracks["small-images"], "small-images/spectral-r0.3"
    factors = expand(settings).cells[f"{name}-spatial"].factors
    assert factors == track.factors.model_copy(update={"matricisation": "spatial"})
    assert (f"{name}-spatial", name) in contrasts(settings)["small-images", "layers"]
    timed = [arm_name(arm, track) for arm in track.timed()]
    assert timed == ["dense", "spectral-r0.3", "spectral-r0.3-spatial"]


def test_an_extension_is_part_of_the_digest_of_the_cells_that_use_it(tmp_path):
    idea = tmp_path / "idea.py"
    idea.write_text("# first\n", encoding="utf-8")
    values = yaml.safe_load((ROOT / "config/smoke.yaml").read_text(encoding="utf-8"))
    values["extensions"] = {"mine": str(idea)}
    values["tracks"]["language"]["studies"]["initialisation"]["inits"] += ["mine"]

    def identity(name: str) -> str:
        cell = expand(config.parse(values)).cells[name]
        return cell.runs({})[0].identity("data")

    mine, other = identity("language/mine-r0.5"), identity("language/he-r0.5")
    idea.write_text("# second\n", encoding="utf-8")
    assert identity("language/mine-r0.5") != mine
    assert identity("language/he-r0.5") == other


def test_an_unknown_initialisation_names_the_nearest():
    values = yaml.safe_load((ROOT / "config/smoke.yaml").read_text(encoding="utf-8"))
    values["tracks"]["language"]["factors"]["init"] = "spectrl"
    with pytest.raises(LowrankError, match="did you mean 'spectral'"):
        expand(config.parse(values))

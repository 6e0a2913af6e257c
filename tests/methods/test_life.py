"""What a method may do to a run, shown by two throw-away methods, each one file registered by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lives import CPU, STEPS, begun, run_of, same

from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.build import build_model
from lowrank.experiment.cell import Cell
from lowrank.experiment.expand import expand
from lowrank.experiment.sections import FactorSpec, MethodSpec, PretrainingSpec
from lowrank.factor.convert import effective_weights, factors, parameter_count
from lowrank.factor.flops import forward_flops
from lowrank.factor.layers import FactorizedLinear
from lowrank.files import read_json
from lowrank.jobs.interpolate import CLOSENESS, interpolate
from lowrank.methods import METHODS, begin, parse_options
from lowrank.studies.interpolation import InterpolationStudy
from lowrank.train import loop
from lowrank.train.run import ensure_run
from lowrank.train.schedule import learning_rate
from lowrank.train.task import make_task
from lowrank.train.trainer import Trainer

HERE = Path(__file__).parent
pytestmark = pytest.mark.usefixtures("forget_extensions")


@pytest.mark.parametrize("stop", [3, 4, 7, 11])
@pytest.mark.parametrize("name", ["restart", "grow"])
def test_a_resumed_run_equals_an_unbroken_one(name, stop, invented_text, tmp_path):
    """Also where it broke off right after an event, and after ranks had grown."""
    spec = run_of(name)
    unbroken = ensure_run(spec, invented_text, tmp_path / "unbroken", "cpu")
    ensure_run(spec, invented_text, tmp_path / "broken", "cpu", until=stop)
    torch.manual_seed(7)
    same(unbroken, ensure_run(spec, invented_text, tmp_path / "broken", "cpu"))


@pytest.mark.parametrize("name", ["restart", "grow"])
def test_a_finished_run_is_found_and_its_model_is_the_trained_one(name, invented_text, tmp_path):
    spec = run_of(name)
    subject = begun(spec, invented_text, tmp_path / "by-hand")
    subject.train(STEPS, [], lambda _: None)
    run = ensure_run(spec, invented_text, tmp_path / "runs", "cpu")
    found, expected = run.model(300).state_dict(), subject.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(tensor.equal(expected[key]) for key, tensor in found.items())
    assert run.result["parameters"] == parameter_count(subject.model)


def test_a_run_is_one_model_from_its_first_step_on_or_another_from_its_switch_on():
    """By the hooks as they are, which every method begins with."""
    low = FactorSpec(rank_fraction=0.5, rank_multiple=4)
    dense_first = PretrainingSpec(fraction=0.25, dense_learning_rate=0.01)
    for spec, expected in (
        (run_of(None, factors=None), [(0, False)]),
        (run_of(None, factors=low), [(0, True)]),
        (run_of(None, factors=low, pretraining=dense_first), [(0, False), (3, True)]),
    ):
        found = []
        for first, convert in begin(spec).phases():
            model = build_model(spec, 30, converted=False)
            convert(model)
            found.append((first, bool(factors(model))))
        assert found == expected


# Merge and restart


def test_a_restart_leaves_the_product_and_forgets_the_factors_moments(invented_text, tmp_path):
    subject = begun(run_of("restart"), invented_text, tmp_path / "run")
    weights, states = {}, {}
    event = subject.life.event

    def noted(run):
        weights["before"] = {k: t.clone() for k, t in effective_weights(run.model).items()}
        event(run)
        weights["after"] = effective_weights(run.model)
        states["after"] = set(run.optimizer.state())

    subject.life.event = noted
    subject.train(4, [], lambda _: None)
    for key, tensor in weights["before"].items():
        assert torch.allclose(weights["after"][key], tensor, atol=1e-6), key
    assert not [key for key in states["after"] if ".low." in key]
    assert "lm_head.weight/exp_avg" in states["after"]
    assert all(not layer.U.any() for layer in factors(subject.model).values())


def test_the_method_warms_the_rate_again_and_the_schedule_is_otherwise_kept(
    invented_text, tmp_path
):
    spec = run_of("restart")
    history = ensure_run(spec, invented_text, tmp_path, "cpu").table("history")
    plain = [learning_rate(step, spec.training) for step in range(STEPS)]
    shares = [1, 1, 1, 1, 0.5, 1, 1, 1, 0.5, 1, 1, 1]
    assert list(history["learning_rate"]) == [a * b for a, b in zip(plain, shares, strict=True)]


def test_frozen_weights_are_kept_counted_and_not_trained(invented_text, tmp_path):
    subject = begun(run_of("restart", options={"every": 100}), invented_text, tmp_path / "run")
    frozen = {n: p.clone() for n, p in subject.model.named_parameters() if not p.requires_grad}
    assert len(frozen) == 7
    subject.train(3, [], lambda _: None)
    now = dict(subject.model.named_parameters())
    assert all(now[name].equal(tensor) for name, tensor in frozen.items())
    trained = sum(p.numel() for p in now.values() if p.requires_grad)
    counters = len([p for p in now.values() if p.requires_grad])
    state = 4 * (parameter_count(subject.model) + 3 * trained + counters)
    assert subject.optimizer.state_bytes() == state


# Learnt ranks


def test_ranks_grow_are_told_in_the_manifest_and_what_ran_is_counted(invented_text, tmp_path):
    spec = run_of("grow")
    run = ensure_run(spec, invented_text, tmp_path, "cpu")
    changes = read_json(run.folder / "manifest.json")["method"]["ranks"]
    assert len(changes) > 2 and changes[0] == [0, {}]
    model = run.model(300)
    assert {n: layer.rank for n, layer in factors(model).items()} == changes[-1][1]
    assert max(changes[-1][1].values()) > 3
    example = torch.zeros((1, 16), dtype=torch.long)
    flops, life = [], begin(spec)
    for _, ranks in changes:
        life.changes = [(0, ranks)]
        flops.append(forward_flops(build_model(spec, 300, life=life), example))
    assert flops == sorted(set(flops))
    ends = [*(step for step, _ in changes[1:]), STEPS]
    spent = sum((end - step) * f for (step, _), end, f in zip(changes, ends, flops, strict=True))
    assert run.result["training_flops"] == pytest.approx(3 * 4 * spent)
    assert run.result["flops_per_position"] == flops[-1] / 16


def test_growing_leaves_the_product_and_the_moments_of_old_columns(invented_text, tmp_path):
    subject = begun(run_of("grow", options={"share": 0.0}), invented_text, tmp_path / "run")
    kept = {}
    event = subject.life.event

    def noted(run):
        kept["weights"] = {k: t.clone() for k, t in effective_weights(run.model).items()}
        kept["state"] = {k: t.clone() for k, t in run.optimizer.state().items()}
        event(run)

    subject.life.event = noted
    subject.train(3, [], lambda _: None)
    after = effective_weights(subject.model)
    assert all(torch.allclose(after[k], t, atol=1e-6) for k, t in kept["weights"].items())
    state = subject.optimizer.state()
    assert state.keys() == kept["state"].keys()
    for key, tensor in kept["state"].items():
        if key.endswith((".U/exp_avg", ".V/exp_avg_sq")):
            assert state[key].shape[1] == 3
            assert state[key][:, :2].equal(tensor)
            assert not state[key][:, 2:].any()
        elif ".U/" not in key and ".V/" not in key:
            assert state[key].equal(tensor)


def test_a_run_has_needed_what_it_held_before_its_layers_became_smaller(invented_text, tmp_path):
    subject = begun(run_of("grow"), invented_text, tmp_path / "run")
    subject.train(1, [], lambda _: None)
    held = subject.optimizer.state_bytes()
    layers = factors(subject.model)
    smaller = {n: FactorizedLinear(*reversed(x.matrix_shape), 1) for n, x in layers.items()}
    for layer in smaller.values():
        layer.set_factors(torch.ones_like(layer.U), torch.ones_like(layer.V))
    subject.replace(smaller)
    assert subject.optimizer.state_bytes() < held
    assert subject.state_bytes() == held
    assert subject.record["state_bytes"] == held


# A layer without a dense form, and an optimiser of a method's own


NONLINEAR = """
import torch
from torch import nn
from lowrank.factor.convert import place
from lowrank.methods import METHODS, Method
from lowrank.methods.base import Life, select_targets
from lowrank.optimizers import Algorithm
from lowrank.optimizers.base import Group


class Nonlinear(nn.Module):
    def __init__(self, dense):
        super().__init__()
        self.down, self.up = nn.Linear(dense.in_features, 4, bias=False), nn.Linear(4, dense.out_features)
        self.bias = None

    def forward(self, x):
        return self.up(nn.functional.silu(self.down(x)))

    def dense_weight(self):
        return None


class CoLA(Life):
    def convert(self, model):
        for target in select_targets(model, self.spec.model, self.spec.factors):
            place(model, target.name, Nonlinear(model.get_submodule(target.name)))

    def groups(self, model):
        named = {n: p for group in super().groups(model) for n, p in group.parameters.items()}
        own = {n: p for n, p in named.items() if ".down." in n}
        rest = {n: p for n, p in named.items() if n not in own}
        return [Group("down", own, optimizer=SIGNS, rate_factor=0.5), Group("rest", rest)]


class Signs(torch.optim.Optimizer):
    def __init__(self, groups):
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p].setdefault("seen", torch.zeros(2))
                self.state[p]["seen"] += 1
                p -= group["lr"] * p.grad.sign()


def build(groups, spec):
    return [Signs([group.for_torch() for group in groups])]


SIGNS = Algorithm("signs", build, {"seen": "own"}, lambda group: 2 * len(group.parameters))
METHODS.add("nonlinear", Method("nonlinear", "arXiv 2502.10940", CoLA))
"""


@pytest.fixture
def nonlinear(tmp_path):
    file = tmp_path / "nonlinear.py"
    file.write_text(NONLINEAR, encoding="utf-8")
    return run_of("nonlinear", file)


def test_a_layer_without_a_dense_form_is_trained_and_its_spectrum_is_none(
    nonlinear, invented_text, tmp_path
):
    run = ensure_run(nonlinear, invented_text, tmp_path / "runs", "cpu")
    history = run.table("history")["train_loss"]
    assert history.iloc[-1] < history.iloc[0]
    assert effective_weights(run.model(300)) is None
    assert run.table("spectra").empty
    assert run.table("layers")["effective_rank"].isna().all()
    assert run.result["effective_rank"] is None


def test_no_line_leads_to_weights_that_there_are_not(nonlinear, invented_text, tmp_path):
    cells = [
        Cell(
            name=f"language/{name}",
            studies=("interpolation",),
            seeds=(0,),
            **{
                k: getattr(spec, k) for k in ("track", "model", "training", "factors", "extensions")
            },
        )
        for name, spec in (("dense", run_of(None, factors=None)), ("nonlinear", nonlinear))
    ]
    study = InterpolationStudy(points=3, batches=1)
    points, summary = interpolate(
        study, cells[0], cells[1:], {}, invented_text, tmp_path / "c", "cpu"
    )
    assert points.empty and summary.empty
    assert list(summary.columns) == ["cell", "track", "seed", *CLOSENESS]


def test_a_method_brings_an_optimiser_with_a_rate_and_a_state_of_its_own(
    nonlinear, invented_text, tmp_path
):
    subject = begun(nonlinear, invented_text, tmp_path / "run")
    name = "model.layers.0.mlp.up_proj.down.weight"
    before = dict(subject.model.named_parameters())[name].detach().clone()
    subject.train(1, [], lambda _: None)
    moved = dict(subject.model.named_parameters())[name].detach() - before
    assert moved.abs() == pytest.approx(0.5 * learning_rate(0, nonlinear.training), abs=1e-7)
    assert subject.optimizer.state()[f"{name}/seen"].tolist() == [1, 1]
    unbroken = ensure_run(nonlinear, invented_text, tmp_path / "unbroken", "cpu")
    ensure_run(nonlinear, invented_text, tmp_path / "broken", "cpu", until=5)
    resumed = ensure_run(nonlinear, invented_text, tmp_path / "broken", "cpu")
    assert resumed.table("history")["train_loss"].equals(unbroken.table("history")["train_loss"])


# Events


def test_hooks_are_called_in_their_order(invented_text, tmp_path, monkeypatch):
    subject, said = begun(run_of(None), invented_text, tmp_path / "run"), []
    life, step = subject.life, loop.train_step
    for hook in ("start", "before_step", "after_step", "event"):
        monkeypatch.setattr(life, hook, lambda run, hook=hook: said.append((hook, run.step)))
    monkeypatch.setattr(life, "at", lambda: {2})
    monkeypatch.setattr(loop, "train_step", lambda *a: (said.append("step"), step(*a))[1])
    subject.train(2, [2], lambda _: None)
    first = [("before_step", 0), "step", ("after_step", 1)]
    assert said == [
        ("start", 0),
        *first,
        ("before_step", 1),
        "step",
        ("after_step", 2),
        ("event", 2),
    ]
    again = begun(run_of(None), invented_text, tmp_path / "run")
    again.resume()
    monkeypatch.setattr(again.life, "start", lambda run: said.append("again"))
    again.train(3, [], lambda _: None)
    assert "again" not in said


def test_tensors_of_a_method_are_carried_by_its_checkpoints(invented_text, tmp_path):
    subjects = [begun(run_of(None), invented_text, tmp_path / "run") for _ in range(2)]
    seen = {}
    subjects[0].life.state = lambda: {"support": torch.arange(3)}
    subjects[0].train(2, [2], lambda _: None)
    subjects[1].life.load_state = seen.update
    subjects[1].resume()
    assert seen["support"].tolist() == [0, 1, 2]


# What is refused


def test_options_that_a_method_does_not_have_or_that_do_not_fit_are_said(forget_extensions):
    from lowrank.experiment.extensions import load_extensions

    load_extensions(run_of("restart").extensions)
    with pytest.raises(
        LowrankError, match=r"options\.often: .*\(the options of restart: every, warmup\)"
    ):
        parse_options("restart", {"often": 3})
    with pytest.raises(LowrankError, match=r"options\.every: Input should be a valid integer"):
        parse_options("restart", {"every": "x"})
    assert parse_options("restart", {"every": 5}).every == 5


def test_a_dense_start_that_a_method_does_not_have_is_refused(invented_text, tmp_path):
    spec = run_of("restart", pretraining=PretrainingSpec(fraction=0.5, dense_learning_rate=0.01))
    with pytest.raises(LowrankError, match="the method restart has no dense start of its own"):
        begun(spec, invented_text, tmp_path / "run")


def test_a_model_cut_over_devices_is_refused_where_a_method_needs_whole_layers(
    invented_text, tmp_path, monkeypatch
):
    from lowrank.train import parallel

    monkeypatch.setattr(parallel, "sharded", lambda mode: mode == "fsdp")
    spec = run_of("restart")
    begun(spec, invented_text, tmp_path / "run")
    task = make_task(spec, invented_text, CPU)
    with pytest.raises(
        LowrankError, match="restart needs whole layers, and parallel: fsdp cuts them"
    ):
        Trainer(spec, task, tmp_path, "fsdp")
    assert {name for name in METHODS.names() if METHODS[name].sharded} >= {
        "dense", "factored", "pretrained"
    }  # fmt: skip


def test_what_a_method_raises_in_a_run_is_said_with_its_file_and_line(invented_text, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(
        "from lowrank.methods import METHODS, Method\nfrom lowrank.methods.factored import Factored\n"
        "class Broken(Factored):\n    def after_step(self, run):\n        1 / 0\n"
        "METHODS.add('broken', Method('broken', 'nowhere', Broken))\n",
        encoding="utf-8",
    )
    with pytest.raises(
        LowrankError, match=r"The method 'broken' .*broken\.py:5: ZeroDivisionError"
    ):
        ensure_run(run_of("broken", file), invented_text, tmp_path / "runs", "cpu")


# The configuration


def settings(method: dict, **values):
    raw = config.read_yaml("config/smoke.yaml")
    raw["tracks"] = {"language": raw["tracks"]["language"]}
    raw["tracks"]["language"]["studies"] = {
        "initialisation": {"ranks": [0.5], "inits": ["spectral"]}
    }
    raw["tracks"]["language"]["factors"]["method"] = method
    return config.parse({**raw, **values})


def test_a_configuration_names_a_method_and_its_file_enters_the_identity(tmp_path):
    file = tmp_path / "restart.py"
    file.write_bytes((HERE / "restart.py").read_bytes())
    mine = settings({"name": "restart", "options": {"every": 2}}, extensions={"restart": str(file)})
    cell = expand(mine).cells["language/spectral-r0.5"]
    assert cell.factors.method == MethodSpec(name="restart", options={"every": 2})
    assert set(cell.extensions) == {"restart"}
    run = cell.runs({"language/spectral-r0.5": 0.1})[0]
    assert run.method == "restart"
    other = MethodSpec(name="restart", options={"every": 3})
    changed = run.model_copy(update={"factors": run.factors.model_copy(update={"method": other})})
    assert changed.identity("data") != run.identity("data")


@pytest.mark.parametrize("name", ["relora_of_nobody", "factored", "base"])
def test_an_unknown_method_is_refused(name):
    with pytest.raises(LowrankError, match=f"Unknown method .* in tracks.language: '{name}'"):
        expand(settings({"name": name}))

"""`lowrank check` passes what the project itself uses and names what is wrong with a method."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from lowrank.cli import main
from lowrank.factor.decay import DECAYS
from lowrank.factor.init import INITIALISATIONS
from lowrank.factor.truncate import TRUNCATIONS
from lowrank.jobs.check import SHAPES, check_file

pytestmark = pytest.mark.usefixtures("forget_extensions")
ROOT = Path(__file__).parents[2]
HEAD = """import torch
from lowrank.factor.decay import DECAYS, decay
from lowrank.factor.init import INITIALISATIONS, initialisation
from lowrank.factor.truncate import TRUNCATIONS, plain, truncation

"""


@pytest.fixture
def check(tmp_path):
    """A function that checks a file of this text: exit status and output."""

    def write_and_check(text: str) -> tuple[int, str]:
        path = tmp_path / "idea.py"
        path.write_text(HEAD + text, encoding="utf-8")
        result = CliRunner().invoke(main, ["check", str(path)])
        assert isinstance(result.exception, SystemExit | None)
        return result.exit_code, result.output

    return write_and_check


def test_every_built_in_method_passes_on_every_shape(check):
    again = "".join(
        [
            *(f"initialisation('a_{n}')(INITIALISATIONS['{n}'])\n" for n in INITIALISATIONS),
            *(f"decay('a_{n}')(DECAYS['{n}'])\n" for n in DECAYS),
            *(
                f"t = TRUNCATIONS['{n}']\ntruncation('a_{n}', t.gather)(t.factorize)\n"
                for n in TRUNCATIONS
            ),
        ]
    )
    count = len(SHAPES) * again.count("('a_")
    status, output = check(again)
    assert status == 0 and len(re.findall("  passes  ", output)) == count
    assert "not for grouped" not in output


def test_the_example_of_the_readme_passes(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(# ideas/.*?)```", text, re.S)
    path = tmp_path / "orthogonal.py"
    path.write_text(example, encoding="utf-8")
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 0, result.output
    assert "size 1 of the dense weight's" in result.output


START = "@initialisation('{name}')\ndef f(weight, rank, generator, scale=1.0):\n"
DECAY = "@decay('{name}')\ndef f(U, V):\n"
CUT = "@truncation('{name}')\ndef f(weight, rank, statistic=None):\n"
LEFT, RIGHT = "weight[..., :rank]", "weight.mT[..., :rank]"
FAULTS = {
    "nan": (START + f"    return {LEFT} * float('nan'), {RIGHT}\n", "NaN or infinity for U"),
    "one": (START + f"    return {LEFT}\n", "a Tensor where two tensors"),
    "shapes": (START + f"    return {RIGHT}, {LEFT}\n", r"shape \(8, 4\) for U where \(24, 4\)"),
    "raising": (START + "    return weight @ weight.mT @ weight.mT, 1\n", r"idea\.py:8: Runtime"),
    "wrong_call": (START.replace("rank, ", "") + "    pass\n", "TypeError"),
    "huge": (START + f"    return 1e6 * {LEFT}, {RIGHT}\n", "times as large as the dense"),
    "zero": (START + f"    return 0 * {LEFT}, {RIGHT}\n", "0 times as large"),
    "random": (START + f"    return torch.rand_like({LEFT}), {RIGHT}\n", "something else each"),
    "in_place": (START + f"    return weight.mul_(2)[..., :rank], {RIGHT}\n", "changes the weight"),
    "decay_nan": (DECAY + "    return U / 0, V\n", "NaN or infinity for U"),
    "decay_in_place": (DECAY + "    return U.mul_(2), V\n", "changes the factors"),
    "decay_random": (DECAY + "    return torch.rand_like(U), V\n", "something else each"),
    "cut_wrong": (CUT + "    return tuple(3 * x for x in plain(weight, rank))\n", "leaving it out"),
    "cut_nan": (CUT + "    return tuple(x / 0 for x in plain(weight, rank))\n", "NaN or infinity"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_with_a_method_is_named_and_the_status_is_1(name, check):
    text, words = FAULTS[name]
    status, output = check(text.format(name=name))
    assert status == 1
    assert re.search(f"  fails   .*{words}", output), output
    assert output.rstrip().endswith(f"of {len(SHAPES)} trials failed.")


def test_a_decay_that_is_no_gradient_is_told_and_passes(check):
    text = DECAY.format(name="turning") + "    return U + U.roll(1, -2) - U.roll(-1, -2), V\n"
    status, output = check(text)
    assert status == 0 and "no gradient of a penalty, shrinks the factors" in output
    status, output = check(DECAY.format(name="growing") + "    return -U, -V\n")
    assert status == 0
    assert "the gradient of a penalty, does not shrink the factors" in output


def test_a_method_without_groups_passes_with_a_word(check):
    text = START.format(name="flat") + "    m, n = weight.shape\n"
    status, output = check(text + f"    return {LEFT}, {RIGHT} @ torch.eye(rank)\n")
    assert status == 0 and output.count("not for grouped convolutions") == 1


@pytest.mark.parametrize(
    ("text", "words"), [("x = 1\n", "registers nothing"), ("import nowhere\n", r"idea\.py:6: Mod")]
)
def test_a_file_with_no_method_is_refused_with_status_2(text, words, check):
    status, output = check(text)
    assert status == 2 and re.search(words, output)


def test_the_studies_of_the_recipes_are_registered_and_pass(tmp_path, forget_extensions):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    studies = [
        block
        for block in re.findall(r"```python\n# ideas/(.*?)```", text, re.S)
        if "STUDIES.add" in block
    ]
    assert len(studies) == 2
    for block in studies:
        name, _, source = block.partition("\n")
        (tmp_path / name).write_text(source, encoding="utf-8")
        result = CliRunner().invoke(main, ["check", str(tmp_path / name)])
        assert result.exit_code == 0 and "passes  registered" in result.output, result.output


@pytest.mark.parametrize("name", ["restart", "grow"])
def test_a_method_is_tried_on_a_small_model(name, forget_extensions):
    (finding,) = check_file(Path(__file__).parents[1] / f"methods/{name}.py")
    assert (finding.method, finding.name, finding.failed) == ("method", name, False)
    assert "loss from" in finding.found


@pytest.mark.parametrize(
    "hook",
    ["convert(self, model)", "start(self, run)", "update(self, *a)", "after_step(self, run)"],
)
def test_a_method_that_fails_is_said_with_its_line(hook, tmp_path, forget_extensions):
    """Wherever: it is tried in the loop that trains."""
    file = tmp_path / "idea.py"
    file.write_text(
        "from lowrank.methods import METHODS, Method\nfrom lowrank.methods.factored import Factored\n"
        f"class Idea(Factored):\n    def {hook}:\n        self.gone\n"
        "METHODS.add('idea', Method('idea', 'nowhere', Idea))\n",
        encoding="utf-8",
    )
    (finding,) = check_file(file)
    assert finding.failed and "idea.py:5: AttributeError" in finding.found

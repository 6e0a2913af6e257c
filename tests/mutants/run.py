"""The mutation run: how many one-line changes of the numerics do the tests let through?

`make mutants` draws a fixed sample of mutants from the modules in `targets.yaml`, adds those of `by_hand.yaml`,
runs for each the tests that lie nearest to it until one fails, and reports the share that survives.
Every survivor must be named with its reason in `survivors.yaml`; one that is not, or a share above the limit, fails the run. After a
test was written, `ARGS=--again` tries only those that survived.

A mutant never touches the source tree: a process that has imported everything is forked, an import
hook gives it the changed module and whatever imports that, and it runs pytest.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.util
import json
import os
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = ROOT / "src/lowrank"
sys.path[:0] = [str(HERE), str(SOURCE.parent)]

from mutations import Mutant, by_hand, mutants  # noqa: E402

LIMIT = 0.05
"""Largest share of the sample that may survive."""
PROCESSOR, TIMEOUT = 120, 600
"""Seconds of processor time, and of any, after which a mutant counts as noticed: it hangs or crawls."""


@dataclass(frozen=True)
class Target:
    """A module to mutate, and the test files nearest to it, nearest first."""

    module: str
    tests: tuple[str, ...]
    drawn: tuple[Mutant, ...]
    """Those of one line, of which a sample is drawn."""
    always: tuple[Mutant, ...]
    """Those by hand."""


def targets() -> list[Target]:
    """The modules of `targets.yaml`."""
    written = _listed("by_hand.yaml")
    entries = {module: entry for module, entry in listed().items() if "left_out" not in entry}
    assert written.keys() <= entries.keys(), f"not in targets.yaml: {written.keys() - entries}"
    found = []
    for module, entry in entries.items():
        text = (SOURCE / f"{module}.py").read_text(encoding="utf-8")
        drawn = mutants(module, text, tuple(entry.get("functions", ())))
        always = by_hand(module, text, written.get(module, ()))
        found.append(Target(module, tuple(entry["tests"]), tuple(drawn), tuple(always)))
    return found


def listed() -> dict[str, dict[str, Any]]:
    """The entries of `targets.yaml` by module, a folder's for each module there that has none."""
    entries = _listed("targets.yaml")
    for pattern in [name for name in entries if name.endswith("/*")]:
        tests = entries.pop(pattern)["tests"]
        folder = pattern.removesuffix("/*")
        for path in sorted((SOURCE / folder).glob("[!_]*.py")):
            own = [test.format(name=path.stem) for test in tests]
            there = [test for test in own if (ROOT / test.split("::")[0]).is_file()]
            entries.setdefault(f"{folder}/{path.stem}", {"tests": there})
    return entries


def _listed(name: str) -> dict[str, Any]:
    return yaml.safe_load((HERE / name).read_text(encoding="utf-8"))


def sample(count: int, seed: int) -> list[tuple[Target, Mutant]]:
    """All mutants by hand, and `count` others, from every module in proportion to how many it has,
    three at least; none if `count` is 0.

    Which of a module's are drawn depends on seed and mutant alone, so changes elsewhere move nothing.
    """
    found = targets()
    total = sum(len(target.drawn) for target in found)
    return [
        (target, mutant)
        for target in found
        for mutant in (
            *target.always,
            *sorted(target.drawn, key=lambda mutant: mutant.order(seed))[
                : max(3, round(count * len(target.drawn) / total)) if count else 0
            ],
        )
    ]


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Gives one module of the project from changed source."""

    def __init__(self, module: str, source: str) -> None:
        self.name, self.source = f"lowrank.{module.replace('/', '.')}", source
        self.path = str(SOURCE / f"{module}.py")

    def find_spec(self, fullname, path, target=None):  # type: ignore[no-untyped-def]
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_data(self, path: str) -> bytes:
        return self.source.encode()

    def path_stats(self, path: str):  # type: ignore[no-untyped-def]
        raise OSError  # never from or into a cache

    def set_data(self, path: str, data: bytes, **options: object) -> None:
        return None


def warm() -> None:
    """Import what every test needs, so that a fork has it: the libraries and the whole project."""
    import matplotlib

    matplotlib.use("agg")
    import hypothesis  # noqa: F401
    import matplotlib.pyplot
    import pytest  # noqa: F401
    import seaborn  # noqa: F401
    import statsmodels.stats.multitest  # noqa: F401
    import tokenizers  # noqa: F401
    import torch
    import torch.distributed.tensor
    import transformers.models.gpt2.modeling_gpt2
    import transformers.models.resnet.modeling_resnet  # noqa: F401

    torch.set_num_threads(1)
    for module in _modules():
        if module != "lowrank.__main__":
            importlib.import_module(module)


def _modules() -> dict[str, str]:
    """The text of each module of the project, by dotted name."""
    names = {path: path.relative_to(SOURCE.parent).with_suffix("") for path in SOURCE.rglob("*.py")}
    return {
        ".".join(name.parts).removesuffix(".__init__"): path.read_text(encoding="utf-8")
        for path, name in names.items()
    }


def forget(module: str) -> None:
    """Drop a module and all that import it, so that they are imported anew; with it its package and
    the registry, wherever it is, that this package fills."""
    texts, package = _modules(), module.rpartition(".")[0]
    filled = {name for name, text in texts.items() if f'package="{package}"' in text}
    stale, found = set(), {module, package, *filled} - {"lowrank"}
    while found:
        stale |= found
        found = {
            name
            for name, text in texts.items()
            for other in stale
            if name not in stale and _imports(text, other)
        }
    for name in stale & set(sys.modules):
        package, _, leaf = name.rpartition(".")
        sys.modules.pop(name)
        vars(sys.modules.get(package, sys)).pop(leaf, None)


def _imports(text: str, module: str) -> bool:
    package, _, leaf = module.rpartition(".")
    return f"from {module} import" in text or bool(
        re.search(rf"from {re.escape(package)} import (?:\([^)]*|[^(\n]*)\b{leaf}\b", text)
    )


def run(
    mutant: Mutant | None, tests: Iterable[str], log: Path, timeout: float = TIMEOUT
) -> tuple[str, float]:
    """`killed`, `survived` or `timeout`, and seconds; without a mutant, the tests as they are."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _test(mutant, list(tests), log)
    deadline = started + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            outcome = {0: "survived", -signal.SIGXCPU: "timeout"}.get(code, "killed")
            return outcome, time.monotonic() - started
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout", time.monotonic() - started


def _test(mutant: Mutant | None, tests: list[str], log: Path) -> None:
    """In the fork: pytest over the tests, its status as the exit code."""
    code = 70
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(ROOT)
        if mutant is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR, PROCESSOR + 5))
            changed = _Changed(mutant.module, mutant.source)
            sys.meta_path.insert(0, changed)
            forget(changed.name)
        import pytest

        options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist"]
        code = int(
            pytest.main([*options, "-m", "not pipeline and not browser and not slurm", *tests])
        )
    finally:
        os._exit(code)


def main() -> int:
    """Run the sample; 1 where a survivor is not named or too many survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--count", type=int, default=400, help="mutants in the sample, beside those by hand"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default="", help="modules whose name begins so, comma-separated")
    parser.add_argument(
        "--again",
        action="store_true",
        help="keep the outcomes of earlier runs; try only what survived them or is new",
    )
    parser.add_argument(
        "--skip-unchanged", action="store_true", help="do not first run the tests as they are"
    )
    parser.add_argument("--log", type=Path, default=ROOT / "results/mutants", help="folder of logs")
    options = parser.parse_args()
    drawn = {mutant.name: (t, mutant) for t, mutant in sample(options.count, options.seed)}
    options.log.mkdir(parents=True, exist_ok=True)
    record = options.log / "outcomes.json"
    kept = options.again and record.exists()
    outcomes: dict[str, str] = json.loads(record.read_text("utf-8")) if kept else {}
    outcomes = {name: outcome for name, outcome in outcomes.items() if name in drawn}
    chosen = {
        name: (target, mutant)
        for name, (target, mutant) in drawn.items()
        if target.module.startswith(tuple(options.only.split(",")))
        and outcomes.get(name, "stale") in ("survived", "stale")
    }
    warm()
    if not options.skip_unchanged:
        every = dict.fromkeys(test for target, _ in chosen.values() for test in target.tests)
        outcome, seconds = run(None, every, options.log / "unchanged.txt", timeout=3600)
        print(f"without a change: {outcome} {len(every)} files in {seconds:.0f} s", flush=True)
        if outcome != "survived":
            print((options.log / "unchanged.txt").read_text(encoding="utf-8"))
            return 2

    def one(pair: tuple[Target, Mutant]) -> tuple[Mutant, str, float]:
        target, mutant = pair
        if not mutant.line:
            return mutant, "stale", 0.0
        log = options.log / f"{mutant.order(options.seed)[:12]}.txt"
        return (mutant, *run(mutant, target.tests, log))

    with ThreadPoolExecutor(options.workers) as pool:
        for mutant, outcome, seconds in pool.map(one, chosen.values()):
            outcomes[mutant.name] = outcome
            record.write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
            print(f"{outcome:8s} {seconds:5.1f} s  line {mutant.line}  {mutant.name}", flush=True)
    return report([mutant for name, (_, mutant) in drawn.items() if name in outcomes], outcomes)


def report(tried: list[Mutant], outcomes: dict[str, str]) -> int:
    """Print the survival rate of each module and the survivors; the exit status."""
    survivors = [mutant for mutant in tried if outcomes[mutant.name] == "survived"]
    totals = Counter(mutant.module for mutant in tried)
    lost = Counter(mutant.module for mutant in survivors)
    print(f"\n{'module':28s} mutants survived")
    for module, total in sorted(totals.items()):
        print(f"{module:28s} {total:7d} {lost[module]:8d}  {lost[module] / total:6.1%}")
    total, count = len(tried), len(survivors)
    print(f"{'all':28s} {total:7d} {count:8d}  {count / total:6.1%}")
    named: dict[str, str] = (
        yaml.safe_load((HERE / "survivors.yaml").read_text(encoding="utf-8")) or {}
    )
    unnamed = [mutant.name for mutant in survivors if mutant.name not in named]
    for mutant in survivors:
        print(f"survived: {mutant.name}\n          {named.get(mutant.name, 'NO REASON GIVEN')}")
    stale = [mutant.name for mutant in tried if outcomes[mutant.name] == "stale"]
    known = {mutant.name for t in targets() for mutant in (*t.drawn, *t.always)}
    stale += sorted(named.keys() - known)
    if stale:
        print(
            "no longer what the source says, in by_hand.yaml or survivors.yaml:", *stale, sep="\n  "
        )
    if unnamed:
        print(
            f"{len(unnamed)} survivors are not in survivors.yaml: write a test, or their reason there."
        )
    if count > LIMIT * total:
        print(f"{count / total:.1%} survive, more than {LIMIT:.0%}.")
    return int(bool(unnamed or stale) or count > LIMIT * total)


if __name__ == "__main__":
    sys.exit(main())

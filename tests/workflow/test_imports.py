"""What reading the workflow costs, in modules: every call of Snakemake waits for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
READ = """
import sys
import snakemake.cli
before = set(sys.modules)
from lowrank.experiment.config import read_config
from lowrank.workflow.reading import open_scale
from lowrank.workflow.scale import Scale
scale = Scale(read_config("config/laptop.yaml"))
scale.products, scale.experiment.digests()
for track in scale.tracks:
    for figure in scale.config.tracks[track].figures():
        scale.figures.digest(track, figure), scale.figures.sources(figure)
print(*sorted(set(sys.modules) - before))
"""


def test_reading_the_workflow_imports_neither_pandas_nor_numpy_nor_torch():
    run = subprocess.run([sys.executable, "-c", READ], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    late = run.stdout.split()
    large = {"numpy", "pandas", "pyarrow", "scipy", "torch", "matplotlib", "PIL", "datasets"}
    assert not large & set(late)
    assert len(late) < 150

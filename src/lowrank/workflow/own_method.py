"""A method of one's own beside the published ones: its cells alone are trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lowrank.errors import LowrankError
from lowrank.experiment.config import Config, parse
from lowrank.experiment.expand import outline
from lowrank.experiment.extensions import declared, load_extensions
from lowrank.methods import METHODS, check_fit

STUDY = "methods"


def with_own_method(config: Config, file: str, results_from: str = "published") -> Config:
    """The configuration with the method of a file, which is called as its file is, in the study of methods
    of every track that it fits; all other cells are read from the published tables.

    A track that it does not fit is named on the terminal; none that it fits, and a file that does not
    register it, are a LowrankError.
    """
    name = Path(file).stem
    if name in METHODS.built_in:
        raise LowrankError(f"try: {name} is built in: give {file} and its method another name.")
    load_extensions({name: declared(name, Path(file))})
    if name not in METHODS:
        raise LowrankError(f"try: {file} registers no method of training called {name}.")
    values = config.model_dump(mode="json")
    fitting = 0
    for track, section in config.tracks.items():
        if STUDY not in section.studies.asked():
            continue
        try:
            check_fit(name, section.training, section.model)
        except LowrankError as error:
            print(f"{track} is left out: {error}", file=sys.stderr)
            continue
        entries: list[Any] = values["tracks"][track]["studies"][STUDY]["methods"]
        entries.append({"name": name})
        fitting += 1
    if not fitting:
        raise LowrankError(
            f"try: no track of the scale {config.scale} has a study of methods that {name} fits: take the "
            "scale methods."
        )
    values["extensions"][name] = file
    values["results_from"] = results_from
    found = parse(values)
    cells = outline(found).cells.values()
    own = [
        c.name for c in cells if c.factors and c.factors.method and c.factors.method.name == name
    ]
    return found.model_copy(update={"retrain": tuple(own)})

"""Dense training: what every other method is compared with."""

from __future__ import annotations

from lowrank.methods import METHODS, Method
from lowrank.methods.base import Life


class Dense(Life):
    """Every layer as the model has it."""


METHODS.add("dense", Method("dense", "the model's own", Dense, sharded=True))

"""Dense training: what every other method is compared with."""

from __future__ import annotations

from lowrank.methods import METHODS, Method
from lowrank.methods.base import Life

METHODS.add("dense", Method("dense", "the model's own", Life, sharded=True))

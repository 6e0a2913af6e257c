"""The version of each part of the code that results depend on.

A part's number says which results its code computes. Raise it when a change to the code changes what
that part computes for valid input, and only then: what depends on the part is made anew, everything
else stays. Moving or tidying code raises nothing. The parts:

- `text`, `images`: what a prepared data folder holds.
- `training`: everything a run computes, validation and probes included; part of a run's identity.
- `evaluation`: what is read from finished runs on the test set.
- `interpolation`, `posthoc`, `baselines`, `speed`: the tables of these jobs.

Prepared data enter a run by their content: a raised `text` that yields the same tokens retrains
nothing.
"""

from __future__ import annotations

VERSIONS = {
    "text": 2,
    "images": 2,
    "training": 2,
    "evaluation": 1,
    "interpolation": 1,
    "posthoc": 2,
    "baselines": 1,
    "speed": 1,
}

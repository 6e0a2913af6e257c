"""Arms of invented results by short names: what the grid would say of an arm that it calls so."""

from __future__ import annotations

import re
from typing import Any

NAME = re.compile(
    r"(?P<init>\w+?|\$x\$)(?:-r(?P<rank>[\d.]+))?(?:-(?P<decay>none|l2|frobenius)(?P<coupled>-coupled)?)?"
    r"(?:-pre(?P<pre>[\d.]+))?(?P<half>-halfrate)?(?P<swept>-swept)?(?:-w(?P<width>\d+))?"
)


def facts(arm: str, decay: str = "l2") -> dict[str, Any]:
    """The facts of `spectral-r0.5-frobenius-halfrate`, ... on a track of width 64 whose own decay is given;
    what is swept is the rate after the switch, where there is one, else the decay's strength. None of a
    name that is no arm's, such as `dense-other-seed`."""
    found = NAME.fullmatch(arm)
    if found is None:
        return {"arm": arm}
    low = found["rank"] is not None
    values = {
        "init": found["init"],
        "rank_fraction": float(found["rank"]) if low else None,
        "method": "pretrained" if found["pre"] else "factored" if low else "dense",
        "decay": (found["decay"] or decay) if low else None,
        "decay_coupled": bool(found["coupled"]) if low else None,
        "pretraining": float(found["pre"] or 0),
        "rate_factor": 0.5 if found["half"] else 1.0,
        "width": int(found["width"] or 64),
    }
    what = ("switch_rate", "rate_factor") if found["pre"] else ("decay_strength",) * 2
    values["swept"] = what[0] if found["swept"] else ""
    own = {"decay": decay, "decay_coupled": False, "pretraining": 0, "rate_factor": 1, "width": 64}
    varied = {name for name, value in own.items() if values[name] not in (value, None)}
    varied |= {"init", "rank_fraction"} if low else {"init"}
    varied |= {"swept", what[1]} if found["swept"] else set()
    return {"arm": arm, **values, "varied": ",".join(varied)}

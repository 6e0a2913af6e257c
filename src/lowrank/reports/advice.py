"""The README's answer to "when is it faster", from what `lowrank advise --json` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowrank.files import read_json

ADVICE = "bench/advice"
"""Where those files lie in the repository."""


def advice(folder: Path) -> str:
    """A row a model and machine, of all JSON files in a folder, and below what follows of each, as Markdown."""
    files = sorted(folder.glob("*.json"))
    if not files:
        return (
            "Nothing is measured yet: "
            f"`lowrank advise config/laptop.yaml --json {ADVICE}/laptop.json`."
        )
    measured = [(read_json(file), model) for file in files for model in read_json(file)["models"]]
    fractions = sorted({one["fraction"] for _, m in measured for one in m["whole"][1:]})
    head = ["model", "on", "dense step, ms", *(f"rank {f:g}" for f in fractions)]
    head += ["writing tokens", "layers are faster up to"]
    rows = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    rows += [_row(facts, model, fractions) for facts, model in measured]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    words = [f"- **{model['title']}.** {' '.join(model['words'][:-1])}" for _, model in measured]
    return "\n".join([table, "", *words])


def _row(facts: dict[str, Any], model: dict[str, Any], fractions: list[float]) -> list[str]:
    dense, *others = model["whole"]
    low = {one["fraction"]: one for one in others}
    speeds = [_times(low[f]["speed"]) if f in low else "-" for f in fractions]
    written = [one["token_speed"] for one in others if one["token_speed"] is not None]
    shares = [(layer["pays_up_to"] or 0) / _even(*layer["shape"]) for layer in model["layers"]]
    return [
        model["title"],
        f"{facts['processor']}, {facts['threads']} thread{'s' * (facts['threads'] > 1)}",
        f"{1e3 * dense['seconds']:.1f}",
        *speeds,
        _range(written, _times) if written else "-",
        f"{_range(shares, lambda share: f'{share:.0%}')} of break-even",
    ]


def _even(m: int, n: int) -> float:
    return m * n / (m + n)


def _times(speed: float) -> str:
    return f"{speed:.2f}"


def _range(values: list[float], show: Any) -> str:
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"

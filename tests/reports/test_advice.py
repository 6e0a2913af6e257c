"""The README's table of what was measured with `lowrank advise`."""

from __future__ import annotations

import json

from lowrank.reports.advice import advice


def whole(fraction, speed, token=None):
    return {"fraction": fraction, "seconds": 0.0125 / speed, "speed": speed, "token_speed": token}


def test_a_row_says_how_many_times_faster_and_up_to_where(tmp_path):
    layers = [{"shape": [32, 32], "pays_up_to": 8}, {"shape": [32, 96], "pays_up_to": None}]
    models = [
        {
            "title": "text: gpt2",
            "words": ["Faster.", "Layers."],
            "layers": layers,
            "whole": [whole(None, 1), whole(0.25, 1.5, 0.9)],
        },
        {
            "title": "images: vit",
            "words": ["Slower.", "Layers."],
            "layers": layers[:1],
            "whole": [whole(None, 1), whole(0.5, 1.2)],
        },
    ]
    facts = {"processor": "A processor, AVX2", "threads": 2, "models": models}
    (tmp_path / "a.json").write_text(json.dumps(facts), encoding="utf-8")
    assert advice(tmp_path).splitlines() == [
        "| model | on | dense step, ms | rank 0.25 | rank 0.5 | writing tokens | layers are faster up to |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        "| text: gpt2 | A processor, AVX2, 2 threads | 12.5 | 1.50 | - | 0.90 | 0% to 50% of break-even |",
        "| images: vit | A processor, AVX2, 2 threads | 12.5 | - | 1.20 | - | 50% of break-even |",
        "",
        "- **text: gpt2.** Faster.",
        "- **images: vit.** Slower.",
    ]


def test_without_a_measurement_it_says_how_to_make_one(tmp_path):
    assert "lowrank advise config/laptop.yaml --json" in advice(tmp_path)

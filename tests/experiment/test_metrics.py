"""What is measured, and what it can be."""

from __future__ import annotations

import math

import pytest

from lowrank.experiment.metrics import DIRECTED, METRICS, PAPER_METRICS, metric, task_of


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("test_accuracy", (0.0, 1.0)),
        ("test_loss", (0.0, math.inf)),
        ("effective_rank", (0.0, math.inf)),
        ("gap", (-math.inf, math.inf)),
    ],
)
def test_what_a_metric_can_be(name, ends):
    assert (metric(name).least, metric(name).most) == ends


def test_more_is_better_of_accuracies_less_of_losses_and_costs_and_neither_of_ranks_and_norms():
    better = {
        side: {name for name, record in METRICS.items() if record.better == side}
        for side in (1, -1, 0)
    }
    assert better[1] == {"test_accuracy", "stale_test_accuracy", "validation_accuracy"}
    assert better[-1] == {
        *("test_loss", "stale_test_loss", "validation_loss", "loss", "barrier"),
        *("test_perplexity", "test_word_perplexity", "test_bits_per_byte"),
        *("kept_parameters", "flops_per_position", "train_seconds", "step_seconds"),
        "peak_memory_bytes",
    }
    assert better[1] | better[-1] == DIRECTED


def test_accuracies_are_shares_in_tables_and_shown_in_percent():
    assert {name for name, record in METRICS.items() if record.factor != 1} == {
        name for name, record in METRICS.items() if record.unit == "%"
    }
    for name in ("test_accuracy", "validation_accuracy", "stale_test_accuracy"):
        assert (metric(name).factor, metric(name).most) == (100, 1)


def test_a_metric_without_a_record_is_its_column_in_words():
    assert metric("largest_possible_rank").label == "largest possible rank"
    assert metric("largest_possible_rank").name == "largest_possible_rank"
    assert metric("test_loss").label == "test loss"


def test_language_is_judged_by_its_loss_and_images_by_accuracy():
    language, images = task_of("gpt2"), task_of("wide_resnet")
    assert (language.quality, language.data, language.language) == ("test_loss", "text", True)
    assert (images.quality, images.data, images.language) == ("test_accuracy", "images", False)
    assert language.compared == ("test_loss", "effective_rank")
    assert images.compared == ("test_accuracy", "test_loss", "effective_rank")


def test_the_papers_perplexity_is_ours_compared_by_logarithms_and_its_top_1_is_in_percent():
    perplexity, top = PAPER_METRICS["perplexity"], PAPER_METRICS["top-1 (%)"]
    assert (perplexity.column, perplexity.factor, perplexity.logarithmic) == (
        "test_perplexity",
        1,
        True,
    )
    assert (top.column, top.factor, top.logarithmic) == ("test_accuracy", 100, False)
    assert (perplexity.judged, top.judged) == ("test_loss", "test_accuracy")

"""Batches: every example once an epoch, in an order of seed and epoch. Losses and metrics: as defined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from runs import image_run, language_run
from torch import nn

from lowrank.data.images import load_images
from lowrank.data.text import load_text
from lowrank.errors import LowrankError
from lowrank.experiment.sections import ModelSpec
from lowrank.train.task import example_indices, make_task

CPU = torch.device("cpu")


class Watched(nn.Module):
    """A language model whose logits for what follows depend on the token alone; it notes what it sees."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table, self.seen, self.modes = table, [], []

    def forward(self, tokens, targets=None):
        self.seen.append(tokens)
        self.modes.append((self.training, torch.is_grad_enabled()))
        if targets is None:
            return self.table[tokens]
        return nn.functional.cross_entropy(self.table[tokens].flatten(0, 1), targets.flatten())


class WatchedImages(nn.Module):
    """An image model whose logits are means of three parts of the image; it notes what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.modes = [], []

    def forward(self, images):
        self.seen.append(images)
        self.modes.append((self.training, torch.is_grad_enabled()))
        return torch.stack([images[:, :, i::3].mean((1, 2, 3)) for i in range(3)], 1) * 5


def language(folder, **training):
    return make_task(language_run(training=training), folder, CPU)


def images(folder, seed=0, **training):
    run = image_run(seed=seed, training={"batch": 12, **training})
    model = run.model.model_copy(update={"channels": 3})
    return make_task(run.model_copy(update={"model": model}), folder, CPU)


# Which examples


def test_an_epoch_shows_every_example_once_and_each_epoch_in_another_order():
    orders = [
        np.concatenate([example_indices(3, epoch * 6 + step, 4, 24) for step in range(6)])
        for epoch in range(3)
    ]
    for order in orders:
        assert sorted(order) == list(range(24))
        assert list(order) != list(range(24))
    assert len({tuple(order) for order in orders}) == 3


def test_a_batch_across_the_end_of_an_epoch_has_the_rest_of_one_and_the_beginning_of_the_next():
    """10 examples in batches of 4: what a step shows depends neither on the batch nor on the others."""
    whole = [example_indices(5, epoch, 10, 10) for epoch in range(2)]
    steps = np.concatenate([example_indices(5, step, 4, 10) for step in range(5)])
    assert list(steps) == [*whole[0], *whole[1]]


def test_the_order_is_that_of_philox_keyed_by_seed_and_epoch():
    expected = np.random.Generator(np.random.Philox(key=[7, 2])).permutation(12)
    assert list(example_indices(7, 2, 12, 12)) == list(expected)
    assert list(example_indices(8, 2, 12, 12)) != list(expected)


def test_a_batch_larger_than_the_data_is_refused_and_one_as_large_is_not():
    assert sorted(example_indices(0, 0, 5, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(LowrankError, match="6 is more than the 5 training examples"):
        example_indices(0, 0, 6, 5)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_of_a_batch_are_the_batch_cut_in_order(parts, invented_text):
    task = language(invented_text)
    cut = [task.batch(3, part, parts) for part in range(parts)]
    assert torch.cat(cut).equal(task.batch(3, 0, 1))
    assert task.batch(3).equal(task.batch(3, 0, 1))


def test_a_batch_that_does_not_split_in_equal_parts_is_refused(invented_text):
    with pytest.raises(LowrankError, match="4 examples do not split in 3 equal parts"):
        language(invented_text).batch(0, 0, 3)


def test_windows_are_consecutive_tokens_and_overlap_by_the_one_that_is_predicted(invented_text):
    task = language(invented_text)
    tokens = np.asarray(load_text(invented_text).tokens["train"]).astype(int)
    count = (len(tokens) - 1) // 16
    assert task.examples("train") == count
    indices = example_indices(0, 2, 4, count)
    expected = [tokens[i * 16 : i * 16 + 17] for i in indices]
    assert task.batch(2).tolist() == [list(window) for window in expected]
    assert task.example().shape == (1, 16)
    assert task.example().dtype == torch.long


def test_a_context_longer_than_a_split_is_refused_by_name(invented_text):
    shortest = min(len(t) for t in load_text(invented_text).tokens.values())
    run = language_run()
    for context, fits in ((shortest - 1, True), (shortest, False)):
        spec = run.model_copy(update={"model": run.model.model_copy(update={"context": context})})
        if fits:
            make_task(spec, invented_text, CPU)
        else:
            with pytest.raises(LowrankError, match=f"model.context: {context} tokens do not fit"):
                make_task(spec, invented_text, CPU)


# The language task's numbers


def table_of(folder) -> torch.Tensor:
    vocabulary = load_text(folder).manifest["vocabulary"]
    return 2 * torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(0))


def by_hand(table, windows) -> float:
    """Mean over all windows and positions of -log p(next | token), in float64."""
    logs = torch.log_softmax(table.double(), -1)
    return float(-torch.stack([logs[w[:-1], w[1:]] for w in windows]).mean())


def test_the_loss_is_the_mean_negative_log_likelihood_of_the_next_token(invented_text):
    task, table = language(invented_text), table_of(invented_text)
    batch = task.batch(1)
    found = task.loss(Watched(table), batch)
    assert float(found) == pytest.approx(by_hand(table, batch), rel=1e-6)


@pytest.mark.parametrize(("limit", "batch"), [(7, 3), (1000, 8), (1, 1)])
def test_held_out_metrics_of_a_known_language_model(limit, batch, invented_text):
    task, table, data = language(invented_text), table_of(invented_text), load_text(invented_text)
    model = Watched(table)
    metrics = task.evaluate(model, "test", limit, batch)
    tokens = torch.from_numpy(np.asarray(data.tokens["test"]).astype(np.int64))
    available = (len(tokens) - 1) // 16
    chosen = [int(x) for x in np.linspace(0, available - 1, min(limit, available))]
    loss = by_hand(table, [tokens[i * 16 : i * 16 + 17] for i in chosen])
    counts = data.manifest["counts"]["test"]
    assert metrics.keys() == {"loss", "perplexity", "word_perplexity", "bits_per_byte"}
    assert metrics["loss"] == pytest.approx(loss, rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    nats = loss * counts["tokens"]
    assert metrics["word_perplexity"] == pytest.approx(math.exp(nats / counts["words"]), rel=1e-4)
    assert metrics["bits_per_byte"] == pytest.approx(nats / counts["bytes"] / math.log(2), rel=1e-5)
    assert torch.cat(model.seen).tolist() == [tokens[i * 16 : i * 16 + 16].tolist() for i in chosen]
    assert max(len(part) for part in model.seen) <= batch
    assert len(model.seen) == math.ceil(len(chosen) / batch)
    assert task.possible(metrics, "test", limit)


@pytest.mark.parametrize("changed", ["loss", "perplexity", "word_perplexity", "bits_per_byte"])
def test_metrics_of_text_of_which_one_was_changed_are_not_possible(changed, invented_text):
    task = language(invented_text)
    metrics = task.evaluate(Watched(table_of(invented_text)), "test", 7, 3)
    assert not task.possible({**metrics, changed: 0.9 * metrics[changed]}, "test", 7)
    assert not task.possible({k: v for k, v in metrics.items() if k != changed}, "test", 7)


def test_held_out_windows_are_spread_from_the_first_to_the_last(invented_text):
    task, model = language(invented_text), Watched(table_of(invented_text))
    task.evaluate(model, "validation", 3, 8)
    tokens = np.asarray(load_text(invented_text).tokens["validation"]).astype(int)
    last = (len(tokens) - 1) // 16 - 1
    seen = torch.cat(model.seen).tolist()
    assert seen[0] == list(tokens[:16])
    assert seen[-1] == list(tokens[last * 16 : last * 16 + 16])


def test_a_loss_whose_exponential_overflows_has_an_infinite_perplexity(invented_text):
    task, table = language(invented_text), 2000 * table_of(invented_text)
    metrics = task.evaluate(Watched(table), "test", 4, 4)
    assert metrics["loss"] > 710
    assert metrics["perplexity"] == math.inf
    assert task.possible(metrics, "test", 4)


def test_predictions_are_the_likeliest_at_the_positions_that_are_evaluated(
    invented_text, invented_images
):
    table = table_of(invented_text)
    task, model, other = language(invented_text), Watched(table), Watched(table)
    task.evaluate(model, "validation", 7, 3)
    found = task.predictions(other, "validation", 7, 3)
    assert torch.cat(other.seen).equal(torch.cat(model.seen))
    assert found.equal(table.argmax(-1)[torch.cat(model.seen)].flatten())
    task, model, other = images(invented_images), WatchedImages(), WatchedImages()
    accuracy = task.evaluate(model, "test", 11, 4)["accuracy"]
    found = task.predictions(other, "test", 11, 4)
    assert torch.cat(other.seen).equal(torch.cat(model.seen))
    labels = load_images(invented_images).labels["test"][np.linspace(0, 39, 11).astype(int)]
    assert float((found.numpy() == labels).mean()) == pytest.approx(accuracy)
    assert set(other.modes) == {(False, False)} and other.training


@pytest.mark.parametrize("kind", ["text", "images"])
def test_evaluation_is_in_evaluation_mode_without_gradients_and_training_goes_on(
    kind, invented_text, invented_images
):
    if kind == "text":
        task, model = language(invented_text), Watched(table_of(invented_text))
    else:
        task, model = images(invented_images), WatchedImages()
    model.train()
    task.evaluate(model, "validation", 5, 2)
    assert set(model.modes) == {(False, False)}
    assert model.training


# The image task's numbers


def test_images_are_augmented_by_seed_step_and_part_and_by_nothing_else(invented_images):
    task = images(invented_images, pad=2, flip=True)
    inputs, labels = task.batch(4, 1, 2)
    torch.manual_seed(99)
    again, same = task.batch(4, 1, 2)
    assert inputs.equal(again)
    assert labels.equal(same)
    data = load_images(invented_images)
    train = {
        tuple(p.ravel()): int(label)
        for p, label in zip(data.images["train"], data.labels["train"], strict=True)
    }
    order = example_indices(0, 4, 12, len(train))[6:]
    assert labels.tolist() == [int(data.labels["train"][i]) for i in order]


def generators_of(task, monkeypatch) -> list[int]:
    """The seeds of the generators given to the augmentation."""
    seeds = []
    monkeypatch.setattr(
        type(task.augment),
        "__call__",
        lambda self, images, generator: (
            seeds.append(generator.initial_seed()),
            self.evaluate(images),
        )[1],
    )
    return seeds


def test_every_seed_step_and_part_augments_from_a_generator_of_its_own(
    invented_images, monkeypatch
):
    seeds = []
    for seed in range(3):
        task = images(invented_images, seed=seed)
        noted = generators_of(task, monkeypatch)
        for step in range(20):
            for part in range(3):
                task.batch(step, part, 3)
        seeds += noted
    assert len(set(seeds)) == 3 * 20 * 3
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_largest_seed_still_seeds_a_generator(invented_images):
    images(invented_images, seed=2**63 - 1).batch(10**6, 1, 2)


def test_label_smoothing_mixes_the_uniform_distribution_into_the_training_loss(invented_images):
    task, model = images(invented_images, label_smoothing=0.2), WatchedImages()
    inputs, labels = task.batch(0)
    logs = torch.log_softmax(model(inputs).double(), -1)
    right = -logs[range(12), labels].mean()
    uniform = -logs.mean()
    assert float(task.loss(model, (inputs, labels))) == pytest.approx(
        float(0.8 * right + 0.2 * uniform), rel=1e-6
    )


@pytest.mark.parametrize(("limit", "batch"), [(11, 4), (1000, 16)])
def test_held_out_loss_and_accuracy_of_a_known_classifier(limit, batch, invented_images):
    """No label smoothing and no augmentation, whatever training does: the centre crop, normalised."""
    task = images(invented_images, label_smoothing=0.3, crop=8, pad=1, flip=True)
    model, data = WatchedImages(), load_images(invented_images)
    metrics = task.evaluate(model, "test", limit, batch)
    chosen = [int(x) for x in np.linspace(0, 39, min(limit, 40))]
    pixels = torch.from_numpy(np.array(data.images["test"]))[chosen][:, 1:9, 1:9].double() / 255
    mean, std = (torch.tensor(data.manifest[name], dtype=torch.double) for name in ("mean", "std"))
    inputs = ((pixels - mean) / std).permute(0, 3, 1, 2)
    assert torch.cat(model.seen).double() == pytest.approx(inputs, abs=1e-5)
    assert max(len(part) for part in model.seen) <= batch
    labels = torch.from_numpy(np.array(data.labels["test"]))[chosen]
    logits = WatchedImages()(inputs)
    loss = -torch.log_softmax(logits, -1)[range(len(chosen)), labels].mean()
    accuracy = sum(
        int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True)
    ) / len(chosen)
    assert metrics == pytest.approx({"loss": float(loss), "accuracy": accuracy}, rel=1e-5)
    assert 0 < accuracy < 1
    assert task.possible(metrics, "test", limit)
    for wrong in (accuracy + 0.4 / len(chosen), 1 + 1 / len(chosen), -1 / len(chosen)):
        assert not task.possible({**metrics, "accuracy": wrong}, "test", limit)


def test_the_model_sees_the_crop(invented_images):
    assert images(invented_images).example().shape == (1, 3, 10, 10)
    assert images(invented_images, crop=8).example().shape == (1, 3, 8, 8)
    assert images(invented_images, crop=8).batch(0)[0].shape == (12, 3, 8, 8)


def test_images_of_other_channels_than_the_models_are_refused(invented_images):
    with pytest.raises(LowrankError, match=r"model\.channels: 1, but the images have 3"):
        make_task(image_run(), invented_images, CPU)


def test_outputs_are_tokens_and_classes(invented_text, invented_images):
    assert language(invented_text).outputs == load_text(invented_text).manifest["vocabulary"]
    assert images(invented_images).outputs == 3
    assert language(invented_text).digest == load_text(invented_text).manifest["digest"]
    assert images(invented_images).digest == load_images(invented_images).manifest["digest"]


@pytest.mark.parametrize(
    ("layout", "expected"), [(False, torch.contiguous_format), (True, torch.channels_last)]
)
def test_images_come_in_the_memory_layout_of_the_spec(layout, expected, invented_images):
    inputs, _ = images(invented_images, channels_last=layout).batch(0)
    assert inputs.is_contiguous(memory_format=expected)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("auto", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_the_forward_pass_has_the_precision_of_the_spec(precision, dtype, invented_images):
    class Linear(nn.Linear):
        def forward(self, x):
            result = super().forward(x.flatten(1))
            self.noted = result.dtype
            return result

    model = Linear(300, 3)
    task = images(invented_images, precision=precision)
    loss = task.loss(model, task.batch(0))
    assert model.noted == dtype
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(("tokens", "windows"), [(17, 1), (32, 1), (33, 2), (48, 2), (49, 3)])
def test_a_window_needs_the_token_after_it(tokens, windows, invented_text):
    task = language(invented_text)
    task.data.tokens["train"] = np.arange(tokens, dtype=np.uint16)
    assert task.examples("train") == windows
    last = task._windows("train", np.array([windows - 1]))
    assert last.shape == (1, 17)


def test_the_seed_of_an_augmentation_is_the_one_that_earlier_runs_had(invented_images, monkeypatch):
    """Another formula would be as random, but runs of one version of the code must agree."""
    task = images(invented_images, seed=3)
    seeds = generators_of(task, monkeypatch)
    for step, part in ((0, 0), (0, 1), (7, 2)):
        task.batch(step, part, 3)
    assert seeds == [3_027_009_081 + 0, 3_027_009_081 + 1, 3_027_009_081 + 7 * 1_009 + 2]


def test_a_model_of_a_fixed_image_size_sees_images_of_that_size(invented_images):
    """The crop's where there is one, the stored images' else."""
    model = ModelSpec(family="vit", width=16, depth=1, heads=2, patch=2, image_size=8, channels=3)
    run = image_run(training={"batch": 12, "crop": 8}).model_copy(update={"model": model})
    assert make_task(run, invented_images, CPU).example().shape == (1, 3, 8, 8)
    whole = image_run(training={"batch": 12}).model_copy(update={"model": model})
    with pytest.raises(LowrankError, match="8, but the model sees images of 10 x 10"):
        make_task(whole, invented_images, CPU)

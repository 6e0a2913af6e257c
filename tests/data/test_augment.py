"""Augmentation on the device: what it promises, against plain loops."""

import math

import pytest
import torch
from torch.nn import functional as F

from lowrank.data.augment import AREA, ASPECT, Augment, _random_boxes, normalise
from lowrank.errors import LowrankError

torch.set_num_threads(1)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def images(count=40, height=8, width=8, channels=3):
    generator = torch.Generator().manual_seed(7)
    return torch.randint(
        256, (count, height, width, channels), generator=generator, dtype=torch.uint8
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(batch, mean=MEAN, std=STD):
    """Undo the normalisation: (N, C, H, W) floats to (N, H, W, C), 0 to 255."""
    back = batch * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    return (back * 255).permute(0, 2, 3, 1)


def test_normalisation_is_the_textbook_formula():
    batch = images()
    expected = torch.stack([(batch[..., c] / 255 - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    torch.testing.assert_close(normalise(batch, MEAN, STD), expected)


def test_normalisation_by_own_statistics_gives_mean_0_and_deviation_1():
    batch = images(500)
    scaled = batch.double().flatten(0, 2) / 255
    result = normalise(batch, scaled.mean(0).tolist(), scaled.std(0).tolist())
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(result.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_every_result_is_one_crop_of_the_padded_image_flipped_or_not():
    batch, pad = images(400), 2
    results = pixels(Augment(MEAN, STD, padding=pad, flip=True)(batch, seeded())).round()
    padded = torch.zeros(400, 12, 12, 3)
    padded[:, pad:-pad, pad:-pad] = batch
    seen = set()
    for image, result in zip(padded, results, strict=True):
        matches = []
        for top in range(2 * pad + 1):
            for left in range(2 * pad + 1):
                crop = image[top : top + 8, left : left + 8]
                for flipped in (False, True):
                    if torch.equal(crop.flip(1) if flipped else crop, result):
                        matches.append((top, left, flipped))
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 50, "every offset and both sides occur"


def test_half_of_the_images_are_flipped_and_nothing_else_happens():
    batch = images(2000)
    results = pixels(Augment(MEAN, STD, flip=True)(batch, seeded())).round()
    same = (results == batch).all((1, 2, 3))
    flipped = (results == batch.flip(2)).all((1, 2, 3))
    assert (same ^ flipped).all()
    assert 0.46 < flipped.float().mean() < 0.54


def test_without_options_training_equals_evaluation():
    augment = Augment(MEAN, STD)
    assert torch.equal(augment(images(), seeded()), augment.evaluate(images()))


@pytest.mark.parametrize(
    "options",
    [{"padding": 2, "flip": True}, {"random_resized_crop": True, "flip": True}],
)
def test_the_generator_alone_decides(options):
    augment = Augment(MEAN, STD, **options)
    first = augment(images(), seeded(5))
    augment(images(), seeded(6))
    assert torch.equal(first, augment(images(), seeded(5)))
    assert not torch.equal(first, augment(images(), seeded(6)))


def test_boxes_stay_inside_and_keep_area_and_aspect():
    boxes = _random_boxes(images(3000, 40, 50), seeded())
    top, left, height, width = boxes.unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 40).all()
    assert (left + width <= 50).all()
    area, aspect = height * width / 2000, width / height
    assert AREA[0] * 0.9 < area.min() < 0.1
    assert 0.85 < area.max() <= 1
    assert ((height + 0.5) * ASPECT[0] <= (width + 0.5) * 1.05).all()
    assert ((width - 0.5) <= (height + 0.5) * ASPECT[1]).all()
    assert (aspect > 1).float().mean() == pytest.approx(0.52, abs=0.06)


def test_images_too_long_for_any_draw_give_their_centre():
    boxes = _random_boxes(images(200, 4, 400), seeded())
    assert (boxes == torch.tensor([0.0, 197.0, 4.0, 5.0])).all(1).any()
    assert (boxes[:, 1] + boxes[:, 3] <= 400).all()


@pytest.mark.parametrize(
    ("shape", "box"), [((60, 2), [28, 0, 3, 2]), ((2, 60), [0, 28, 2, 3]), ((80, 1), [39, 0, 1, 1])]
)
def test_the_centre_has_the_longest_side_that_its_aspect_allows(shape, box):
    """Rounded: 2 / (3/4) is 3 and 2 * 4/3 is 3, too. No draw fits such an image."""
    assert (_random_boxes(images(50, *shape), seeded()) == torch.tensor(box)).all()


@pytest.mark.parametrize("crop", [None, 5, 20])
def test_random_resized_crop_equals_cutting_and_interpolating_one_by_one(crop):
    batch = images(60, 20, 20)
    result = pixels(Augment(MEAN, STD, random_resized_crop=True, crop=crop)(batch, seeded(3)))
    side = crop or 20
    for image, box, found in zip(batch, _random_boxes(batch, seeded(3)), result, strict=True):
        top, left, height, width = (int(number) for number in box)
        cut = image[top : top + height, left : left + width].permute(2, 0, 1).float()
        expected = F.interpolate(cut[None], (side, side), mode="bilinear", align_corners=False)
        torch.testing.assert_close(found, expected[0].permute(1, 2, 0), atol=0.01, rtol=0)


def test_random_resized_crops_are_flipped_by_halves():
    batch = images(400, 12, 12)
    plain = Augment(MEAN, STD, random_resized_crop=True)(batch, seeded())
    both = Augment(MEAN, STD, random_resized_crop=True, flip=True)(batch, seeded())
    same = (both - plain).abs().amax((1, 2, 3)) < 1e-4
    flipped = (both - plain.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    assert (same ^ flipped).all()
    assert 0.4 < flipped.float().mean() < 0.6


def test_evaluation_takes_the_centre():
    batch = images(5, 8, 10)
    result = pixels(Augment(MEAN, STD, padding=3, flip=True, crop=4).evaluate(batch)).round()
    assert (result == batch[:, 2:6, 3:7]).all()


def test_a_crop_smaller_than_the_image_needs_no_padding():
    assert Augment(MEAN, STD, crop=6)(images(), seeded()).shape == (40, 3, 6, 6)


def test_one_channel_works():
    augment = Augment((0.3,), (0.4,), padding=1, flip=True)
    assert augment(images(channels=1), seeded()).shape == (40, 1, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": (0.2, 0.0, 0.2)}, "one positive std per channel"),
        ({"std": (0.2,)}, "one positive std per channel"),
        ({"padding": 2, "random_resized_crop": True}, "exclude each other"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(LowrankError, match=message):
        Augment(**{"mean": MEAN, "std": STD, **options})


def test_images_of_the_wrong_type_or_shape_are_refused():
    for wrong in (images().float(), images(channels=1), images()[0]):
        with pytest.raises(LowrankError, match="cannot be augmented"):
            Augment(MEAN, STD)(wrong, seeded())
    with pytest.raises(LowrankError, match="crop 9 is larger"):
        Augment(MEAN, STD, crop=9).evaluate(images())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 8, 15, 16])
@pytest.mark.parametrize("how", ["evaluate", "pad", "resize"])
def test_strides_are_those_of_the_memory_order_asked_for(how, count, channels):
    batch, crop = images(count, 9, 7, channels), None if how == "pad" else 6
    for last, axes in ((False, (0, 1, 2, 3)), (True, (0, 2, 3, 1))):
        augment = Augment(
            MEAN[:channels],
            STD[:channels],
            crop=crop,
            random_resized_crop=how == "resize",
            channels_last=last,
        )
        result = augment.evaluate(batch) if how == "evaluate" else augment(batch, seeded())
        sizes = [result.shape[axis] for axis in axes]
        expected = {axis: math.prod(sizes[place + 1 :]) for place, axis in enumerate(axes)}
        assert result.stride() == tuple(expected[axis] for axis in range(4))

"""Random crops, flips and normalisation of whole batches, on the device the images are on.

Nothing is remembered between calls: the generator, seeded from seed and step, decides everything,
so that a resumed run needs no state. Numbers are drawn on the generator's own device; with one on
the CPU every device crops alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lowrank.errors import LowrankError

AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
ATTEMPTS = 10
"""Random resized crops: share of the area, width over height, and draws before the centre is taken
(Szegedy et al. 2015, with torchvision's fallback)."""


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels (N, H, W, C) in 0 to 255 to float32 (N, C, H, W) of zero mean and unit deviation.

    `mean` and `std` are per channel, of pixels in 0 to 1. The memory order stays that of the input.
    """
    std_C11, mean_C11 = (
        torch.tensor(values, dtype=torch.float32, device=images.device)[:, None, None]
        for values in (std, mean)
    )
    pixels = images.permute(0, 3, 1, 2).float()
    return torch.addcmul(-mean_C11 / std_C11, pixels, 1 / (255 * std_C11))


@dataclass(frozen=True)
class Augment:
    """What happens to images between the array and the model."""

    mean: Sequence[float]
    std: Sequence[float]
    """Per channel, of pixels in 0 to 1."""
    padding: int = 0
    """Black pixels added on every side before a random crop."""
    flip: bool = False
    """Mirror half of the images left to right."""
    random_resized_crop: bool = False
    """Crop a random part, of random size and aspect, and resize it."""
    crop: int | None = None
    """Side of what the model sees; None: the size of the stored images."""
    channels_last: bool = False
    """Memory order of the result: (N, H, W, C) as images are stored, or (N, C, H, W)."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise LowrankError(
                f"Mean {self.mean} and std {self.std} cannot normalise: one positive std per "
                "channel is needed."
            )
        if self.random_resized_crop and self.padding:
            raise LowrankError(
                f"padding {self.padding} and random_resized_crop exclude each other: set one."
            )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Training: uint8 (N, H, W, C) to augmented, normalised float32 (N, C, crop, crop)."""
        height, width = self._side(images)
        if self.random_resized_crop:
            boxes = _random_boxes(images, generator)
            flips = self._flips(images, generator)
            return self._finish(_resample(images, boxes, height, width, flips))
        padded = F.pad(images, (0, 0, self.padding, self.padding, self.padding, self.padding))
        top = self._offsets(padded.shape[1] - height, images, generator)
        left = self._offsets(padded.shape[2] - width, images, generator)
        batch = torch.arange(len(images), device=images.device)
        # A view of all crops there are, (N, tops, lefts, C, height, width), of which one an image is copied.
        crops = padded.unfold(1, height, 1).unfold(2, width, 1)[batch, top, left]
        if self.flip:
            flips = self._flips(images, generator)
            crops = torch.where(flips[:, None, None, None], crops.flip(-1), crops)
        return self._finish(crops.permute(0, 2, 3, 1))

    def evaluate(self, images: Tensor) -> Tensor:
        """Evaluation: the centre crop, normalised, and nothing random."""
        height, width = self._side(images)
        top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
        return self._finish(images[:, top : top + height, left : left + width])

    def _finish(self, images: Tensor) -> Tensor:
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        # A clone, since `contiguous` leaves the strides of one channel, which count as both orders.
        return normalise(images, self.mean, self.std).clone(memory_format=order)

    def _side(self, images: Tensor) -> tuple[int, int]:
        """Height and width of the result; checks that the images can give it."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != len(self.mean):
            raise LowrankError(
                f"Images of type {images.dtype} and shape {tuple(images.shape)} cannot be "
                f"augmented: uint8 (N, H, W, {len(self.mean)}) is expected."
            )
        if self.crop is None:
            return images.shape[1], images.shape[2]
        if self.crop > min(images.shape[1:3]):
            raise LowrankError(
                f"crop {self.crop} is larger than the images, {images.shape[1]} x "
                f"{images.shape[2]}."
            )
        return self.crop, self.crop

    def _offsets(self, room: int, images: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.randint(
            room + 1, (len(images),), generator=generator, device=generator.device
        )
        return drawn.to(images.device)

    def _flips(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if not self.flip:
            return torch.zeros(len(images), dtype=torch.bool, device=images.device)
        return self._offsets(1, images, generator).bool()


def _random_boxes(images: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 4) of top, left, height, width in pixels: the first of `ATTEMPTS` draws that fits, else
    the largest centre box of an allowed aspect."""
    count, (full_height, full_width) = len(images), images.shape[1:3]
    draw = torch.rand(4, count, ATTEMPTS, generator=generator, device=generator.device)
    area = full_height * full_width * (AREA[0] + draw[0] * (AREA[1] - AREA[0]))
    log_low, log_high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect = torch.exp(log_low + draw[1] * (log_high - log_low))
    height, width = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (height >= 1) & (height <= full_height) & (width >= 1) & (width <= full_width)
    first = fits.int().argmax(1, keepdim=True)
    drawn = torch.cat(
        [
            x.gather(1, first)
            for x in (
                (draw[2] * (full_height - height + 1)).floor(),
                (draw[3] * (full_width - width + 1)).floor(),
                height,
                width,
            )
        ],
        dim=1,
    )
    tallest = min(full_height, round(full_width / ASPECT[0]))
    widest = min(full_width, round(full_height * ASPECT[1]))
    centre = torch.tensor(
        [(full_height - tallest) // 2, (full_width - widest) // 2, tallest, widest],
        dtype=drawn.dtype,
        device=drawn.device,
    )
    return torch.where(fits.any(1, keepdim=True), drawn, centre).to(images.device)


def _resample(images: Tensor, boxes: Tensor, height: int, width: int, flips: Tensor) -> Tensor:
    """Cut (N, H, W, C) to boxes and resize them, bilinear as `interpolate` without antialiasing."""
    rows = _positions(boxes[:, 0], boxes[:, 2], height)
    columns = _positions(boxes[:, 1], boxes[:, 3], width)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    y = (2 * rows + 1) / images.shape[1] - 1
    x = (2 * columns + 1) / images.shape[2] - 1
    grid = torch.stack(
        [x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3
    )
    cut = F.grid_sample(images.permute(0, 3, 1, 2).float(), grid, align_corners=False)
    return cut.permute(0, 2, 3, 1)


def _positions(start: Tensor, length: Tensor, count: int) -> Tensor:
    """(N, count) source pixels of an axis, kept inside the box: nothing beyond it is seen."""
    middles = (torch.arange(count, device=start.device) + 0.5) / count
    inside = (middles * length[:, None] - 0.5).clamp(min=0)
    return start[:, None] + torch.minimum(inside, length[:, None] - 1)

"""Labelled images, decoded once into one uint8 array per split, and read back from there."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from lowrank.data import originals
from lowrank.data.image_sources import Rows, read_rows
from lowrank.data.images_spec import ImageSpec
from lowrank.data.pixels import eight_bit
from lowrank.data.sources import quiet_datasets
from lowrank.errors import LowrankError, unknown
from lowrank.files import (
    MANIFEST,
    atomic_dir,
    check_manifest,
    digest,
    read_json,
    scratch,
    write_manifest,
)
from lowrank.progress import Progress, say
from lowrank.versions import VERSIONS, check_prepared

if TYPE_CHECKING:
    import torch

SPLITS = ("train", "validation", "test")
CHUNK = 256
"""Images held in memory at a time while decoding."""
SMALL = 64 * 64 * 3
"""Bytes of an image up to which threads fight over the interpreter for longer than they decode
(32 x 32 WebP on 2 cores: 0.20 ms an image without threads, 0.33 ms with two)."""
RESIDENT_LIMIT = 8 * 2**30
"""Bytes above which a split stays memory-mapped instead of moving to the device."""

Pixels = NDArray[np.uint8]


def prepare_images(
    spec: ImageSpec, folder: Path | str, *, state: str | None = None
) -> dict[str, Any]:
    """Decode a data set into `folder` and return its manifest.

    Writes `images-{split}.npy` (uint8, N H W C), `labels-{split}.npy` (int64) and a manifest with
    classes, counts, skipped images, shape, mean and standard deviation of each channel over the
    training split (in 0 to 1), and a digest of all that. The folder appears complete or not at all;
    the `datasets` library's cache stands beside it meanwhile. What the hub sends is kept in the hub's
    own cache (HF_HOME), so that a broken download need not start again. `state` is the word for the
    present state of the user's files (`originals`).
    """
    folder = Path(folder)
    with (
        atomic_dir(folder) as target,
        scratch(folder) as cache,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        record = originals.take(spec, folder, state)
        with quiet_datasets() if spec.source != "embedded" else nullcontext():
            rows, classes, notes = read_rows(spec, str(cache))
        writer = _Writer(spec, target, pool)
        for name in SPLITS:
            writer.write(name, rows[name])
        if count := sum(writer.transparent.values()):
            notes.append(f"{count} images are transparent: they are laid on {spec.background}.")
        for note in notes:
            say(note)
        originals.keep(record, target)
        pixels = writer.counts["train"] * writer.shape[0] * writer.shape[1]
        mean = writer.moments[0] / pixels / 255
        facts = {
            "classes": classes,
            "counts": writer.counts,
            "skipped": writer.skipped,
            "shape": list(writer.shape),
            "mean": mean.tolist(),
            "std": np.sqrt(writer.moments[1] / pixels / 255**2 - mean**2).tolist(),
        }
        names = [f"{kind}-{name}.npy" for kind in ("images", "labels") for name in SPLITS]
        files = write_manifest(target, names)["files"]
        source = "scikit-learn's digits" if spec.path is None else Path(spec.path).name
        return write_manifest(
            target,
            names,
            kind="images",
            version=VERSIONS["images"],
            settings=originals.made_from(spec),
            source=source,
            digest=digest([facts, files]),
            **facts,
            transparent=writer.transparent,
            notes=notes,
        )


class _Writer:
    """Streams decoded images into the arrays of one data set and counts them."""

    def __init__(self, spec: ImageSpec, folder: Path, pool: ThreadPoolExecutor) -> None:
        self.spec, self.folder, self.pool = spec, folder, pool
        self.mode = {1: "L", 3: "RGB", None: None}[spec.channels]
        self.shape: tuple[int, ...] = ()
        self.moments: NDArray[np.float64]
        self.counts: dict[str, int] = {}
        self.skipped: dict[str, int] = {}
        self.transparent = dict.fromkeys(SPLITS, 0)

    def write(self, name: str, rows: Rows) -> None:
        """Write one split; the first image of the first split decides shape and channels."""
        path = self.folder / f"images-{name}.npy"
        images: Any = None
        labels, kept = np.empty(len(rows), np.int64), 0
        moments: Any = 0
        for row, pixels, sums, transparent in self._decoded(name, rows):
            self.transparent[name] += transparent
            if images is None:
                if not self.shape:
                    self.shape = pixels.shape
                    self.mode = "L" if pixels.shape[2] == 1 else "RGB"
                images = _new_array(path, (len(rows), *self.shape))
            if pixels.shape != self.shape:
                raise LowrankError(
                    f"Image {rows.numbers[row]} of {rows.origin} has {pixels.shape[0]} x "
                    f"{pixels.shape[1]} pixels, the first one {self.shape[0]} x {self.shape[1]}: "
                    "set size."
                )
            images[kept], labels[kept] = pixels, rows.labels[row]
            moments = moments + sums
            kept += 1
        if images is None:
            raise LowrankError(
                f"Not one of the {len(rows)} images of {rows.origin} can be decoded."
            )
        images.flush()
        if kept < len(rows):
            _shorten(path, kept)
        np.save(self.folder / f"labels-{name}.npy", labels[:kept])
        self.counts[name], self.skipped[name] = kept, len(rows) - kept
        if name == "train":
            self.moments = moments

    def _decoded(
        self, name: str, rows: Rows
    ) -> Iterator[tuple[int, Pixels, NDArray[np.int64], bool]]:
        """Position and what `_decode` gives of every row that can be decoded."""
        with Progress(f"Decoding {name}", len(rows), "images") as progress:
            start = 0
            while start < len(rows):
                # Until one image has shown their shape, go one by one.
                stop = min(start + (CHUNK if self.shape else 1), len(rows))
                small = self.spec.size is None and math.prod(self.shape) <= SMALL
                apply = map if small else self.pool.map
                values = rows.read(rows.numbers[start:stop])
                decode = partial(
                    _decode, mode=self.mode, size=self.spec.size, background=self.spec.background
                )
                for row, result in enumerate(apply(decode, values), start):
                    if not isinstance(result, Exception):
                        yield row, *result
                    elif isinstance(result, LowrankError) or not self.spec.skip_corrupt:
                        raise _undecodable(rows, row, values[row - start], result)
                progress.advance(stop - start)
                start = stop


def _decode(
    value: Any, mode: str | None, size: int | None, background: str
) -> tuple[Pixels, NDArray[np.int64], bool] | Exception:
    """One raw image as (H, W, C) with its channels' sums and sums of squares and whether it was
    transparent, or what prevents it.

    `mode` and `background` are those of `eight_bit`. Where `size` is given, the shorter side is
    resized to it (bilinear, antialiased) and the centre cropped.
    """
    from PIL import Image, ImageOps

    try:
        if value is None:
            raise ValueError("there is no image")
        image: Any
        if isinstance(value, np.ndarray):
            image = Image.fromarray(value)
        else:
            import datasets

            image = datasets.Image().decode_example(value)
        image, transparent = eight_bit(image, mode, background)
        if size is not None and image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
        wide = pixels.reshape(-1, pixels.shape[2]).astype(np.int64)
        return pixels, np.stack([wide.sum(0), (wide * wide).sum(0)]), transparent
    except Exception as error:  # decoders raise anything, from OSError to SyntaxError
        return error


def _undecodable(rows: Rows, row: int, value: Any, error: Exception) -> LowrankError:
    from PIL import UnidentifiedImageError

    reason = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, UnidentifiedImageError):
        reason = "it is of no known image format"
    path = value.get("path") if isinstance(value, dict) else None
    which = f"Image {rows.numbers[row]} of {rows.origin}{f' ({path})' if path else ''}"
    if isinstance(error, LowrankError):
        return LowrankError(f"{which} cannot be used: {reason}.")
    return LowrankError(
        f"{which} cannot be decoded ({reason}): repair it, or set skip_corrupt to leave such images "
        "out."
    )


def _new_array(path: Path, shape: tuple[int, ...]) -> Any:
    """An array on disk whose room is taken at once: a full disk is an OSError now, instead of a
    bus error at some later write to a page that has no room."""
    array = open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not every file system can
                    raise
    return array


def _shorten(path: Path, count: int) -> None:
    """Keep the first `count` images of an array on disk, a chunk at a time."""
    long = np.load(path, mmap_mode="r")
    short = _new_array(path.with_suffix(".short"), (count, *long.shape[1:]))
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        short[start:stop] = long[start:stop]
    short.flush()
    os.replace(path.with_suffix(".short"), path)


@dataclass(frozen=True)
class ImageData:
    """A prepared data set: memory-mapped images, labels and manifest."""

    manifest: dict[str, Any]
    images: dict[str, NDArray[np.uint8]]
    """By split, (N, H, W, C), read-only."""
    labels: dict[str, NDArray[np.int64]]
    """By split, (N,)."""

    @property
    def digest(self) -> str:
        """16 hexadecimal characters that stand for the content."""
        return self.manifest["digest"]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""
        return self.manifest["classes"]

    def tensor(
        self, split: str, device: torch.device | str = "cpu", limit: int = RESIDENT_LIMIT
    ) -> torch.Tensor | Pixels:
        """All images of a split, uint8 (N, H, W, C): as a tensor on the device if they take at most
        `limit` bytes, else the memory-mapped array, of which only the rows asked for are read."""
        import torch

        if split not in self.images:
            raise unknown("split", split, self.images)
        if self.images[split].nbytes <= limit:
            return torch.from_numpy(np.array(self.images[split])).to(device)
        return self.images[split]


def load_images(folder: Path | str, verify: bool = True) -> ImageData:
    """Open a prepared data set; with `verify`, damage to any file is a LowrankError that names it
    (this reads every byte once)."""
    folder = Path(folder)
    manifest = check_manifest(folder) if verify else read_json(folder / MANIFEST)
    if manifest.get("kind") != "images":
        raise LowrankError(
            f"{folder} holds a data set of kind {manifest.get('kind')!r}: images are expected."
        )
    check_prepared(folder, manifest, "images")
    return ImageData(
        manifest,
        {name: np.load(folder / f"images-{name}.npy", mmap_mode="r") for name in SPLITS},
        {name: np.load(folder / f"labels-{name}.npy") for name in SPLITS},
    )

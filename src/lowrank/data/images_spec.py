"""What a configuration may say about an image data set."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ImageSpec(BaseModel):
    """Labelled images: where they come from and how they become one array per split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["images"] = Field("images", description="What the data are.")
    source: Literal["embedded", "local", "hub"] = Field(
        "embedded",
        description="embedded: scikit-learn's 1,797 handwritten digits, no network. local: parquet "
        "files or image folders under `path`. hub: the data set `path` of the Hugging Face hub.",
    )
    path: str | None = Field(
        None,
        description="local: the data set's folder. hub: its name, such as uoft-cs/cifar100 or "
        "ILSVRC/imagenet-1k.",
    )
    train_split: str = Field(
        "train",
        description="hub: name of the training split. local: a folder with one folder of images "
        "per class (`.`: `path` itself), a parquet file, a pattern of parquet files, or the beginning "
        "of their names; relative to `path`. Its classes are those of the data set: other splits' are "
        "matched by name.",
    )
    validation_split: str | None = Field(
        None,
        description="A validation split, named as `train_split` is; null: a stratified share of "
        "the training split is held out.",
    )
    test_split: str | None = Field(
        None,
        description="The split that is read once, named as `train_split` is (ImageNet: validation, "
        "for its test labels are secret); null: `test` if there is one, else a stratified share of "
        "the training split is held out.",
    )
    image_column: str = Field(
        "image", description="Column of the images, encoded (CIFAR-100: img)."
    )
    label_column: str = Field(
        "label", description="Column of the labels, numbers or names (CIFAR-100: fine_label)."
    )
    size: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Side in pixels: the shorter side is resized to it and the centre cropped; "
        "null: images stay as they are and must all have one size.",
    )
    channels: Literal[1, 3] | None = Field(
        None,
        description="1: grey. 3: colour. null: as the first training image has it. Images of 16 bits "
        "are scaled to 8; floating-point images are not supported.",
    )
    background: Literal["white", "black"] = Field(
        "white", description="What is laid under images that are transparent."
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of the training split held out for validation."
    )
    test_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the training split held out for the test where there is no test "
        "split, as of the embedded digits.",
    )
    split_seed: int = Field(
        0, ge=0, lt=2**63, description="Decides which images are held out or left out."
    )
    max_images: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Images kept of each split at most, the same share of every class.",
    )
    skip_corrupt: bool = Field(
        False,
        description="Leave out images that cannot be decoded and count them in the manifest, "
        "instead of stopping at the first.",
    )

    @model_validator(mode="after")
    def _path_where_needed(self) -> ImageSpec:
        if self.source != "embedded" and not self.path:
            raise ValueError(f"path is needed for the source {self.source}")
        return self

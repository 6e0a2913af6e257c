"""What the configuration says about text data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lowrank.data.local_files import Where


class TextSpec(BaseModel):
    """Which text is read, how it is split, and how it becomes tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["text"] = Field("text", description="What the data are.")
    source: Literal["embedded", "local", "hub"] = Field(
        "embedded",
        description="Where the text comes from: `embedded` is the documentation inside the "
        "installed Python packages (no download), `local` are files of yours, `hub` is a data "
        "set of the Hugging Face hub.",
    )
    name: str | None = Field(
        None, description="Hub only: name of the data set, such as `stanfordnlp/imdb`."
    )
    config: str | None = Field(
        None, description="Hub only: configuration of the data set, such as `wikitext-103-raw-v1`."
    )
    revision: str | None = Field(
        None, description="Hub only: commit, tag or branch of the data set; null takes the newest."
    )
    train: Where = Field(
        None,
        description="Training split. Local: a file, a glob or a folder, or a list of them "
        "(.parquet, .arrow, .json, .jsonl, .ndjson, .csv, .tsv or text, each also compressed as .gz, "
        ".bz2, .xz, .lzma, .zst, .lz4 or a .zip of one file). Text is what ends in .txt, .text, .md, "
        ".markdown, .rst, .tex, .log, .en, .heldout, .raw, .tokens or in nothing; in a folder these "
        "others are read only where nothing else is. Hub: the split's name there; null means `train`.",
    )
    validation: Where = Field(
        None,
        description="Validation split, given like `train`. Null means the hub's `validation` if "
        "there is one, and otherwise documents taken out of the training split.",
    )
    test: Where = Field(
        None,
        description="Test split, given like `train`. Null means the hub's `test` if there is "
        "one, and otherwise documents taken out of the training split.",
    )
    column: str = Field(
        "text", min_length=1, description="Column that holds the text, one document per row."
    )
    text_unit: Literal["line", "paragraph", "file"] = Field(
        "line", description="Local text files only: what counts as one document."
    )
    tokenizer: str | None = Field(
        None,
        description="Pretrained tokeniser: a name on the hub, such as `gpt2`, or the path of a "
        "`tokenizer.json`. Null trains a byte-level BPE on the training split.",
    )
    vocabulary: int = Field(
        512,
        ge=257,
        le=10_000_000,
        description="Number of tokens of the trained tokeniser: 256 bytes, the document separator "
        "and the merges. A pretrained tokeniser brings its own.",
    )
    validation_fraction: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Share of the distinct documents that becomes the validation split where none "
        "is given; with `max_characters`, also its share of the characters.",
    )
    test_fraction: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Share of the distinct documents that becomes the test split where none is "
        "given; with `max_characters`, also its share of the characters.",
    )
    max_characters: int | None = Field(
        None,
        ge=1000,
        le=10**13,
        description="At most this many characters in all three splits together, the same ones "
        "every time; null takes everything.",
    )
    split_seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Seed that decides which documents are split off, and which are kept under "
        "`max_characters`.",
    )

    @model_validator(mode="after")
    def _keys_fit_the_source(self) -> TextSpec:
        if self.source == "hub" and not self.name:
            raise ValueError("source 'hub' needs `name`, such as 'stanfordnlp/imdb'")
        if self.source == "local" and not self.train:
            raise ValueError("source 'local' needs `train`: a file, a glob or a folder")
        foreign = {
            "embedded": ("name", "config", "revision", "train", "validation", "test"),
            "local": ("name", "config", "revision"),
            "hub": (),
        }[self.source]
        for key in foreign:
            if getattr(self, key) is not None:
                raise ValueError(f"source '{self.source}' does not support `{key}`: remove it")
        if self.source == "hub":
            for key in ("train", "validation", "test"):
                if isinstance(getattr(self, key), tuple):
                    raise ValueError(f"source 'hub' takes one split name as `{key}`, not a list")
        return self

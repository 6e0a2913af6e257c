"""Prepared text: a folder of token files that training maps into memory.

`prepare_text` makes the folder from any source, `load_text` opens it.
"""

from __future__ import annotations

import math
import mmap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowrank.data import embedded, originals, sources
from lowrank.data.spec import TextSpec
from lowrank.errors import LowrankError
from lowrank.exponential import exp
from lowrank.files import atomic_dir, check_manifest, digest, scratch, sha256, write_manifest
from lowrank.versions import VERSIONS, check_prepared

if TYPE_CHECKING:
    import torch

TOKENIZER = "tokenizer.json"
LARGE = 1 << 26
"""Bytes of tokens up to which a process may hold all of them."""


def tokens_file(split: str) -> str:
    """The name of a split's token file."""
    return f"tokens-{split}.bin"


def prepare_text(
    spec: TextSpec,
    folder: Path | str,
    *,
    workers: int | None = None,
    root: Path | None = None,
    cache: Path | None = None,
    state: str | None = None,
) -> Path:
    """Read, split and tokenise text into `folder`, which is replaced as a whole or not at all.

    The folder holds `tokens-{train,validation,test}.bin`, `tokenizer.json` and `manifest.json` with
    the counts, the source and the SHA-256 of every file. `workers` bounds processes and threads
    (None: the cores there are, at most 8) and does not change the result. Relative paths in `spec`
    count from `root` (None: the current folder). `cache` keeps the working files of `datasets`;
    without it they lie beside `folder` meanwhile. `state` is the word for the present state of the
    user's files (`originals`). Raises LowrankError for bad input.
    """
    from lowrank.data import text_splits, text_tokens

    folder = Path(folder)
    workers = embedded.cores() if workers is None else workers

    def read_embedded() -> sources.Loaded:
        corpus = embedded.documents(max_characters=spec.max_characters, workers=workers)
        found, versions = embedded.digest(), embedded.versions()
        if found != embedded.DIGEST:
            warnings.warn(
                "The installed packages are not those of the lock, so the embedded text is another "
                "corpus than that of the published results; `pip install --no-deps -r requirements.lock` "
                "brings those of the lock.",
                stacklevel=2,
            )
        return {"train": corpus}, {"kind": "embedded", "digest": found, "versions": versions}

    with (
        scratch(folder) as temporary,
        text_tokens.tokenizer_threads(workers),
        atomic_dir(folder) as new,
    ):
        record = originals.take(spec, folder, state, root)
        loaded, source = sources.load_splits(
            spec,
            cache=Path(cache or temporary),
            embedded=read_embedded,
            root=root,
            text_unit=spec.text_unit,
        )
        given, empty = {}, 0
        for split, dataset in loaded.items():
            given[split], blank = text_splits.survey(split, dataset, spec.column, spec.split_seed)
            empty += blank
        splits, shared = text_splits.divide(given, spec)

        tokenizer = text_tokens.get_tokenizer(spec, splits["train"], root)
        tokenizer.save(str(new / TOKENIZER))
        counts = {
            split: text_tokens.write_tokens(new / tokens_file(split), part, tokenizer, split)
            for split, part in splits.items()
        }
        vocabulary = text_tokens.vocabulary_size(tokenizer)
        content = {
            "kind": "text",
            "vocabulary": vocabulary,
            "dtype": np.dtype(text_tokens.token_type(vocabulary)).name,
            "eos_id": text_tokens.separator_id(tokenizer),
            "counts": counts,
        }
        originals.keep(record, new)
        names = [TOKENIZER, *map(tokens_file, splits)]
        hashes = {name: sha256(new / name) for name in names}
        write_manifest(
            new,
            names,
            **content,
            version=VERSIONS["text"],
            settings=originals.made_from(spec),
            source=source,
            removed={"empty": empty, "in another split": shared},
            tokenizer_sha256=hashes[TOKENIZER],
            digest=digest({**content, "files": hashes}),
        )
    return folder


@dataclass(frozen=True)
class TextData:
    """An opened folder of prepared text."""

    folder: Path
    manifest: dict[str, Any]
    tokens: dict[str, NDArray[Any]]
    """The tokens of each split, mapped into memory, read-only."""
    large: dict[str, mmap.mmap] = field(default_factory=dict)
    """The mappings of large splits: what a batch has read there is let go, or a long run would hold all."""

    @property
    def vocabulary(self) -> int:
        """The number of different tokens."""
        return self.manifest["vocabulary"]

    @property
    def digest(self) -> str:
        """16 hexadecimal characters that stand for the content."""
        return self.manifest["digest"]

    def counts(self, split: str) -> dict[str, int]:
        """Tokens (separators included), words, bytes and documents of a split."""
        return self.manifest["counts"][split]

    def measures(self, split: str, loss: float) -> dict[str, float]:
        """What a loss in nats a token on a split is as `perplexity` a token, `word_perplexity` and
        `bits_per_byte`; a perplexity that no float can hold is infinite."""
        counts = self.counts(split)
        words = counts["words"] or math.nan  # there may be tokens and no word
        return {
            "perplexity": exp(loss),
            "word_perplexity": exp(loss * counts["tokens"] / words),
            "bits_per_byte": loss * counts["tokens"] / counts["bytes"] / math.log(2),
        }

    def batch(self, split: str, indices: Sequence[int] | NDArray, length: int) -> torch.Tensor:
        """Windows of `length` tokens and the one after, starting at the tokens `indices`.

        Returns int64 of shape (len(indices), length + 1): inputs are `[:, :-1]`, targets `[:, 1:]`.
        Raises LowrankError if a window does not lie within the split.
        """
        import torch

        tokens = self.tokens[split]
        starts = np.asarray(indices, dtype=np.int64)
        last = len(tokens) - length - 1
        if starts.size and (starts.min() < 0 or starts.max() > last):
            raise LowrankError(
                f"Windows of {length} tokens from {starts.min()} to {starts.max()} leave the "
                f"{split} split of {len(tokens)} tokens: start between 0 and {last}."
            )
        windows = tokens[starts[:, None] + np.arange(length + 1)]
        if large := self.large.get(split):
            large.madvise(mmap.MADV_DONTNEED)
        return torch.from_numpy(windows.astype(np.int64))


def load_text(folder: Path | str) -> TextData:
    """Open a folder of prepared text; a missing or damaged file is a LowrankError that names it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise LowrankError(f"{folder} is missing: prepare the text first.")
    manifest = check_manifest(folder)
    if manifest.get("kind") != "text":
        raise LowrankError(
            f"{folder} holds {manifest.get('kind')}, not text: give a folder of text."
        )
    check_prepared(folder, manifest, "text")
    mapped = {
        split: _mapped(folder / tokens_file(split), manifest["dtype"])
        for split in manifest["counts"]
    }
    tokens = {split: values for split, (values, _) in mapped.items()}
    large = {split: mapping for split, (_, mapping) in mapped.items() if mapping is not None}
    return TextData(folder, manifest, tokens, large)


def _mapped(path: Path, kind: str) -> tuple[NDArray[Any], mmap.mmap | None]:
    """The tokens of a file, and the mapping that they lie in if it is large."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    large = len(mapped) > LARGE and hasattr(mmap, "MADV_DONTNEED")
    return np.frombuffer(mapped, dtype=kind), mapped if large else None

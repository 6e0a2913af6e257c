"""Text to tokens: a byte-level BPE trained here or a pretrained tokeniser, and the token files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import DTypeLike
from tokenizers import Tokenizer

from lowrank.data.local_files import find_tokenizer
from lowrank.data.spec import TextSpec
from lowrank.data.text_splits import Documents
from lowrank.errors import LowrankError
from lowrank.progress import Progress

SEPARATOR = "<|endoftext|>"
SEPARATORS = (SEPARATOR, "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
"""What pretrained tokenisers call the token between documents, the first one found being taken."""

TRAINING_CHARACTERS = 8_000_000
"""Merges are counted on about this much text at most. On the embedded text, counting them on 3 of
its 27 million characters changed the number of tokens by 0.02 %, in a fifth of the time."""


def token_type(vocabulary: int) -> DTypeLike:
    """The unsigned integer that holds every token: 2 bytes below 65,536 tokens, else 4."""
    if vocabulary > 2**32:
        raise LowrankError(f"A vocabulary of {vocabulary} is too large for tokens of 4 bytes.")
    return np.uint16 if vocabulary < 2**16 else np.uint32


def get_tokenizer(spec: TextSpec, train: Documents, root: Path | None = None) -> Tokenizer:
    """The pretrained tokeniser that the spec names, or one trained on the training split."""
    if spec.tokenizer is None:
        tokenizer = train_tokenizer(train, spec.vocabulary)
    else:
        tokenizer = _load_tokenizer(spec.tokenizer, root)
    # A text may well speak of the separator: only we may write the token, so read it as plain text.
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def train_tokenizer(documents: Documents, vocabulary: int) -> Tokenizer:
    """A byte-level BPE in the manner of GPT-2, merges counted on an even sample of the documents.

    The separator is token 0. A text too small for `vocabulary` gives fewer tokens.
    """
    tokenizer = Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[SEPARATOR],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Every k-th document: files are often sorted, so the first ones would not be a fair sample.
    stride = max(1, -(-int(documents.lengths.sum()) // TRAINING_CHARACTERS))
    sample = documents.take(np.arange(0, len(documents), stride))
    tokenizer.train_from_iterator(sample.batches(), trainer)
    return tokenizer


def _load_tokenizer(name: str, root: Path | None) -> Tokenizer:
    try:
        if path := find_tokenizer(name, root):
            return Tokenizer.from_file(str(path))
        if name.endswith(".json"):
            raise LowrankError(
                f"The tokeniser {(root or Path.cwd()) / Path(name).expanduser()} is missing: give a "
                "tokenizer.json that exists."
            )
        return Tokenizer.from_pretrained(name)
    except LowrankError:
        raise
    except Exception as error:  # the library raises bare Exception for damage and for the network
        reason = " ".join(str(error).split()).rstrip(".")
        raise LowrankError(f"The tokeniser '{name}' could not be loaded: {reason}.") from error


def separator_id(tokenizer: Tokenizer) -> int:
    """The token written after every document."""
    for name in SEPARATORS:
        if (token := tokenizer.token_to_id(name)) is not None:
            return token
    raise LowrankError(
        f"The tokeniser has no token to stand between documents: one of {', '.join(SEPARATORS)} "
        "is needed."
    )


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest token: the rows an embedding needs, unused numbers included."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def write_tokens(
    path: Path, documents: Documents, tokenizer: Tokenizer, split: str
) -> dict[str, int]:
    """Write the tokens of all documents, each followed by the separator, as raw integers.

    Returns counts of tokens (separators included), words (by white space), bytes (of UTF-8) and
    documents; words and bytes are those of the text alone.
    """
    size = vocabulary_size(tokenizer)
    kind = token_type(size)
    end = separator_id(tokenizer)
    counts = {"tokens": 0, "words": 0, "bytes": 0, "documents": len(documents)}
    total = int(documents.lengths.sum())
    with open(path, "wb") as file, Progress(f"Tokenising {split}", total, "characters") as progress:
        for texts in documents.batches():
            encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            ids = np.fromiter(chain.from_iterable([*one.ids, end] for one in encoded), np.int64)
            file.write(ids.astype(kind).tobytes())
            counts["tokens"] += len(ids)
            counts["words"] += sum(len(text.split()) for text in texts)
            counts["bytes"] += sum(len(text.encode()) for text in texts)
            progress.advance(sum(map(len, texts)))
    return counts


@contextmanager
def tokenizer_threads(workers: int | None) -> Iterator[None]:
    """Let `tokenizers` use at most `workers` threads (None: as the environment says).

    Its pool is made on first use, so a later, larger number has no effect; one thread always has.
    """
    wanted = {} if workers is None else {"TOKENIZERS_PARALLELISM": str(workers > 1).lower()}
    if workers is not None and workers > 1 and "RAYON_NUM_THREADS" not in os.environ:
        wanted["RAYON_NUM_THREADS"] = str(workers)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

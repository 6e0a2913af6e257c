"""Embeddings in factors: a table of vectors as a table of r numbers each, and a linear map of those."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.factor.dense import affine
from lowrank.factor.factorized import Factorized


class FactorizedEmbedding(Factorized):
    """The vectors (..., embedding_dim) of whole numbers (...): U (embedding_dim, r), V (num_embeddings, r).

    As a matrix it maps a number, one of num_embeddings inputs, to a vector. No gradient reaches the row of
    V at `padding_idx`.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rank: int,
        padding_idx: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (embedding_dim, num_embeddings)
        super().__init__(shape, rank, embedding_dim, bias=False, device=device, dtype=dtype)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx

    @property
    def dense_name(self) -> str:
        return "Embedding"

    @property
    def transposed(self) -> bool:
        return True

    def forward(self, numbers: Tensor) -> Tensor:
        return affine(F.embedding(numbers, self.V, self.padding_idx), self.U, None)

    def dense_weight(self, matrix: Tensor | None = None) -> Tensor:
        return (self.product() if matrix is None else matrix).mT

    def to_dense(self) -> nn.Module:
        """An nn.Embedding of the same vectors."""
        with torch.device("meta"):
            dense = nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx)
        weight = self.dense_weight().detach().contiguous()
        dense.weight = nn.Parameter(weight, requires_grad=self.U.requires_grad)
        return dense.train(self.training)

    def extra_repr(self) -> str:
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, rank={self.rank}, "
            f"padding_idx={self.padding_idx}"
        )

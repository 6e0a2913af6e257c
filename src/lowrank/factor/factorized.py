"""What every layer has whose weight is a product of two factors, W = U V^T."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowrank.errors import LowrankError


class Factorized(nn.Module):
    """A layer with factors U (..., m, r) and V (..., n, r), and a bias or None.

    The leading dimension is there only with more than one group. New factors are NaN until
    `set_factors` or `load_state_dict` fills them, so that a forgotten initialisation shows at once.
    """

    U: nn.Parameter
    V: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        matrix_shape: tuple[int, int],
        rank: int,
        outputs: int,
        bias: bool,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        m, n = matrix_shape
        if not 1 <= rank <= min(m, n):
            raise LowrankError(
                f"Rank {rank} does not fit a {m} x {n} matrix: use 1 to {min(m, n)}."
            )
        lead = (groups,) if groups > 1 else ()
        nan = float("nan")
        self.U = nn.Parameter(torch.full((*lead, m, rank), nan, device=device, dtype=dtype))
        self.V = nn.Parameter(torch.full((*lead, n, rank), nan, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(outputs, device=device, dtype=dtype)) if bias else None

    @property
    def rank(self) -> int:
        """The rank r of the product (of each group's product)."""
        return self.U.shape[-1]

    @property
    def factor_ids(self) -> frozenset[int]:
        """The same for layers that share their factors, and for no others."""
        return frozenset((id(self.U), id(self.V)))

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(m, n): outputs and inputs of the matrix that is factorised (of each group's matrix)."""
        return self.U.shape[-2], self.V.shape[-2]

    @property
    def dense_name(self) -> str:
        """The class of the dense layer in whose place this one stands."""
        raise NotImplementedError

    @property
    def transposed(self) -> bool:
        """Whether the dense layer's `weight` is laid out as V U^T."""
        return False

    @property
    def output_taps(self) -> int:
        """How many positions the second factor sums over: its fan-in is this times r."""
        return 1

    @property
    def weight(self) -> Tensor:
        """The dense weight, formed at each access: for modules that read a child's weight by
        themselves, as the fast path of nn.TransformerEncoderLayer does. Forward never reads it."""
        return self.dense_weight()

    def product(self) -> Tensor:
        """The matrix U V^T (..., m, n), for conversion and tests: forward never forms it."""
        return self.U @ self.V.mT

    def set_factors(self, U: Tensor, V: Tensor) -> None:
        """Copy values into the factors, keeping their device and precision; shapes must agree."""
        for name, new, old in (("U", U, self.U), ("V", V, self.V)):
            if new.shape != old.shape:
                raise LowrankError(
                    f"Factor {name} has shape {tuple(new.shape)} where the layer has "
                    f"{tuple(old.shape)}."
                )
        with torch.no_grad():
            self.U.copy_(U)
            self.V.copy_(V)

    def share(self, other: Factorized) -> None:
        """Take another layer's factors for one's own: both are then of one weight, as tied layers are."""
        sides = (other.U, other.V) if self.transposed == other.transposed else (other.V, other.U)
        self.U, self.V = sides

    def dense_weight(self, matrix: Tensor | None = None) -> Tensor:
        """The product, or another matrix (..., m, n), in the layout of the dense layer's `weight`."""
        raise NotImplementedError

    def to_dense(self) -> nn.Module:
        """A layer of the original class that computes the same, with its own copy of the bias."""
        # Built on the meta device: nothing is allocated twice and no random number is drawn.
        with torch.device("meta"):
            dense = self._dense_shell()
        weight = self.dense_weight().detach().contiguous()
        dense.weight = nn.Parameter(weight, requires_grad=self.U.requires_grad)
        dense.register_parameter("bias", copied(self.bias))
        return dense.train(self.training)

    def _dense_shell(self) -> nn.Module:
        raise NotImplementedError


def copied(parameter: nn.Parameter | None) -> nn.Parameter | None:
    """A parameter of the same values, or None."""
    if parameter is None:
        return None
    return nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)

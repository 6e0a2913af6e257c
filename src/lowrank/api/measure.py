"""What a model's layers hold: singular values, effective ranks, and a table of them all."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from torch import Tensor, nn

from lowrank.errors import LowrankError
from lowrank.factor import spectrum
from lowrank.factor.convert import parameter_count
from lowrank.factor.layers import Factorized, can_factorize, matricise
from lowrank.factor.svd import svdvals, working_precision


def singular_values(model: nn.Module) -> dict[str, Tensor]:
    """The singular values, descending, of every layer that is factorised or could be, by name.

    (r) of a factorised layer's product, (min(m, n)) of a dense matrix, with a leading dimension for
    the groups of a convolution. Factorised layers are never multiplied out.
    """
    return {name: _values(module) for name, module in _layers(model).items()}


def effective_rank(model: nn.Module) -> dict[str, float]:
    """Nuclear over operator norm of every layer that is factorised or could be, by name: the number of
    directions that count, between 1 and the rank. Of a grouped convolution, the mean over groups."""
    return {
        name: float(spectrum.effective_rank(values).mean())
        for name, values in singular_values(model).items()
    }


def _values(module: nn.Module) -> Tensor:
    if isinstance(module, Factorized):
        return spectrum.singular_values(module.U, module.V)
    weight = matricise(module).detach()
    return svdvals(weight.to(working_precision(weight.dtype)))


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Factorized)
        or (can_factorize(module) and not isinstance(module, nn.Embedding))
    }


HEAD = ("layer", "kind", "matrix", "rank", "even at", "dense", "now", "share")


@dataclass(frozen=True)
class Layer:
    """A layer that is factorised or could be."""

    name: str
    """Of layers that share their weight, all names."""
    kind: str
    """The class of the layer, or of the dense one in whose place it stands."""
    shape: tuple[int, int]
    """(m, n): outputs and inputs of its matrix, of each group's where there are groups."""
    rank: int | None
    """None: dense."""
    dense: int
    """Parameters of the dense weight."""
    kept: int
    """Parameters of its weight now."""

    @property
    def break_even(self) -> float:
        """The rank m n / (m + n) at which two factors hold as many parameters as the dense weight."""
        m, n = self.shape
        return m * n / (m + n)


@dataclass(frozen=True)
class Report:
    """The layers of a model and its parameters; prints as a table."""

    layers: tuple[Layer, ...]
    parameters: int
    """All parameters of the model, shared ones once."""

    @property
    def dense_parameters(self) -> int:
        """The parameters with every factorised layer dense again."""
        return self.parameters + sum(layer.dense - layer.kept for layer in self.layers)

    def rows(self) -> list[tuple[str, ...]]:
        """The table as text, without its head."""
        return [
            (
                layer.name,
                layer.kind,
                "{} x {}".format(*layer.shape),
                "dense" if layer.rank is None else str(layer.rank),
                f"{layer.break_even:.0f}",
                f"{layer.dense:,}",
                f"{layer.kept:,}",
                f"{layer.kept / layer.dense:.0%}",
            )
            for layer in self.layers
        ]

    def __str__(self) -> str:
        table = [HEAD, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        return "\n".join([*lines, self.total()])

    def total(self) -> str:
        """The parameters in a line, and how to read the table in another."""
        factorised = sum(layer.rank is not None for layer in self.layers)
        return (
            f"{self.parameters:,} parameters, {self.parameters / self.dense_parameters:.1%} of the "
            f"dense model's {self.dense_parameters:,}; {factorised} of {len(self.layers)} layers are "
            "factorised.\nA layer is smaller than dense below the rank 'even at'."
        )

    def _repr_html_(self) -> str:
        def cells(row: tuple[str, ...], tag: str) -> str:
            return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)

        body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in self.rows())
        return f"<table><tr>{cells(HEAD, 'th')}</tr>{body}</table><p>{escape(self.total())}</p>"


def report(model: nn.Module) -> Report:
    """A table of the layers that are factorised or could be: shapes, ranks, break-even ranks, parameters.

    Below its break-even rank a factorised layer holds fewer parameters than the dense one, and, but
    for the spatial matricisation of a strided convolution, does less work. `print` it; in a notebook
    it shows as a table. Embeddings are in it where they are factorised.
    """
    shared: dict[frozenset[int], list[str]] = {}
    modules = _layers(model)
    for name, module in modules.items():
        ids = module.factor_ids if isinstance(module, Factorized) else {id(module.weight)}
        shared.setdefault(frozenset(ids), []).append(name)
    layers = tuple(_layer(", ".join(names), modules[names[0]]) for names in shared.values())
    if not layers:
        raise LowrankError("The model has no layer that is factorised or could be.")
    return Report(layers, parameter_count(model))


def _layer(name: str, module: nn.Module) -> Layer:
    if isinstance(module, Factorized):
        (m, n), rank = module.matrix_shape, module.rank
        lead = module.U.shape[0] if module.U.ndim == 3 else 1
        kept = module.U.numel() + module.V.numel()
        return Layer(name, module.dense_name, (m, n), rank, lead * m * n, kept)
    weight = module.weight
    assert isinstance(weight, Tensor)
    m, n = matricise(module).shape[-2:]
    return Layer(name, type(module).__name__, (m, n), None, weight.numel(), weight.numel())

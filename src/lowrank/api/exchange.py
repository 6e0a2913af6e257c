"""Factorised models of transformers as files: what `save_pretrained` writes, `from_pretrained` reads.

transformers lets a package say how a checkpoint's layers differ from the dense model's, for quantised
weights; factors go the same way. A factorised model's config carries `quantization_config` with
`quant_method: lowrank` and the rank of each layer, and U and V are in the safetensors. Importing this
module registers it, so that `AutoModelForCausalLM.from_pretrained(folder)` and its kin load it, in
shards, in any precision and onto any device. Where it is not registered transformers warns of the
unknown `lowrank` and of weights that are missing, and leaves those layers untrained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from lowrank.api.measure import report
from lowrank.errors import LowrankError
from lowrank.factor.convert import factors, place
from lowrank.factor.layers import Factorized, from_dense

METHOD = "lowrank"


@register_quantization_config(METHOD)
class FactorConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """The factorised layers of a model: `{name: {rank: r, matricisation: word or None}}`."""

    def __init__(self, layers: Mapping[str, Mapping[str, Any]], **_: Any) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]
        self.layers = {name: dict(layer) for name, layer in layers.items()}


@register_quantizer(METHOD)
class FactorLoader(HfQuantizer):  # type: ignore[misc]
    """Puts factorised layers, still empty, in the places of dense ones before weights are loaded."""

    quantization_config: FactorConfig

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> None:
        known = dict(model.named_modules())
        for name, layer in self.quantization_config.layers.items():
            if name not in known:
                raise LowrankError(
                    f"The folder's config names a factorised layer '{name}', which {type(model).__name__} "
                    "has not: load it with the class that it was saved from."
                )
            new = from_dense(known[name], layer["rank"], layer.get("matricisation") or "channel")
            new.bias = getattr(known[name], "bias", None)
            place(model, name, new)
        for target, source in _tied_layers(model):
            target.share(source)
        _declare_ties(model)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> None:
        # From here on it is a model like any other: trained, moved and cast without restriction.
        declared = model.config.quantization_config
        self.remove_quantization_config(model)
        for module in model.modules():
            if hasattr(module, "config"):
                vars(module.config).pop("_is_quantized", None)
        model.config.quantization_config = declared

    def is_serializable(self, **_: Any) -> bool:
        """Factors are saved as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Factors are trained as they are."""
        return True


def _tied(model: Any) -> dict[str, str]:
    """The parameters that transformers ties, by the name of what each is."""
    vars(model).pop("_tied_weights_keys", None)  # what _declare_ties left
    return dict(model.get_expanded_tied_weights_keys(all_submodels=True))


def _tied_layers(model: nn.Module) -> Iterator[tuple[Factorized, Factorized]]:
    """The factorised layers whose dense weights transformers would tie: which, and to which."""
    layers = factors(model)
    for target, source in _tied(model).items():
        pair = [layers.get(name.removesuffix(".weight")) for name in (target, source)]
        if pair[0] is not None and pair[1] is not None:
            yield pair[0], pair[1]


def _declare_ties(model: Any) -> None:
    """Tell transformers which factors are shared in place of weights: it saves one of each, and ties them
    after loading."""
    layers, tied = factors(model), _tied(model)
    found = {}
    for target, source in tied.items():
        names = [name.removesuffix(".weight") for name in (target, source)]
        if not {*names} <= layers.keys():
            found[target] = source
            continue
        own, other = (layers[name] for name in names)
        sides = ("U", "V") if own.transposed == other.transposed else ("V", "U")
        found |= {f"{names[0]}.{a}": f"{names[1]}.{b}" for a, b in zip("UV", sides, strict=True)}
    if found != tied:
        model._tied_weights_keys = found
    model.all_tied_weights_keys = found


def declare(model: nn.Module) -> None:
    """Write a model's factorised layers into its config, or none where it has none any more."""
    config: Any = model.config
    _declare_ties(model)
    layers = {
        name: {"rank": layer.rank, "matricisation": getattr(layer, "matricisation", None)}
        for name, layer in factors(model).items()
    }
    if layers:
        config.quantization_config = FactorConfig(layers)
    elif getattr(getattr(config, "quantization_config", None), "quant_method", None) == METHOD:
        del config.quantization_config


def save_pretrained(model: nn.Module, folder: str | Path, **options: Any) -> None:
    """`model.save_pretrained(folder)` of a factorised model of transformers, with a README.md, unless there
    is one, that says how to load it, and a file that registers its layers: loaded by `lowrank.from_pretrained(folder)`, or by transformers'
    `AutoModel...from_pretrained(folder, trust_remote_code=True)` where lowrank is installed."""
    if not isinstance(model, PreTrainedModel):
        raise LowrankError(
            f"A {type(model).__name__} is no model of transformers: save its state_dict()."
        )
    declare(model)
    name = type(model).__name__
    model.config.auto_map = dict.fromkeys(_auto_classes(model), f"modeling_lowrank.{name}")
    try:
        model.save_pretrained(folder, **options)
    finally:
        del model.config.auto_map
    module = type(model).__module__
    readme = Path(folder) / "README.md"
    if not readme.exists():
        readme.write_text(README.format(name=name, report=report(model)), encoding="utf-8")
    (Path(folder) / "modeling_lowrank.py").write_text(
        CODE.format(module=module, name=name), encoding="utf-8"
    )


README = """# {name}, factorised

Weights of this model are products of two factors, W = U V^T. Transformers by itself does not know such layers: it
warns of an unknown quantization method `lowrank` and of missing weights, and leaves these layers untrained. Load it with
the package lowrank installed, in one of three ways:

```python
import lowrank

model = lowrank.from_pretrained("this folder")
```

```python
import lowrank.api.exchange  # registers the layers
from transformers import AutoModel  # or AutoModelForCausalLM and its kin

model = AutoModel.from_pretrained("this folder")
```

```python
from transformers import AutoModel

model = AutoModel.from_pretrained("this folder", trust_remote_code=True)  # runs modeling_lowrank.py
```

`lowrank.to_dense(model)` multiplies the factors out, after which `model.save_pretrained` writes a model for everybody.

```text
{report}
```
"""
CODE = '''"""Says how the layers of this model are factorised, W = U V^T; needs the package lowrank."""

from {module} import {name} as Base

import lowrank.api.exchange  # noqa: F401


class {name}(Base):
    pass
'''


def _auto_classes(model: nn.Module) -> list[str]:
    """The names of transformers' automatic classes that load models of this class."""
    from transformers.models.auto import modeling_auto

    found = []
    for auto, kind in vars(modeling_auto).items():
        mapping = getattr(kind, "_model_mapping", None)
        if isinstance(kind, type) and mapping is not None and type(model.config) in mapping:
            classes = mapping[type(model.config)]
            if type(model) in (classes if isinstance(classes, tuple) else (classes,)):
                found.append(auto)
    return found or ["AutoModel"]


def from_pretrained(folder: str | Path, **options: Any) -> Any:
    """A model that `save_pretrained` wrote, as the class it was, ready to train; options as transformers'."""
    import transformers
    from transformers import AutoConfig

    if not (Path(folder) / "config.json").is_file():
        raise LowrankError(
            f"{folder} holds no config.json: give a folder that save_pretrained wrote."
        )
    config = AutoConfig.from_pretrained(folder)
    names = config.architectures or []
    found = getattr(transformers, names[0], None) if names else None
    if found is None:
        raise LowrankError(
            f"{folder}: its config names no class of transformers ({', '.join(names) or 'none'}): use "
            "that class's from_pretrained after `import lowrank.api.exchange`."
        )
    return found.from_pretrained(folder, **options)

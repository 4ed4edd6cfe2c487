"""Flows through a network without normalisation, whose values outgrow double precision.

A large tensor is kept as a small one and an exponent: it stands for `tensor * 2**exponent`. Powers of two scale without
rounding, so that flows which fit into double precision are the same up to the rounding of a few sums.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

MAX_EXPONENT = 64
"""Values up to 2 to this power are left as they are."""

SATURATED_EXPONENT = 30
"""Where scores of attention are above 2 to this power, its weights are constants: see `ScaledFlow`."""

_ATTRIBUTE = "flow_exponent"

_LARGEST = 900
"""The exponent from which functions that saturate see the same: no value in double precision is much larger."""

_NORMALISATIONS = frozenset({F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm, F.rms_norm})

_WEIGHTED = frozenset({f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)} | {"linear"})

_SATURATING = frozenset({"softmax", "sigmoid", "tanh", "hardsigmoid", "relu6", "hardtanh", "clamp", "clip", "erf"})

_LINEAR_FAR_OUT = frozenset({"gelu", "silu", "hardswish", "elu", "celu", "mish", "softplus"})

_UNSCALED = frozenset({"normalize", "ones_like", "full_like", "rand_like", "randn_like", "new_ones", "new_full"})
"""Functions whose result does not depend on the scale of their arguments."""

_FORMED = frozenset({"expand_as", "view_as", "reshape_as", "type_as"})
"""Functions that take the form of their second argument and the values of the first."""

_OPERATORS = {
    "__mul__": "mul",
    "__rmul__": "mul",
    "__imul__": "mul",
    "multiply": "mul",
    "__matmul__": "matmul",
    "__rmatmul__": "matmul",
    "mm": "matmul",
    "__truediv__": "div",
    "__itruediv__": "div",
    "true_divide": "div",
    "divide": "div",
    "__rtruediv__": "rdiv",
    "__rdiv__": "rdiv",
    "__pow__": "pow",
    "__add__": "add",
    "__radd__": "add",
    "__iadd__": "add",
    "__sub__": "sub",
    "__isub__": "sub",
    "__rsub__": "sub",
    "rsub": "sub",
}

_OUT_OF_PLACE: dict[str, Callable[..., Any]] = {
    "__imul__": torch.mul,
    "__itruediv__": torch.div,
    "__iadd__": torch.add,
    "__isub__": torch.sub,
}

_GROWING = _WEIGHTED | {"mul", "matmul", "bmm", "einsum", "pow", "square", "scaled_dot_product_attention", "addmm"}
"""Functions after which a result may be too large. All others grow by small factors, for which there is room."""


def exponent_of(values: Any) -> float:
    """The exponent of a tensor that `ScaledFlow` has made; 0 for anything else."""
    return float(getattr(values, _ATTRIBUTE, 0.0)) if isinstance(values, Tensor) else 0.0


class ScaledFlow(TorchFunctionMode):
    """Replaces normalisation by the identity, and keeps large tensors as small ones with an exponent.

    Far out, activations such as GELU are their asymptotes, and functions that saturate, such as the sigmoid, are
    constants. So is the softmax of attention above `SATURATED_EXPONENT`. Its derivative is zero there, except for
    rounding errors among equal tokens, which are multiplied by the scale of queries and keys until they outweigh the
    flow itself.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _NORMALISATIONS:
            return args[0] if args else kwargs["input"]
        original = getattr(func, "__name__", "")
        name = _OPERATORS.get(original, original)
        if any(map(exponent_of, _tensors((args, kwargs)))):
            result = _of_scaled(name, _OUT_OF_PLACE.get(original, func), args, kwargs)
        elif name == "softmax" and _is_saturated(_largest(args[0] if args else kwargs["input"])):
            result = func(*(_constant(one) for one in args), **{key: _constant(one) for key, one in kwargs.items()})
        elif name == "scaled_dot_product_attention":
            result = _attention(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        return _normalised(result) if name in _GROWING and isinstance(result, Tensor) else result


def _of_scaled(name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a function of tensors some of which have an exponent."""
    if name.endswith("_") and not name.startswith("__"):
        return _in_place(name, args, kwargs)
    exponents = [exponent_of(one) for one in _tensors((args, kwargs))]
    if name in _WEIGHTED:
        return _weighted(func, *args, **kwargs)
    if name == "scaled_dot_product_attention":
        return _attention(*args, **kwargs)
    if name in ("mul", "matmul", "bmm", "einsum"):
        return _with_exponent(func(*args, **kwargs), sum(exponents))
    if name in ("div", "rdiv"):
        first, second = (exponent_of(one) for one in args[:2])
        return _with_exponent(func(*args, **kwargs), first - second if name == "div" else second - first)
    if name in ("pow", "square", "sqrt", "rsqrt", "reciprocal", "var"):
        power = {"square": 2.0, "sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0, "var": 2.0}.get(name) or float(args[1])
        return _with_exponent(func(*args, **kwargs), power * exponents[0])
    if name in _SATURATING and not (name in ("clamp", "clip") and _has_no_upper_end(args, kwargs)):
        full = args[0].detach() * 2.0 ** min(exponents[0], _LARGEST)
        return func(full, *args[1:], **kwargs | ({"inplace": False} if "inplace" in kwargs else {}))
    if name in _LINEAR_FAR_OUT:
        return _with_exponent(F.relu(args[0]), exponents[0])
    if name in _UNSCALED:
        return func(*args, **kwargs)
    if name in _FORMED or name in ("prelu", "grid_sample"):
        return _with_exponent(func(*args, **kwargs), exponents[0])
    return _aligned(name, func, args, kwargs)


def _aligned(name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a function that scales as all of its arguments do, such as a sum, a mean, a pooling or a view."""
    exponent = max(map(exponent_of, _tensors((args, kwargs))))

    def align(value: Any) -> Any:
        if isinstance(value, Tensor):
            moved = exponent_of(value) - exponent
            return value * 2.0**moved if moved and value.is_floating_point() else value
        if isinstance(value, list | tuple) and any(isinstance(one, Tensor) for one in value):
            return type(value)(map(align, value))
        return value * 2.0**-exponent if name in ("add", "sub") and isinstance(value, int | float) else value

    result = func(*map(align, args), **{key: align(one) if key != "alpha" else one for key, one in kwargs.items()})
    for one in _tensors(result):
        if one.is_floating_point():
            _with_exponent(one, exponent)
    return result


def _in_place(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The first argument, changed to the result of the function without the underscore."""
    target: Tensor = args[0]
    plain = name[:-1]
    result = _of_scaled(plain, getattr(torch.Tensor, plain), args, kwargs)
    target.copy_(result)
    return _with_exponent(target, exponent_of(result))


def _weighted(
    func: Callable[..., Tensor], input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """A convolution or a linear map, its bias brought to the scale of the rest."""
    exponent = exponent_of(input) + exponent_of(weight)
    output = func(input, weight, None, *args, **kwargs)
    if bias is not None:
        shape = (-1,) if func is F.linear else (-1, *[1] * (output.ndim - 2))
        output = output + bias.view(shape) * 2.0 ** (exponent_of(bias) - exponent)
    return _with_exponent(output, exponent)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention; where its scores may be saturated, from its definition with constant weights."""
    exponent, of_value = exponent_of(query) + exponent_of(key), exponent_of(value)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    if enable_gqa:  # several heads of queries share one of keys and values
        key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], dim=-3) for each in (key, value))
    if not exponent and not _is_saturated(_largest(query) * _largest(key) * query.shape[-1] * factor):
        output = F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
        return _with_exponent(output, of_value)
    products = query.detach() @ key.detach().mT * factor
    full = products * 2.0 ** min(exponent, _LARGEST)
    if is_causal:
        attn_mask = torch.ones(full.shape[-2:], dtype=torch.bool, device=full.device).tril()
    if attn_mask is not None:
        full = full.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else full + attn_mask
    return _with_exponent(full.softmax(-1) @ value, of_value)


def _largest(values: Tensor) -> float:
    return float(values.detach().abs().max())


def _is_saturated(largest: float) -> bool:
    """Whether a softmax of numbers of this size is the choice of the largest."""
    return largest > 2.0**SATURATED_EXPONENT


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _has_no_upper_end(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    return kwargs.get("max") is None and (len(args) < 3 or args[2] is None)


def _normalised(values: Tensor) -> Tensor:
    """Values whose largest is too large, scaled down to 1, with the exponent that makes up for it.

    Values that have an exponent are scaled up likewise where their largest is too small.
    """
    if not values.is_floating_point() or not values.numel():
        return values
    largest, exponent = _largest(values), exponent_of(values)
    is_small = 0 < largest < 2.0**-MAX_EXPONENT and exponent != 0
    if not is_small and not 2.0**MAX_EXPONENT < largest < math.inf:
        return values
    shift = math.frexp(largest)[1]
    return _with_exponent(values * 2.0 ** (-shift // 2) * 2.0 ** (-shift - (-shift // 2)), exponent + shift)


def _with_exponent(values: Tensor, exponent: float) -> Tensor:
    setattr(values, _ATTRIBUTE, exponent)
    return values


def _tensors(values: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and mappings."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        yield from itertools.chain.from_iterable(map(_tensors, values))
    elif isinstance(values, dict):
        yield from itertools.chain.from_iterable(map(_tensors, values.values()))

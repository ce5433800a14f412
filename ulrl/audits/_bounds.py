"""Sound bounds on what a network of ReLUs says of an image some pixels of which are unknown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

KNOWN = "convolutions, linear layers, BatchNorm in eval mode, ReLU, average pooling and sums"


@dataclass(kw_only=True, eq=False)
class Box:
    """Images some pixels of which are unknown.

    Attributes:
        center: Images as the network takes them, unknown pixels halfway: ``[n, c, h, w]``.
        radius: How far a pixel may be from there, 0 where it is known: the same shape.
        free: Where the unknown pixels are, as indices into an image made flat: ``[n, d]``.
    """

    center: Float64[Tensor, "n c h w"]
    radius: Float64[Tensor, "n c h w"]
    free: Tensor


class Bounder:
    """Bounds differences of a network's outputs from below, by linear bounds (CROWN).

    The network is walked forward once for bounds on what enters each ReLU, by affine forms in the
    unknown pixels (DeepZ, with one remainder for all that is not linear in them) and by intervals,
    whichever is tighter. Then every ReLU is replaced by the linear bound that its input's bounds
    allow, and a backward pass makes a linear function of the image of each difference
    (Zhang et al., NeurIPS 2018). That pass is autograd's: all other layers are affine.

    Args:
        network: In eval mode, in float64, without gradients of its own.
        shape: Of an image, ``(c, h, w)``.
        count: Boxes at a time.
        rows: Differences of each.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...], count: int, rows: int) -> None:
        self._network, self._count, self._rows = network, count, rows
        self._tape = _Tape(count=count, rows=rows)
        place = next(network.parameters()).device
        start = torch.zeros(count * rows, *shape, dtype=torch.float64, device=place)
        self._start = start.requires_grad_()
        self._outputs: Tensor | None = None

    def least(
        self, boxes: Box, differences: Float64[Tensor, "n rows classes"]
    ) -> Float64[Tensor, "n rows"]:
        """Return a lower bound of each difference over all images of each box.

        Args:
            boxes: As many as there are at a time.
            differences: Weights of the outputs.

        Raises:
            ValueError: The network has a layer that cannot be bounded.
        """
        with torch.no_grad():
            self._tape.bounds = enter(self._network, boxes)
        if self._outputs is None:  # the same for all boxes: what the biases alone give
            with _Relaxed(self._tape):
                self._outputs = self._network(self._start.clone())
        weights = differences.flatten(0, 1)
        self._tape.constant = (weights * self._outputs.detach()).sum(dim=1)
        (slopes,) = torch.autograd.grad(self._outputs, self._start, weights, retain_graph=True)
        slopes = slopes.reshape(self._count, self._rows, *slopes.shape[1:])
        least = slopes * boxes.center[:, None] - slopes.abs() * boxes.radius[:, None]
        linear: Tensor = least.flatten(2).sum(dim=2)
        return linear + self._tape.constant.reshape(self._count, self._rows)


def enter(network: nn.Module, boxes: Box) -> list[tuple[Tensor, Tensor]]:
    """Return lower and upper bounds of what enters each ReLU, in the order of their calls."""
    count, unknown = boxes.free.shape
    rows = torch.zeros(unknown, count, boxes.center[0].numel(), dtype=torch.float64)
    rows = rows.to(boxes.center.device)
    places = boxes.free.T[:, :, None]
    values = boxes.radius.flatten(1).gather(1, boxes.free).T[:, :, None]
    generators = rows.scatter(2, places, values).reshape(unknown, *boxes.center.shape)
    signed = torch.cat([boxes.center[None], boxes.center[None], generators])
    radii = torch.stack([torch.zeros_like(boxes.radius), boxes.radius])
    seen: list[tuple[Tensor, Tensor]] = []
    network(_Form.of(signed, radii, seen))
    return seen


class _Form(Tensor):
    """What a layer passes on, for all images of some boxes.

    Attributes:
        signed: ``[2 + d, n, ...]``: the center of the affine form, the center of the interval, and
            the form's coefficients of the unknown pixels.
        radii: ``[2, n, ...]``: the remainder of the form, and the radius of the interval.
        seen: Bounds of what entered each ReLU so far.
        shared: Whether a tensor in its place may share memory with another.
    """

    signed: Tensor
    radii: Tensor
    seen: list[tuple[Tensor, Tensor]]
    shared: bool

    @classmethod
    def of(cls, signed: Tensor, radii: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Self:
        made = signed[0].as_subclass(cls)
        made.signed, made.radii, made.seen, made.shared = signed, radii, seen, False
        return made

    def become(self, other: "_Form") -> "_Form":
        """Do what a layer that works in place does."""
        if self.shared:
            raise _unknown("a layer that works in place on a part or another shape of a tensor")
        self.signed, self.radii = other.signed, other.radii
        return self

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _LOOKS:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        if func not in _RULES:
            raise _unknown(getattr(func, "__name__", str(func)))
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - as torch's own docs do
            return _RULES[func](*args, **(kwargs or {}))

    def through(
        self,
        signed: Callable[[Tensor], Tensor],
        radii: Callable[[Tensor], Tensor],
        shift: Tensor | None = None,
    ) -> "_Form":
        """Return what an affine layer makes of it: by its weights, their sizes, and its bias."""
        moved = signed(self.signed.flatten(0, 1))
        moved = moved.reshape(*self.signed.shape[:2], *moved.shape[1:])
        if shift is not None:
            moved = torch.cat([moved[:2] + shift, moved[2:]])
        sizes = radii(self.radii.flatten(0, 1))
        sizes = sizes.reshape(*self.radii.shape[:2], *sizes.shape[1:])
        return _Form.of(moved, sizes, self.seen)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the tighter of the bounds by the form and by the interval."""
        spread = self.signed[2:].abs().sum(dim=0) + self.radii[0]
        lower = torch.maximum(self.signed[0] - spread, self.signed[1] - self.radii[1])
        upper = torch.minimum(self.signed[0] + spread, self.signed[1] + self.radii[1])
        return lower, torch.maximum(lower, upper)


def _unknown(name: str) -> ValueError:
    return ValueError(f"certify cannot bound {name}; it knows {KNOWN}")


def _relu(x: _Form, inplace: bool = False) -> _Form:  # noqa: FBT001, FBT002 - as torch calls it
    lower, upper = x.bounds()
    x.seen.append((lower, upper))
    slope = _slope(lower, upper)
    half = -slope * lower.clamp(max=0) / 2
    low, high = lower.relu(), upper.relu()
    center = (slope * x.signed[0] + half)[None]
    signed = torch.cat([center, (low + high)[None] / 2, slope * x.signed[2:]])
    radii = torch.stack([slope * x.radii[0] + half, (high - low) / 2])
    made = _Form.of(signed, radii, x.seen)
    return x.become(made) if inplace else made


def _slope(lower: Tensor, upper: Tensor) -> Tensor:
    """Return the slope of the chord of a ReLU: 1 or 0 where it is linear."""
    chord = upper / (upper - lower).clamp(min=1e-300)
    return torch.where(lower >= 0, 1.0, torch.where(upper <= 0, 0.0, chord))


def _conv2d(x: _Form, weight: Tensor, bias: Tensor | None = None, *rest: Any, **more: Any) -> _Form:
    shift = None if bias is None else bias.reshape(-1, 1, 1)
    return x.through(
        lambda values: torch.conv2d(values, weight, None, *rest, **more),
        lambda values: torch.conv2d(values, weight.abs(), None, *rest, **more),
        shift,
    )


def _linear(x: _Form, weight: Tensor, bias: Tensor | None = None) -> _Form:
    return x.through(
        lambda values: functional.linear(values, weight),
        lambda values: functional.linear(values, weight.abs()),
        bias,
    )


def _batch_norm(
    x: _Form,
    mean: Tensor | None,
    variance: Tensor | None,
    *,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
    **rest: Any,
) -> _Form:
    del rest
    if training or mean is None or variance is None:
        raise _unknown("BatchNorm without running statistics")
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -scale * mean if bias is None else bias - scale * mean
    shape = (-1,) + (1,) * (x.signed.ndim - 3)
    scale = scale.reshape(shape)
    return x.through(
        lambda values: values * scale, lambda values: values * scale.abs(), shift.reshape(shape)
    )


def _add(x: Any, y: Any, *, alpha: float = 1) -> _Form:
    if not isinstance(x, _Form) or not isinstance(y, _Form) or alpha != 1:
        raise _unknown("the sum of a layer's output and a constant")
    if x.shape != y.shape:
        raise _unknown("a sum of outputs of unlike shapes")
    return _Form.of(x.signed + y.signed, x.radii + y.radii, x.seen)


def _add_(x: Any, y: Any, *, alpha: float = 1) -> _Form:
    made: _Form = x.become(_add(x, y, alpha=alpha))
    return made


def _dropout(x: _Form, p: float = 0.5, training: bool = False, inplace: bool = False) -> _Form:  # noqa: FBT001, FBT002
    del p, inplace
    if training:
        raise _unknown("dropout in train mode")
    return x


def _flatten(x: _Form, start_dim: int = 0, end_dim: int = -1) -> _Form:
    if start_dim < 1:
        raise _unknown("flatten over the images of a batch")
    return _averaged(lambda values: values.flatten(start_dim, end_dim), x)


def _reshape(x: _Form, *shape: Any) -> _Form:
    sizes = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
    if len(sizes) < 2 or sizes[0] not in (-1, x.shape[0]):
        raise _unknown("a reshape over the images")
    rest = x.signed[0].reshape(x.shape[0], *sizes[1:]).shape[1:]
    return _averaged(lambda values: values.reshape(len(values), *rest), x)


def _getitem(x: _Form, index: Any) -> _Form:
    parts = index if isinstance(index, tuple) else (index,)
    if parts[0] != slice(None) or not all(isinstance(part, slice) for part in parts):
        raise _unknown("indexing by other than slices of an image")
    return _averaged(lambda values: values[index], x)


def _mean(x: _Form, dim: Any = None, keepdim: bool = False) -> _Form:  # noqa: FBT001, FBT002
    places = (dim,) if isinstance(dim, int) else tuple(dim or ())
    if not places or any(place % x.signed[0].ndim == 0 for place in places):
        raise _unknown("a mean over the images of a batch")
    return _averaged(lambda values: values.mean(dim=dim, keepdim=keepdim), x)


def _averaged(layer: Callable[[Tensor], Tensor], x: _Form) -> _Form:
    """Return what a linear layer whose weights are not below 0 makes of it."""
    made = x.through(layer, layer)
    x.shared = made.shared = True  # some of these layers are views
    return made


def _pool(x: _Form, *rest: Any, **more: Any) -> _Form:
    return _averaged(lambda values: functional.avg_pool2d(values, *rest, **more), x)


def _adaptive(x: _Form, *rest: Any, **more: Any) -> _Form:
    return _averaged(lambda values: functional.adaptive_avg_pool2d(values, *rest, **more), x)


_RELUS: Mapping[Any, bool] = {  # whether they work in place
    torch.relu: False,
    torch.relu_: True,
    Tensor.relu: False,
    Tensor.relu_: True,
    functional.relu: False,
    functional.relu_: True,
}
_LOOKS = {
    Tensor.size,
    Tensor.dim,
    Tensor.shape.__get__,  # type: ignore[attr-defined]
    Tensor.ndim.__get__,  # type: ignore[attr-defined]
    Tensor.dtype.__get__,  # type: ignore[attr-defined]
    Tensor.device.__get__,
}
_RULES: dict[Any, Callable[..., _Form]] = {
    torch.relu: _relu,
    torch.relu_: lambda x: _relu(x, inplace=True),
    Tensor.relu: _relu,
    Tensor.relu_: lambda x: _relu(x, inplace=True),
    functional.relu: _relu,
    functional.relu_: lambda x: _relu(x, inplace=True),
    torch.conv2d: _conv2d,
    functional.linear: _linear,
    functional.batch_norm: _batch_norm,
    functional.dropout: _dropout,
    functional.dropout2d: _dropout,
    functional.avg_pool2d: _pool,
    functional.adaptive_avg_pool2d: _adaptive,
    torch.add: _add,
    Tensor.add: _add,
    Tensor.add_: _add_,
    Tensor.__add__: _add,
    Tensor.__iadd__: _add_,
    torch.flatten: _flatten,
    Tensor.flatten: _flatten,
    torch.reshape: _reshape,
    Tensor.reshape: _reshape,
    Tensor.view: _reshape,
    torch.mean: _mean,
    Tensor.mean: _mean,
    Tensor.__getitem__: _getitem,
}


@dataclass(kw_only=True, eq=False)
class _Tape:
    """What the backward pass reads and writes.

    Attributes:
        count: Boxes at a time.
        rows: Differences of each.
        bounds: Of what enters each ReLU.
        constant: Of each linear function, so far.
    """

    count: int
    rows: int
    bounds: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    constant: Tensor = field(default_factory=lambda: torch.zeros(()))


class _Relaxed(TorchFunctionMode):
    """Replaces each ReLU by its linear bounds inside."""

    def __init__(self, tape: _Tape) -> None:
        super().__init__()
        self._tape, self._number = tape, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        given = kwargs or {}
        if func not in _RELUS:
            return func(*args, **given)
        inputs = args[0] if args else given["input"]
        made = _Relax.apply(inputs, self._tape, self._number)
        self._number += 1
        in_place = _RELUS[func] or given.get("inplace", len(args) > 1 and args[1])
        return inputs.copy_(made) if in_place else made


class _Relax(torch.autograd.Function):
    """A ReLU that passes nothing forward, so that layers after it see their biases alone.

    Backward it gives the slopes of its linear bounds: of the lower one where the slope that comes
    is above 0, else of the upper one. It adds up the constants on the way.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, tape: _Tape, number: int) -> Tensor:
        ctx.tape, ctx.number = tape, number
        ctx.biases = inputs[0].clone()  # of the layers before; alike in all rows
        return torch.zeros_like(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        tape: _Tape = ctx.tape
        lower, upper = (value[:, None] for value in tape.bounds[ctx.number])
        slopes = gradients[0].unflatten(0, (tape.count, tape.rows))
        chord = _slope(lower, upper)
        linear = (lower >= 0) | (upper <= 0)
        below = torch.where(linear, chord, (upper > -lower).double())
        negative = slopes.clamp(max=0)
        moved = slopes.clamp(min=0) * below + negative * chord
        constant = moved * ctx.biases - negative * chord * lower.clamp(max=0)
        tape.constant += constant.flatten(2).sum(dim=2).flatten()
        return moved.flatten(0, 1), None, None

"""Bottleneck adapters: small networks behind a block's sublayers (Houlsby et al., 2019).

Everything that the model was stays as it is, and is followed by two narrow layers with a
nonlinearity between them (arXiv:1902.00751, section 2.1): 2 d m + d + m trained numbers an adapter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from course_utils.memory.trained import AddedModule, Trained, in_every_block
from course_utils.methods.layers import (
    AdaptedLinear,
    adapted_layers,
    device_of,
    dtype_of,
    is_linear,
    shape_of,
    wrap_layers,
)
from course_utils.models.structure import transformer_blocks
from course_utils.validation import check_choice, check_count, check_number, keep_plain

if TYPE_CHECKING:
    from course_utils.memory.architecture import Architecture

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
}
# Adapters a block: behind attention and the feed-forward part, or behind the latter only.
PLACEMENTS = {"houlsby": 2, "pfeiffer": 1}


class BottleneckAdapter(nn.Module):
    """Down to ``m`` dimensions, a nonlinearity, and up again, added to what came in.

    Computes ``h + scaling * (W_up f(W_down h + b_down) + b_up)`` (Houlsby et al., 2019,
    arXiv:1902.00751, figure 2). ``W_up`` and ``b_up`` start at zero: the adapter is the identity.

    Args:
        d_model: Width d of what it reads and writes.
        bottleneck_size: Inner width m, at least 1.
        activation: A key of ``ACTIVATIONS``.
        scaling: Strength of what is added.
    """

    def __init__(
        self, d_model: int, bottleneck_size: int, *, activation: str = "gelu", scaling: float = 1.0
    ) -> None:
        super().__init__()
        self.down = nn.Linear(d_model, bottleneck_size)
        self.up = nn.Linear(bottleneck_size, d_model)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.activation, self.scaling = activation, scaling

    def forward(self, h: Tensor) -> Tensor:
        """Map ``h`` of shape (..., d_model) to the same shape."""
        inner = ACTIVATIONS[self.activation](self.down(h.to(self.down.weight.dtype)))
        return h + (self.scaling * self.up(inner)).to(h.dtype)


class BottleneckLinear(AdaptedLinear):
    """The last linear layer of a sublayer, and the adapters behind it, one after another.

    Args:
        base: Linear layer, d_in to d_model; frozen in place.
        adapters: What its output goes through.
    """

    def __init__(self, base: nn.Module, *adapters: BottleneckAdapter) -> None:
        super().__init__(base)
        # The adapter trains in float32 even where the base is stored in 16 bits.
        dtype = torch.promote_types(dtype_of(base), torch.float32)
        self.adapters = nn.ModuleList(adapters).to(device_of(base), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (..., d_in) to shape (..., d_model)."""
        if (plain := self.in_its_place()) is not None:
            return plain(x)
        h = self.base(x)
        for adapter in self.adapters:
            h = adapter(h)
        return h

    def adapted_weight(self) -> Tensor:
        """Refuse: there is a nonlinearity behind the weight.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "a bottleneck adapter is not linear, so no weight amounts to it: it cannot be merged"
        )


@dataclass(frozen=True, kw_only=True)
class BottleneckConfig:
    """Train bottleneck adapters and nothing else.

    Args:
        bottleneck_size: Inner width m; None divides the model's width by ``reduction_factor``.
        reduction_factor: d_model / m, where ``bottleneck_size`` is None.
        placement: ``"houlsby"`` behind attention and behind the feed-forward part, two a block;
            ``"pfeiffer"`` behind the feed-forward part only (arXiv:2005.00247, section 3.1).
        activation: A key of ``ACTIVATIONS``.
        scaling: Strength of what an adapter adds.

    Raises:
        ValueError: If a value is out of range.
    """

    saved: ClassVar[dict[str, str]] = {
        f"adapters.0.{name}.{part}": f"adapter_{name}.{part}"
        for name in ("down", "up")
        for part in ("weight", "bias")
    }

    bottleneck_size: int | None = None
    reduction_factor: float = 16
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    activation: str = "gelu"
    scaling: float = 1.0

    def __post_init__(self) -> None:
        keep_plain(self)
        check_count("bottleneck_size", self.bottleneck_size, at_most=2**16, is_none_ok=True)
        check_number("reduction_factor", self.reduction_factor, above=0)
        check_choice("placement", self.placement, PLACEMENTS)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_number("scaling", self.scaling)

    def size_for(self, d_model: int) -> int:
        """Return the inner width m of the adapters of a model of width ``d_model``.

        Raises:
            ValueError: If ``reduction_factor`` leaves nothing of it.
        """
        size = self.bottleneck_size or int(d_model / self.reduction_factor)
        if size < 1:
            raise ValueError(f"reduction_factor={self.reduction_factor} must be at most {d_model}")
        return size

    def layers_in(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the linear layers that adapters stand behind, by full name.

        Raises:
            ValueError: If a block does not consist of attention and a feed-forward part.
        """
        names = {id(module): name for name, module in model.named_modules()}
        layers = {}
        for block in transformer_blocks(model):
            last = [found[-1] for part in block.children() if (found := _linear_layers(part))]
            if len(last) != 2:
                raise ValueError(
                    f"a block of {type(model).__name__} has {len(last)} parts with linear layers; "
                    "adapters stand behind 2: attention and feed-forward"
                )
            for layer in last[-PLACEMENTS[self.placement] :]:
                layers[names[id(layer)]] = getattr(layer, "base", layer)
        return layers

    def apply_to(self, model: nn.Module) -> None:
        """Put adapters into every block of ``model``.

        Raises:
            ValueError: If the model's blocks are of an unknown kind, or a size is out of range.
        """
        wrap_layers(model, self.layers_in(model), self.wrap)

    def wrap(self, layer: nn.Module) -> BottleneckLinear:
        """Return a linear layer with a fresh adapter behind it."""
        d_model = shape_of(layer)[0]
        adapter = BottleneckAdapter(
            d_model, self.size_for(d_model), activation=self.activation, scaling=self.scaling
        )
        return BottleneckLinear(layer, adapter)

    def tensor_shapes(self, d_in: int, d_out: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every saved attribute of a layer."""
        size = self.size_for(d_out)
        shapes = (size, d_out), (size,), (d_out, size), (d_out,)
        return dict(zip(self.saved, shapes, strict=True))

    def footprint(self, architecture: "Architecture") -> Trained:
        """Return what trains, for ``memory.estimate``: adapters behind every block's sublayers.

        The first layer needs its input for its gradient, d_model elements a token, the second its
        own, m elements; a nonlinearity whose gradient is not known from its output (GELU, SiLU)
        needs its input as well.
        """
        linears = ("o_proj", "down_proj")[-PLACEMENTS[self.placement] :]
        d, m = architecture.d_model, self.size_for(architecture.d_model)
        n_inner = 2 if self.activation in ("gelu", "silu") else 1
        added = tuple(
            AddedModule(parameters=(d * m, m, m * d, d), linear=n, saved_per_token=d + n_inner * m)
            for n in linears
        )
        return in_every_block(architecture, added)


def _linear_layers(part: nn.Module) -> list[nn.Module]:
    """Return a sublayer's linear layers in order, an adapted one in the place of its base."""
    adapted = adapted_layers(part)
    inner = tuple(f"{name}." for name in adapted)
    return [
        layer
        for name, layer in part.named_modules()
        if name in adapted or (is_linear(layer) and not name.startswith(inner))
    ]

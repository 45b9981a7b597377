"""DoRA: direction by LoRA, magnitude by itself (Liu et al., 2024, arXiv:2402.09353)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from course_utils.memory import DoRAFootprint, LoRAFootprint
from course_utils.methods.linear import dtype_of, weight_of
from course_utils.methods.lora import LoRAConfig, LoRALinear


class DoRALinear(LoRALinear):
    """Frozen linear layer whose rows get a trained length and a direction updated by LoRA.

    The weight is ``m (W + scaling B A) / ||W + scaling B A||``, with one norm a row, that is an
    output (Liu et al., 2024, arXiv:2402.09353, eq. 5). ``m`` starts at the norms of ``W``. The norm
    is taken as a constant by the backward pass (section 4.3), which saves most of the memory.

    Args:
        base: Linear layer, d_in to d_out; frozen in place.
        options: As for ``LoRALinear``.
    """

    def __init__(self, base: nn.Module, **options: Any) -> None:  # noqa: ANN401
        super().__init__(base, **options)
        self.magnitude = nn.Parameter(self._row_norms())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (..., d_in) to shape (..., d_out)."""
        if self.merged is not None:
            return self.merged(x)
        (A, B), bias = self.factors(), self.base.bias
        scale = self.magnitude / self._row_norms()
        plain = self.base(x) if bias is None else self.base(x) - bias
        dropped = self.dropout(x.to(A.dtype))
        update = nn.functional.linear(self.scaling * nn.functional.linear(dropped, A), B)
        if self.training and self.dropout.p:
            # Dropout belongs to the change, of length and of direction: the base keeps its input.
            base = self.base(dropped.to(x.dtype))
            base = base if bias is None else base - bias
            y = plain + (scale - 1) * base + scale * update
        else:
            y = scale * (plain + update)
        y = y if bias is None else y + bias
        return y.to(plain.dtype)

    def adapted_weight(self) -> Tensor:
        """Return ``m (W + scaling B A) / ||W + scaling B A||``, (d_out, d_in)."""
        scale = (self.magnitude / self._row_norms())[:, None]
        return (scale * super().adapted_weight()).to(dtype_of(self.base))

    def _row_norms(self) -> Tensor:
        """Return the norm of every row of ``W + scaling B A``, (d_out,), without a gradient."""
        weight = weight_of(self.base).detach().to(self.A.dtype)
        norms = (weight + self.scaling * (self.B.detach() @ self.A.detach())).norm(dim=1)
        # A row of small weights may be all zeros once it is stored in four bits.
        return norms.clamp(min=torch.finfo(norms.dtype).tiny)


@dataclass(frozen=True, kw_only=True)
class DoRAConfig(LoRAConfig):
    """Train magnitude and direction of linear layers; the options are LoRA's."""

    layer: ClassVar[type[LoRALinear]] = DoRALinear
    counted: ClassVar[type[LoRAFootprint]] = DoRAFootprint
    saved: ClassVar[dict[str, str]] = LoRAConfig.saved | {"magnitude": "lora_magnitude_vector"}

    def tensor_shapes(self, d_in: int, d_out: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every saved attribute of a layer."""
        return super().tensor_shapes(d_in, d_out) | {"magnitude": (d_out,)}

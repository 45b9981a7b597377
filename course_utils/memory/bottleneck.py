"""What bottleneck adapters train and keep (Houlsby et al., 2019, arXiv:1902.00751)."""

from dataclasses import dataclass
from typing import Literal

from course_utils.memory.architecture import Architecture
from course_utils.memory.footprint import AddedModule, BlockTraining, Trained


@dataclass(frozen=True, kw_only=True)
class BottleneckFootprint:
    """Two narrow layers behind one or both sublayers of every block.

    The first needs its input for its gradient, d_model elements a token, the second its own,
    ``bottleneck_size`` elements; a nonlinearity whose gradient is not known from its output needs
    its input as well.

    Args:
        bottleneck_size: Inner width m.
        placement: ``"houlsby"``: two a block; ``"pfeiffer"``: one.
        keeps_both: Whether the nonlinearity keeps its input (GELU, SiLU) and not its output (ReLU,
            tanh), which the next layer keeps anyway.
        train_head: Whether the head is trained as well.
    """

    bottleneck_size: int
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    keeps_both: bool = True
    train_head: bool = False

    def footprint(self, architecture: Architecture) -> Trained:
        """Return the adapters of every block."""
        linears = ("o_proj", "down_proj") if self.placement == "houlsby" else ("down_proj",)
        d, m = architecture.d_model, self.bottleneck_size
        added = tuple(
            AddedModule(
                parameters=(d * m, m, m * d, d), linear=linear,
                saved_per_token=d + (2 if self.keeps_both else 1) * m,
            )
            for linear in linears
        )  # fmt: skip
        return Trained(
            blocks=(BlockTraining(added=added),) * architecture.n_layers, head=self.train_head
        )

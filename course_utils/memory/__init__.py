"""Will it fit: the memory of a training step, from counts of parameters and tensors."""

from course_utils.memory.activations import SavedTensor
from course_utils.memory.architecture import Architecture, architecture_of, known_architectures
from course_utils.memory.budget import MemoryEstimate, estimate
from course_utils.memory.footprint import (
    AddedModule,
    BlockTraining,
    Footprint,
    FrozenFootprint,
    FullFootprint,
    Trained,
)
from course_utils.memory.low_rank import (
    DoRAFootprint,
    LoRAFootprint,
    LowRankFootprint,
    NOLAFootprint,
)
from course_utils.memory.optimizers import bytes_per_parameter, optimizer_names
from course_utils.memory.parts import MemoryParts, format_bytes
from course_utils.memory.ppo import PPOEstimate, estimate_ppo

__all__ = [
    "AddedModule",
    "Architecture",
    "BlockTraining",
    "DoRAFootprint",
    "Footprint",
    "FrozenFootprint",
    "FullFootprint",
    "LoRAFootprint",
    "LowRankFootprint",
    "MemoryEstimate",
    "MemoryParts",
    "NOLAFootprint",
    "PPOEstimate",
    "SavedTensor",
    "Trained",
    "architecture_of",
    "bytes_per_parameter",
    "estimate",
    "estimate_ppo",
    "format_bytes",
    "known_architectures",
    "optimizer_names",
]

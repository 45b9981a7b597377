"""Will it fit: the memory of a training step, from counts of parameters and tensors."""

from course_utils.memory.activations import SavedTensor
from course_utils.memory.architecture import Architecture, architecture_of, known_architectures
from course_utils.memory.bottleneck import BottleneckFootprint
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
from course_utils.memory.soft_prompts import CachePromptFootprint, InputPromptFootprint
from course_utils.memory.workload import kv_cache_bytes

__all__ = [
    "AddedModule",
    "Architecture",
    "BlockTraining",
    "BottleneckFootprint",
    "CachePromptFootprint",
    "DoRAFootprint",
    "Footprint",
    "FrozenFootprint",
    "FullFootprint",
    "InputPromptFootprint",
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
    "kv_cache_bytes",
    "optimizer_names",
]

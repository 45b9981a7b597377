"""One plain training loop on accelerate: every method, and the pretraining, runs on it."""

from course_utils.training.config import RunResult, TrainingConfig, TrainingDivergedError
from course_utils.training.loop import train
from course_utils.training.schedule import cosine_factor, fused_adamw

__all__ = [
    "RunResult",
    "TrainingConfig",
    "TrainingDivergedError",
    "cosine_factor",
    "fused_adamw",
    "train",
]

"""The default optimizer, and the learning rate's way from zero to its peak and down again."""

import math

import torch
from torch import nn

from course_utils.training.config import TrainingConfig


def cosine_factor(step: int, config: TrainingConfig) -> float:
    """Return a step's learning rate as a share of its peak: linear warm-up, then half a cosine."""
    warmup = round(config.warmup_ratio * config.max_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, config.max_steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_ratio + (1 - config.final_ratio) * cosine


def fused_adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW (arXiv:1711.05101) over what trains; norms and biases do not decay."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)

"""Measured, not estimated: bytes, seconds and tokens of a model as it stands."""

from course_utils.measure.speed import (
    count_tokens,
    paired_latency,
    paired_ratios,
    step_time_seconds,
    tokens_per_second,
)
from course_utils.measure.tracking import PeakMemory
from course_utils.measure.training_step import (
    MemoryMeasurement,
    measure_training_step,
    parameter_bytes,
)

__all__ = [
    "MemoryMeasurement",
    "PeakMemory",
    "count_tokens",
    "measure_training_step",
    "paired_latency",
    "paired_ratios",
    "parameter_bytes",
    "step_time_seconds",
    "tokens_per_second",
]

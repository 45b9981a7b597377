"""Predictions: the reader commits before a result is shown, and learns how far to trust that."""

from course_utils.practice.predictions.reliability import calibration
from course_utils.practice.predictions.widget import predict

__all__ = ["calibration", "predict"]

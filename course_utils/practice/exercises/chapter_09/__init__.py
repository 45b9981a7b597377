"""Checks of chapter 09: rewards, KL, GAE, groups of answers, the clipped loss, DPO."""

from course_utils.practice.exercises.chapter_09.advantages import GAE, GROUPS
from course_utils.practice.exercises.chapter_09.losses import CLIP, DPO
from course_utils.practice.exercises.chapter_09.rewards import KL, REWARDS

__all__ = ["CLIP", "DPO", "GAE", "GROUPS", "KL", "REWARDS"]

"""Companion package of the course in efficient fine-tuning of language models."""

__version__ = "0.1.0"

"""Companion package of the course in efficient fine-tuning of language models."""

import logging
import warnings

from course_utils.moved import MovedFinder

__version__ = "0.2.0"

MovedFinder.install()
# On processors with AVX512-BF16 bitsandbytes warns, when it is imported, that an optional kernel
# cannot be fetched from the Hub; nothing in the course needs it.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# peft 0.21 asks transformers 5 by a name that it has renamed; it concerns no reader.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)

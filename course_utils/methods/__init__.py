"""Ways to fine-tune: one paper a module, one verb for all of them."""

from course_utils.methods.base import Method, ParameterCount, apply, count_parameters

__all__ = ["Method", "ParameterCount", "apply", "count_parameters"]

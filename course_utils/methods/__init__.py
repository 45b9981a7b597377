"""Ways to fine-tune: one paper a module, one verb for all of them."""

from course_utils.methods.base import Method, ParameterCount, apply, count_parameters
from course_utils.methods.carried import adapter_disabled, merge, remove, unmerge
from course_utils.methods.storage import AdapterError, load_adapter, save_adapter

__all__ = [
    "AdapterError",
    "Method",
    "ParameterCount",
    "adapter_disabled",
    "apply",
    "count_parameters",
    "load_adapter",
    "merge",
    "remove",
    "save_adapter",
    "unmerge",
]

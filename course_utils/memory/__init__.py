"""Will it fit: the memory of a training step, from counts of parameters and tensors."""

import lazy_loader

from course_utils.moved import find

_get_attribute, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "activations": ["SavedTensor"],
        "architecture": ["Architecture", "architecture_of", "known_architectures"],
        "budget": ["MemoryEstimate", "estimate"],
        "optimizers": ["bytes_per_parameter", "optimizer_names"],
        "parts": ["MemoryParts", "format_bytes"],
        "trained": ["AddedModule", "BlockTraining", "Footprint", "Trained"],
        "workload": ["kv_cache_bytes"],
    },
)


def __getattr__(name: str) -> object:
    return _get_attribute(name) if name in __all__ else find(__name__, name)

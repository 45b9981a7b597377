"""Adapters on disk, in PEFT's own format where PEFT has the method: they travel both ways."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "folder": ["StoredAdapter", "load_adapter", "read_adapter", "save_adapter"],
        "peft_format": ["AdapterError", "AdapterMethod"],
    },
)

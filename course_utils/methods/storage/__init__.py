"""Adapters on disk, in PEFT's own format where PEFT has the method: they travel both ways."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "file_pair": ["CONFIG_FILE", "TENSORS_FILE", "AdapterError"],
        "folder": ["StoredAdapter", "load_adapter", "read_adapter", "save_adapter"],
        "state": ["AdapterMethod", "AdapterState", "adapter_tensors"],
    },
)

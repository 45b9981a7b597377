"""Which method, for your model, memory, data and deadline: what the records say, and no more."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "advice": ["Advice", "choose"],
        "options": ["OPTIONS", "Option"],
        "request": ["KINDS", "Request"],
    },
)

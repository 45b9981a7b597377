"""Base models and tokenizers: the embedded one, a local folder, or a pinned model of the Hub."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "loading": [
            "build_random_model",
            "embedded_model_dir",
            "load_base_model",
            "load_tokenizer",
            "set_activation_checkpointing",
            "verify_checksums",
            "write_checksums",
        ],
        "profiles": ["EMBEDDED", "PINNED_REVISIONS", "Profile", "current_profile", "profile_names"],
    },
)

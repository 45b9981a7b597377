"""Ways to fine-tune: one paper a module, one verb (`apply`) for all of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adapter_set": ["AdapterSet"],
        "bottleneck": ["BottleneckConfig"],
        "dora": ["DoRAConfig"],
        "dylora": ["DyLoRAConfig", "set_rank"],
        "full": ["FrozenFineTuning", "FullFineTuning"],
        "lora": ["LoRAConfig"],
        "lora_xs": ["LoRAXSConfig"],
        "nola": ["NOLAConfig"],
        "p_tuning": ["PTuningConfig"],
        "prefix_tuning": ["PTuningV2Config", "PrefixTuningConfig"],
        "prompt_tuning": ["PromptTuningConfig"],
        "storage": ["AdapterError", "load_adapter", "save_adapter"],
        "tiny_lora": ["TinyLoRAConfig"],
        "verbs": [
            "Method",
            "ParameterCount",
            "adapter_disabled",
            "apply",
            "carried_by",
            "count_parameters",
            "merge",
            "remove",
            "unmerge",
        ],
        "virtual_tokens": ["drop_encoder"],
    },
)

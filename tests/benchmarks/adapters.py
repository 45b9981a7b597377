"""Step time of our LoRA and DoRA against PEFT's, and of QLoRA on the CPU against LoRA.

Run with `python -m tests.benchmarks.adapters`.

The same models, batch and number of steps; the contestants take turns, so that a machine whose
speed drifts treats them alike, and medians are compared.
"""

import statistics
import time
import warnings

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from course_utils.measure import measure_training_step
from course_utils.methods import apply
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.lora import LoRAConfig
from course_utils.models import load_base_model
from course_utils.quantization import quantize_model

RANK, STEPS, ROUNDS = 8, 6, 5
SHAPE_135M = LlamaConfig(
    hidden_size=576,
    num_hidden_layers=30,
    intermediate_size=1536,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    tie_word_embeddings=True,
    use_cache=False,
)
MODELS = {
    "embedded": (lambda: load_base_model("embedded"), (16, 64)),
    "135M shape": (lambda: AutoModelForCausalLM.from_config(SHAPE_135M), (2, 64)),
}


def theirs(model: nn.Module, *, use_dora: bool) -> nn.Module:
    """Put PEFT's LoRA on a model."""
    config = LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear", use_dora=use_dora)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(model, config)


CONTESTANTS = {
    "LoRA, ours": lambda model: apply(model, LoRAConfig(rank=RANK)),
    "LoRA, PEFT": lambda model: theirs(model, use_dora=False),
    "DoRA, ours": lambda model: apply(model, DoRAConfig(rank=RANK)),
    "DoRA, PEFT": lambda model: theirs(model, use_dora=True),
    "QLoRA, ours": lambda model: apply(quantize_model(model), LoRAConfig(rank=RANK)),
}


def seconds_a_step(model: nn.Module, ids: torch.Tensor) -> float:
    """Return the median time of a training step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Print milliseconds, peak megabytes and the ratios."""
    for name, (build, shape) in MODELS.items():
        models, times = {}, {kind: [] for kind in CONTESTANTS}
        for kind, put_on in CONTESTANTS.items():
            torch.manual_seed(0)
            models[kind] = put_on(build()).train()
        ids = torch.randint(1, 3000, shape)
        for _ in range(ROUNDS):
            for kind, model in models.items():
                times[kind].append(seconds_a_step(model, ids))
        medians = {kind: statistics.median(values) for kind, values in times.items()}
        print(f"{name}, batch of {shape[0]} x {shape[1]}")  # noqa: T201
        for kind, median in medians.items():
            peak = measure_training_step(models[kind], {"input_ids": ids, "labels": ids}).peak_bytes
            print(f"  {kind:12} {1e3 * median:7.1f} ms  {peak / 1e6:7.1f} MB")  # noqa: T201
        for kind in ("LoRA", "DoRA"):
            ratio = medians[f"{kind}, ours"] / medians[f"{kind}, PEFT"]
            print(f"  {kind}: {ratio:.2f} of PEFT's step time")  # noqa: T201
        ratio = medians["QLoRA, ours"] / medians["LoRA, ours"]
        print(f"  QLoRA: {ratio:.2f} of LoRA's step time")  # noqa: T201


if __name__ == "__main__":
    main()

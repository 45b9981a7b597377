"""What a method costs on a machine: the peak of a step, and the hours of a training.

Hours are an estimate: operations of the matrix products, over a speed that is measured, stated or
assumed. A token takes 2 operations a parameter forward, 2 on the way back through each block that
gradients enter, 2 more for each of the model's parameters that is trained, and 2 again where blocks
are recomputed (Kaplan et al., 2020, arXiv:2001.08361, section 2.1). Attention's own products, the
added modules and the reading of data are not counted.
"""

import json
from dataclasses import dataclass
from functools import cache, lru_cache

from course_utils.memory.architecture import Architecture
from course_utils.memory.budget import MemoryEstimate, estimate
from course_utils.memory.cards import find_card
from course_utils.memory.trained import footprint_of
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.lora import LoRAConfig
from course_utils.paths import data_dir
from course_utils.studies.choosing.options import NF4_BITS, Option
from course_utils.studies.choosing.request import Request

# The estimate's error beside a measurement, at most (tests/memory/test_budget.py, on a processor).
PEAK_ERROR = 0.10
# Share of a card's stated speed that training reaches: an assumption, between what small and large
# models reach.
UTILISATION = 0.3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a method costs.

    Args:
        peak_bytes: Predicted peak of a step, within ``PEAK_ERROR``.
        is_checkpointed: Whether activations have to be recomputed for it to fit.
        fits: Whether the peak fits with its error added.
        n_trained: Trained numbers.
        hours: Predicted hours; None where no speed is known.
    """

    peak_bytes: int
    is_checkpointed: bool
    fits: bool
    n_trained: int
    hours: float | None


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Operations a second that a machine reaches in training, and how that is known."""

    flops_per_second: float | None
    source: str


def cost_of(option: Option, request: Request, speed: Speed) -> Cost:
    """Return what a method costs; activations are recomputed only where it does not fit without."""
    plain = _estimate(option, request, is_checkpointed=False)
    needed, is_checkpointed = plain, False
    if not _fits(plain, request) and _can_recompute(option, request.architecture):
        recomputed = _estimate(option, request, is_checkpointed=True)
        if recomputed.peak_bytes < plain.peak_bytes:
            needed, is_checkpointed = recomputed, True
    hours = None
    if speed.flops_per_second:
        a_token = flops_per_token(option, request, is_checkpointed=is_checkpointed)
        seconds = _n_tokens(request) * a_token * slowdown(option) / speed.flops_per_second
        hours = seconds / 3600
    return Cost(
        peak_bytes=needed.peak_bytes,
        is_checkpointed=is_checkpointed,
        fits=_fits(needed, request),
        n_trained=needed.n_trained,
        hours=hours,
    )


def _fits(needed: MemoryEstimate, request: Request) -> bool:
    return needed.peak_bytes * (1 + PEAK_ERROR) <= request.room_bytes


def _can_recompute(option: Option, architecture: Architecture) -> bool:
    return not footprint_of(option.method_for(architecture), architecture).n_cached_tokens


def _estimate(option: Option, request: Request, *, is_checkpointed: bool) -> MemoryEstimate:
    return estimate(
        request.architecture,
        option.method_for(request.architecture),
        batch_size=request.batch_size * request.n_sequences,
        seq_len=request.tokens_per_example,
        dtype=request.dtype,
        mixed_precision=request.dtype != "float32",
        gradient_checkpointing=is_checkpointed,
        is_padded=True,
        accumulates_gradients=True,
        frozen_weight_bits=NF4_BITS if option.is_quantized else None,
    )


def _n_tokens(request: Request) -> float:
    an_example = request.tokens_per_example * request.n_sequences
    return request.n_examples * an_example * request.epochs


def flops_per_token(option: Option, request: Request, *, is_checkpointed: bool = False) -> float:
    """Return the operations of training on one token of a text."""
    before = request.architecture
    trained = footprint_of(option.method_for(before), before)
    architecture = trained.changed(before)
    n_multiplied = architecture.n_parameters
    if not architecture.head_is_embedding:
        n_multiplied -= architecture.outer_parameters()["embedding"]
    n_layers = architecture.n_layers
    back = (n_layers - trained.lowest_block(architecture)) / n_layers
    back = 1.0 if is_checkpointed else back  # the embedding's output then asks for a gradient
    passes = 1 + back + (1 if is_checkpointed else 0)
    longer = 1 + trained.n_virtual_tokens / request.tokens_per_example
    return 2 * longer * (passes * n_multiplied + sum(trained.base_sizes(architecture)))


def speed_of(request: Request) -> Speed:
    """Return how fast the request's machine trains, and how that is known."""
    if request.tokens_per_second:
        reference = Option(name="lora_r8", label="", method=LoRAConfig(rank=8), shown_by=None)
        a_token = flops_per_token(reference, request)
        source = f"from the stated {request.tokens_per_second:g} tokens/s of LoRA r=8"
        return Speed(flops_per_second=request.tokens_per_second * a_token, source=source)
    if request.is_here:
        measured = measured_flops_per_second()
        source = f"measured here on the embedded model: {measured / 1e9:.0f} billion operations/s"
        return Speed(flops_per_second=measured, source=source)
    if request.card is None:
        return Speed(flops_per_second=None, source="no speed is known: name a card")
    card = find_card(request.card)
    source = f"assumed: {UTILISATION:.0%} of the {card.tflops:g} TFLOP/s stated for {card}"
    return Speed(flops_per_second=UTILISATION * card.tflops * 1e12, source=source)


@lru_cache(maxsize=1)
def measured_flops_per_second() -> float:
    """Measure full steps of the embedded model on this processor; takes some seconds."""
    import torch

    from course_utils.measure.speed import step_time_seconds
    from course_utils.models import load_base_model

    model, (batch, length) = load_base_model("embedded").train(), (4, 64)
    tokens = torch.arange(batch * length).reshape(batch, length) % model.config.vocab_size

    def step() -> None:
        model.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()

    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    return 6 * n_parameters * tokens.numel() / step_time_seconds(step, repeats=3, warmup=1)


def slowdown(option: Option) -> float:
    """Return how much longer a step takes than its operations say, as recorded at 135M.

    Restoring four bits is a ratio of paired rounds; DoRA's is that of two tables of one machine,
    and rougher.
    """
    speeds = _recorded_speeds()
    factor = 1.0
    if option.is_quantized:
        quantized = speeds["QLoRA step, 135M shape"]
        factor *= quantized["LoRA"] / quantized["ours, QLoRA"]
    if isinstance(option.method, DoRAConfig):
        lora, dora = speeds["LoRA step, 135M shape"], speeds["DoRA step, 135M shape"]
        factor *= lora["ours"] / dora["ours"]
    return factor


@cache
def _recorded_speeds() -> dict[str, dict[str, float]]:
    text = (data_dir() / "results" / "benchmarks.json").read_text(encoding="utf-8")
    return {part["name"]: part["speeds"] for part in json.loads(text)["parts"]}

"""The methods that are compared, and where the search for each one's learning rate begins."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from course_utils.methods import Method, apply
from course_utils.methods.bottleneck import BottleneckConfig
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.full import FrozenFineTuning, FullFineTuning
from course_utils.methods.layers import find_linear
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.nola import NOLAConfig
from course_utils.methods.p_tuning import PTuningConfig
from course_utils.methods.prefix_tuning import PrefixTuningConfig, PTuningV2Config
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.models import load_tokenizer
from course_utils.quantization import quantize_model
from course_utils.rlhf.assistant import ASSISTANT, REWARD, copy_trunk, load_assistant
from course_utils.studies.trl.trainers import lora_of_peft

RANKS = (1, 2, 4, 8, 16)
# Inner widths whose two adapters a block train as many parameters as LoRA of rank 1, 2, 4 and 8 on
# all linear layers of the embedded model, within 6 %; one a block of 16 as many as rank 2.
BOTTLENECK_SIZES = (4, 8, 16, 33)
PROMPT_LENGTHS = (1, 4, 16, 64)
# What a classifier's prompt may begin with.
PROMPT_TEXT = "Was it good or bad? A review:"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A method and where the search for its learning rate begins.

    Args:
        put_on: Puts the method on a freshly loaded model and returns the model to train.
        rate: The first rate that is tried, 1 or 3 times a power of ten; see ``tuning.search``.
        is_pretrained: Whether the model starts from the pretrained weights.
        ranks: Ranks that the trained model is scored at, if one training serves several.
    """

    put_on: Callable[[nn.Module], nn.Module]
    rate: float
    is_pretrained: bool = True
    ranks: tuple[int, ...] = ()


def _ours(
    method: Method,
    rate: float,
    *,
    is_quantized: bool = False,
    **options: Any,  # noqa: ANN401
) -> Candidate:
    def put_on(model: nn.Module) -> nn.Module:
        return apply(quantize_model(model) if is_quantized else model, method)

    return Candidate(put_on=put_on, rate=rate, **options)


def _peft(make_config: Callable[[list[str] | None], Any], rate: float) -> Candidate:
    def put_on(model: nn.Module) -> nn.Module:
        from peft import get_peft_model

        return get_peft_model(model, make_config(["score"] if hasattr(model, "score") else None))

    return Candidate(put_on=put_on, rate=rate)


def _frozen(rate: float, **options: Any) -> Candidate:  # noqa: ANN401
    def put_on(model: nn.Module) -> nn.Module:
        # A classifier's head is new and always trains; a language model's is the embedding's twin.
        is_classifier = hasattr(model, "score")
        config = {"train_head": is_classifier} | options
        return apply(model, FrozenFineTuning(**config))

    return Candidate(put_on=put_on, rate=rate)


def _prompt_from_text(model: nn.Module) -> nn.Module:
    tokenizer = load_tokenizer("embedded")
    method = PromptTuningConfig.from_text(tokenizer, PROMPT_TEXT, num_virtual_tokens=16)
    return apply(model, method)


def _reward_on_assistant(put_on: Callable[[nn.Module], nn.Module]) -> Candidate:
    """Start from the assistant's trunk in place of the base model's."""

    def on_assistant(model: nn.Module) -> nn.Module:
        return put_on(copy_trunk(load_assistant(), model))

    return Candidate(put_on=on_assistant, rate=3e-3)


def _matrices(model: nn.Module) -> nn.Module:
    """Train the blocks' matrices, and a classifier's head: what LoRA changes, without its rank."""
    matrices = {id(layer.weight) for layer in find_linear(model, "all-linear").values()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(id(parameter) in matrices or name.startswith("score."))
    return model


def _with_embeddings(method: Method, model: nn.Module) -> nn.Module:
    """Train the embeddings of words beside an adapter, as full fine-tuning does."""
    model = apply(model, method)
    model.get_input_embeddings().weight.requires_grad_(True)
    return model


def _pissa(head: list[str] | None) -> Any:  # noqa: ANN401
    from peft import LoraConfig

    return LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules="all-linear",
        exclude_modules=head,
        modules_to_save=head,
        init_lora_weights="pissa",
    )


def _vera(head: list[str] | None) -> Any:  # noqa: ANN401
    from peft import VeraConfig

    return VeraConfig(r=64, target_modules="all-linear", modules_to_save=head)


def _ia3(head: list[str] | None) -> Any:  # noqa: ANN401
    from peft import IA3Config

    return IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        modules_to_save=head,
    )


CANDIDATES = {
    "random_init": _ours(FullFineTuning(), 1e-3, is_pretrained=False),
    "head": _frozen(3e-2, train_head=True),
    "norms": _frozen(1e-2, train_norms=True),
    "last_layers": _frozen(1e-3, last_n_layers=2),
    **{f"lora_r{r}": _ours(LoRAConfig(rank=r, alpha=2 * r), 1e-2) for r in RANKS},
    **{f"dora_r{r}": _ours(DoRAConfig(rank=r, alpha=2 * r), 1e-2) for r in RANKS},
    "full": _ours(FullFineTuning(), 1e-3),
    "matrices": Candidate(put_on=_matrices, rate=1e-3),
    "lora_r8_embeddings": Candidate(
        put_on=partial(_with_embeddings, LoRAConfig(rank=8, alpha=16)), rate=3e-3
    ),
    "lora_r128": _ours(LoRAConfig(rank=128, alpha=256), 3e-3),
    # One alpha for every rank, and for each its own rate: what the scaling makes of it.
    **{f"alpha16_r{r}": _ours(LoRAConfig(rank=r, alpha=16), 3e-3) for r in (4, 32, 128)},
    **{
        f"rslora_r{r}": _ours(LoRAConfig(rank=r, alpha=16, use_rslora=True), 3e-3)
        for r in (4, 32, 128)
    },
    **{f"lora_alpha{alpha}": _ours(LoRAConfig(rank=8, alpha=alpha), 1e-2) for alpha in (4, 16, 64)},
    **{
        f"lora_{name}": _ours(LoRAConfig(rank=rank, alpha=2 * rank, target_modules=targets), 1e-2)
        for name, rank, targets in (
            ("qv", 32, ("q_proj", "v_proj")),
            ("attention", 16, ("q_proj", "k_proj", "v_proj", "o_proj")),
            ("mlp", 14, ("gate_proj", "up_proj", "down_proj")),
        )
    },
    "dylora": _ours(DyLoRAConfig(rank=8, alpha=4), 1e-2, ranks=(1, 2, 4, 8)),
    "qdylora": _ours(DyLoRAConfig(rank=8, alpha=4), 1e-2, is_quantized=True, ranks=(1, 2, 4, 8)),
    "qlora": _ours(LoRAConfig(rank=8, alpha=16), 1e-2, is_quantized=True),
    "qdora": _ours(DoRAConfig(rank=8, alpha=16), 1e-2, is_quantized=True),
    "nola": _ours(NOLAConfig(rank=8, alpha=16, n_bases=64), 3e-2),
    "pissa": _peft(_pissa, 3e-3),
    "vera": _peft(_vera, 3e-2),
    "ia3": _peft(_ia3, 3e-2),
    **{
        f"bottleneck_m{m}": _ours(BottleneckConfig(bottleneck_size=m), 1e-2)
        for m in BOTTLENECK_SIZES
    },
    "pfeiffer_m16": _ours(BottleneckConfig(bottleneck_size=16, placement="pfeiffer"), 1e-2),
    **{
        f"prompt_n{n}": _ours(PromptTuningConfig(num_virtual_tokens=n), 1e-1)
        for n in PROMPT_LENGTHS
    },
    **{
        f"p_tuning_v2_n{n}": _ours(PTuningV2Config(num_virtual_tokens=n), 3e-2)
        for n in PROMPT_LENGTHS
    },
    "p_tuning_n16": _ours(PTuningConfig(num_virtual_tokens=16), 3e-3),
    "prefix_n16": _ours(PrefixTuningConfig(num_virtual_tokens=16, projection=True), 3e-3),
    # At the rate that was best for tokens drawn from the vocabulary.
    "prompt_random": _ours(PromptTuningConfig(num_virtual_tokens=16, init="random"), 3e-2),
    "prompt_text": Candidate(put_on=_prompt_from_text, rate=3e-2),
    "assistant_lora": _ours(ASSISTANT, 3e-3),
    "assistant_peft": _peft(partial(lora_of_peft, ASSISTANT), 3e-3),
    "reward_lora": _reward_on_assistant(partial(apply, method=REWARD)),
    "reward_peft": _reward_on_assistant(_peft(partial(lora_of_peft, REWARD), 3e-3).put_on),
}

"""The methods that are compared, and the learning rates each is tried with."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from course_utils.methods import apply
from course_utils.methods.frozen import FrozenFineTuning, FullFineTuning


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A method and the learning rates it is tried with.

    Args:
        put_on: Puts the method on a freshly loaded model and returns the model to train.
        rates: Learning rates, tried on validation data.
        is_pretrained: Whether the model starts from the pretrained weights.
    """

    put_on: Callable[[nn.Module], nn.Module]
    rates: tuple[float, ...]
    is_pretrained: bool = True


def _lora(rank: int) -> Candidate:
    def put_on(model: nn.Module) -> nn.Module:
        from peft import LoraConfig, get_peft_model

        head = ["score"] if hasattr(model, "score") else None
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear",
                            exclude_modules=head, modules_to_save=head)  # fmt: skip
        with warnings.catch_warnings():
            # peft 0.21 asks transformers by a name that transformers 5 has renamed.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            return get_peft_model(model, config)

    return Candidate(put_on=put_on, rates=(1e-3, 3e-3, 1e-2))


def _frozen(rates: tuple[float, ...], **options: Any) -> Candidate:  # noqa: ANN401
    def put_on(model: nn.Module) -> nn.Module:
        # A classifier's head is new and always trains; a language model's is the embedding's twin.
        is_classifier = hasattr(model, "score")
        config = {"train_head": is_classifier} | options
        return apply(model, FrozenFineTuning(**config))

    return Candidate(put_on=put_on, rates=rates)


def _full(rates: tuple[float, ...], *, is_pretrained: bool) -> Candidate:
    return Candidate(put_on=lambda model: apply(model, FullFineTuning()), rates=rates,
                     is_pretrained=is_pretrained)  # fmt: skip


CANDIDATES = {
    "random_init": _full((1e-3, 3e-3), is_pretrained=False),
    "head": _frozen((1e-2, 3e-2), train_head=True),
    "norms": _frozen((3e-3, 1e-2), train_norms=True),
    "last_layers": _frozen((3e-4, 1e-3), last_n_layers=2),
    "lora_r1": _lora(1),
    "lora_r4": _lora(4),
    "lora_r16": _lora(16),
    "full": _full((3e-4, 1e-3), is_pretrained=True),
}

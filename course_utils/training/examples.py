"""What a run learns from: looked at before the first step, and told from other data by a digest."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np
from torch import nn

from course_utils.data import IGNORED, Example
from course_utils.files import sha256_of
from course_utils.models.structure import context_of, soft_prompt_of
from course_utils.validation import shown

# Data that is read when it is asked for is looked at in so many places, evenly spread.
MOST_LOOKED_AT = 20_000
_DIGITS = 16
# Models whose labels stand on the tokens that they are of; of all others, one place behind.
_UNSHIFTED = re.compile("ForTokenClassification|ForMaskedLM")


@dataclass(frozen=True, kw_only=True)
class ModelLimits:
    """What a model can learn from; None where nothing is known, or where it does not matter.

    Args:
        n_tokens: Tokens that it knows.
        n_labels: Classes that it knows, or tokens that it predicts; None with another loss, which
            may read labels in its own way.
        context_tokens: Longest text.
        are_classes: Whether a text has one label, and not one a token.
        is_shifted: Whether a label stands one place behind the token that it is predicted from.
        pad_token_id: Token that its configuration gives for padding, if it is one.
    """

    n_tokens: int | None
    n_labels: int | None
    context_tokens: int | None
    are_classes: bool | None
    is_shifted: bool
    pad_token_id: int | None

    @classmethod
    def of(cls, model: nn.Module, *, has_own_loss: bool) -> "ModelLimits":
        """Return the limits of a model that trains on its own loss, or on another."""
        config = getattr(model, "config", None)
        kinds = " ".join(type(module).__name__ for module in model.modules())
        n_tokens, n_labels = _n_rows(model, "get_input_embeddings"), None
        are_classes = None
        if has_own_loss:
            n_words, n_classes = _n_rows(model, "get_output_embeddings"), _n_classes(config)
            n_labels = n_words or n_classes
            if n_words or "ForTokenClassification" in kinds:
                are_classes = False
            elif "ForSequenceClassification" in kinds:
                are_classes = True
        context = context_of(model) if has_own_loss and config is not None else None
        if context is not None and (prompt := soft_prompt_of(model)) is not None:
            context -= prompt.num_virtual_tokens
        pad = getattr(config, "pad_token_id", None)
        is_token = isinstance(pad, int) and pad >= 0 and (n_tokens is None or pad < n_tokens)
        return cls(
            n_tokens=n_tokens,
            n_labels=n_labels,
            context_tokens=context,
            are_classes=are_classes,
            is_shifted=not _UNSHIFTED.search(kinds),
            pad_token_id=pad if is_token else None,
        )


@dataclass(kw_only=True)
class ExamplesCheck:
    """Looks at examples, one after another.

    Args:
        limits: What the model can learn from.
        is_packed: Whether examples share rows.
    """

    limits: ModelLimits
    is_packed: bool
    n_targets: int = field(default=0, init=False)
    has_seen_all: bool = field(default=False, init=False)
    _is_class: bool | None = field(default=None, init=False)

    def facts_of(self, examples: Sequence[Example]) -> dict[str, str]:
        """Check what a run is to learn from, and return what tells it from other data.

        Raises:
            ValueError: If there are none, the model cannot learn from one, or none has a target.
        """
        is_list = hasattr(examples, "__len__") and hasattr(examples, "__getitem__")
        if not is_list or isinstance(examples, str | bytes | Mapping):
            raise ValueError(f"examples={shown(examples)} must be a list of encoded examples")
        if not len(examples):
            raise ValueError("there are no examples to train on")
        places = looked_at(examples)
        sums = [self.look_at(i, examples[i]) for i in places]
        self.has_seen_all = len(places) == len(examples)
        if not self.n_targets:
            raise ValueError(
                "no token of the examples is a target: at least one label must be other than "
                f"{IGNORED}, and stand behind a text's first token"
            )
        lengths = getattr(examples, "lengths", ())
        contents = sha256_of("\n".join([*sums, " ".join(map(str, lengths))]))
        return {"number": str(len(examples)), "contents": contents[:_DIGITS]}

    def look_at(self, index: int, example: Example) -> str:
        """Check an example and return a checksum of it.

        Raises:
            ValueError: If the model cannot learn from it; the message has its number and the rule.
        """
        if not isinstance(example, Mapping) or not {"input_ids", "labels"} <= set(example):
            raise ValueError(f"example {index} must have input_ids and labels")
        ids = _whole_numbers(index, "input_ids", example["input_ids"])
        if not len(ids):
            raise ValueError(f"example {index} has no tokens: it must have at least 1")
        self._check_range(index, "token", ids, self.limits.n_tokens)
        limit = self.limits.context_tokens
        if limit is not None and len(ids) > limit:
            raise ValueError(
                f"example {index} of {len(ids)} tokens is longer than the model's context, which "
                f"leaves room for {limit}"
            )
        labels = self._checked_labels(index, example["labels"], len(ids))
        return sha256_of(ids.tobytes() + b" " + labels.tobytes())

    def _checked_labels(self, index: int, given: object, n_tokens: int) -> np.ndarray:
        is_class = isinstance(given, Integral) and not isinstance(given, bool)
        if self._is_class is None:
            self._is_class = is_class
        if is_class != self._is_class:
            raise ValueError(f"example {index} must have labels of the kind that example 0 has")
        if self.limits.are_classes not in (None, is_class):
            kind = "one class" if self.limits.are_classes else "a label for every token"
            raise ValueError(f"example {index} has labels={shown(given)}: the model needs {kind}")
        if is_class and self.limits.n_labels and self.limits.pad_token_id is None:
            raise ValueError(
                "pad_token_id of the model must be one of its tokens, and is none: a classifier "
                "reads the last token that is no padding"
            )
        if is_class and self.is_packed:
            raise ValueError(
                f"packing needs a label for every token, and example {index} has one for all: "
                "set packing_length_tokens=None"
            )
        if is_class:
            labels = _whole_numbers(index, "labels", [given])
        else:
            labels = _whole_numbers(index, "labels", given)
            if len(labels) != n_tokens:
                raise ValueError(
                    f"example {index} has {len(labels)} labels for {n_tokens} tokens: it must have "
                    "as many"
                )
        self._check_range(index, "label", labels[labels != IGNORED], self.limits.n_labels)
        is_moved = not is_class and (self.limits.is_shifted or self.is_packed)
        self.n_targets += int((labels[is_moved:] != IGNORED).sum())
        return labels

    def _check_range(self, index: int, what: str, values: np.ndarray, limit: int | None) -> None:
        if limit is None or not len(values):
            return
        for value in (int(values.min()), int(values.max())):
            if not 0 <= value < limit:
                besides = f", or {IGNORED} for none" if what == "label" else ""
                raise ValueError(
                    f"example {index} has the {what} {value}, which the model does not know: it "
                    f"must be in 0..{limit - 1}{besides}"
                )


def looked_at(examples: Sequence[Example]) -> Sequence[int]:
    """Return the examples that are looked at before training: all, or a spread of a store's."""
    n = len(examples)
    if n <= MOST_LOOKED_AT or getattr(examples, "lengths", None) is None:
        return range(n)
    return sorted({round(k * (n - 1) / (MOST_LOOKED_AT - 1)) for k in range(MOST_LOOKED_AT)})


def _n_classes(config: object) -> int | None:
    """Return how many classes a model knows; one output is a score, and no class."""
    n_classes = getattr(config, "num_labels", None)
    return n_classes if isinstance(n_classes, int) and n_classes > 1 else None


def _n_rows(model: nn.Module, getter: str) -> int | None:
    """Return how many tokens a model reads or predicts, if it says so."""
    try:
        return len(getattr(model, getter)().weight)
    except (AttributeError, NotImplementedError, TypeError):
        return None


def _whole_numbers(index: int, name: str, values: object) -> np.ndarray:
    """Return one dimension of whole numbers.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        numbers = np.asarray(values)
        is_right = numbers.ndim == 1 and (numbers.dtype.kind in "iu" or not numbers.size)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        is_right = False
    if not is_right:
        raise ValueError(
            f"{name}={shown(values)} of example {index} must be a list of whole numbers"
        )
    return numbers.astype(np.int64)

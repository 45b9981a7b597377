"""What a tuned model still knows of what the base model knew."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from course_utils.data import load_task
from course_utils.evaluation.scoring import greedy_matches, perplexity
from course_utils.validation import check_count, check_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How much of what the base model knew is still there.

    Args:
        recall: Share of facts answered exactly, by tier (``frequent``, ``middling``, ``rare``).
        overall_recall: The same over all facts asked.
        perplexity: Perplexity on held-out text of the country.
    """

    recall: dict[str, float]
    overall_recall: float
    perplexity: float = field(default=math.nan)


def recall_by(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Mapping],
    key: str,
    *,
    with_end: bool = False,
) -> dict[str, float]:
    """Return the share of probes (``prompt``, ``answer``) answered exactly, grouped by a column.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer.
        rows: Probes with the column.
        key: The column.
        with_end: Whether the end token must follow the answer.

    Raises:
        ValueError: If there is no probe, or one lacks the column, its prompt or its answer.
    """
    check_rows("rows", rows, "prompt", "answer", key)
    prompts, answers = ([row[name] for row in rows] for name in ("prompt", "answer"))
    matches = greedy_matches(model, tokenizer, prompts, answers, with_end=with_end)
    groups: dict[str, list[bool]] = defaultdict(list)
    for row, is_right in zip(rows, matches, strict=True):
        groups[row[key]].append(is_right)
    return {name: sum(values) / len(values) for name, values in groups.items()}


def retention(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    n_facts: int | None = None,
    n_texts: int = 200,
) -> Retention:
    """Ask what the base model knew: facts in unseen words, and held-out text.

    Args:
        model: The embedded model, tuned or not.
        tokenizer: Its tokenizer.
        n_facts: Ask only the first so many probes (they are shuffled); all by default.
        n_texts: Held-out texts read for the perplexity.

    Raises:
        ValueError: If a number is below 1.
    """
    check_count("n_facts", n_facts, is_none_ok=True)
    check_count("n_texts", n_texts)
    facts = load_task("retention", "facts")
    rows = list(facts)[:n_facts]
    by_tier = recall_by(model, tokenizer, rows, "tier")
    overall = recall_by(model, tokenizer, [{**row, "all": ""} for row in rows], "all")[""]
    texts = load_task("retention", "texts")["text"][:n_texts]
    return Retention(
        recall=by_tier, overall_recall=overall, perplexity=perplexity(model, tokenizer, texts)
    )


def language_model_of(classifier: "PreTrainedModel") -> "PreTrainedModel":
    """Return the language model on a classifier's trunk, to see what the trunk still knows.

    The output layer is the trunk's own input embedding, as in every model that ties the two.

    Raises:
        ValueError: If the model's embeddings are not tied: its output layer was not kept.
    """
    from transformers import AutoModelForCausalLM

    base = classifier.get_base_model() if hasattr(classifier, "get_base_model") else classifier
    if base.get_output_embeddings() is not None:
        return classifier
    if not base.config.tie_word_embeddings:
        raise ValueError(f"{type(base).__name__} is not tied: its output layer is gone")
    model = AutoModelForCausalLM.from_config(base.config)
    setattr(model, model.base_model_prefix, getattr(base, base.base_model_prefix))
    model.get_output_embeddings().weight = model.get_input_embeddings().weight
    return model.eval()

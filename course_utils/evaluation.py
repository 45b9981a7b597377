"""What a model knows and does: perplexity, exact match, accuracy, text, and what it retained."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from course_utils.data import (
    IGNORED,
    Batch,
    Example,
    encode_answer,
    encode_text,
    load_task,
    pad_examples,
)

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


def perplexity(
    model: nn.Module, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *,
    batch_size: int = 32, max_length_tokens: int = 256,
) -> float:  # fmt: skip
    """Return exp(mean negative log-likelihood of a token) over ``texts``."""
    examples = [encode_text(tokenizer, t, max_length_tokens=max_length_tokens) for t in texts]
    total = count = 0.0
    for batch, _ in _batches(model, examples, batch_size):
        logits, targets = _shifted(model, batch)
        total += nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        ).item()
        count += int((targets != IGNORED).sum())
    return math.exp(total / count)


def greedy_matches(
    model: nn.Module, tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str],
    answers: Sequence[str], *, batch_size: int = 64, with_end: bool = False,
    max_length_tokens: int = 256,
) -> list[bool]:  # fmt: skip
    """Say for each prompt whether greedy decoding would write exactly the answer.

    Greedy decoding reproduces an answer if and only if each of its tokens is the likeliest one
    after the prompt and the answer so far, so one forward pass decides, without generating.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer.
        prompts: Texts, or chats already rendered, before the answer.
        answers: Expected continuations.
        batch_size: Sequences a forward pass.
        with_end: Whether the end token must follow the answer.
        max_length_tokens: Longest sequence.
    """
    examples = []
    for prompt, answer in zip(prompts, answers, strict=True):
        example = encode_answer(tokenizer, prompt, answer, max_length_tokens=max_length_tokens)
        if not with_end:
            example["labels"] = [*example["labels"][:-1], IGNORED]
        examples.append(example)
    matches = [False] * len(examples)
    for batch, indices in _batches(model, examples, batch_size):
        logits, targets = _shifted(model, batch)
        right = ((logits.argmax(-1) == targets) | (targets == IGNORED)).all(dim=1)
        for index, is_right in zip(indices, right.tolist(), strict=True):
            matches[index] = is_right
    return matches


def accuracy(model: nn.Module, examples: Sequence[Example], *, batch_size: int = 64) -> float:
    """Return the share of class labels a sequence classifier predicts."""
    right = 0
    for batch, _ in _batches(model, examples, batch_size):
        labels = batch.pop("labels")
        with torch.no_grad():
            right += int((model(**batch).logits.argmax(-1) == labels).sum())
    return right / len(examples)


def generate(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str], *,
    max_new_tokens: int = 40, temperature: float = 0.0, seed: int = 0, batch_size: int = 32,
) -> list[str]:  # fmt: skip
    """Continue each prompt, greedily or by sampling, and return the new text only.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer.
        prompts: Texts to continue.
        max_new_tokens: Tokens to add at the most.
        temperature: 0 decodes greedily; above it, samples from the softened distribution.
        seed: Seed of the sampling.
        batch_size: Prompts a pass, padded on the left.
    """
    device = next(model.parameters()).device
    model.eval()
    begin = tokenizer.bos_token or ""
    texts: list[str] = []
    kwargs = (
        {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in range(0, len(prompts), batch_size):
            chunk = [begin + prompt for prompt in prompts[start : start + batch_size]]
            inputs = tokenizer(
                chunk, return_tensors="pt", padding=True, padding_side="left",
                add_special_tokens=False, return_token_type_ids=False,
            ).to(device)  # fmt: skip
            with torch.no_grad():
                ids = model.generate(**inputs, max_new_tokens=max_new_tokens,
                                     pad_token_id=tokenizer.pad_token_id, **kwargs)  # fmt: skip
            new = ids[:, inputs["input_ids"].shape[1] :]
            texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def recall_by(
    model: nn.Module, tokenizer: "PreTrainedTokenizerBase", rows: Sequence[Mapping], key: str
) -> dict[str, float]:
    """Return the share of probes (``prompt``, ``answer``) answered exactly, grouped by a column."""
    matches = greedy_matches(
        model, tokenizer, [r["prompt"] for r in rows], [r["answer"] for r in rows]
    )
    groups: dict[str, list[bool]] = defaultdict(list)
    for row, is_right in zip(rows, matches, strict=True):
        groups[row[key]].append(is_right)
    return {name: sum(values) / len(values) for name, values in groups.items()}


def retention(
    model: nn.Module, tokenizer: "PreTrainedTokenizerBase", *, n_facts: int | None = None,
    n_texts: int = 200,
) -> Retention:  # fmt: skip
    """Ask what the base model knew: facts in unseen words, and held-out text.

    Args:
        model: The embedded model, tuned or not.
        tokenizer: Its tokenizer.
        n_facts: Ask only the first so many probes (they are shuffled); all by default.
        n_texts: Held-out texts read for the perplexity.
    """
    facts = load_task("retention", "facts")
    rows = list(facts)[:n_facts]
    by_tier = recall_by(model, tokenizer, rows, "tier")
    overall = recall_by(model, tokenizer, [{**row, "all": ""} for row in rows], "all")[""]
    texts = load_task("retention", "texts")["text"][:n_texts]
    return Retention(recall=by_tier, overall_recall=overall,
                     perplexity=perplexity(model, tokenizer, texts))  # fmt: skip


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


def _batches(model: nn.Module, examples: Sequence[Example], batch_size: int):  # noqa: ANN202
    """Yield padded batches, shortest examples first, and their indices; the model evaluates."""
    device = next(model.parameters()).device
    pad = getattr(model.config, "pad_token_id", None) or 0
    model.eval()
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]["input_ids"]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = pad_examples([examples[i] for i in indices], pad)
        yield {name: tensor.to(device) for name, tensor in batch.items()}, indices


def _shifted(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return logits (batch, seq - 1, vocab) and the tokens they should predict."""
    with torch.no_grad():
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    logits = output.logits[:, -batch["labels"].shape[1] :][:, :-1].float()
    return logits, batch["labels"][:, 1:]

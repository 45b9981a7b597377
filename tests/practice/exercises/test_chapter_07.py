"""Chapter 07's checks take right answers in any form, and agree with what the package does."""

import collections

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax

from course_utils.data import encode_answer, pack_examples, pad_examples
from course_utils.models import load_tokenizer
from course_utils.practice.exercises.chapter_07 import (
    F1,
    LOSS,
    MASK,
    PADDING,
    POSITIONS,
    losses,
    words,
)
from course_utils.practice.exercises.material import draw
from tests.practice.exercises.verdicts import is_correct, message


def test_labels_may_be_any_row_of_numbers():
    def by_loop(ids, n):
        return [-100 if i < n else ids[i] for i in range(len(ids))]

    def by_index(ids, n):
        labels = torch.tensor(ids)
        labels[:n] = -100
        return labels

    def by_where(ids, n):
        return np.where(np.arange(len(ids)) < n, -100, ids)

    assert is_correct(MASK, by_loop, by_index, by_where, lambda *a: tuple(by_loop(*a)))


def test_the_labels_are_those_of_the_package():
    tokenizer = load_tokenizer("embedded")
    example = encode_answer(tokenizer, "<|user|>Where?<|end|><|assistant|>", "In the well.")
    n = example["labels"].count(-100)
    assert MASK.solution(example["input_ids"], n) == example["labels"]


def by_gather(logits, labels):
    targets = labels[:, 1:]
    losses = -log_softmax(logits[:, :-1], -1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    return losses[targets != -100].mean()


def by_library(logits, labels):
    from transformers.loss.loss_utils import ForCausalLMLoss

    return ForCausalLMLoss(logits, labels, logits.shape[-1])


def by_sum(logits, labels):
    targets = labels[:, 1:].reshape(-1)
    total = cross_entropy(logits[:, :-1].reshape(len(targets), -1), targets, reduction="sum")
    return total / (targets != -100).sum()


def by_masked_targets(logits, labels):
    last = torch.full_like(labels[:, :1], -100)
    return cross_entropy(logits.mT, torch.cat([labels[:, 1:], last], dim=1))


@pytest.mark.parametrize("answer", [by_gather, by_library, by_sum, by_masked_targets])
def test_the_loss_may_be_computed_in_any_way(answer):
    assert is_correct(LOSS, answer)


def test_a_loss_without_a_gradient_is_no_loss():
    with_no_grad = torch.no_grad()(LOSS.solution)
    assert "no gradient" in message(LOSS, with_no_grad)
    assert "no gradient" in message(LOSS, lambda *a: LOSS.solution(*a).detach())


def test_positions_and_mask_may_be_lists_numbers_or_truths():
    def by_lists(lengths):
        places = [(e, p) for e, n in enumerate(lengths) for p in range(n)]
        mask = [[a == b and q <= p for b, q in places] for a, p in places]
        return [p for _, p in places], mask

    def by_restarts(lengths):
        positions = torch.cat([torch.arange(n) for n in lengths])
        owner = (positions == 0).cumsum(0)
        return [positions, ((owner[:, None] == owner).tril()).long()]

    def as_float_positions(lengths):
        positions, mask = by_restarts(lengths)
        return positions.float(), mask.numpy()

    assert is_correct(POSITIONS, by_lists, by_restarts, as_float_positions)


def test_the_positions_are_those_of_the_package():
    lengths = [3, 1, 4]
    examples = [{"input_ids": [5] * n, "labels": [5] * n} for n in lengths]
    (row,) = pack_examples(examples, 8)
    positions, mask = POSITIONS.solution(lengths)
    assert positions.tolist() == row["position_ids"]
    assert mask.sum() == 6 + 1 + 10


def test_one_token_that_sees_too_much_is_named():
    def leaks(lengths):
        positions, mask = POSITIONS.solution(lengths)
        if len(lengths) > 1:
            mask[-1, 0] = True
        return positions, mask

    assert "of example 1 must not see token 0 of example 0" in message(POSITIONS, leaks)


def test_f1_may_be_computed_in_any_way():
    def by_precision_and_recall(prediction, reference):
        ours, theirs = (collections.Counter(words._words(t)) for t in (prediction, reference))
        if not ours or not theirs:
            return int(ours == theirs)
        common = sum(min(n, theirs[word]) for word, n in ours.items())
        if common == 0:
            return 0
        precision, recall = common / sum(ours.values()), common / sum(theirs.values())
        return torch.tensor(2 * precision * recall / (precision + recall))

    def by_crossing_out(prediction, reference):
        ours, left = words._words(prediction), words._words(reference)
        total = len(ours) + len(left)
        for word in ours:
            if word in left:
                left.remove(word)
        common = total - len(ours) - len(left)
        return np.float64(2 * common / total if total else 1.0)

    assert is_correct(F1, by_precision_and_recall, by_crossing_out)


def test_f1_by_hand():
    # blue and goat in common, of three words and of four: 2 x 2 / (3 + 4).
    assert F1.solution("The blue, blue goat!", "a goat or blue hen") == pytest.approx(4 / 7)
    assert F1.solution("Springs", "the springs.") == 1
    assert F1.solution("springs", "goat") == 0


def test_padding_may_be_counted_in_any_way():
    def by_tensors(lengths, batch_size, is_sorted):
        order = torch.tensor(lengths).sort().values if is_sorted else torch.tensor(lengths)
        parts = order.split(batch_size)
        total = sum(part.max() * len(part) for part in parts)
        return (total - order.sum()) / total

    def by_package(lengths, batch_size, is_sorted):
        lengths = sorted(lengths) if is_sorted else lengths
        examples = [{"input_ids": [5] * n, "labels": 0} for n in lengths]
        starts = range(0, len(examples), batch_size)
        batches = [pad_examples(examples[i : i + batch_size], 0) for i in starts]
        mask = torch.cat([batch["attention_mask"].flatten() for batch in batches])
        return 1 - mask.float().mean().item()

    def in_place(lengths, batch_size, is_sorted):
        if is_sorted:
            lengths.sort()
        return PADDING.solution(lengths, batch_size, False)

    assert is_correct(PADDING, by_tensors, by_package, in_place)


def test_padding_by_hand():
    # 14 tokens in 5 + 5 + 4 + 4 places; sorted, 2 with 3 and 4 with 5, in 3 + 3 + 5 + 5.
    assert PADDING.solution([5, 2, 3, 4], 2, False) == pytest.approx(4 / 18)
    assert PADDING.solution([5, 2, 3, 4], 2, True) == pytest.approx(2 / 16)


def test_all_named_mistakes_in_words_are_told_apart():
    pair = words._PAIRS[0]
    scores = [words._token_f1(*pair), *(slip(*pair) for slip, _ in words._SLIPS)]
    apart = [abs(a - b) / (b or 1) for i, a in enumerate(scores) for b in scores[:i]]
    assert min(apart) > 2e-3


def test_all_named_mistakes_of_the_loss_are_told_apart():
    labels = losses._ANSWERS
    logits = draw(*labels.shape, 11)
    # Rolled labels differ only where the first token is a target, in the check's second case.
    values = [slip(logits, labels).item() for slip, _ in losses._SLIPS if slip != losses._rolled]
    assert len({round(value, 3) for value in values}) == len(values)

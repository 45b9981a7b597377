"""The loss at targets alone is the model's own, with its gradients, however it is cut."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
)

from course_utils.memory import estimate
from course_utils.methods.full import FullFineTuning
from course_utils.models import lean as lean_module
from course_utils.models.lean import lean
from course_utils.training import model_loss as module
from course_utils.training import train
from course_utils.training.model_loss import cross_entropy_of_head, model_loss
from tests.training.runs import quick, tiny_llama


def batch(*, is_packed: bool = False) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(3, 60, (3, 9))
    labels = ids.clone()
    labels[:, :4], labels[1, 6:] = -100, -100
    if is_packed:
        positions = torch.tensor([[*range(4), *range(5)], [*range(9)], [*range(2), *range(7)]])
        return {"input_ids": ids, "labels": labels, "position_ids": positions}
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def compare(model: nn.Module, inputs: dict[str, torch.Tensor], *, is_lean: bool) -> None:
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    expected = model(**inputs, use_cache=False).loss
    if is_lean:
        with lean(model):
            found = model_loss(model, inputs)
            ours = torch.autograd.grad(found, trained)
    else:
        found = model_loss(model, inputs)
        ours = torch.autograd.grad(found, trained)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    theirs = torch.autograd.grad(expected, trained)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("is_lean", [False, True])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("chunk", [2**22, 1])
def test_a_language_models_loss(
    is_lean: bool, is_packed: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    compare(tiny_llama(), batch(is_packed=is_packed), is_lean=is_lean)


@pytest.mark.parametrize("is_lean", [False, True])
def test_a_classifiers_loss_is_read_at_the_last_token_that_is_not_padding(is_lean: bool):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        num_labels=3,
        pad_token_id=0,
    )
    inputs = batch() | {"labels": torch.tensor([0, 2, 1])}
    inputs["input_ids"] = inputs["input_ids"] * inputs["attention_mask"]
    compare(AutoModelForSequenceClassification.from_config(config), inputs, is_lean=is_lean)


def test_other_models_give_their_own_loss():
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64)
    model, inputs = AutoModelForCausalLM.from_config(config).eval(), batch()
    assert torch.equal(model_loss(model, inputs), model(**inputs).loss)


def test_a_hook_on_the_model_sees_it_called():
    model, seen = tiny_llama(), []
    model.register_forward_hook(lambda *_: seen.append(1))
    model_loss(model, batch())
    assert seen


def test_no_more_logits_than_a_chunk_exist(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 128)
    sizes, real = [], torch.Tensor.logsumexp

    def noting(self: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        sizes.append(self.numel())
        return real(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "logsumexp", noting)
    head, hidden = nn.Linear(8, 32, bias=False), torch.randn(11, 8, requires_grad=True)
    targets = torch.randint(32, (11,))
    loss = cross_entropy_of_head(hidden, head, targets)
    assert sizes == [128, 128, 96]
    (3 * loss).backward()
    ours = hidden.grad.clone(), head.weight.grad.clone()
    hidden.grad = head.weight.grad = None
    (3 * nn.functional.cross_entropy(head(hidden), targets)).backward()
    torch.testing.assert_close(ours, (hidden.grad, head.weight.grad))


def test_under_autocast_the_loss_is_that_of_the_head_in_16_bits():
    torch.manual_seed(0)
    head, hidden = nn.Linear(8, 32, bias=False), torch.randn(11, 8, requires_grad=True)
    targets = torch.randint(32, (11,))
    with torch.autocast("cpu", torch.bfloat16):
        found = cross_entropy_of_head(hidden, head, targets)
        expected = nn.functional.cross_entropy(head(hidden).float(), targets)
    torch.testing.assert_close(found, expected)
    inputs = [hidden, head.weight]
    ours, theirs = (torch.autograd.grad(loss, inputs) for loss in (found, expected))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_estimate_knows_that_logits_are_made_of_targets_alone(
    share: float, monkeypatch: pytest.MonkeyPatch
):
    """Measured under transformers' own pass, as on a GPU; the vocabulary dominates."""
    monkeypatch.setattr(lean_module, "IS_ON", False)
    model = tiny_llama(vocab_size=4000)
    rows = [list(range(1, 61)) for _ in range(16)]
    n_prompt = round(60 * (1 - share))
    examples = [{"input_ids": r, "labels": [-100] * n_prompt + r[n_prompt:]} for r in rows]
    measured = train(model, examples, quick(max_steps=2)).peak_bytes
    options = {"batch_size": 8, "seq_len": 60}
    predicted = estimate(model, FullFineTuning(), target_share=share, **options)
    assert predicted.peak_bytes == pytest.approx(measured, rel=0.1)
    assert predicted.logits_bytes < estimate(model, FullFineTuning(), **options).logits_bytes

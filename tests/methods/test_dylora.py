import pytest
import torch
from torch import nn

from course_utils.methods import apply, load_adapter, merge, remove, save_adapter
from course_utils.methods.dylora import DyLoRAConfig, DyLoRALinear, set_rank
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig, LoRALinear
from course_utils.models import set_activation_checkpointing
from tests.methods.adapters import IDS, build, disturb, logits


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_at_a_rank_it_is_the_lora_layer_of_that_rank(rank: int):
    layer = DyLoRALinear(nn.Linear(9, 7), rank=4, alpha=6)
    nn.init.normal_(layer.B)
    layer.rank = rank
    same = LoRALinear(layer.base, rank=rank, alpha=6)
    with torch.no_grad():
        same.A.copy_(layer.A[:rank])
        same.B.copy_(layer.B[:, :rank])
    x = torch.randn(3, 9)
    assert torch.equal(layer(x), same(x))
    assert torch.equal(layer.adapted_weight(), same.adapted_weight())


def test_training_draws_one_rank_for_all_layers_and_every_rank_comes():
    model = apply(build(), DyLoRAConfig(rank=4)).train()
    drawn = []
    for _ in range(60):
        model(IDS)
        (rank,) = {len(layer.factors()[0]) for layer in adapted_layers(model).values()}
        drawn.append(rank)
    assert set(drawn) == {1, 2, 3, 4}


def test_after_training_the_model_has_all_its_ranks_in_memory_merged_and_on_disk(tmp_path):
    model = disturb(apply(build(), DyLoRAConfig(rank=4)))
    full = logits(model)
    layer = next(iter(adapted_layers(model).values()))
    while layer.drawn_rank in (None, 4):
        model.train()(IDS)
    assert torch.equal(logits(model.eval()), full)
    assert torch.equal(logits(load_adapter(build(), save_adapter(model, tmp_path))), full)
    model.train()(IDS)
    assert torch.allclose(logits(merge(model.eval())), full, atol=1e-5)
    assert not torch.allclose(logits(set_rank(model, 1)), full, atol=1e-3)


def test_recomputed_blocks_meet_the_rank_they_had():
    losses = []
    for is_checkpointed in (False, True):
        torch.manual_seed(3)
        model = disturb(apply(build(), DyLoRAConfig(rank=4))).train()
        if is_checkpointed:
            set_activation_checkpointing(model, True)
        torch.manual_seed(4)
        model(input_ids=IDS, labels=IDS).loss.backward()
        losses.append([layer.A.grad for layer in adapted_layers(model).values()])
    for plain, recomputed in zip(*losses, strict=True):
        assert torch.allclose(plain, recomputed, atol=1e-6)


def test_only_the_drawn_ranks_get_a_gradient():
    model = disturb(apply(build(), DyLoRAConfig(rank=4)))  # in eval mode nothing is drawn
    set_rank(model, 2)
    model(input_ids=IDS, labels=IDS).loss.backward()
    for layer in adapted_layers(model).values():
        assert layer.A.grad[:2].any()
        assert not layer.A.grad[2:].any()
        assert not layer.B.grad[:, 2:].any()


def test_inference_keeps_the_rank_that_was_set():
    model = disturb(apply(build(), DyLoRAConfig(rank=4)))
    full = logits(model)
    set_rank(model, 1)
    small = logits(model)
    assert not torch.allclose(small, full, atol=1e-3)
    assert torch.equal(logits(model), small)
    assert torch.equal(logits(set_rank(model, 4)), full)


def test_a_rank_that_is_not_there_is_named():
    model = apply(build(), DyLoRAConfig(rank=4))
    for rank in (0, 5):
        with pytest.raises(ValueError, match=rf"rank={rank} must be in 1..4"):
            set_rank(model, rank)
    with pytest.raises(ValueError, match="has no DyLoRA layers"):
        set_rank(remove(model), 1)
    model.train()(IDS)
    assert not model._forward_pre_hooks


def test_its_first_ranks_can_be_handed_on_as_plain_lora():
    model = set_rank(disturb(apply(build(), DyLoRAConfig(rank=4))), 2)
    plain = apply(build(), LoRAConfig(rank=2))
    with torch.no_grad():
        for ours, other in zip(
            adapted_layers(model).values(), adapted_layers(plain).values(), strict=True
        ):
            for mine, place in zip(ours.factors(), other.factors(), strict=True):
                place.copy_(mine)
    assert torch.equal(logits(plain), logits(model))

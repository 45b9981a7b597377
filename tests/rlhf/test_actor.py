import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from course_utils.generation import position_ids
from course_utils.methods import PrefixTuningConfig, PromptTuningConfig, apply
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
from course_utils.quantization import quantize_model
from course_utils.rlhf.actor import SeparateActorCritic, SharedActorCritic, share_base
from tests.methods.adapters import SHAPE, build
from tests.rlhf.tiny_actors import (
    ACTORS,
    PAD,
    disturb,
    separate_actor,
    shared_actor,
    tiny_critic,
    tiny_policy,
)


@pytest.fixture(scope="module")
def texts() -> tuple[Tensor, Tensor]:
    """Four texts of nine places, padded on both sides."""
    ids = torch.randint(4, 12, (4, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :3] = mask[2, 6:] = mask[3, :1] = mask[3, 7:] = 0
    return ids.masked_fill(mask == 0, PAD), mask


def is_same(found: Tensor, expected: Tensor, texts: tuple[Tensor, Tensor]) -> bool:
    """Say whether logits are the same on all real tokens; padding has none worth the name."""
    real = texts[1].bool()
    return torch.allclose(found[real], expected[real], atol=1e-5)


def plain(model: torch.nn.Module, texts: tuple[Tensor, Tensor]) -> Tensor:
    """Logits of a whole pass by transformers itself."""
    ids, mask = texts
    with torch.no_grad():
        return model(ids, attention_mask=mask, position_ids=position_ids(mask)).logits


# Both forms


PROMPTS = (PromptTuningConfig, PrefixTuningConfig)


@pytest.mark.parametrize("config", PROMPTS)
def test_a_soft_prompt_is_something_to_switch_off(config: type, texts):
    """The policy reads virtual tokens, the reference does not, and values are of the text alone."""
    actor = SharedActorCritic(apply(tiny_policy(), config(num_virtual_tokens=3))).eval()
    disturb(actor)
    assert is_same(actor.reference_logits(*texts), plain(tiny_policy(), texts), texts)
    logits, values = actor(*texts)
    assert not torch.allclose(logits, actor.reference_logits(*texts), atol=1e-2)
    assert values.shape == texts[0].shape
    assert torch.allclose(actor(*texts, last=3)[1], values[:, -3:], atol=1e-6)
    values.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in actor.trainable_parameters())
    separate = SeparateActorCritic(actor.policy, tiny_policy(), tiny_critic())
    assert is_same(separate.reference_logits(*texts), actor.reference_logits(*texts), texts)


@pytest.mark.parametrize("form", ACTORS)
def test_policy_and_reference_are_what_they_are_called(form: str, texts):
    actor = ACTORS[form]()
    disturb(actor)
    with torch.no_grad():
        logits, values = actor(*texts)
    assert is_same(logits, plain(actor.policy, texts), texts)
    assert is_same(actor.reference_logits(*texts), plain(tiny_policy(), texts), texts)
    assert not torch.allclose(logits, actor.reference_logits(*texts), atol=1e-2)
    assert values.shape == texts[0].shape
    assert values.std() > 1e-3


@pytest.mark.parametrize("form", ACTORS)
def test_the_last_positions_are_the_end_of_all(form: str, texts):
    actor = ACTORS[form]()
    disturb(actor)
    logits, values = actor(*texts)
    last_logits, last_values = actor(*texts, last=3)
    assert torch.allclose(last_logits, logits[:, -3:], atol=1e-6)
    assert torch.allclose(last_values, values[:, -3:], atol=1e-6)
    reference = actor.reference_logits(*texts)
    assert torch.allclose(actor.reference_logits(*texts, last=3), reference[:, -3:], atol=1e-6)


@pytest.mark.parametrize("form", ACTORS)
def test_padding_is_not_noticed(form: str, texts):
    actor = ACTORS[form]()
    disturb(actor)
    logits, values = actor(*texts)
    for row, (ids, mask) in enumerate(zip(*texts, strict=True)):
        alone = ids[mask == 1][None]
        expected_logits, expected_values = actor(alone, torch.ones_like(alone))
        assert torch.allclose(logits[row, mask == 1], expected_logits[0], atol=1e-5)
        assert torch.allclose(values[row, mask == 1], expected_values[0], atol=1e-5)


@pytest.mark.parametrize("form", ACTORS)
def test_the_reference_gets_no_gradient(form: str, texts):
    actor = ACTORS[form]()
    assert not actor.reference_logits(*texts).requires_grad
    logits, values = actor(*texts)
    (logits.square().mean() + values.square().mean()).backward()
    trained = {id(p) for p in actor.trainable_parameters()}
    assert {id(p) for p in actor.parameters() if p.grad is not None} <= trained


# One model


def test_the_adapter_and_the_value_head_train_and_nothing_else():
    actor = shared_actor()
    own = [p for layer in adapted_layers(actor.policy).values() for p in (layer.A, layer.B)]
    own += actor.value_head.parameters()
    assert {id(p) for p in actor.trainable_parameters()} == {id(p) for p in own}
    assert len(actor.trainable_parameters()) == 2 * 14 + 2


def test_values_start_at_zero_and_teach_head_and_adapter(texts):
    actor = shared_actor()
    _, values = actor(*texts)
    assert (values == 0).all()
    assert values.dtype == torch.float32
    disturb(actor)
    (actor(*texts)[1] - 1).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in actor.trainable_parameters())


def test_values_are_read_from_the_hidden_state_that_the_output_layer_reads(texts):
    actor = shared_actor()
    row = actor.policy.lm_head.weight[7]
    with torch.no_grad():
        actor.value_head.weight.copy_(row[None])
    logits, values = actor(*texts)
    assert torch.allclose(values, logits[..., 7], atol=1e-5)


CRITICS = {
    "qwen3": lambda: Qwen3ForSequenceClassification(
        Qwen3Config(**SHAPE, head_dim=12, num_labels=1)
    ),
    "gpt2": lambda: GPT2ForSequenceClassification(
        GPT2Config(
            vocab_size=61,
            n_embd=36,
            n_layer=2,
            n_head=3,
            n_positions=32,
            num_labels=1,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).eval(),
}


@pytest.mark.parametrize("name", CRITICS)
def test_other_architectures_work_in_both_forms(name: str):
    ids = torch.randint(1, 61, (2, 6), generator=torch.Generator().manual_seed(0))
    shared = SharedActorCritic(apply(build(name), LoRAConfig(rank=2)))
    disturb(shared)
    texts = ids, torch.ones_like(ids)
    assert torch.equal(shared.reference_logits(*texts), plain(build(name), texts))
    logits, values = shared(*texts, last=2)
    assert torch.allclose(logits, plain(shared.policy, texts)[:, -2:], atol=1e-6)
    critic = CRITICS[name]()
    separate = SeparateActorCritic(build(name), build(name), critic)
    assert torch.equal(separate.reference_logits(*texts), plain(build(name), texts))
    values = separate(*texts)[1]
    assert torch.allclose(values[:, -1], critic(ids).logits[:, 0], atol=1e-6)


def test_without_an_adapter_there_is_no_reference():
    with pytest.raises(ValueError, match="carries no adapter, and with none to switch off"):
        SharedActorCritic(tiny_policy())


def test_what_trains_beside_the_adapter_would_move_the_reference():
    policy = apply(tiny_policy(), LoRAConfig(rank=2))
    policy.model.norm.requires_grad_(True)
    with pytest.raises(ValueError, match=r"model\.norm\.weight trains beside the adapter"):
        SharedActorCritic(policy)


# Three models


def test_the_critic_s_last_value_is_the_classifier_s_output():
    actor = separate_actor()
    ids = torch.randint(4, 12, (3, 7), generator=torch.Generator().manual_seed(0))
    _, values = actor(ids, torch.ones_like(ids))
    expected = actor.value_model(ids).logits[:, 0]
    assert torch.allclose(values[:, -1], expected, atol=1e-6)


def test_policy_and_critic_train_and_the_reference_does_not():
    actor = separate_actor()
    expected = [*actor.policy.parameters(), *actor.value_model.parameters()]
    assert {id(p) for p in actor.trainable_parameters()} == {id(p) for p in expected}


def test_a_policy_with_an_adapter_may_have_a_plain_reference():
    policy, reference = apply(tiny_policy(), LoRAConfig(rank=2)), tiny_policy()
    share_base(policy, reference.requires_grad_(False))
    actor = SeparateActorCritic(policy, reference, apply(tiny_critic(), LoRAConfig(rank=2)))
    assert len(actor.trainable_parameters()) == 2 * 2 * 14 + 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            lambda: build("gpt2"),
            "the reference is a GPT2LMHeadModel and the policy a "
            "LlamaForCausalLM: the reference must be the model that",
        ),
        (
            lambda: tiny_policy(vocab_size=11),
            r"model.embed_tokens.weight is \(11, 32\) in the "
            r"reference and \(12, 32\) in the policy",
        ),
        (
            lambda: tiny_policy(num_hidden_layers=3),
            r"model.layers.2.\S+ is \(32, 32\) in the "
            "reference and missing in the policy",
        ),
        (lambda: tiny_policy(num_hidden_layers=1), r"model.layers.1.\S+ is missing in the "),
    ],
)
def test_a_reference_that_is_not_the_base_is_told(reference, message: str):
    with pytest.raises(ValueError, match=message):
        SeparateActorCritic(tiny_policy(), reference(), tiny_critic())


def test_a_reference_that_moves_with_the_policy_is_told():
    policy = tiny_policy()
    with pytest.raises(ValueError, match=r"shares model.embed_tokens.weight with the policy, "):
        SeparateActorCritic(policy, policy, tiny_critic())


def test_a_critic_has_one_output():
    with pytest.raises(ValueError, match="num_labels=2 of the critic must be 1"):
        SeparateActorCritic(tiny_policy(), tiny_policy(), tiny_critic(num_labels=2))


def test_a_critic_s_head_is_read_at_every_token():
    config = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=12, num_labels=1
    )
    message = "BertForSequenceClassification has classifier where a critic has score"
    with pytest.raises(ValueError, match=message):
        SeparateActorCritic(tiny_policy(), tiny_policy(), BertForSequenceClassification(config))
    headless = tiny_policy(num_labels=1)
    with pytest.raises(ValueError, match="LlamaForCausalLM has no head where a critic has score"):
        SeparateActorCritic(tiny_policy(), tiny_policy(), headless)


# One base for two models


def reward_on(policy: torch.nn.Module) -> torch.nn.Module:
    """A classifier on a copy of the policy's trunk, with an adapter of its own."""
    reward = tiny_critic()
    reward.model.load_state_dict(tiny_policy().model.state_dict())
    reward = apply(reward, LoRAConfig(rank=3))
    disturb(reward)
    return reward


def test_two_models_share_a_base_and_compute_what_they_did(texts):
    policy = shared_actor().policy
    reward = reward_on(policy)
    before = plain(policy, texts), plain(reward, texts)
    saved = share_base(policy, reward)
    assert saved == sum(p.nbytes for p in tiny_policy().model.parameters())
    assert torch.equal(plain(policy, texts), before[0])
    assert torch.equal(plain(reward, texts), before[1])
    held = {p.data_ptr(): p.nbytes for model in (policy, reward) for p in model.parameters()}
    separately = sum(p.nbytes for model in (policy, reward) for p in model.parameters())
    assert separately - sum(held.values()) == saved
    assert share_base(policy, reward) == 0


def test_adapters_stay_apart_when_the_base_is_shared():
    policy = shared_actor().policy
    reward = reward_on(policy)
    share_base(policy, reward)
    disturb(policy)
    pairs = zip(adapted_layers(policy).values(), adapted_layers(reward).values(), strict=True)
    assert all(a.A.data_ptr() != b.A.data_ptr() for a, b in pairs)
    assert reward.score.weight.requires_grad


def test_a_base_in_four_bits_is_shared_too(texts):
    policy, reward = quantize_model(tiny_policy()), tiny_critic()
    reward.model.load_state_dict(tiny_policy().model.state_dict())
    apply(policy, LoRAConfig(rank=2))
    apply(quantize_model(reward), LoRAConfig(rank=2))
    before = plain(reward, texts)
    assert share_base(policy, reward) > 0
    assert torch.equal(plain(reward, texts), before)
    packed = [m.model.layers[0].mlp.up_proj.base.packed.data_ptr() for m in (policy, reward)]
    assert packed[0] == packed[1]


def test_tied_weights_are_counted_once():
    first, second = (frozen(tie_word_embeddings=True) for _ in "ab")
    assert share_base(first, second) == sum(p.nbytes for p in second.parameters())
    assert second.lm_head.weight is second.model.embed_tokens.weight


def test_a_bit_of_difference_is_refused_and_nothing_is_shared():
    policy = shared_actor().policy
    reward = reward_on(policy)
    weight = reward.model.norm.weight
    weight.data[3] = weight.data[3].nextafter(torch.tensor(9.0))
    places = [p.data_ptr() for p in reward.parameters()]
    with pytest.raises(ValueError, match=r"model.norm.weight differs between the models"):
        share_base(policy, reward)
    assert [p.data_ptr() for p in reward.parameters()] == places


def frozen(**changes: object) -> torch.nn.Module:
    return tiny_policy(**changes).requires_grad_(False)


def test_another_type_is_a_difference():
    with pytest.raises(ValueError, match="differs between the models"):
        share_base(frozen(), frozen().double())


def test_what_trains_is_never_shared():
    with pytest.raises(ValueError, match="no frozen weight in common: apply an adapter to both"):
        share_base(shared_actor().policy, tiny_critic())

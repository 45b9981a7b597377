"""The estimated memory of PPO against real models and a real update, in both forms."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from course_utils.generation import encode_prompts, generate_tokens
from course_utils.measure import PeakMemory
from course_utils.memory import estimate, known_architectures
from course_utils.methods import (
    FrozenFineTuning,
    FullFineTuning,
    LoRAConfig,
    PromptTuningConfig,
    apply,
)
from course_utils.models import lean, load_tokenizer
from course_utils.rlhf.actor import (
    ActorCritic,
    SeparateActorCritic,
    SharedActorCritic,
    share_base,
)
from course_utils.rlhf.config import PPOConfig
from course_utils.rlhf.memory import PPOEstimate, estimate_ppo
from course_utils.rlhf.ppo import train_ppo
from course_utils.rlhf.reward_model import RewardModel

PEAK_TOLERANCE = 0.05
LORA = LoRAConfig(rank=8)
SHAPES = {
    "tied": LlamaConfig(
        vocab_size=3072,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    ),
    "grouped": LlamaConfig(
        vocab_size=3072,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    ),
    "wide": LlamaConfig(
        vocab_size=3072,
        hidden_size=64,
        intermediate_size=512,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    ),
    "deep": LlamaConfig(
        vocab_size=3072,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=8,
        num_attention_heads=2,
        tie_word_embeddings=True,
    ),
}
LONG_PROMPTS = {"minibatch_size": 8, "prompt_tokens": 96, "response_tokens": 1}
SIZES = {"batch_size": 8, "minibatch_size": 4, "prompt_tokens": 32, "response_tokens": 16}


@pytest.fixture(autouse=True)
def _usual_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate counts what transformers' own pass takes, as on a GPU."""
    monkeypatch.setattr(lean, "IS_ON", False)


def build(
    shape: str, form: str, *, has_adapters: bool = True, dtype: torch.dtype = torch.float32
) -> tuple[ActorCritic, RewardModel]:
    """Make policy, reference, critic and reward model with random weights."""
    config = SHAPES[shape]
    config.bos_token_id, config.eos_token_id, config.pad_token_id, config.num_labels = 1, 2, 0, 1

    def make(kind: type) -> torch.nn.Module:
        torch.manual_seed(0)
        return kind(config).to(dtype).eval()

    policy, reference = make(LlamaForCausalLM), make(LlamaForCausalLM)
    critic, judge = make(LlamaForSequenceClassification), make(LlamaForSequenceClassification)
    for model in (policy, critic, judge) if has_adapters else ():
        apply(model, LORA)
    reward = RewardModel(judge, load_tokenizer("embedded"))
    if form == "separate":
        return SeparateActorCritic(policy, reference, critic), reward
    share_base(policy, judge)
    return SharedActorCritic(policy), reward


def held_bytes(actor: ActorCritic, reward: RewardModel) -> int:
    """Bytes of all weights; a storage that is used twice counts once."""
    tensors = [*actor.parameters(), *reward.model.parameters()]
    return sum({t.data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def prompts_of(sizes: dict[str, int]) -> list[str]:
    """As many prompts as a batch has, of different lengths; the longest has ``prompt_tokens``."""
    word = " the"
    tokenizer = load_tokenizer("embedded")
    (one,) = [tokenizer(word, add_special_tokens=False)["input_ids"]]
    assert len(one) == 1
    longest = sizes["prompt_tokens"] - 1  # and the begin token
    return [word * (longest - k % 3) for k in range(sizes["batch_size"])]


def measure_update(actor: ActorCritic, reward: RewardModel, sizes: dict[str, int]) -> int:
    """Measure the peak of two updates: in the second, the optimizer's states are there."""
    config = PPOConfig(
        n_updates=2,
        n_epochs=1,
        batch_size=sizes["batch_size"],
        minibatch_size=sizes["minibatch_size"],
        max_new_tokens=sizes["response_tokens"],
        learning_rate=1e-4,
        show_progress=False,
    )
    lengths = []
    models = (actor, reward.model)
    with PeakMemory([t for model in models for t in (*model.parameters(), *model.buffers())]) as p:
        train_ppo(
            actor,
            reward.tokenizer,
            prompts_of(sizes),
            reward,
            config,
            on_update=lambda _, __, rollout: lengths.append(rollout.sequences.shape[1]),
        )
    assert set(lengths) == {sizes["prompt_tokens"] + sizes["response_tokens"]}
    return p.n_bytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("has_adapters", [True, False])
@pytest.mark.parametrize("form", ["shared", "separate"])
@pytest.mark.parametrize("shape", ["tied", "grouped"])
def test_weights_are_exact(shape: str, form: str, has_adapters: bool, dtype: str) -> None:
    if form == "shared" and not has_adapters:
        return
    actor, reward = build(shape, form, has_adapters=has_adapters, dtype=getattr(torch, dtype))
    method = LORA if has_adapters else FullFineTuning()
    predicted = estimate_ppo(actor.policy, method, form=form, dtype=dtype, **SIZES)
    trained = actor.trainable_parameters()
    assert predicted.weights_bytes == held_bytes(actor, reward)
    assert predicted.gradients_bytes == sum(p.nbytes for p in trained)
    assert predicted.optimizer_bytes == sum(2 * p.nbytes + 4 for p in trained)


@pytest.mark.parametrize(
    ("shape", "form", "has_adapters", "changes", "phase"),
    [
        ("tied", "shared", True, {"minibatch_size": 2}, "scoring"),
        ("tied", "shared", True, {"minibatch_size": 8}, "training"),
        ("tied", "separate", False, {"response_tokens": 8}, "training"),
        ("grouped", "separate", False, {"response_tokens": 2}, "training"),
        ("grouped", "shared", True, {**LONG_PROMPTS, "minibatch_size": 1}, "rollout"),
        ("deep", "shared", True, {**LONG_PROMPTS, "minibatch_size": 1}, "rollout"),
    ],
)
def test_peak_agrees_with_a_real_update(
    shape: str, form: str, has_adapters: bool, changes: dict[str, int], phase: str
) -> None:
    sizes = SIZES | changes
    actor, reward = build(shape, form, has_adapters=has_adapters)
    method = LORA if has_adapters else FullFineTuning()
    predicted = estimate_ppo(actor.policy, method, form=form, **sizes)
    measured = measure_update(actor, reward, sizes)
    # The weights agree exactly; without them the tolerance is a narrower one.
    weights = predicted.weights_bytes
    assert predicted.peak_bytes - weights == pytest.approx(measured - weights, rel=PEAK_TOLERANCE)
    assert predicted.peak_phase == phase


@pytest.mark.parametrize("form", ["shared", "separate"])
def test_peak_on_the_way_back(form: str) -> None:
    """With few logits and a wide MLP it is in the policy's block, or in the critic's."""
    sizes = SIZES | LONG_PROMPTS
    actor, reward = build("wide", form)
    predicted = estimate_ppo(actor.policy, LORA, form=form, **sizes)
    measured = measure_update(actor, reward, sizes) - predicted.weights_bytes
    beside_weights = predicted.peak_bytes - predicted.weights_bytes
    assert beside_weights == pytest.approx(measured, rel=PEAK_TOLERANCE)
    assert predicted.peak_phase == "training"


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ("deep", {"response_tokens": 32}),
        ("deep", {"prompt_tokens": 128, "response_tokens": 4}),
        ("grouped", {"response_tokens": 64, "prompt_tokens": 8}),
    ],
)
def test_rollout_agrees_with_generation(shape: str, changes: dict[str, int]) -> None:
    sizes = SIZES | changes
    actor, reward = build(shape, "shared")
    ids, mask = encode_prompts(reward.tokenizer, prompts_of(sizes))
    with PeakMemory(actor.parameters()) as peak:
        new = generate_tokens(
            actor.policy,
            ids,
            mask,
            max_new_tokens=sizes["response_tokens"],
            eos_token_id=-1,
            pad_token_id=0,
            temperature=1.0,
            generator=torch.Generator().manual_seed(0),
        )
    assert new.shape[1] == sizes["response_tokens"]
    measured = peak.n_bytes - sum(parameter.nbytes for parameter in actor.parameters())
    predicted = beside_held(estimate_ppo(actor.policy, LORA, form="shared", **sizes), "rollout")
    assert predicted == pytest.approx(measured, rel=PEAK_TOLERANCE)


def beside_held(predicted: PPOEstimate, phase: str) -> int:
    """Bytes of a phase beside weights and optimizer states."""
    held = predicted.weights_bytes + predicted.optimizer_bytes
    return dict(predicted.phases)[phase] - held


def cost(method: object = None, form: str = "shared", **changes: object) -> PPOEstimate:
    """Estimate an update of Llama 2 7B in 16 bits."""
    options = {"dtype": "bfloat16", **SIZES, **changes}
    return estimate_ppo("Llama-2-7B", method or LoRAConfig(), form=form, **options)


def test_four_models_of_seven_billion_take_fifty_six_gigabytes() -> None:
    whole = known_architectures()["Llama-2-7B"].n_parameters
    separate, shared = cost(FullFineTuning(), "separate"), cost()
    assert separate.policy_bytes == separate.reference_bytes == 2 * whole
    # Critic and reward model have one output in the place of a vocabulary.
    head = 4096 * (32000 - 1)
    assert separate.critic_bytes == separate.reward_model_bytes == 2 * (whole - head)
    assert separate.weights_bytes == pytest.approx(4 * 2 * 7e9, rel=0.05)
    assert shared.policy_bytes == 2 * whole
    assert shared.reference_bytes == 0
    assert shared.critic_bytes == 4 * (4096 + 1)
    assert shared.reward_model_bytes == 2 * 4096
    assert shared.weights_bytes - shared.policy_bytes < 0.02 * shared.policy_bytes


def test_parts_add_up_and_are_listed() -> None:
    predicted = cost(form="separate", minibatch_size=8, response_tokens=64)
    parts = predicted.parts()
    weights = ("policy", "reference", "critic", "reward model", "adapters")
    assert sum(parts[name] for name in weights) == predicted.weights_bytes
    assert sum(parts.values()) == predicted.total_bytes
    # While a minibatch goes forward, all is there but the cache and the gradients.
    elsewhere = parts["KV cache"] + parts["gradients"]
    assert dict(predicted.phases)["training"] == predicted.total_bytes - elsewhere
    assert predicted.peak_bytes == max(size for _, size in predicted.phases)
    rows = dict(predicted.rows())
    assert rows == parts | dict(predicted.phases) | {"peak": predicted.peak_bytes}
    assert "KV cache" in str(predicted)


def test_batch_minibatch_and_length_each_cost_what_they_hold() -> None:
    plain = cost()
    batch, minibatch, answers = (
        cost(batch_size=16),
        cost(minibatch_size=8),
        cost(response_tokens=32),
    )
    assert batch.kv_cache_bytes == 2 * plain.kv_cache_bytes
    assert batch.experience_bytes == 2 * plain.experience_bytes
    assert (batch.activations_bytes, batch.logits_bytes) == (
        plain.activations_bytes,
        plain.logits_bytes,
    )
    assert minibatch.logits_bytes == answers.logits_bytes == 2 * plain.logits_bytes
    assert minibatch.activations_bytes == 2 * plain.activations_bytes - rotary_bytes()
    assert minibatch.kv_cache_bytes == plain.kv_cache_bytes
    # Keys and values: 2 tensors, 32 blocks, 4,096 wide, 2 bytes; the last token has none.
    assert plain.kv_cache_bytes == 8 * (32 + 16 - 1) * 2 * 32 * 4096 * 2
    # Two 64-bit integers for each of 48 tokens; of an answer's 16 a byte and six float32 each.
    assert plain.experience_bytes == 8 * (48 * 16 + 16 * 25)
    assert minibatch.weights_bytes == answers.weights_bytes == plain.weights_bytes


def rotary_bytes() -> int:
    """Sines and cosines of a head's 128 dimensions, which all texts share."""
    return 2 * (32 + 16 - 1) * 128 * 2


def test_one_step_on_a_minibatch_is_the_estimate_of_sft() -> None:
    """What the policy keeps is what fine-tuning keeps; the shared form adds the head's input."""
    step = estimate(
        "Llama-2-7B", LoRAConfig(), batch_size=4, seq_len=47, dtype="bfloat16", is_padded=True
    )
    head_input = 4 * 47 * 4096 * 4
    assert cost().activations_bytes == step.activations_bytes + head_input
    assert cost(form="separate").activations_bytes > 2 * step.activations_bytes


def test_the_reward_model_may_have_an_adapter_of_its_own() -> None:
    plain, wide = cost(), cost(reward_method=LoRAConfig(rank=16))
    none = cost(form="separate", reward_method=FullFineTuning())
    one = plain.adapters_bytes // 2  # two of one size: the policy's and the reward model's
    assert wide.adapters_bytes == 3 * one
    assert none.adapters_bytes == 2 * one  # the policy's and the critic's


def test_a_soft_prompt_trains_in_float32() -> None:
    method, shape = PromptTuningConfig(num_virtual_tokens=5), known_architectures()["SmolLM2-135M"]
    predicted = estimate_ppo(shape, method, form="shared", dtype="bfloat16", **SIZES)
    prompt, value_head = 5 * shape.d_model, shape.d_model + 1
    assert predicted.gradients_bytes == 4 * (prompt + value_head)
    assert predicted.adapters_bytes == 2 * 4 * prompt  # the policy's and the reward model's


def test_adam_in_mixed_precision_keeps_twelve_bytes_a_weight() -> None:
    predicted = cost(FullFineTuning(), "separate", mixed_precision=True)
    n_trained = (predicted.policy_bytes + predicted.critic_bytes) / 2
    assert predicted.gradients_bytes == 2 * n_trained
    assert predicted.optimizer_bytes == pytest.approx(12 * n_trained, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "both"}, "form='both' must be one of shared, separate"),
        ({"form": None}, "form=None must be one of shared, separate"),
        ({"batch_size": 8.0}, "batch_size=8.0 must be a whole number, at least 1"),
        ({"prompt_tokens": float("nan")}, "prompt_tokens=nan must be a whole number, at least 1"),
        ({"mixed_precision": 1}, "mixed_precision=1 must be True or False"),
        ({"method": "lora"}, "method='lora' must be a method's configuration"),
        ({"reward_method": LoRAConfig}, "method=.*LoRAConfig.* must be a method's configuration"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"minibatch_size": -1}, "minibatch_size=-1 must be at least 1"),
        ({"prompt_tokens": 0}, "prompt_tokens=0 must be at least 1"),
        ({"response_tokens": 0}, "response_tokens=0 must be at least 1"),
        ({"minibatch_size": 3}, "minibatch_size=3 must divide batch_size=8"),
        ({"dtype": "int8"}, "dtype='int8' must be one of float32"),
        ({"optimizer": "lion"}, "optimizer='lion' must be one of adamw"),
        ({"method": FullFineTuning()}, "only add to the trunk.*use form='separate'"),
        ({"method": FrozenFineTuning(last_n_layers=0)}, "only add to the trunk"),
        ({"reward_method": FullFineTuning()}, "only add to the trunk"),
    ],
)
def test_arguments_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost(**changes)

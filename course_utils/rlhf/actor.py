"""Policy, reference and critic: in three models, or in one that carries an adapter.

PPO needs a policy that learns, a reference that stays what the policy was, and a critic that
expects a value before every token (Ouyang et al., 2022, arXiv:2203.02155, section 3.5). With LoRA
the policy with its adapter off is the reference, and the critic is one more row on its last hidden
state: one model in memory and not three. GRPO and its kin have no critic, and a policy that pays no
price for leaving its reference needs none of that either.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from course_utils.methods import adapter_disabled
from course_utils.methods.layers import adapted_layers
from course_utils.models.structure import carried_by, classifier_heads, soft_prompt_of
from course_utils.rlhf.reading import last_states, read

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The head of transformers' causal classifiers: a layer on the hidden state of each token.
READ_AT_EVERY_TOKEN = "score"


class Actor(nn.Module):
    """A policy alone: without a critic, and without a reference that it could be held to.

    Args:
        policy: Causal language model; what requires a gradient trains, with or without an adapter.
    """

    has_reference = False

    def __init__(self, policy: "PreTrainedModel") -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self, sequences: Tensor, attention_mask: Tensor, *, last: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Predict the token after each position, and with a critic the value expected there.

        Args:
            sequences: Prompts and answers, (batch, seq).
            attention_mask: 1 on real tokens, 0 on padding of either side, (batch, seq).
            last: Return only the so many last positions; all by default.

        Returns:
            Logits of the policy, (batch, last, vocab), and values, (batch, last), or None without a
            critic.
        """
        return read(self.policy, sequences, attention_mask, last)[0], None

    def reference_logits(
        self, sequences: Tensor, attention_mask: Tensor, *, last: int | None = None
    ) -> Tensor:
        """Return what the reference predicts, (batch, last, vocab), without a gradient.

        Raises:
            ValueError: If there is no reference, as ``has_reference`` says.
        """
        raise ValueError(f"{type(self).__name__} has no reference: use SharedActor, SeparateActor")

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return what is trained: of the policy, and of the critic if there is one."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @property
    def device(self) -> torch.device:
        """Where the policy is."""
        return next(self.policy.parameters()).device


class SharedActor(Actor):
    """One model: policy with the adapter on, reference with it off.

    Args:
        policy: Causal language model that carries an adapter or a soft prompt, which alone trains.

    Raises:
        ValueError: If there is no adapter, or something else in the model trains too.
    """

    has_reference = True
    _with_separate_models = "SeparateActor"

    def __init__(self, policy: "PreTrainedModel") -> None:
        super().__init__(policy)
        if carried_by(policy) is None:
            raise ValueError(
                f"{type(policy).__name__} carries no adapter, and with none to switch off there "
                f"is no reference: apply LoRAConfig first, or use {self._with_separate_models}"
            )
        for name, parameter in base_tensors(policy).items():
            if parameter.requires_grad:
                raise ValueError(
                    f"{name} trains beside the adapter: with the adapter off, the policy would "
                    "not be the base any more, which is the reference"
                )

    @torch.no_grad()
    def reference_logits(
        self, sequences: Tensor, attention_mask: Tensor, *, last: int | None = None
    ) -> Tensor:
        """Return what the base predicts: the policy with its adapter off."""
        with adapter_disabled(self.policy):
            return read(self.policy, sequences, attention_mask, last)[0]


class SeparateActor(Actor):
    """Two models: the policy, and what it was at the start.

    Args:
        policy: Causal language model; what requires a gradient trains, with or without an adapter.
        reference: What the policy was at the start; frozen in place.

    Raises:
        ValueError: If the reference is another kind of model than the policy, or shares weights
            with it that train.
    """

    has_reference = True

    def __init__(self, policy: "PreTrainedModel", reference: "PreTrainedModel") -> None:
        super().__init__(policy)
        check_reference(policy, reference)
        self.reference = reference.requires_grad_(False)

    @torch.no_grad()
    def reference_logits(
        self, sequences: Tensor, attention_mask: Tensor, *, last: int | None = None
    ) -> Tensor:
        """Return what the reference predicts; shapes as in ``Actor``."""
        return read(self.reference, sequences, attention_mask, last)[0]


class ActorCritic(Actor):
    """What both forms with a critic offer: ``forward`` returns its values, too."""


class SharedActorCritic(SharedActor, ActorCritic):
    """One model: policy with the adapter on, reference with it off, a value head on the trunk.

    The head is a linear layer on the last hidden state; it starts at zero, so that every value
    does. Its gradient goes on into the adapter.

    Args:
        policy: Causal language model that carries an adapter or a soft prompt, which alone trains.

    Raises:
        ValueError: If there is no adapter, or something else in the model trains too.
    """

    _with_separate_models = "SeparateActorCritic"

    def __init__(self, policy: "PreTrainedModel") -> None:
        super().__init__(policy)
        dtype = torch.promote_types(policy.dtype, torch.float32)
        self.value_head = nn.Linear(
            policy.get_input_embeddings().embedding_dim, 1, device=self.device, dtype=dtype
        )
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(
        self, sequences: Tensor, attention_mask: Tensor, *, last: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predict tokens and values in one pass; shapes as in ``Actor``."""
        logits, states = read(self.policy, sequences, attention_mask, last)
        return logits, self.value_head(states.to(self.value_head.weight.dtype)).squeeze(-1)


class SeparateActorCritic(SeparateActor, ActorCritic):
    """Three models, as in the papers; the model behind the reward is the fourth.

    Args:
        policy: Causal language model; what requires a gradient trains, with or without an adapter.
        reference: What the policy was at the start; frozen in place.
        value_model: Sequence classifier with one output, whose head is read at every token; what
            requires a gradient trains.

    Raises:
        ValueError: If the reference is another kind of model than the policy, or shares weights
            with it that train, or the value model has not one output for every token.
    """

    def __init__(
        self,
        policy: "PreTrainedModel",
        reference: "PreTrainedModel",
        value_model: "PreTrainedModel",
    ) -> None:
        if value_model.config.num_labels != 1:
            raise ValueError(f"num_labels={value_model.config.num_labels} of the critic must be 1")
        if (heads := classifier_heads(value_model)) != [READ_AT_EVERY_TOKEN]:
            raise ValueError(
                f"{type(value_model).__name__} has {' and '.join(heads) or 'no head'} where a "
                f"critic has {READ_AT_EVERY_TOKEN}: transformers' heads of other names read one "
                "place of a text, and not what comes before each token"
            )
        super().__init__(policy, reference)
        self.value_model = value_model

    def forward(
        self, sequences: Tensor, attention_mask: Tensor, *, last: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predict tokens with the policy and values with the critic; shapes as in ``Actor``."""
        logits, _ = read(self.policy, sequences, attention_mask, last)
        critic, last = self.value_model, last or sequences.shape[1]
        states = last_states(critic, critic.base_model, sequences, attention_mask, last)
        values = getattr(critic, READ_AT_EVERY_TOKEN)(states).squeeze(-1)
        return logits, values.to(torch.promote_types(values.dtype, torch.float32))


def check_reference(policy: nn.Module, reference: nn.Module) -> None:
    """Check that a model can be the start of a policy: same architecture, same shapes.

    Raises:
        ValueError: If it cannot, or if it would move with the policy.
    """
    kinds = [type(model).__name__ for model in (policy, reference)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"the reference is a {kinds[1]} and the policy a {kinds[0]}: "
            "the reference must be the model that the policy started from"
        )
    ours, theirs = base_tensors(policy), base_tensors(reference)
    for name in [*ours, *theirs]:
        shapes = [tuple(t[name].shape) if name in t else "missing" for t in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{name} is {shapes[1]} in the reference and {shapes[0]} in the policy: "
                "the reference must be the model that the policy started from"
            )
        if ours[name].requires_grad and ours[name].data_ptr() == theirs[name].data_ptr():
            raise ValueError(
                f"the reference shares {name} with the policy, which trains it: load it twice"
            )


def share_base(model: nn.Module, other: nn.Module) -> int:
    """Make ``other`` use the memory of ``model`` for every frozen weight that both have.

    So a reward model on the policy's base adds its adapter and its head, and no second base.

    Args:
        model: Model whose weights stay where they are, with an adapter or without.
        other: Model with the same weights, which give up their own memory; adapters are left out.

    Returns:
        Bytes that are given up.

    Raises:
        ValueError: If a weight differs in as much as a bit, or none is frozen in both. ``other``
            is then as it was.
    """
    kept, given_up = base_tensors(model), base_tensors(other)
    common = [
        name
        for name in given_up
        if name in kept and not (kept[name].requires_grad or given_up[name].requires_grad)
    ]
    if not common:
        raise ValueError("the models have no frozen weight in common: apply an adapter to both")
    for name in common:
        if not _is_identical(kept[name], given_up[name]):
            raise ValueError(f"{name} differs between the models: only one base can be shared")
    saved_bytes = 0
    for name in common:
        if given_up[name].data_ptr() != kept[name].data_ptr():
            saved_bytes += given_up[name].nbytes
            given_up[name].data = kept[name].data
    return saved_bytes


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights by their names in the base alone."""
    tensors, layers = model.state_dict(keep_vars=True), adapted_layers(model)
    if soft_prompt_of(model) is not None:
        tensors = {k: tensor for k, tensor in tensors.items() if not k.startswith("soft_prompt.")}
    for layer in layers:
        own = {key: tensors.pop(key) for key in list(tensors) if key.startswith(f"{layer}.")}
        base = f"{layer}.base."
        tensors |= {
            f"{layer}.{key.removeprefix(base)}": tensor
            for key, tensor in own.items()
            if key.startswith(base)
        }
    return dict(tensors)


def _is_identical(first: Tensor, second: Tensor) -> bool:
    kinds = [(tensor.shape, tensor.dtype, tensor.device) for tensor in (first, second)]
    return kinds[0] == kinds[1] and torch.equal(first, second)

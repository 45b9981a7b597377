"""What the forward pass keeps for the backward pass, tensor by tensor.

Autograd keeps a tensor when some gradient is computed from it. Of ``y = x W^T`` the gradient of
``W`` needs ``x`` and the gradient of ``x`` needs ``W``, which is there anyway: so a frozen linear
layer keeps nothing, and a trained one keeps its input. Everything follows from such rules, applied
to a block in order (Korthikanti et al., 2022, arXiv:2205.05198, section 4.1, count GPT's block this
way; here it is Llama's, in the form of transformers' modelling code). With ``d`` the width of the
residual stream, ``q`` and ``kv`` those of all queries and keys, ``f`` that of the MLP, ``h`` heads
and ``s`` tokens a sequence, a block keeps for each token

==================================  ==================  ============================================
tensor                              elements            kept when
==================================  ==================  ============================================
norm: input, in float32             d                   a gradient passes through the norm
norm: 1 / root mean square          1                   the same
norm: normalised input              d                   the norm's scale is trained
input of q, k, v                    d                   one of their weights is trained
queries, keys: norm's tensors       as above, q and kv  the model norms them (Qwen 3)
queries, keys after rotation        q + kv              sdpa: a gradient enters attention
values                              kv                  the same
attention output                    q                   the same; input of o as well
log of the softmax's sum, float32   h                   the same
second norm                         as the first
input of gate and up                d                   one of their weights is trained
gate's output                       f                   SiLU's gradient needs its input
SiLU's output, up's output          2 f                 a product needs both its factors
their product                       f                   the weight of down is trained
==================================  ==================  ============================================

A module that the method adds computes in float32 and keeps what it needs in float32. Beside a model
of 16 bits each one that needs its layer's input has a copy of its own; in float32 they share it.

Additions and reshapes keep nothing. In full fine-tuning with float32 that is
``4 (6 d + 2 q + 2 kv + 4 f + h + 2)`` bytes a token and block; with ``q = kv = d`` and
``f = 8/3 d``, about 83 d.

``eager`` attention keeps the softmax instead, ``h s`` elements a token, and a second time in the
compute type when that is not float32; keys and values stand there once a query head. ``sdpa``
never stores it (Dao et al., 2022, arXiv:2205.14135); when a batch is padded it takes a mask, kept
for every block, and keys and values repeated for every query head.

A soft prompt of ``n`` virtual tokens among the embeddings makes every text ``s + n`` tokens long in
the blocks and the final norm; the head and the loss see ``s``. As keys and values of every block
they are joined to the text's: these are kept for ``s + n`` tokens and take their gradient along, in
the first block too, and sdpa is given a mask, padded or not.

Below the lowest trained parameter no gradient is needed and nothing is kept.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from course_utils.memory.architecture import Architecture
from course_utils.memory.parts import FLOAT32_BYTES
from course_utils.memory.trained import AddedModule, BlockTraining, Trained
from course_utils.memory.workload import Workload
from course_utils.models.kernels import CHUNK_ELEMENTS

INT64_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class SavedTensor:
    """One tensor kept for the backward pass.

    Args:
        name: What it is.
        part: Half of the block it belongs to.
        n_bytes: Its size.
    """

    name: str
    part: Literal["attention", "mlp"]
    n_bytes: int


def block_tensors(
    architecture: Architecture,
    training: BlockTraining,
    workload: Workload,
    *,
    input_needs_gradient: bool,
) -> tuple[tuple[SavedTensor, ...], bool]:
    """Return what one block keeps for its backward pass, and whether it needs the rotation for it.

    Args:
        architecture: The model.
        training: What is trained in the block.
        workload: The batch.
        input_needs_gradient: Whether something below the block is trained.
    """
    walk = _Walk(architecture, training, workload)
    needs = walk.attention(input_needs_gradient)
    walk.mlp(needs)
    return tuple(walk.saved), walk.has_rotation


def outer_bytes(architecture: Architecture, trained: Trained, workload: Workload) -> int:
    """Return what is kept outside the blocks.

    The final norm keeps what any norm does, the head its input if it is trained, the loss its
    targets as 64-bit integers, and the network of a soft prompt what it needs itself.
    """
    flows = trained.lowest_block(architecture) < architecture.n_layers
    ends = BlockTraining(base=frozenset({"norm.weight"} if trained.final_norm else ()))
    walk = _Walk(architecture, ends, workload)
    walk.norm("norm", architecture.d_model, 1, flows)
    head_input = architecture.d_model * workload.dtype_bytes if trained.head else 0
    targets = INT64_BYTES if architecture.n_labels is None else 0
    by_text = workload.n_text_tokens * (head_input + targets)
    return total_bytes(walk.saved) + by_text + trained.prompt_keeps * FLOAT32_BYTES


def rotary_bytes(architecture: Architecture, workload: Workload) -> int:
    """Return the sines and cosines of the rotation, which all sequences and all blocks share."""
    return 2 * workload.n_positions * architecture.head_dim * workload.dtype_bytes


def logits_bytes(
    architecture: Architecture, workload: Workload, *, trains_head: bool = False
) -> int:
    """Return the logits' share of memory where it is largest.

    The loss is computed in float32. Going forward there are the logits, their float32 copy (the
    same tensor when the compute type is float32) and the log-probabilities, which are kept. Going
    back there are the log-probabilities, their gradient (one entry a token is not zero, yet it is
    stored dense) and the logits' gradient: three float32 tensors, 12 bytes a logit. That is the
    larger of the two, provided that nobody holds on to the logits after the loss is known.

    Where the head is computed at targets alone, as ``train`` does it, the loss is taken some
    ``CHUNK_ELEMENTS`` logits at a time and their gradient is made of them on the spot: there is one
    float32 tensor of so many, and one in the compute type if that has 16 bits; and the gradient of
    a head that trains, which is there from then on.

    A classification head scores every token, of which one a sequence is used; going back there are
    two such tensors, the gradient of the selection and the copy that it is filled into.
    """
    if workload.target_share is not None and architecture.n_labels is None:
        n_targets = math.ceil(workload.target_share * workload.n_text_tokens)
        n_at_once = min(n_targets, max(1, CHUNK_ELEMENTS // architecture.n_outputs))
        n_bytes = workload.dtype_bytes
        in_16_bits = n_bytes if n_bytes < FLOAT32_BYTES else 0
        rows = FLOAT32_BYTES * architecture.d_model if trains_head else 0
        return ((FLOAT32_BYTES + in_16_bits) * n_at_once + rows) * architecture.n_outputs
    n_tensors = 3 if architecture.n_labels is None else 2
    return n_tensors * FLOAT32_BYTES * workload.n_text_tokens * architecture.n_outputs


@dataclass
class _Walk:
    """Goes through a block in order, noting which tensors need gradients and which are kept."""

    architecture: Architecture
    training: BlockTraining
    workload: Workload
    saved: list[SavedTensor] = field(default_factory=list)
    part: Literal["attention", "mlp"] = "attention"
    has_rotation: bool = False

    def save(self, name: str, per_token: int, element_bytes: int | None = None) -> None:
        """Keep a tensor of ``per_token`` elements a token, in the compute type by default."""
        element_bytes = element_bytes or self.workload.dtype_bytes
        n_bytes = self.workload.n_tokens * per_token * element_bytes
        self.saved.append(SavedTensor(name=name, part=self.part, n_bytes=n_bytes))

    def save_keys(self, name: str, per_key: int) -> None:
        """Keep a tensor of ``per_key`` elements a key, in the compute type."""
        n_keys = self.workload.batch_size * self.workload.n_keys
        n_bytes = n_keys * per_key * self.workload.dtype_bytes
        self.saved.append(SavedTensor(name=name, part=self.part, n_bytes=n_bytes))

    def save_added(self, name: str, modules: list[AddedModule]) -> None:
        """Keep what modules of the method need beside their input, in float32."""
        per_token = sum(module.saved_per_token for module in modules)
        once = sum(module.saved_once for module in modules)
        n_bytes = (self.workload.n_tokens * per_token + once) * FLOAT32_BYTES
        if n_bytes:
            self.saved.append(SavedTensor(name=name, part=self.part, n_bytes=n_bytes))

    def norm(self, name: str, width: int, groups: int, needs: bool) -> bool:
        """RMSNorm (Zhang and Sennrich, 2019, arXiv:1910.07467), computed in float32.

        Args:
            name: The norm's name.
            width: Elements a token.
            groups: Vectors a token that are normalised each on its own.
            needs: Whether the input needs a gradient.

        Returns:
            Whether the output needs one.
        """
        is_trained = f"{name}.weight" in self.training.base
        if needs:
            self.save(f"{name}: input", width, FLOAT32_BYTES)
            self.save(f"{name}: 1 / root mean square", groups, FLOAT32_BYTES)
        if is_trained:
            in_float32 = self.architecture.norm_scales_in_float32
            self.save(f"{name}: normalised", width, FLOAT32_BYTES if in_float32 else None)
        return needs or is_trained

    def linears(self, names: tuple[str, ...], needs: bool, *, is_kept: bool = False) -> list[bool]:
        """Linear layers that read one tensor; ``is_kept`` if something else keeps it already.

        Returns:
            For each, whether its output needs a gradient.
        """
        base = self.training.base
        added = [module for module in self.training.added if module.linear in names]
        keepers = [module for module in added if module.keeps_input]
        width = self.architecture.linear_shape(names[0])[0]
        reads = any(f"{name}.weight" in base for name in names)
        if self.workload.dtype_bytes != FLOAT32_BYTES:
            for module in keepers:
                self.save(f"{module.linear}: input in float32", width, FLOAT32_BYTES)
        elif keepers:
            reads = True
        if reads and not is_kept:
            self.save(f"{', '.join(names)}: input", width)
        self.save_added(f"{', '.join(names)}: added modules", added)
        trained = {name.split(".")[0] for name in base} | {module.linear for module in added}
        return [needs or name in trained for name in names]

    def attention(self, needs: bool) -> bool:
        """First half of the block; returns whether the residual stream now needs a gradient."""
        arch, first = self.architecture, self.architecture.norm_names[0]
        inner = needs
        if arch.norm_placement != "post":
            inner = self.norm(first, arch.d_model, 1, needs)
        q, k, v = self.linears(("q_proj", "k_proj", "v_proj"), inner)
        if arch.qk_norm != "none":
            is_full = arch.qk_norm == "full"
            q = self.norm("q_norm", arch.q_width, 1 if is_full else arch.n_heads, q)
            k = self.norm("k_norm", arch.kv_width, 1 if is_full else arch.n_kv_heads, k)
        self.has_rotation = q or k
        if self.workload.n_cached_tokens:
            k = v = True
        is_output_kept = (
            self.sdpa(q, k, v) if self.workload.attention == "sdpa" else self.eager(q, k, v)
        )
        (out,) = self.linears(("o_proj",), q or k or v, is_kept=is_output_kept)
        if arch.norm_placement != "pre":
            out = self.norm("post_attention_layernorm", arch.d_model, 1, out)
        return needs or out

    def sdpa(self, q: bool, k: bool, v: bool) -> bool:
        """Fused attention; returns whether it keeps its output."""
        if not (q or k or v):
            return False
        arch, has_mask = self.architecture, self.workload.has_mask
        self.save("queries", arch.q_width)
        self.save_keys("keys and values", 2 * (arch.q_width if has_mask else arch.kv_width))
        self.save("attention output", arch.q_width)
        self.save("log of the softmax's sum", arch.n_heads, FLOAT32_BYTES)
        if has_mask:
            self.save("mask", self.workload.n_keys)
        return True

    def eager(self, q: bool, k: bool, v: bool) -> bool:
        """Attention spelt out; each matrix product keeps a factor when the other is needed."""
        arch, scores = self.architecture, q or k
        n_probabilities = arch.n_heads * self.workload.n_keys
        if k:
            self.save("queries", arch.q_width)
        if q:
            self.save_keys("keys", arch.q_width)
        if scores:
            self.save("softmax", n_probabilities, FLOAT32_BYTES)
            self.save_keys("values", arch.q_width)
        if v and (self.workload.dtype_bytes != FLOAT32_BYTES or not scores):
            self.save("softmax in the compute type", n_probabilities)
        return False

    def mlp(self, needs: bool) -> bool:
        """Second half of the block; returns whether its output needs a gradient."""
        self.part = "mlp"
        arch = self.architecture
        inner = needs
        if arch.norm_placement != "post":
            inner = self.norm(
                arch.norm_names[-1 if arch.norm_placement == "pre" else -2], arch.d_model, 1, needs
            )
        gate, up = self.linears(("gate_proj", "up_proj"), inner)
        if gate:
            self.save("gate's output", arch.d_ff)
            self.save("up's output", arch.d_ff)
        if up:
            self.save("activation of gate", arch.d_ff)
        (out,) = self.linears(("down_proj",), gate or up)
        if arch.norm_placement != "pre":
            out = self.norm("post_feedforward_layernorm", arch.d_model, 1, out)
        self.other_modules()
        return needs or out

    def other_modules(self) -> None:
        """Modules that the method puts elsewhere in the block."""
        self.save_added("added modules", [m for m in self.training.added if m.linear is None])


def total_bytes(tensors: Iterable[SavedTensor], part: str | None = None) -> int:
    """Return the bytes of the tensors, or of those of one half of the block."""
    return sum(tensor.n_bytes for tensor in tensors if part in (None, tensor.part))

"""An adapter without an activation and the layer before it as one linear layer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from course_utils.practice.exercises.chapter_05.reference import Adapter, draw_adapter
from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_tensor, is_near_tensor
from course_utils.practice.exercises.material import draw

Fold = Callable[[Tensor, Tensor, Adapter, float], Sequence[Tensor]]


def _verify_fold(fold: Fold) -> None:
    # All sides equal first: there every order of the factors multiplies.
    for d_out, d_in, m, scaling in ((4, 4, 4, 0.5), (5, 3, 2, 2.0)):
        W, bias, adapter = draw(d_out, d_in), draw(d_out, seed=9), draw_adapter(d_out, m)
        copies = W.clone(), bias.clone()
        found = fold(W, bias, adapter, scaling)
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise Wrong("return two tensors: the weight and the bias of the one layer")
        if not all(torch.equal(*pair) for pair in zip((W, bias), copies, strict=True)):
            raise Wrong("it changed the base's own tensors; return new ones")
        _expect_weight(found[0], W, adapter, scaling)
        _expect_bias(found[1], bias, adapter, scaling)


def _expect_weight(found: object, W: Tensor, adapter: Adapter, s: float) -> None:
    D, _, U, _ = adapter
    update = U @ D @ W
    slips = [
        (
            s * update,
            "the identity is missing: the adapter adds to what the layer gives, so W "
            "itself is part of the weight",
        ),
        (W + update, "the scaling is missing in the weight"),
        (s * (W + update), "the scaling holds for W as well; it belongs to the adapter's part"),
        (
            W + s * U @ D if W.shape[0] == W.shape[1] else s * U @ D,
            "the adapter reads the layer's output, so W is part of its part: U D W",
        ),
        (W, "that is the base's weight: the adapter changes it by scaling U D W"),
    ]
    if len({*W.shape, *D.shape}) == 1:
        order = "the order is wrong: x meets W first, then D, then U, so the product is U D W"
        products = (W @ U @ D, D @ U @ W, W @ D @ U, U @ W @ D, D @ W @ U)
        slips += [(W + s * product, order) for product in products]
        slips.append((W + s * (U @ D).T @ W, "the adapter's product is transposed; it is U D W"))
    expect_tensor(found, W + s * update, what="the weight", slips=slips)


def _expect_bias(found: object, bias: Tensor, adapter: Adapter, s: float) -> None:
    D, b, U, c = adapter
    pushed = bias + s * U @ D @ bias
    expected = pushed + s * (U @ b + c)
    if is_near_tensor(found, expected[:, None]):
        raise Wrong("the bias is a vector, not a column")
    expect_tensor(
        found,
        expected,
        what="the bias",
        slips=(
            (
                bias + s * (U @ b + c),
                "the base's bias goes through the adapter as well: U D bias is missing",
            ),
            (
                s * U @ D @ bias + s * (U @ b + c),
                "the identity is missing in the bias: the base's own is part of it",
            ),
            (
                s * (U @ b + c),
                "that is the adapter's share alone; the base's bias is part of it, "
                "too, and goes through the adapter",
            ),
            (pushed, "the adapter's own biases are missing: U b and c"),
            (pushed + s * c, "b is missing: it goes through U"),
            (pushed + s * U @ b, "c is missing"),
            (pushed + s * U @ b + c, "c is part of what is scaled"),
            (pushed + U @ b + c, "the adapter's biases are not scaled"),
            (bias + U @ D @ bias + U @ b + c, "the scaling is missing in the bias"),
            (bias, "that is the base's bias: the adapter changes it, too"),
        ),
    )


def _fold(W: Tensor, bias: Tensor, adapter: Adapter, scaling: float) -> tuple[Tensor, Tensor]:
    D, b, U, c = adapter
    through = torch.eye(len(W)) + scaling * U @ D
    return through @ W, through @ bias + scaling * (U @ b + c)


def _folded_in_place(
    W: Tensor, bias: Tensor, adapter: Adapter, scaling: float
) -> tuple[Tensor, Tensor]:
    W += scaling * adapter[2] @ adapter[0] @ W
    return W, bias


def _wrong_weight(weight: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Fold:
    return lambda W, bias, a, s: (weight(W, a[0], a[2], s), _fold(W, bias, a, s)[1])


def _wrong_bias(wrong: Callable[..., Tensor]) -> Fold:
    return lambda W, bias, a, s: (_fold(W, bias, a, s)[0], wrong(bias, *a, s))


FOLD = Check(
    name="05-fold",
    verify=_verify_fold,
    solution=_fold,
    rejects=(
        (_wrong_weight(lambda W, D, U, s: s * U @ D @ W), "identity is missing"),
        (_wrong_weight(lambda W, D, U, s: W + U @ D @ W), "scaling is missing in the weight"),
        (_wrong_weight(lambda W, D, U, s: s * (W + U @ D @ W)), "for W as well"),
        (_wrong_weight(lambda W, D, U, s: W + s * U @ D), "reads the layer's output"),
        (_wrong_weight(lambda W, D, U, s: W), "the base's weight"),
        (_wrong_weight(lambda W, D, U, s: W + s * W @ U @ D), "order is wrong"),
        (_wrong_weight(lambda W, D, U, s: W + s * D @ U @ W), "order is wrong"),
        (_wrong_weight(lambda W, D, U, s: W + s * (U @ D).T @ W), "transposed; it is U D W"),
        (_wrong_bias(lambda bias, D, b, U, c, s: bias + s * (U @ b + c)), "U D bias is missing"),
        (_wrong_bias(lambda bias, D, b, U, c, s: s * (U @ (D @ bias + b) + c)), "in the bias"),
        (_wrong_bias(lambda bias, D, b, U, c, s: s * (U @ b + c)), "share alone"),
        (_wrong_bias(lambda bias, D, b, U, c, s: bias + s * U @ D @ bias), "own biases"),
        (_wrong_bias(lambda bias, D, b, U, c, s: bias + s * (U @ D @ bias + c)), "b is missing"),
        (_wrong_bias(lambda bias, D, b, U, c, s: bias + s * U @ (D @ bias + b)), "c is missing"),
        (_wrong_bias(lambda bias, D, b, U, c, s: bias + s * U @ (D @ bias + b) + c), "is scaled"),
        (_wrong_bias(lambda bias, D, b, U, c, s: bias + s * U @ D @ bias + U @ b + c), "not sca"),
        (_wrong_bias(lambda bias, D, b, U, c, s: bias + U @ (D @ bias + b) + c), "missing in the"),
        (_wrong_bias(lambda bias, D, b, U, c, s: bias), "the base's bias"),
        (
            lambda W, bias, a, s: (_fold(W, bias, a, s)[0], _fold(W, bias, a, s)[1][:, None]),
            "not a column",
        ),
        (_folded_in_place, "changed the base's own"),
        (lambda W, bias, a, s: _fold(W, bias, a, s)[0], "two tensors"),
    ),
    insight="Only the activation keeps an adapter from being merged: it is what LoRA leaves out.",
)

"""The forward pass of a bottleneck adapter."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import gelu

from course_utils.practice.exercises.chapter_05.reference import Adapter, adapt, draw_adapter
from course_utils.practice.exercises.check import Check
from course_utils.practice.exercises.compare import Slips, expect_tensor
from course_utils.practice.exercises.material import draw

Forward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]


def _verify_forward(forward: Forward) -> None:
    scaling = 0.5
    # Square first: there a transposed matrix still multiplies, and can be told by its result.
    for d_model, m in ((5, 5), (6, 2), (3, 4)):
        h, adapter = draw(2, 3, d_model), draw_adapter(d_model, m)
        slips = [*_slips(h, adapter, scaling)]
        if d_model == m:
            slips += _slips_of_square(h, adapter, scaling)
        found = forward(h.clone(), *(part.clone() for part in adapter), scaling)
        expect_tensor(found, adapt(h, adapter, Tensor.relu, scaling), slips=slips)


def _slips(h: Tensor, adapter: Adapter, s: float) -> Slips:
    D, b, U, c = adapter
    inner = h @ D.T + b
    update = inner.relu() @ U.T + c
    return (
        (
            s * update,
            "h itself is missing: the adapter adds to what it is given, so that it "
            "changes nothing while U and c are zero",
        ),
        (s * (h + update), "the scaling holds for h as well; it belongs to the added part alone"),
        (s * h + update, "the scaling is on h; it belongs to the added part"),
        (h + update, "the scaling is missing"),
        (
            h + s * (inner @ U.T + c).relu(),
            "the activation stands behind U; its place is the bottleneck, between D and U",
        ),
        (h + s * (inner.relu() @ U.T + c).relu(), "there is one activation only, between D and U"),
        (
            (h + s * update).relu(),
            "the sum goes through the activation; only the m numbers of the bottleneck do",
        ),
        (
            h + s * (inner @ U.T + c),
            "the activation is missing: without it the adapter is one linear map",
        ),
        (adapt(h, adapter, gelu, s), "that is GELU; this adapter has ReLU, max(x, 0)"),
        (h + s * ((h @ D.T).relu() + b) @ U.T + s * c, "b is added behind the activation"),
        (h + s * (inner.relu() @ U.T) + c, "c is part of what is scaled"),
        (h + s * ((h @ D.T).relu() @ U.T + c), "the bias b of the down-projection is missing"),
        (h + s * (inner.relu() @ U.T), "the bias c of the up-projection is missing"),
        (h + s * ((h @ D.T).relu() @ U.T), "both biases are missing"),
        (h, "the adapter is missing: with U not zero it must change h"),
    )


def _slips_of_square(h: Tensor, adapter: Adapter, s: float) -> Slips:
    D, b, U, c = adapter
    return (
        (
            adapt(h, (D.T, b, U, c), Tensor.relu, s),
            "D is transposed: it is (m, d_model), so h D^T; only a square one hides that",
        ),
        (
            adapt(h, (D, b, U.T, c), Tensor.relu, s),
            "U is transposed: it is (d_model, m), so its "
            "transpose multiplies from the right; only a square one hides that",
        ),
        (
            adapt(h, (D.T, b, U.T, c), Tensor.relu, s),
            "both matrices are transposed: a linear layer "
            "stores (out, in), so h D^T; only square ones hide that",
        ),
        (adapt(h, (U, b, D, c), Tensor.relu, s), "up comes before down: first D, then U"),
    )


def _forward(h: Tensor, D: Tensor, b: Tensor, U: Tensor, c: Tensor, scaling: float) -> Tensor:
    inner = (h @ D.T + b).relu()
    return h + scaling * (inner @ U.T + c)


FORWARD = Check(
    name="05-forward",
    verify=_verify_forward,
    solution=_forward,
    rejects=(
        (lambda h, D, b, U, c, s: _forward(h, D, b, U, c, s) - h, "h itself is missing"),
        (lambda h, D, b, U, c, s: s * _forward(h, D, b, U, c, 1), "for h as well"),
        (lambda h, D, b, U, c, s: _forward(h, D, b, U, c, 1) + (s - 1) * h, "scaling is on h"),
        (lambda h, D, b, U, c, s: _forward(h, D, b, U, c, 1), "scaling is missing"),
        (lambda h, D, b, U, c, s: h + s * ((h @ D.T + b) @ U.T + c).relu(), "behind U"),
        (lambda h, D, b, U, c, s: h + s * (_forward(h, D, b, U, c, 1) - h).relu(), "one activ"),
        (lambda h, D, b, U, c, s: _forward(h, D, b, U, c, s).relu(), "the sum goes through"),
        (lambda h, D, b, U, c, s: h + s * ((h @ D.T + b) @ U.T + c), "activation is missing"),
        (lambda h, D, b, U, c, s: h + s * (((h @ D.T).relu() + b) @ U.T + c), "behind the activ"),
        (lambda h, D, b, U, c, s: _forward(h, D, b, U, 0 * c, s) + c, "part of what is scaled"),
        (lambda h, D, b, U, c, s: _forward(h, D, 0 * b, U, c, s), "bias b"),
        (lambda h, D, b, U, c, s: _forward(h, D, b, U, 0 * c, s), "bias c"),
        (lambda h, D, b, U, c, s: _forward(h, D, 0 * b, U, 0 * c, s), "both biases"),
        (lambda h, D, b, U, c, s: h, "adapter is missing"),
        (lambda h, D, b, U, c, s: h + s * (gelu(h @ D.T + b) @ U.T + c), "that is GELU"),
        (lambda h, D, b, U, c, s: h + s * ((h @ D + b).relu() @ U.T + c), "D is transposed"),
        (lambda h, D, b, U, c, s: h + s * ((h @ D.T + b).relu() @ U + c), "U is transposed"),
        (lambda h, D, b, U, c, s: h + s * ((h @ D + b).relu() @ U + c), "both matrices"),
        (lambda h, D, b, U, c, s: _forward(h, U, b, D, c, s), "up comes before down"),
    ),
    insight="With U and c at zero this returns h: a fresh adapter leaves the model as it was.",
)

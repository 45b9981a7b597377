"""A bottleneck adapter as four tensors, and its output from the equation."""

from collections.abc import Callable

from torch import Tensor

from course_utils.practice.exercises.material import draw

# D, (m, d_model); b, (m,); U, (d_model, m); c, (d_model,).
Adapter = tuple[Tensor, Tensor, Tensor, Tensor]


def draw_adapter(d_model: int, bottleneck_size: int, seed: int = 1) -> Adapter:
    """Return an adapter whose tensors all count; at the start of a training U and c are zero."""
    return (
        draw(bottleneck_size, d_model, seed=seed),
        draw(bottleneck_size, seed=seed + 1),
        draw(d_model, bottleneck_size, seed=seed + 2),
        draw(d_model, seed=seed + 3),
    )


def adapt(
    h: Tensor, adapter: Adapter, f: Callable[[Tensor], Tensor], scaling: float = 1.0
) -> Tensor:
    """Return ``h + scaling * (U f(D h + b) + c)`` (arXiv:1902.00751, section 2.1).

    Args:
        h: Hidden states, (..., d_model).
        adapter: D, b, U and c.
        f: Activation.
        scaling: Strength of the adapter.
    """
    D, b, U, c = adapter
    return h + scaling * (f(h @ D.T + b) @ U.T + c)

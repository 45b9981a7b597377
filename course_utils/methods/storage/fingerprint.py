"""Telling a base model from another by a few of its weights.

A base may be loaded in 32, 16 or 4 bits and is still the same; fine-tuned, it is another. So a
sample of the weights is compared, and not a checksum: rounding to 16 bits moves a weight by less
than 0.4 %.
"""

import base64
import json

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.methods.layers import adapted_layers
from course_utils.models.structure import classifier_heads, packed_by, soft_prompt_of
from course_utils.validation import shown

_PARTS = ("embedding", "norms", "matrices")
_N_EMBEDDING, _N_EACH = 64, 4
_RTOL, _ATOL = 6e-3, 1e-6


def base_fingerprint(model: nn.Module) -> str:
    """Return samples of a model's frozen weights, as text.

    What the model carries and a classifier's head are left out, and matrices where some are
    quantised.
    """
    samples = {"embedding": _sample(model.get_input_embeddings().weight, _N_EMBEDDING)}
    vectors, matrices = [], []
    for name, parameter in _base_parameters(model):
        (vectors if parameter.ndim == 1 and "norm" in name.lower() else matrices).append(parameter)
    samples["norms"] = _joined(vectors)
    samples["matrices"] = _joined([] if packed_by(model) else [m for m in matrices if m.ndim == 2])
    return json.dumps({name: _to_text(values) for name, values in samples.items()})


def is_same_base(first: str, second: str) -> bool:
    """Say whether two fingerprints are those of one base model, whatever types it was loaded in.

    Raises:
        ValueError: If one of them is none.
    """
    ours, theirs = _samples_from(first), _samples_from(second)
    pairs = [(ours[name], theirs[name]) for name in _PARTS]
    with np.errstate(all="ignore"):  # numbers beyond all bounds are not close either
        return all(
            a.shape == b.shape and np.allclose(a, b, rtol=_RTOL, atol=_ATOL)
            for a, b in pairs
            if len(a) and len(b)
        )


def _base_parameters(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters of a model below what it carries, heads and embeddings left out."""
    adapted = adapted_layers(model)
    own = {id(p) for layer in adapted.values() for p in layer.parameters()}
    own -= {id(p) for layer in adapted.values() for p in layer.base.parameters()}
    own |= {
        id(p) for head in classifier_heads(model) for p in model.get_submodule(head).parameters()
    }
    prompt = soft_prompt_of(model)
    own |= {id(p) for p in prompt.parameters()} if prompt else set()
    own.add(id(model.get_input_embeddings().weight))
    return [(name, p) for name, p in model.named_parameters() if id(p) not in own]


def _sample(tensor: Tensor, n: int) -> Tensor:
    """Return ``n`` elements, evenly spread over a tensor, as float32."""
    flat = tensor.detach().flatten()
    places = torch.linspace(0, len(flat) - 1, n, dtype=torch.float64).long()
    return flat[places.to(flat.device)].float().cpu()


def _joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat([_sample(tensor, _N_EACH) for tensor in tensors] or [torch.empty(0)])


def _to_text(values: Tensor) -> str:
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def _samples_from(fingerprint: str) -> dict[str, np.ndarray]:
    """Return the samples of each part; there are always some of the embedding."""
    try:
        texts = json.loads(fingerprint)
        samples = {
            name: np.frombuffer(base64.b64decode(texts[name], validate=True), dtype="<f4")
            for name in _PARTS
        }
        is_whole = texts.keys() == samples.keys() and len(samples["embedding"]) == _N_EMBEDDING
    except (ValueError, TypeError, KeyError, RecursionError):
        is_whole = False
    if not is_whole:
        raise ValueError(f"{shown(fingerprint)} is no fingerprint of a base model")
    return samples

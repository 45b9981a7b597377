"""What optimizers keep, and which of it can leave the card."""

from types import SimpleNamespace

import pytest
import torch

from course_utils.memory import (
    bytes_per_parameter,
    estimate,
    known_architectures,
)
from course_utils.memory.optimizers import pageable_bytes, state_bytes
from course_utils.methods import (
    FrozenFineTuning,
    FullFineTuning,
    LoRAConfig,
)
from tests.memory.steps import PEAK_TOLERANCE, Case, both, check, cost, tied


def test_mixed_precision_adam_takes_sixteen_bytes_a_parameter() -> None:
    costs = bytes_per_parameter(dtype="bfloat16", mixed_precision=True)
    assert costs == {"weight": 2, "gradient": 2, "float32 copy": 4, "optimizer states": 8}
    assert sum(bytes_per_parameter().values()) == 16
    for wrong in ({"dtype": 4}, {"optimizer": None}, {"mixed_precision": "true"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.* must be"):
            bytes_per_parameter(**wrong)
    predicted = estimate(
        "Llama-2-7B",
        FullFineTuning(),
        batch_size=1,
        seq_len=1,
        dtype="bfloat16",
        mixed_precision=True,
    )
    states = predicted.weights_bytes + predicted.gradients_bytes + predicted.optimizer_bytes
    assert states == pytest.approx(16 * 6_738_415_616, rel=1e-6)
    assert predicted.weights_bytes == 2 * 6_738_415_616


@pytest.mark.parametrize("optimizer", ["sgd", "sgd_momentum"])
def test_optimizers(optimizer: str) -> None:
    check(Case(shape="grouped", optimizer=optimizer))


def test_optimizer_of_eight_bits() -> None:
    pytest.importorskip("bitsandbytes")
    predicted, measured = both(Case(optimizer="adamw8bit"))
    table_bytes = 2 * 256 * 4  # the two code books, once for all tensors
    assert predicted.optimizer_bytes == measured.optimizer_bytes - table_bytes


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("optimizer", "table_bytes"), [("paged_adamw", 0), ("paged_adamw8bit", 2048)]
)
def test_paged_optimizers_keep_as_much(optimizer: str, table_bytes: int, dtype: str) -> None:
    pytest.importorskip("bitsandbytes")
    predicted, measured = both(Case(shape="embedded", optimizer=optimizer, dtype=dtype))
    assert predicted.optimizer_bytes == measured.optimizer_bytes - table_bytes
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=PEAK_TOLERANCE)


@pytest.mark.parametrize("optimizer", ["adamw8bit", "paged_adamw", "paged_adamw8bit"])
def test_bitsandbytes_pages_what_the_estimate_says(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own code makes the states, on a device without memory; what it pages is noted."""
    optim = pytest.importorskip("bitsandbytes.optim")
    from bitsandbytes import functional

    paged = []

    def get_paged(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        paged.append(torch.empty(shape, dtype=dtype, device=device))
        return paged[-1]

    monkeypatch.setattr(functional, "get_paged", get_paged)
    monkeypatch.setattr(functional, "fill", lambda buffer, value: None)
    kind = {
        "adamw8bit": optim.AdamW8bit,
        "paged_adamw": optim.PagedAdamW,
        "paged_adamw8bit": optim.PagedAdamW8bit,
    }[optimizer]
    for size in (1, 4095, 4096, 99_999, 100_000, 100_001, 1_000_000):
        theirs = kind([torch.nn.Parameter(torch.empty(size, device="meta"))])
        monkeypatch.setattr(theirs, "page_mng", SimpleNamespace(paged_tensors=[]))
        paged.clear()
        theirs.init_state(theirs.param_groups[0], theirs.param_groups[0]["params"][0], 0, 0)
        (state,) = theirs.state.values()
        held = [state[key] for key in ("state1", "state2", "absmax1", "absmax2") if key in state]
        assert sum(tensor.nbytes for tensor in held) == state_bytes([size], optimizer, 4)
        assert [sum(tensor.nbytes for tensor in paged)] == pageable_bytes([size], optimizer)


def test_paged_states_leave_the_card_but_for_the_one_in_use() -> None:
    plain, paged = (
        cost(FullFineTuning(), known_architectures()["SmolLM2-135M"], optimizer=name)
        for name in ("adamw8bit", "paged_adamw8bit")
    )
    assert (paged.peak_bytes, paged.parts()) == (plain.peak_bytes, plain.parts())
    assert plain.pageable_bytes == 0
    assert plain.paged_out_peak_bytes == plain.peak_bytes
    sizes = tied().block_parameters().values()
    large = tied().n_layers * sum(size for size in sizes if size >= 1e5)
    embedding = tied().vocab_size * tied().d_model
    assert paged.pageable_bytes == 2 * (large + embedding)
    assert paged.peak_moment != "optimizer"
    assert paged.paged_out_peak_bytes == paged.peak_bytes - paged.pageable_bytes
    # Where nothing but the optimizer's step is dear, the largest tensor's states are there for it.
    alone = cost(
        FrozenFineTuning(last_n_layers=0), batch_size=1, seq_len=1, optimizer="paged_adamw"
    )
    assert alone.pageable_bytes == 8 * embedding
    assert alone.paged_out_peak_bytes == alone.peak_bytes


def test_low_rank_updates_are_paged_only_where_they_are_large() -> None:
    shape = known_architectures()["Llama-2-7B"]
    small, large = (cost(LoRAConfig(rank=rank), shape, optimizer="paged_adamw") for rank in (8, 64))
    assert small.pageable_bytes < 0.25 * small.optimizer_bytes
    assert large.pageable_bytes == large.optimizer_bytes

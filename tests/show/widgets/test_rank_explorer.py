import itertools

import pytest
import torch

from course_utils.show.widgets import rank_explorer, ranks_up_to, rebuild


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9), (1, 5)])
def test_the_share_grows_with_the_rank_up_to_all(shape):
    change = normal(*shape)
    shares = [rebuild(change, rank)[1] for rank in range(1, min(shape) + 1)]
    assert all(low < high for low, high in itertools.pairwise(shares))
    assert shares[0] >= 1 / min(shape)
    assert shares[-1] == pytest.approx(1)
    assert torch.allclose(rebuild(change, min(shape))[0], change, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_rebuild_has_the_rank_and_what_it_lacks_is_the_rest_of_the_energy(rank):
    change = normal(20, 11)
    rebuilt, share = rebuild(change, rank)
    assert torch.linalg.matrix_rank(rebuilt) == rank
    lacking = (change - rebuilt).square().sum() / change.square().sum()
    assert share == pytest.approx(1 - lacking.item(), rel=1e-5)


def test_no_other_matrix_of_the_rank_is_nearer():
    change = normal(20, 11)
    nearest = (change - rebuild(change, 3)[0]).norm()
    for seed in range(20):
        # The best that rows in a random space of three dimensions can do, and a nudged rebuild.
        basis = torch.linalg.qr(normal(11, 3, seed=seed + 1)).Q
        assert (change - change @ basis @ basis.T).norm() > nearest
        nudged = rebuild(rebuild(change, 3)[0] + 0.05 * normal(20, 11, seed=seed + 1), 3)[0]
        assert (change - nudged).norm() > nearest


def test_a_change_of_low_rank_is_kept_whole():
    change = normal(30, 3) @ normal(3, 20, seed=1)
    rebuilt, share = rebuild(change, 3)
    assert share == pytest.approx(1)
    assert torch.allclose(rebuilt, change, atol=1e-4)
    assert rebuild(change, 2)[1] < 0.99


def test_a_change_that_is_none_is_kept_too():
    rebuilt, share = rebuild(torch.zeros(4, 3), 1)
    assert share == 1
    assert torch.equal(rebuilt, torch.zeros(4, 3))
    assert "keeps 100.0%" in repr(rank_explorer({"still": torch.zeros(4, 3)}))


@pytest.mark.parametrize("rank", [0, 4, -1])
def test_a_rank_out_of_range_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank={rank} must be in 1.."):
        rebuild(normal(3, 5), rank)


@pytest.mark.parametrize(
    "change",
    [torch.ones(4), torch.ones(2, 2, 2), torch.ones(0, 3), torch.tensor([[1.0, float("nan")]])],
)
def test_what_is_no_matrix_of_finite_values_is_refused(change):
    with pytest.raises(ValueError, match="must be a matrix"):
        rebuild(change, 1)
    with pytest.raises(ValueError, match="must be a matrix"):
        rank_explorer({"good": normal(3, 3), "bad": change})


def test_no_change_at_all_is_refused():
    with pytest.raises(ValueError, match="changes is empty"):
        rank_explorer({})


def test_the_slider_has_powers_of_two_and_the_full_rank():
    assert ranks_up_to(1) == [1]
    assert ranks_up_to(8) == [1, 2, 4, 8]
    assert ranks_up_to(24) == [1, 2, 4, 8, 16, 24]


def test_words_count_what_is_kept_and_what_is_stored():
    change = normal(24, 100)
    explorer = rank_explorer({"q": change}, rank=8)
    assert f"rank 8 keeps {rebuild(change, 8)[1]:.1%}" in repr(explorer)
    assert "8 x (100 + 24) = 992 numbers" in repr(explorer)
    assert "100 x 24 = 2,400: 41.3%" in repr(explorer)
    assert "first 24 rows and 64 columns" in repr(explorer)
    assert "The picture" not in repr(rank_explorer({"small": normal(64, 64)}))


def test_almost_all_is_not_called_all():
    change = torch.diag(torch.tensor([1.0, 0.01]))
    assert "keeps over 99.9%" in repr(rank_explorer({"q": change}, rank=1))
    assert "keeps 100.0%" in repr(rank_explorer({"q": change}, rank=2))


def test_a_layer_brings_its_ranks_and_keeps_the_present_one_if_it_can():
    explorer = rank_explorer({"wide": normal(64, 80), "narrow": normal(6, 80)}, rank=5)
    assert explorer.rank.value == 4
    explorer.layer.value = "narrow"
    assert tuple(explorer.rank.options) == (1, 2, 4, 6)
    assert explorer.rank.value == 4
    explorer.layer.value = "wide"
    explorer.rank.value = 64
    explorer.layer.value = "narrow"
    assert explorer.rank.value == 6
    assert explorer.kept == pytest.approx(1)
    assert repr(explorer).startswith("narrow: rank 6 ")


def test_a_layer_is_factorised_once_when_it_is_first_seen(monkeypatch):
    seen, svd = [], torch.linalg.svd
    monkeypatch.setattr(
        torch.linalg, "svd", lambda a, **options: seen.append(a.shape) or svd(a, **options)
    )
    explorer = rank_explorer({"a": normal(16, 9), "b": normal(16, 12)})
    assert seen == [(16, 9)]
    for layer, rank in [("a", 8), ("b", 2), ("a", 1), ("b", 12)]:
        explorer.layer.value, explorer.rank.value = layer, rank
    assert seen == [(16, 9), (16, 12)]


def test_a_choice_draws_once(monkeypatch):
    explorer = rank_explorer({"wide": normal(64, 80), "narrow": normal(6, 80)}, rank=4)
    drawn, draw = [], explorer.draw
    monkeypatch.setattr(explorer, "draw", lambda: drawn.append(repr(explorer)) or draw())
    explorer.layer.value = "narrow"
    assert len(drawn) == 1
    explorer.rank.value = 1
    assert len(drawn) == 2


@pytest.mark.parametrize("shape", [(200, 10), (24, 600), (100, 100)])
def test_the_picture_is_change_rebuild_and_the_rest_in_one_scale(shape):
    from matplotlib.pyplot import close

    change = normal(*shape)
    explorer = rank_explorer({"q": change}, rank=4)
    ax = explorer.draw()
    whole, rebuilt, rest = (torch.as_tensor(image.get_array().data) for image in ax.images)
    assert torch.equal(whole, change[:64, :64])
    assert torch.allclose(rebuilt, rebuild(change, 4)[0][:64, :64], atol=1e-5)
    assert torch.allclose(rebuilt + rest, whole, atol=1e-5)
    assert len({image.get_clim() for image in ax.images}) == 1
    low, high = ax.images[0].get_clim()
    assert -low == high > 0
    assert f"Rank 4 of {min(shape)} keeps {rebuild(change, 4)[1]:.1%}" in ax.get_title(loc="left")
    close(ax.figure)


def test_16_bit_changes_and_those_with_a_gradient_are_taken():
    change = normal(8, 6).bfloat16().requires_grad_()
    rebuilt, share = rebuild(change, 6)
    assert rebuilt.dtype == torch.float32
    assert not rebuilt.requires_grad
    assert share == pytest.approx(1)
    rank_explorer({"q": change})

"""Cards: one table, and a margin that is set aside."""

import pytest

from course_utils.memory.cards import CARDS, CUDA_CONTEXT_BYTES, GB, find_card, usable_bytes


def test_a_card_is_found_in_capitals_and_small_letters():
    assert find_card("t4") is find_card("T4") is CARDS["T4"]
    assert str(find_card("a100-80")) == "A100 (80 GB)"


@pytest.mark.parametrize("name", ["T5", "", 4, None])
def test_an_unknown_card_is_told_in_one_sentence_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"card=") as told:
        find_card(name)
    assert isinstance(name, str) <= all(card in str(told.value) for card in CARDS)
    assert "\n" not in str(told.value)


def test_the_margin_is_a_context_and_a_twentieth():
    assert usable_bytes(16) == pytest.approx(16 * GB * 0.95 - CUDA_CONTEXT_BYTES)
    assert usable_bytes(16, is_card=False) == pytest.approx(16 * GB * 0.95)
    assert usable_bytes(0.1) == 0


@pytest.mark.parametrize("memory", [0, -1, float("nan"), float("inf"), "16"])
def test_a_memory_is_a_number_above_0(memory):
    with pytest.raises(ValueError, match="memory_gb"):
        usable_bytes(memory)

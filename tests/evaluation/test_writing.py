import torch

from course_utils.evaluation import generate
from course_utils.models import load_base_model


def test_sampling_is_seeded_and_greedy_is_not_sampled(model, tokenizer):
    def write(seed: int, temperature: float) -> list[str]:
        return generate(
            model, tokenizer, ["Once,"], max_new_tokens=12, temperature=temperature, seed=seed
        )

    assert write(0, 1.0) == write(0, 1.0)
    assert write(0, 1.0) != write(1, 1.0)
    assert write(0, 0.0) == write(1, 0.0)


def test_generation_does_not_disturb_the_caller_s_randomness(model, tokenizer):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generate(model, tokenizer, ["Once,"], max_new_tokens=3, temperature=1.0)
    assert torch.equal(torch.rand(3), expected)


def test_an_answer_ends_where_the_model_s_own_configuration_says(tokenizer):
    model = load_base_model("embedded")
    (whole,) = generate(model, tokenizer, ["Once,"], max_new_tokens=12)
    end = tokenizer(whole, add_special_tokens=False)["input_ids"][4]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    (short,) = generate(model, tokenizer, ["Once,"], max_new_tokens=12)
    assert whole.startswith(short)
    assert tokenizer(short, add_special_tokens=False)["input_ids"][-1] == end
    assert len(short) < len(whole)

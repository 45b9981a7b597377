"""Soft prompts against PEFT's, adapters against LoRA, and what each method costs in serving.

Run with `python -m tests.benchmarks.soft_prompts`, with `--rounds` and `--threads` if wanted.

The contestants of a part take turns, every other round backwards, so that a machine whose speed
drifts treats them alike; the first round is not counted. A ratio is taken round by round; given are
the median and its 95 % interval.
"""

import argparse
import copy
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import peft
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from course_utils.measure import measure_training_step, paired_latency, paired_ratios
from course_utils.memory import (
    Architecture,
    Footprint,
    architecture_of,
    estimate,
    kv_cache_bytes,
)
from course_utils.methods import apply, merge
from course_utils.methods.bottleneck import BottleneckConfig
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.p_tuning import PTuningConfig
from course_utils.methods.prefix_tuning import PrefixTuningConfig
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.methods.virtual_tokens import SoftPromptConfig
from course_utils.models import load_base_model
from course_utils.models.lean import lean
from course_utils.training.model_loss import model_loss
from tests.benchmarks import contest
from tests.benchmarks.adapters import SHAPE_135M

# A pass takes milliseconds, of which each turn gives several; a training step is a turn.
ROUNDS, PASSES, N_VIRTUAL_TOKENS, BOTTLENECK = 12, 5, 16, 16
LENGTHS = (16, 64, 256)
LORA = LoRAConfig(rank=8, alpha=16)
SOFT_PROMPTS: dict[str, SoftPromptConfig] = {
    "prompt tuning": PromptTuningConfig(num_virtual_tokens=N_VIRTUAL_TOKENS),
    "P-tuning": PTuningConfig(num_virtual_tokens=N_VIRTUAL_TOKENS),
    "prefix": PrefixTuningConfig(num_virtual_tokens=N_VIRTUAL_TOKENS),
    "prefix, projected": PrefixTuningConfig(num_virtual_tokens=N_VIRTUAL_TOKENS, projection=True),
}

# What each contestant does when it is called.
Contest = dict[str, Callable[[], object]]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A model and its batch of training.

    Args:
        build: Makes the model.
        batch_size: Texts a step.
        seq_len: Tokens a text.
    """

    build: Callable[[], PreTrainedModel]
    batch_size: int
    seq_len: int

    def model(self) -> PreTrainedModel:
        """Return the model, without a cache of its own while it trains."""
        torch.manual_seed(0)
        model = self.build()
        model.config.use_cache = False
        return model

    def ids(self, model: PreTrainedModel) -> Tensor:
        """Return a batch of random tokens."""
        return torch.randint(1, model.config.vocab_size, (self.batch_size, self.seq_len))


SCALES = {
    "embedded": Scale(build=lambda: load_base_model("embedded"), batch_size=16, seq_len=64),
    "135M shape": Scale(
        build=lambda: AutoModelForCausalLM.from_config(SHAPE_135M), batch_size=2, seq_len=64
    ),
}


def of_peft(model: PreTrainedModel, config: SoftPromptConfig) -> nn.Module:
    """Put PEFT's soft prompt of the same shape on a model."""
    shared = {"task_type": "CAUSAL_LM", "num_virtual_tokens": config.num_virtual_tokens}
    if isinstance(config, PromptTuningConfig):
        theirs = peft.PromptTuningConfig(**shared)
    elif isinstance(config, PTuningConfig):
        theirs = peft.PromptEncoderConfig(
            **shared,
            encoder_reparameterization_type="MLP",
            encoder_hidden_size=model.config.hidden_size,
        )
    else:
        theirs = peft.PrefixTuningConfig(
            **shared,
            prefix_projection=config.projection,
            encoder_hidden_size=architecture_of(model).kv_width,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model, theirs)


def equal_bottleneck(architecture: Architecture) -> BottleneckConfig:
    """Return adapters with about as many parameters as the LoRA, two a block."""
    n_lora = estimate(architecture, LORA, batch_size=1, seq_len=1).n_trained
    d = architecture.d_model
    an_adapter = n_lora / architecture.n_layers / 2
    return BottleneckConfig(bottleneck_size=round((an_adapter - d) / (2 * d + 1)))


def training_step(model: nn.Module, ids: Tensor) -> Callable[[], None]:
    """Return one step of training, as `train` takes it, as a call."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
    mask = torch.ones_like(ids)

    def step() -> None:
        with lean(model):
            model_loss(model, {"input_ids": ids, "attention_mask": mask, "labels": ids}).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def against_peft(scale: Scale, config: SoftPromptConfig) -> Contest:
    """Training steps of one method, ours and PEFT's."""
    ours, theirs = apply(scale.model(), config), of_peft(scale.model(), config)
    ids = scale.ids(ours)
    return {"PEFT": training_step(theirs, ids), "ours": training_step(ours, ids)}


def steps(place: str, name: str) -> contest.Contest:
    """Training steps a second of one method at one scale, ours and PEFT's."""

    def speed(step: Callable[[], object]) -> float:
        start = time.perf_counter()
        step()
        return 1 / (time.perf_counter() - start)

    calls = against_peft(SCALES[place], SOFT_PROMPTS[name])
    return {key: lambda step=step: speed(step) for key, step in calls.items()}


def against_lora(scale: Scale) -> tuple[Contest, list[str]]:
    """Training steps of bottleneck adapters and LoRA of one size, and what they take."""
    plain = scale.model()
    ids, contest, lines = scale.ids(plain), {}, []
    methods: dict[str, Footprint] = {
        "LoRA": LORA,
        "bottleneck": equal_bottleneck(architecture_of(plain)),
    }
    for name, method in methods.items():
        model = apply(scale.model(), method)
        n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        peak = measure_training_step(model, {"input_ids": ids, "labels": ids}).peak_bytes
        contest[name] = training_step(model, ids)
        lines.append(f"  {name:24} {n_trained:>10,} parameters, peak {peak / 1e6:,.1f} MB")
    return contest, lines


def served() -> dict[str, PreTrainedModel]:
    """Return the embedded model as it is served with each method; base first."""
    base = load_base_model("embedded").eval()
    methods: dict[str, Footprint] = {
        "LoRA, merged": LORA,
        "LoRA, unmerged": LORA,
        "bottleneck": BottleneckConfig(bottleneck_size=BOTTLENECK),
        "prefix": SOFT_PROMPTS["prefix"],
    }
    models = {name: apply(copy.deepcopy(base), method) for name, method in methods.items()}
    merge(models["LoRA, merged"])
    return {"base": base} | {name: model.eval() for name, model in models.items()}


def reading(models: dict[str, PreTrainedModel], seq_len: int) -> Contest:
    """One pass over a text, whose keys and values are kept and whose next token is predicted."""
    ids = torch.randint(1, 3000, (1, seq_len))
    return {name: lambda model=model: _pass(model, ids) for name, model in models.items()}


def writing(models: dict[str, PreTrainedModel], seq_len: int) -> Contest:
    """One further token behind a text whose keys and values are cached."""
    ids = torch.randint(1, 3000, (1, seq_len))

    def one_token(model: PreTrainedModel) -> Callable[[], None]:
        cache = _pass(model, ids)

        def write() -> None:
            _pass(model, ids[:, -1:], cache)
            cache.crop(-1)  # the next call finds it as this one did

        return write

    return {name: one_token(model) for name, model in models.items()}


@torch.no_grad()
def _pass(model: PreTrainedModel, ids: Tensor, cache: object = None) -> object:
    """Return the cache after a pass over some tokens."""
    output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return output.past_key_values


def table(contest: Contest, base: str, rounds: int, repeats: int = 1) -> Iterator[str]:
    """Yield each contestant's median time, and how many times as long as ``base`` it takes."""
    seconds = paired_latency(contest, rounds, repeats=repeats)
    ratios = paired_ratios(seconds, base)
    for name, values in seconds.items():
        line = f"  {name:24} {1e3 * statistics.median(values):9,.2f} ms"
        if name in ratios:
            median, low, high = ratios[name]
            line += f"  {median:6.3f}x  ({low:.3f} to {high:.3f})"
        yield line


def report(rounds: int) -> Iterator[str]:
    """Yield the lines of all parts."""
    for place, scale in SCALES.items():
        yield f"{place}, a training step of {scale.batch_size} x {scale.seq_len}, against PEFT"
        for name, config in SOFT_PROMPTS.items():
            yield f" {name}, {config.num_virtual_tokens} virtual tokens"
            yield from table(against_peft(scale, config), "PEFT", rounds)
        contest, lines = against_lora(scale)
        yield f"{place}, a training step with as many parameters"
        yield from lines
        yield from table(contest, "LoRA", rounds)
    models = served()
    for seq_len in LENGTHS:
        for part, make in (("reading", reading), ("one token behind", writing)):
            yield f"embedded, {part} {seq_len} tokens, batch of 1"
            yield from table(make(models, seq_len), "base", rounds, PASSES)
    cache = kv_cache_bytes(models["base"], N_VIRTUAL_TOKENS)
    yield f"a prefix of {N_VIRTUAL_TOKENS} takes {cache:,} bytes of the cache of every text"


def main() -> None:
    """Print times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=None, help="all that torch finds by default")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    for line in report(options.rounds):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

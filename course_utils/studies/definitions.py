"""The recorded studies: which methods meet which tasks, over which seeds."""

from dataclasses import dataclass

from course_utils.studies.candidates import BOTTLENECK_SIZES, PROMPT_LENGTHS, RANKS
from course_utils.studies.length import Length
from course_utils.studies.tasks import TASKS

SFT_PLATEAU = Length(times=3, looks=12, patience=4)
REWARD_PLATEAU = Length(times=6, looks=24, patience=4)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Which methods are fitted to which tasks, and on how much data.

    Args:
        name: Name of the file in data/results.
        tasks: Names of tasks.
        methods: Names of methods.
        seeds: Seeds of the compared runs.
        sizes: Training examples of each run; None for all of them.
        length: How long each run is.
        runs_from: Study whose runs are taken over where they are the same.
    """

    name: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    sizes: tuple[int | None, ...] = (None,)
    length: Length = Length()  # noqa: RUF009
    runs_from: str | None = None


STUDIES = {
    study.name: study
    for study in (
        Study(
            name="separation",
            tasks=tuple(TASKS),
            methods=(
                "random_init",
                "head",
                "norms",
                "last_layers",
                "lora_r1",
                "lora_r4",
                "lora_r16",
                "full",
            ),
        ),
        Study(
            name="data_size",
            tasks=("sentiment",),
            methods=("head", "norms", "last_layers", "full"),
            sizes=(20, 60, 200, 600, None),
            runs_from="separation",
        ),
        # Trained until validation stops getting better, at a rate that stays at its peak.
        Study(
            name="data_plateau",
            tasks=("sentiment",),
            methods=("head", "full"),
            sizes=(20, 60, 200, 600),
            length=Length(times=6, looks=24, patience=4),
        ),
        Study(
            name="ranks",
            tasks=("dialect",),
            seeds=(0, 1, 2, 3, 4),
            methods=(
                *(f"{method}_r{rank}" for rank in RANKS for method in ("lora", "dora")),
                "full",
                "matrices",
                "lora_r8_embeddings",
            ),
        ),
        Study(
            name="learning_curve",
            tasks=("dialect",),
            methods=("full", "matrices", "lora_r8", "lora_r128"),
            length=Length(times=10, looks=10),
        ),
        Study(
            name="scaling",
            tasks=("dialect",),
            methods=tuple(f"{m}_r{r}" for r in (4, 32, 128) for m in ("alpha16", "rslora")),
        ),
        Study(
            name="targets",
            tasks=("dialect",),
            methods=("lora_qv", "lora_attention", "lora_mlp", "lora_r8"),
        ),
        Study(
            name="alpha",
            tasks=("dialect",),
            methods=tuple(f"lora_alpha{alpha}" for alpha in (4, 16, 64)),
        ),
        Study(
            name="variants",
            tasks=("dialect",),
            seeds=(0, 1, 2, 3, 4),
            methods=("dylora", "qlora", "qdora", "nola", "pissa", "vera", "ia3"),
        ),
        Study(
            name="adapters",
            tasks=("dialect",),
            seeds=(0, 1, 2, 3, 4),
            methods=(*(f"bottleneck_m{m}" for m in BOTTLENECK_SIZES), "pfeiffer_m16"),
        ),
        Study(
            name="adapters_accuracy",
            tasks=("topics",),
            seeds=(0, 1, 2, 3, 4),
            methods=("bottleneck_m4", "lora_r1"),
        ),
        Study(
            name="prompts",
            tasks=("sentiment", "roles", "instructions"),
            methods=("prompt_n16", "p_tuning_n16", "prefix_n16", "p_tuning_v2_n16", "lora_r2"),
        ),
        Study(
            name="prompt_lengths",
            tasks=("sentiment",),
            methods=tuple(
                f"{method}_n{n}"
                for n in PROMPT_LENGTHS
                if n != 16
                for method in ("prompt", "p_tuning_v2")
            ),
        ),
        Study(
            name="prompt_starts",
            tasks=("sentiment",),
            methods=("prompt_random", "prompt_text"),
        ),
        # Are soft prompts and adapters behind, or slow?
        Study(
            name="convergence",
            tasks=("sentiment",),
            methods=(
                "prompt_n16",
                "p_tuning_n16",
                "prefix_n16",
                "p_tuning_v2_n16",
                "bottleneck_m4",
                "lora_r2",
            ),
            length=Length(times=8, looks=16),
        ),
        # How many examples: until validation stops getting better, however many there are.
        Study(
            name="instruction_data",
            tasks=("following",),
            methods=("assistant_lora",),
            sizes=(50, 500, 5000),
            length=SFT_PLATEAU,
        ),
        Study(
            name="instruction_noise",
            tasks=("following_noisy",),
            methods=("assistant_lora",),
            sizes=(500, 5000),
            length=SFT_PLATEAU,
        ),
        # Equal steps: what carries loss, and whose trainer runs.
        Study(
            name="instruction_loss",
            tasks=("following", "following_all"),
            methods=("assistant_lora",),
            sizes=(5000,),
        ),
        Study(
            name="instruction_trl",
            tasks=("following_trl",),
            methods=("assistant_peft",),
            sizes=(5000,),
        ),
        Study(
            name="reward_data",
            tasks=("rewards",),
            methods=("reward_lora",),
            sizes=(50, 200, 1000, None),
            length=REWARD_PLATEAU,
        ),
        Study(
            name="reward_noise",
            tasks=tuple(f"rewards_noise{p}" for p in (20, 40)),
            methods=("reward_lora",),
            length=REWARD_PLATEAU,
        ),
        Study(
            name="reward_ours",
            tasks=("rewards",),
            methods=("reward_lora",),
        ),
        Study(
            name="reward_trl",
            tasks=("rewards_trl",),
            methods=("reward_peft",),
        ),
    )
}

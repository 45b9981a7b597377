"""Where things went that had another place before version 0.2: old notebooks go on working.

An import of an old module gives the new one, with a warning that names it. Nothing in the package
uses an old name; tests turn the warning into an error.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

_PACKAGE = __package__
# Old place: new place, or the places that it was parted into; below the package.
MODULES: dict[str, str | tuple[str, ...]] = {
    "checked_yaml": "practice.checked_yaml",
    "checkpoints": "training.checkpoints",
    "claims": "practice.claims",
    "compare": "studies",
    "compare.studies": "studies.definitions",
    "compare.study": "studies.runner",
    "compare.trl_alignment": "studies.trl.alignment",
    "compare.trl_trainers": "studies.trl.trainers",
    "display": ("show.tables", "show.source"),
    "doctor": "cli.doctor",
    "execution": "cli.notebooks.execution",
    "exercises": "practice.exercises",
    "hub": "models.hub",
    "lab": "cli.lab",
    "markup": "show.markup",
    "memory.bottleneck": "memory",
    "memory.footprint": "memory",
    "memory.low_rank": "memory",
    "memory.ppo": "rlhf.memory",
    "memory.ppo_phases": "rlhf.memory_phases",
    "memory.soft_prompts": "memory",
    "methods.adapters": "methods.adapter_set",
    "methods.base": "methods.verbs",
    "methods.carried": "methods.verbs",
    "methods.fingerprint": "methods.storage.fingerprint",
    "methods.frozen": "methods.full",
    "methods.linear": "methods.layers",
    "methods.prompt_encoders": "methods.p_tuning",
    "methods.settings": "methods.storage.peft_format",
    "methods.soft_prompts": (
        "methods.prompt_tuning",
        "methods.p_tuning",
        "methods.prefix_tuning",
        "methods.virtual_tokens",
    ),
    "model_card": "models.card",
    "notebooks": "cli.notebooks.files",
    "palette": "show.palette",
    "plotting": "show.plotting",
    "pretrain": "models.pretrain",
    "profiles": "models.profiles",
    "quiz": "practice.quiz",
    "rlhf.rewards": ("rlhf.masks", "rlhf.losses", "rlhf.reward_model", "evaluation.calibration"),
    "run_records": "cli.notebooks.records",
    "runs": "cli.notebooks.runs",
    "widgets": "show.widgets",
}
# Names that left a module which stands where it stood: where they are now.
NAMES: dict[tuple[str, str], str] = {
    ("memory", "PPOEstimate"): "rlhf.memory.PPOEstimate",
    ("memory", "estimate_ppo"): "rlhf.memory.estimate_ppo",
}
# What told `memory.estimate` of a method before the method's configuration did so itself.
FOOTPRINTS: dict[str, str] = {
    "BottleneckFootprint": "BottleneckConfig",
    "CachePromptFootprint": "PrefixTuningConfig",
    "DoRAFootprint": "DoRAConfig",
    "FrozenFootprint": "FrozenFineTuning",
    "FullFootprint": "FullFineTuning",
    "InputPromptFootprint": "PromptTuningConfig",
    "LoRAFootprint": "LoRAConfig",
    "LowRankFootprint": "LoRAConfig",
    "NOLAFootprint": "NOLAConfig",
}


class _Gone:
    """Stands for a class that is no more, and says so as soon as something is asked of it."""

    def __init__(self, name: str, successor: str) -> None:
        self._name, self._successor = name, successor

    def __call__(self, *args: object, **options: object) -> "_Gone":
        return self

    def __repr__(self) -> str:
        return self._name

    def footprint(self, architecture: object) -> NoReturn:
        """Refuse.

        Raises:
            ValueError: Always; it names the configuration to give instead.
        """
        raise ValueError(
            f"{self._name} has gone: give the method's configuration itself, "
            f"{_PACKAGE}.methods.{self._successor}(...)"
        )


def find(module: str, name: str) -> object:
    """Return what a module of the package no longer holds, from where it is now.

    Args:
        module: Full name of the module.
        name: What was there.

    Raises:
        AttributeError: If it never was.
    """
    place = module.removeprefix(f"{_PACKAGE}.")
    if place == "memory" and name in FOOTPRINTS:
        return _Gone(name, FOOTPRINTS[name])
    if (place, name) not in NAMES:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    new, _, new_name = NAMES[place, name].rpartition(".")
    _warn(f"{module}.{name}", f"{_PACKAGE}.{NAMES[place, name]}", stacklevel=4)
    return getattr(importlib.import_module(f"{_PACKAGE}.{new}"), new_name)


class MovedFinder:
    """Finds modules under the names that they had before.

    Python asks it first of all: a package under its old name has the new one's folder, in which
    the other finders would find its modules again and load a second copy.
    """

    @classmethod
    def install(cls) -> None:
        """Let Python ask, once."""
        if not any(isinstance(finder, cls) for finder in sys.meta_path):
            sys.meta_path.insert(0, cls())

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        """Return how to load an old name, or None if it is none."""
        places = _new_places(fullname)
        return ModuleSpec(fullname, _MovedLoader(places)) if places else None


class _MovedLoader:
    def __init__(self, places: Sequence[str]) -> None:
        self._places = places

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        modules = [importlib.import_module(place) for place in self._places]
        _warn(spec.name, " and ".join(self._places), stacklevel=3)
        if len(modules) == 1:
            self._own_spec = modules[0].__spec__
            return modules[0]
        parted = ModuleType(spec.name, f"Parted into {', '.join(self._places)}.")
        for module in modules:
            names = (name for name in vars(module) if not name.startswith("_"))
            parted.__dict__.update({name: getattr(module, name) for name in names})
        return parted

    def exec_module(self, module: ModuleType) -> None:
        if len(self._places) == 1:
            # The import system has just put the old name's in its place.
            module.__spec__ = self._own_spec


def _new_places(fullname: str) -> list[str]:
    """Return the modules that an old one became, or none; modules inside a package go along."""
    old, rest = fullname.removeprefix(f"{_PACKAGE}."), ""
    while old and old != fullname:
        if old in MODULES:
            new = MODULES[old]
            places = [new] if isinstance(new, str) else list(new)
            return [f"{_PACKAGE}.{place}{rest}" for place in places]
        old, _, last = old.rpartition(".")
        rest = f".{last}{rest}"
    return []


def _warn(old: str, new: str, *, stacklevel: int) -> None:
    """Warn where the old name is asked for; Python does not count its own import system."""
    warnings.warn(f"{old} is {new} now", FutureWarning, stacklevel=stacklevel)

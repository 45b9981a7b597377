"""What a prefix is made of, and what virtual tokens take in the KV cache."""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from course_utils.practice.exercises.chapter_06.answers import expect_parts
from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import Slips, expect_close

Config = SimpleNamespace


def _configs() -> tuple[Config, ...]:
    """Return the fields of Llama-3.2-1B, of Qwen3-0.6B and of the embedded model."""
    names = (
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    )
    rows = ((16, 2048, 32, 8, 64), (28, 1024, 16, 8, 128), (6, 256, 4, 4, 64))
    return tuple(Config(**dict(zip(names, row, strict=True))) for row in rows)


def _verify_prefix(prefix: Callable[[Config, int], tuple[Sequence[int], int]]) -> None:
    for config, n in zip(_configs(), (10, 20, 8), strict=True):
        shape, count = expect_parts(prefix(config, n), 2, "the shape and the number of parameters")
        if not isinstance(shape, tuple | list):
            raise Wrong(f"the shape must be a tuple of numbers, not {type(shape).__name__}")
        expected, _ = _prefix(config, n)
        _expect_shape(tuple(shape), expected, config, n)
        what = f"for {config.num_hidden_layers} layers and n={n} the number of parameters"
        slips = [(math.prod(wrong), sentence) for wrong, sentence in _shape_slips(config, n)]
        slips.append((n * config.hidden_size, "that is prompt tuning: n vectors at the input"))
        slips.append((math.prod(expected) // n, "that is one virtual token"))
        expect_close(count, math.prod(expected), what=what, rel=1e-9, slips=slips)


def _expect_shape(shape: tuple, expected: tuple[int, ...], config: Config, n: int) -> None:
    if shape == expected:
        return
    for wrong, sentence in _shape_slips(config, n):
        if shape == wrong:
            raise Wrong(sentence)
    if sorted(shape) == sorted(expected):
        raise Wrong(
            f"the numbers of {shape} are right, in another order: layers, 2 for keys and values, "
            "heads, virtual tokens, numbers a head"
        )
    if shape == (n, math.prod(expected) // n):
        raise Wrong(f"{shape} is how PEFT lays it out, flat; give the five sizes")
    raise Wrong(
        f"the shape is {shape}; it has five sizes: layers, 2 for keys and values, heads, virtual "
        "tokens, numbers a head"
    )


def _shape_slips(config: Config, n: int) -> list[tuple[tuple[int, ...], str]]:
    n_layers, n_queries, n_kv, head_dim = (
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    )
    slips = [
        ((n_layers, n_kv, n, head_dim), "that is keys alone: a prefix has values as well"),
        ((2, n_kv, n, head_dim), f"that is one layer; each of the {n_layers} has its own"),
        (
            (n_kv, n, head_dim),
            f"that is the keys of one layer; values and {n_layers} layers are missing",
        ),
    ]
    if n_queries != n_kv:
        slips.append(
            (
                (n_layers, 2, n_queries, n, head_dim),
                f"{n_queries} is the number of query "
                f"heads; keys and values have {n_kv} heads, each shared by "
                f"{n_queries // n_kv} query heads",
            )
        )
        slips.append(
            (
                (n_layers, 2, n, config.hidden_size),
                "keys and values are narrower than hidden_size where query heads share them",
            )
        )
    if n_queries * head_dim != config.hidden_size:
        divided = config.hidden_size // n_queries
        sentence = (
            f"{divided} is hidden_size by the number of heads; this model's heads have a size of "
            f"their own, head_dim={head_dim}"
        )
        slips.append(((n_layers, 2, n_kv, n, divided), sentence))
    return slips


def _prefix(config: Config, n: int) -> tuple[tuple[int, ...], int]:
    n_layers, n_heads = config.num_hidden_layers, config.num_key_value_heads
    shape = (n_layers, 2, n_heads, n, config.head_dim)
    return shape, math.prod(shape)


def _wrong_shape(wrong: Callable[[Config, int], tuple[int, ...]]) -> Callable[..., tuple]:
    return lambda config, n: (wrong(config, n), _prefix(config, n)[1])


def _with(config: Config, **fields: int) -> Config:
    return Config(**vars(config) | fields)


PREFIX = Check(
    name="06-prefix",
    verify=_verify_prefix,
    solution=_prefix,
    rejects=(
        (lambda c, n: _prefix(_with(c, num_key_value_heads=c.num_attention_heads), n), "query h"),
        (
            lambda c, n: _prefix(_with(c, head_dim=c.hidden_size // c.num_attention_heads), n),
            "a size of their own",
        ),
        (
            _wrong_shape(lambda c, n: (c.num_hidden_layers, c.num_key_value_heads, n, c.head_dim)),
            "keys alone",
        ),
        (_wrong_shape(lambda c, n: _prefix(c, n)[0][1:]), "that is one layer"),
        (_wrong_shape(lambda c, n: _prefix(c, n)[0][2:]), "keys of one layer"),
        (_wrong_shape(lambda c, n: (c.num_hidden_layers, 2, n, c.hidden_size)), "are narrower"),
        (_wrong_shape(lambda c, n: _prefix(c, n)[0][::-1]), "in another order"),
        (_wrong_shape(lambda c, n: (n, _prefix(c, n)[1] // n)), "how PEFT lays it out"),
        (_wrong_shape(lambda c, n: (n, c.hidden_size)), "five sizes"),
        (_wrong_shape(lambda c, n: _prefix(c, n)[1]), "a tuple of numbers"),
        (lambda c, n: (_prefix(c, n)[0], _prefix(c, n)[1] // 2), "keys alone"),
        (lambda c, n: (_prefix(c, n)[0], math.prod(_prefix(c, n)[0][1:])), "that is one layer"),
        (lambda c, n: (_prefix(c, n)[0], n * c.hidden_size), "prompt tuning"),
        (lambda c, n: (_prefix(c, n)[0], _prefix(c, 1)[1]), "one virtual token"),
        (lambda c, n: (_prefix(c, n)[0], 3 * _prefix(c, n)[1]), "too large"),
        (lambda c, n: _prefix(c, n)[0], "two things"),
    ),
    insight="Grouped queries make a prefix small: Qwen3-0.6B's 20 virtual tokens have 1,146,880 "
    "numbers, and would have twice as many with a key for every query head.",
)


def _verify_cache(cache: Callable[[Config, int, int, int], Sequence[int]]) -> None:
    cases = ((20, 5, 4), (10, 3, 2), (8, 16, 2))
    for config, (n, batch, n_bytes) in zip(_configs(), cases, strict=True):
        found = expect_parts(
            cache(config, n, batch, n_bytes), 2, "the bytes of a prefix, and those of a soft prompt"
        )
        for value, name in zip(found, ("the prefix", "the soft prompt"), strict=True):
            what = f"for n={n}, {batch} rows and {n_bytes} bytes a number {name}"
            slips = _cache_slips(config, n, batch, n_bytes, name)
            expect_close(
                value, _cache(config, n, batch, n_bytes)[0], what=what, rel=1e-9, slips=slips
            )


def _cache_slips(config: Config, n: int, batch: int, n_bytes: int, name: str) -> Slips:
    right, _ = _cache(config, n, batch, n_bytes)
    slips = [
        (
            right // batch,
            f"{name}: the cache holds its keys and values once for each of the {batch} rows",
        ),
        (right // n_bytes, f"{name}: these are numbers; each takes {n_bytes} bytes"),
        (right * 8, f"{name}: these are bits; asked are bytes"),
        (right // 2, f"{name}: the cache holds keys and values; that is one of them"),
        (
            right // config.num_hidden_layers,
            f"{name}: that is the cache of one layer; every layer has its own",
        ),
        (right // n, f"{name}: that is one virtual token; there are {n}"),
    ]
    heads = config.num_attention_heads
    if heads != config.num_key_value_heads:
        slips.append(
            (
                right * heads // config.num_key_value_heads,
                f"{name}: {heads} is the number "
                f"of query heads; the cache holds {config.num_key_value_heads} heads of "
                "keys and values",
            )
        )
    if name == "the soft prompt":
        return [*slips, *_input_slips(n * config.hidden_size, batch, n_bytes)]
    sentence = (
        "the prefix: its keys and values stand in the cache before the text "
        "comes, and take their room there"
    )
    return [*slips, (0, sentence)]


def _input_slips(n_numbers: int, batch: int, n_bytes: int) -> Slips:
    sentence = (
        "the soft prompt: that is its vectors at the input; every layer makes keys and values "
        "of each of them, as it does of a token"
    )
    sizes = (n_numbers * n_bytes, n_numbers * n_bytes * batch, n_numbers)
    return [
        *((size, sentence) for size in sizes),
        (
            0,
            "the soft prompt: its tokens pass through every layer like the text's, "
            "and their keys and values are kept as well",
        ),
    ]


def _cache(config: Config, n: int, batch: int, bytes_per_number: int) -> tuple[int, int]:
    numbers_per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    n_bytes = batch * n * numbers_per_token * bytes_per_number
    return n_bytes, n_bytes


CACHE = Check(
    name="06-cache",
    verify=_verify_cache,
    solution=_cache,
    rejects=(
        (lambda c, n, batch, b: (_cache(c, n, batch, b)[0], n * c.hidden_size * b), "at the input"),
        (
            lambda c, n, batch, b: (_cache(c, n, batch, b)[0], batch * n * c.hidden_size * b),
            "at the input",
        ),
        (lambda c, n, batch, b: (_cache(c, n, batch, b)[0], 0), "like the text's"),
        (lambda c, n, batch, b: (0, _cache(c, n, batch, b)[0]), "before the text comes"),
        (
            lambda c, n, batch, b: (
                _cache(c, n, batch, b)[0],
                _cache(c, n, batch, b)[0] // c.num_hidden_layers,
            ),
            "soft prompt: that is the cache of one",
        ),
        (lambda c, n, batch, b: _cache(c, n, 1, b), "for each of the 5 rows"),
        (lambda c, n, batch, b: _cache(c, n, batch, 1), "these are numbers"),
        (lambda c, n, batch, b: _cache(c, n, batch, 8 * b), "these are bits"),
        (lambda c, n, batch, b: _cache(_with(c, num_hidden_layers=1), n, batch, b), "of one layer"),
        (
            lambda c, n, batch, b: _cache(
                _with(c, num_key_value_heads=c.num_attention_heads), n, batch, b
            ),
            "query heads",
        ),
        (lambda c, n, batch, b: [x // 2 for x in _cache(c, n, batch, b)], "one of them"),
        (lambda c, n, batch, b: _cache(c, 1, batch, b), "one virtual token"),
        (lambda c, n, batch, b: sum(_cache(c, n, batch, b)), "two things"),
    ),
    insight="In the cache a virtual token is a token: a prefix of 20 takes the room of 20 tokens "
    "of the prompt, and saves only their way through the layers.",
)

"""Three checks as a chapter would write them: a number, a function, a class."""

import torch

from course_utils.practice.exercises import Check, Wrong, expect_close, expect_tensor


def _verify_bytes(answer):
    expect_close(
        answer,
        16,
        what="the number of bytes",
        slips=[(4, "These are the weights alone."), (12, "The gradient is missing.")],
    )


BYTES = Check(
    name="00-bytes",
    verify=_verify_bytes,
    solution=16,
    rejects=((4, "weights alone"), (12, "gradient"), (32, "twice"), ("16", "must be a number")),
    insight="Weight, gradient and two moments.",
)


def _verify_scale(function):
    x = torch.arange(6.0).reshape(2, 3)
    expect_tensor(function(x, 2.0), 2 * x)
    if function(x, 0.0).abs().sum() > 0:
        raise Wrong("with a factor of 0 nothing must be left")


def scale(x, factor):
    return x * factor


SCALE = Check(
    name="00-scale",
    verify=_verify_scale,
    solution=scale,
    rejects=(
        (lambda x, factor: x, "factor of 0.5"),
        (lambda x, factor: x * 2, "factor of 0"),
        (lambda x, factor: (x * factor).T, "transpose"),
        (lambda x, factor: -x * factor, "sign"),
        (lambda x, factor: 3.0, "must be a tensor"),
        (lambda x, factor: x * factor / 0, "NaN or infinity"),
        (lambda x, factor: x * factor + 1, "off by up to 1"),
    ),
)


class Counter:
    def __init__(self):
        pass

    def count(self, items):
        return len(items)


class LazyCounter(Counter):
    def count(self, items):
        return 0


class OffByOne(Counter):
    def count(self, items):
        return len(items) + 1


def _verify_counter(counter):
    n = counter().count("abc")
    if n != 3:
        raise Wrong(f"of three items it counts {n}")


COUNTER = Check(
    name="00-counter",
    verify=_verify_counter,
    solution=Counter,
    rejects=((LazyCounter, "counts 0"), (OffByOne, "counts 4")),
)

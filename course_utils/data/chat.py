"""Prompts as a model expects them: rendered by its tokenizer's chat template, or in plain text.

A template comes with a model, from strangers. It is rendered in the sandbox that transformers
uses, in bounded time and space, and whatever goes wrong is one sentence.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from course_utils.validation import check_text, shown

if TYPE_CHECKING:
    from jinja2 import Template
    from transformers import PreTrainedTokenizerBase

ALPACA_HEADS = {
    False: "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.",
    True: "Below is an instruction that describes a task, paired with an input that provides "
    "further context. Write a response that appropriately completes the request.",
}
# What no template in use comes near.
_MAX_SECONDS, _MAX_CHARACTERS, _MAX_NUMBER = 5.0, 10**7, 10**18


def chat_prompt(tokenizer: "PreTrainedTokenizerBase", instruction: str, input: str = "") -> str:
    """Render an instruction as a chat that waits for the answer, without the begin token.

    Args:
        tokenizer: Its chat template renders.
        instruction: What to do; also a bare question, or the prompt of a preference pair.
        input: What to do it with, on a line of its own; may be empty.

    Raises:
        ValueError: If the tokenizer has no chat template, or one that cannot render this chat.
    """
    check_text("instruction", instruction)
    check_text("input", input)
    name = str(tokenizer.name_or_path or "this model")[-60:]
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {name} has no chat template: use the plain form, alpaca_prompt"
        )
    messages = [{"role": "user", "content": f"{instruction}\n{input}".strip()}]
    try:
        template = _template(tokenizer.get_chat_template())
        with _bounded():
            text = template.render(
                messages=messages,
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **tokenizer.special_tokens_map,
            )
    except Exception as error:  # a template can raise anything
        told = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise ValueError(f"the chat template of {name} cannot render this chat: {told}") from error
    if not text.strip():
        raise ValueError(f"the chat template of {name} renders nothing of this chat")
    return text.removeprefix(tokenizer.bos_token or "")


def alpaca_prompt(instruction: str, input: str = "") -> str:
    """Render an instruction in plain text, for tokenizers without a chat template.

    The form of Stanford Alpaca (Taori et al., 2023, github.com/tatsu-lab/stanford_alpaca).
    """
    check_text("instruction", instruction)
    check_text("input", input)
    parts = [ALPACA_HEADS[bool(input)], f"### Instruction:\n{instruction}"]
    parts += [f"### Input:\n{input}"] if input else []
    return "\n\n".join([*parts, "### Response:"])


@lru_cache(maxsize=8)
def _template(text: str) -> "Template":
    """Compile a chat template as transformers does, in a sandbox that is stricter in two ways.

    What the sandbox forbids raises in place of being an empty text, and products and powers are
    looked at before they are computed: one of them can fill the memory.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    sandbox = _compile_jinja_template("").environment.overlay()
    sandbox.unsafe_undefined = _forbid
    sandbox.intercepted_binops = frozenset(["*", "**", "%"])
    sandbox.call_binop = _compute
    with _bounded():
        return sandbox.from_string(text)


def _forbid(thing: object, attribute: str) -> NoReturn:
    from jinja2.exceptions import SecurityError

    raise SecurityError(f"it asks for {shown(attribute)}, which leads out of the sandbox")


def _compute(context: object, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
    if operator == "%":
        return left % right
    sizes = [len(side) if hasattr(side, "__len__") else abs(side) for side in (left, right)]
    is_text = hasattr(left, "__len__") or hasattr(right, "__len__")
    size = sizes[0] * sizes[1] if operator == "*" else (1 + sizes[0]) ** min(sizes[1], 99)
    if size > (_MAX_CHARACTERS if is_text else _MAX_NUMBER):
        raise ValueError(f"it computes {shown(left)} {operator} {shown(right)}")
    return left * right if operator == "*" else left**right


class _Stop(BaseException):
    """Ends a template: no Exception, because Jinja passes over those while it compiles."""


@contextmanager
def _bounded() -> Iterator[None]:
    """Stop a template that does not end, or whose texts grow without end.

    Python is asked to report every line of a template, and every function that it calls.
    """
    deadline = perf_counter() + _MAX_SECONDS

    def watch(frame: FrameType, event: str, result: object) -> Any:  # noqa: ANN401
        if perf_counter() > deadline:
            raise _Stop(f"it has not ended after {_MAX_SECONDS:g} seconds")
        if event == "return" and isinstance(result, str) and len(result) > _MAX_CHARACTERS:
            raise _Stop(f"it makes a text of {len(result)} characters")
        frame.f_trace_lines = frame.f_code.co_filename == "<template>"
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    except _Stop as stop:
        raise RuntimeError(str(stop)) from None
    finally:
        sys.settrace(before)

"""Chat templates come from strangers: rendered as transformers does, or refused in one sentence."""

import re
import sys
from contextlib import suppress

import pytest

from course_utils.data import chat, chat_prompt
from course_utils.models import load_tokenizer


@pytest.fixture
def tokenizer():
    return load_tokenizer("embedded")


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{{ messages[0].content | tojson }}{{ bos_token }}{{ eos_token }}",
        "{%- for m in messages %}\n {{ m['role'] + ': ' ~ m['content'] | trim }}\n{%- endfor %}\n!",
        "{% if tools %}tools{% else %}{{ no_such_name }}{% endif %}{{ add_generation_prompt }}",
        "{% set ns = namespace(n=0) %}{% for c in messages[0].content %}{% if loop.index0 % 2 %}"
        "{% continue %}{% endif %}{% set ns.n = ns.n + 2 * 3 %}{% endfor %}{{ ns.n }}{{ '-' * 3 }}",
    ],
)
def test_a_template_is_rendered_as_transformers_does(tokenizer, template):
    tokenizer.chat_template = template or tokenizer.chat_template
    message = {"role": "user", "content": "Tell <b> \u00e9\nIt is $5."}
    tracing = sys.gettrace()
    expected = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    found = chat_prompt(tokenizer, "Tell <b> \u00e9", "It is $5.")
    assert found == expected.removeprefix(tokenizer.bos_token)
    assert sys.gettrace() is tracing


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ ''.__class__ }}", "asks for '__class__'"),
        ("{{ messages | map(attribute='__class__') | list }}", "asks for '__class__'"),
        ("{{ messages.append(1) }}", "asks for 'append'"),
        ("{% if", "TemplateSyntaxError"),
        ("{{ " + "(" * 10**5, "RecursionError"),
        ("{{ nosuch.x }}", "'nosuch' is undefined"),
        ("{{ raise_exception('no\n\nsystem') }}", "TemplateError: no system"),
        ("{% include 'x' %}", "no loader"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{{ 'x' * 10**12 }}", "it computes 'x' * 1000000000000"),
        ("{{ 9 ** 9 ** 9 }}", "it computes 387420489 ** 9"),
        ("{{ 'x' | center(20000000) }}", "a text of 20000000 characters"),
        (
            "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(40) %}"
            "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "a text of 16777216 characters",
        ),
        (" {# nothing #} ", "renders nothing"),
    ],
)
def test_a_hostile_or_broken_template_is_one_sentence(tokenizer, template, message):
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        chat_prompt(tokenizer, "Hello.")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_template_that_does_not_end_is_stopped(tokenizer, monkeypatch):
    monkeypatch.setattr(chat, "_MAX_SECONDS", 0.2)
    ten = "{% for x in '0123456789' %}"
    for template in (
        ten * 12 + "{% endfor %}" * 12,
        "{% macro m(n) %}{% if n %}{{ m(n - 1) ~ m(n - 1) }}{% endif %}{% endmacro %}{{ m(99) }}",
    ):
        tokenizer.chat_template = template
        with pytest.raises(ValueError, match=r"it has not ended after 0.2 seconds"):
            chat_prompt(tokenizer, "Hello.")


def test_what_stops_a_template_is_not_caught_by_it():
    def long_text() -> str:
        return "x" * (chat._MAX_CHARACTERS + 1)

    def pass_over_errors() -> None:
        with suppress(Exception):
            long_text()

    with pytest.raises(RuntimeError, match=r"a text of 10000001 characters"), chat._bounded():
        pass_over_errors()


@pytest.mark.parametrize("text", [None, 5, ["a"], "half \ud83d"])
def test_what_is_no_text_is_refused(tokenizer, text):
    with pytest.raises(ValueError, match=r"^instruction="):
        chat_prompt(tokenizer, text)
    with pytest.raises(ValueError, match=r"^input="):
        chat.alpaca_prompt("Add.", text)

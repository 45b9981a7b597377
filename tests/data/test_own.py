"""A learner's own data: every row of it, or one sentence that says what is wrong with which."""

import csv
import json
import re

import pytest
from datasets import Dataset

from course_utils.data import encode_instruction, encode_pair, load_own, load_task
from course_utils.models import load_tokenizer

CSV = "instruction,input,output\nAdd.,1 and 2,3.\nGreet me.,,Good day.\n"
ROWS = [
    {"instruction": "Add.", "input": "1 and 2", "output": "3."},
    {"instruction": "Greet me.", "input": "", "output": "Good day."},
]


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file, and gives its path."""

    def write_file(name: str, content: str | bytes | list[dict]):
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def turns(*contents: str, system: str = "") -> list[dict]:
    chat = [
        {"role": ("user", "assistant")[k % 2], "content": content}
        for k, content in enumerate(contents)
    ]
    return [{"role": "system", "content": system}] * bool(system) + chat


# What comes in


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.csv", CSV),
        ("own.csv", CSV.replace("\n", "\r\n")),
        ("own.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("own.csv", CSV.replace(",", ";")),
        ("own.csv", CSV.replace(",", "\t")),
        ("own.csv", "\n  \n" + CSV.replace(",", ";")),
        ("own.csv", CSV.encode("utf-16")),
        ("own.csv", b"\xfe\xff" + CSV.encode("utf-16-be")),
        ("own.CSV", CSV),
        ("own.tsv", CSV.replace(",", "\t")),
        ("own.csv", CSV.replace("instruction,input,output", "Question, Context ,ANSWER")),
        ("own.csv", CSV.replace("Add.,1 and 2", '"Add.","1 and 2"') + "\n\n"),
        ("own.jsonl", ROWS),
        ("own.jsonl", b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, ROWS)).encode()),
        (
            "own.jsonl",
            [
                {"instruction": "Add.", "input": "1 and 2", "output": "3.", "id": 7},
                {"instruction": "Greet me.", "output": "Good day."},
            ],
        ),
        (
            "own.jsonl",
            [
                {
                    "question": r["instruction"],
                    "context": r["input"] or None,
                    "response": r["output"],
                }
                for r in ROWS
            ],
        ),
    ],
)
def test_instructions_come_in_however_they_are_written(write, name, content):
    found = load_own(write(name, content), "instructions")
    assert isinstance(found, Dataset)
    assert found.to_list() == ROWS


def test_the_columns_are_those_of_the_task_sets(write):
    tokenizer = load_tokenizer("embedded")
    for task, kind in (("instructions", "instructions"), ("preferences", "preferences")):
        rows = load_task(task, "validation").select(range(20))
        found = load_own(write("own.jsonl", rows.to_list()), kind)
        assert found.to_list() == rows.select_columns(found.column_names).to_list()
    row = found[0]
    assert encode_pair(tokenizer, row["prompt"], row["chosen"], row["rejected"])["labels"] > 1
    row = load_own(write("own.csv", CSV), "instructions")[0]
    assert encode_instruction(tokenizer, row["instruction"], row["input"], row["output"])


def test_named_fields_win_over_guessed_ones(write):
    path = write("own.csv", "question,answer,frage,text\nWho?,Mira.,Wer?,Nobody.\n")
    guessed = load_own(path, "instructions")
    assert guessed[0] == {"instruction": "Who?", "input": "", "output": "Mira."}
    named = load_own(path, "instructions", fields={"instruction": "frage", "output": "text"})
    assert named[0] == {"instruction": "Wer?", "input": "", "output": "Nobody."}
    twice = load_own(path, "instructions", fields={"instruction": "frage", "input": "frage"})
    assert twice[0] == {"instruction": "Wer?", "input": "Wer?", "output": "Mira."}


def test_a_named_column_is_not_guessed_for_another(write):
    path = write("own.csv", "question,answer\nWho?,Mira.\n")
    with pytest.raises(ValueError, match=r"looks like instruction \(columns: question, answer\)"):
        load_own(path, "instructions", fields={"input": "question"})


def test_a_column_of_a_standard_name_that_was_not_meant_is_left_out(write):
    path = write("own.csv", "output,expected,question\n42,Mira.,Who?\n")
    found = load_own(path, "instructions", fields={"output": "expected"})
    assert found[0]["output"] == "Mira."


def test_prompts_and_pairs(write):
    assert load_own(write("a.csv", "Prompt\nWho?\n"), "prompts").to_list() == [{"prompt": "Who?"}]
    pairs = write("b.csv", "question,chosen,rejected\nWho?,Mira.,You fool.\n")
    assert load_own(pairs, "preferences").to_list() == [
        {"prompt": "Who?", "chosen": "Mira.", "rejected": "You fool."}
    ]


def test_a_line_separator_inside_a_text_parts_no_rows(write):
    """U+2028 is legal within a JSON string, and Python's splitlines would split at it."""
    path = write("own.jsonl", '{"prompt": "one\u2028two"}\n{"prompt": "three"}\n')
    assert load_own(path, "prompts")["prompt"] == ["one\u2028two", "three"]


def test_a_delimiter_is_what_parts_every_row_alike(write):
    header = '"question";"output";"notes, remarks, other, and more"'
    texts = [
        f"{header}\nq, r;a;b\n",
        header.replace('"', "") + "\nq, r;a;b\n",
        header.replace(";", ",") + '\n"q, r",a,b;c;d;e\n',
    ]
    for text in texts:
        found = load_own(write("own.csv", text), "instructions").to_list()
        assert found == [{"instruction": "q, r", "input": "", "output": "a"}]
    one_column = write("own.csv", "prompt\nCome, go; stay.\n")
    assert load_own(one_column, "prompts")["prompt"] == ["Come, go; stay."]


def test_a_cell_may_be_long_and_the_limit_of_others_stays(write):
    limit = csv.field_size_limit()
    text = "word " * limit
    path = write("own.csv", f"question,answer\nWhat?,{text}\n")
    assert load_own(path, "instructions")["output"] == [text]
    assert csv.field_size_limit() == limit


# Chats


def test_chats_give_prompt_and_answer(write):
    rows = [
        {"messages": turns("Who?", "Mira.")},
        {"messages": turns("Where?", "Here.", system="Be brief.")},
    ]
    expected = [
        {"instruction": "Who?", "input": "", "output": "Mira."},
        {"instruction": "Be brief.\nWhere?", "input": "", "output": "Here."},
    ]
    assert load_own(write("own.jsonl", rows), "instructions").to_list() == expected
    renamed = [{"dialogue": row["messages"], "output": "x"} for row in rows]
    path = write("own.jsonl", renamed)
    found = load_own(path, "instructions", fields={"messages": "dialogue"})
    assert found["instruction"] == ["Who?", "Be brief.\nWhere?"]
    asked = [{"prompt": turns("Who?"), "completion": turns("", "Mira.")[1:]}]
    found = load_own(write("own.jsonl", asked), "instructions")
    assert found.to_list() == expected[:1]


@pytest.mark.parametrize("prompt", [{}, {"prompt": "Who?"}, {"prompt": turns("Who?")}])
def test_pairs_of_chats_share_their_prompt(write, prompt):
    row = prompt | {"chosen": turns("Who?", "Mira."), "rejected": turns("Who?", "You fool.")}
    found = load_own(write("own.jsonl", [row]), "preferences")
    assert found.to_list() == [{"prompt": "Who?", "chosen": "Mira.", "rejected": "You fool."}]


def test_chats_that_are_no_exchange_are_named(write):
    good = {"messages": turns("Who?", "Mira.")}
    long = {"messages": turns("Who?", "Mira.", "Where?", "Here.")}
    with pytest.raises(ValueError, match=r"own.jsonl, line 2: a chat must be .*\(got user, assis"):
        load_own(write("own.jsonl", [good, long]), "instructions")
    with pytest.raises(ValueError, match=r"own.jsonl, line 2: output is missing"):
        load_own(write("own.jsonl", [good, {"messages": turns("Who?")}]), "instructions")
    with pytest.raises(ValueError, match=r"own.jsonl, line 1: messages must be a list of turns"):
        load_own(write("own.jsonl", [{"messages": "Who? Mira."}]), "instructions")
    row = {"chosen": turns("Who?", "Mira."), "rejected": turns("Where?", "Here.")}
    with pytest.raises(ValueError, match=r"line 1: chosen and rejected do not answer the same"):
        load_own(write("own.jsonl", [row]), "preferences")


SYSTEM = {"role": "system", "content": "Be brief."}
ASKS, SAYS = turns("Who?"), turns("", "Mira.")[1:]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Who?", "chosen": [SYSTEM, *ASKS, *SAYS], "rejected": [SYSTEM, *ASKS, *SAYS]},
        {"question": "Who?", "chosen": [SYSTEM, *SAYS], "rejected": [SYSTEM, *SAYS]},
        {"prompt": [SYSTEM, *ASKS], "chosen": SAYS, "rejected": SAYS},
        {"prompt": [SYSTEM, *ASKS], "chosen": [*ASKS, *SAYS], "rejected": [*ASKS, *SAYS]},
        {"prompt": "Be brief.\nWho?", "chosen": [SYSTEM, *SAYS], "rejected": [SYSTEM, *SAYS]},
        {"prompt": " ", "chosen": [SYSTEM, *ASKS, *SAYS], "rejected": [SYSTEM, *ASKS, *SAYS]},
    ],
)
def test_a_system_turn_is_kept_wherever_it_stands(write, row):
    found = load_own(write("own.jsonl", [row]), "preferences").to_list()
    assert found == [{"prompt": "Be brief.\nWho?", "chosen": "Mira.", "rejected": "Mira."}]


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("preferences", {"prompt": "Why?"}, "the prompt is 'Why?', but the chat asks 'Who?'"),
        ("preferences", {"Question": 5}, "the prompt is 5, but the chat asks 'Who?'"),
        ("preferences", {"prompt": turns("Why?")}, "its chats do not ask the same"),
        ("preferences", {"prompt": turns("Who?", "He.")}, "a prompt must end with the user's"),
        ("preferences", {"chosen": [SYSTEM, *ASKS, *SAYS]}, "do not answer the same prompt"),
        ("prompts", {"prompt": "Why?"}, "the prompt is 'Why?', but"),
        ("instructions", {"instruction": "Why?"}, "the prompt is 'Why?', but"),
        ("instructions", {"response": "He."}, "two answers, 'Mira.' and 'He.'"),
        ("instructions", {"completion": turns("", "He.")[1:]}, "two answers, 'Mira.' and 'He.'"),
    ],
)
def test_columns_that_contradict_the_chat_are_refused(write, kind, row, message):
    chats = ("chosen", "rejected") if kind == "preferences" else ("messages",)
    good = {name: [*ASKS, *SAYS] for name in chats}
    path = write("own.jsonl", [good, good | row])
    with pytest.raises(ValueError, match=f"^own.jsonl, line 2: .*{re.escape(message)}"):
        load_own(path, kind)


# Text


def test_a_plain_file_is_parted_at_blank_lines(write):
    path = write("book.txt", "\n\nOne line.\nAnother.\n  \n\nNext document.\r\n")
    assert load_own(path, "texts")["text"] == ["One line.\nAnother.", "Next document."]


def test_blank_texts_part_documents_and_a_blank_title_does_not(write):
    rows = [{"text": " = Title = \n", "title": ""}, {"text": "", "title": "a"}, {"text": "Text."}]
    found = load_own(write("own.jsonl", rows), "texts")
    assert found["text"] == [" = Title = \n", "Text."]
    with pytest.raises(ValueError, match=r"own.jsonl holds only blank texts"):
        load_own(write("own.jsonl", [{"text": " "}]), "texts")
    with pytest.raises(ValueError, match=r"own.jsonl, line 1: text is missing"):
        load_own(write("own.jsonl", [{"text": None}]), "texts")


# What does not come in


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.csv", CSV + "Sing.,,\n", r"own.csv, line 4: output is empty"),
        ("own.csv", CSV + "Sing.,,  \n", r"own.csv, line 4: output is empty"),
        ("own.csv", 'instruction,output\n"a\n\nb",c\n\n,d\n', r"line 6: instruction is empty"),
        ("own.csv", CSV + "Sing.,la\n", r"own.csv, line 4 has 2 fields, the header 3"),
        ("own.csv", CSV + "Sing.,,la, la\n", r"own.csv, line 4 has 4 fields, the header 3"),
        ("own.csv", CSV + '"Sing.,,la\n', r"own.csv, line 4 is no CSV: unexpected end of data"),
        ("own.csv", CSV + '"Sing"!,,la\n', r"own.csv, line 4 is no CSV: ',' expected after '\"'"),
        ("own.csv", "output,input,output\na,b,c\n", r"own.csv: column 'output' is there twice"),
        ("own.csv", "instruction,output\n", r"own.csv holds no rows"),
        ("own.csv", "", r"own.csv holds no rows"),
        ("own.jsonl", "\n \n", r"own.jsonl holds no rows"),
        ("own.txt", "\n", r"own.txt is plain text: instructions are rows of a .jsonl, .csv or"),
        ("own.csv", CSV.encode() + b"a,b,K\xe4se\n", r"own.csv, line 4 is not UTF-8: save it as"),
        ("own.jsonl", '{"a": 1}\n\n{"a": \n', r"own.jsonl, line 3 is not JSON"),
        ("own.jsonl", '{"a": 1}\n[1, 2]\n', r"own.jsonl, line 2 is no JSON object: \[1, 2\]"),
        ("own.jsonl", [*ROWS, {"instruction": "Sing."}], r"own.jsonl, line 3: output is missing"),
        ("own.jsonl", [*ROWS, ROWS[0] | {"output": 42}], r"line 3: output must be text \(got 42\)"),
        ("own.jsonl", [*ROWS, ROWS[0] | {"input": 1}], r"line 3: input must be text \(got 1\)"),
        (
            "own.jsonl",
            '{"a": 1}\n{"a": 1, "b": {"c": 1, "c": 2}}',
            r"line 2 is not JSON: the key 'c'",
        ),
        ("own.jsonl", '{"a": 1}\n{"b": [NaN]}', r"line 2 is not JSON: NaN is no finite number"),
        ("own.jsonl", '{"a": 1}\n{"b": -1e999}', r"line 2 is not JSON: -1e999 is no finite"),
        ("own.jsonl", '{"a": 1}\n' + "[" * 10**5, r"own.jsonl, line 2 is not JSON: it nests too d"),
        ("own.jsonl", '{"a": 1}\n' + "9" * 5000, r"own.jsonl, line 2 is not JSON: Exceeds the lim"),
        (
            "own.jsonl",
            '{"a": 1}\n{"\\uDc00": 1}',
            r"line 2 is not JSON: it holds .* half of a char",
        ),
        (
            "own.jsonl",
            [*ROWS, {"output": "\ud83d"}],
            r"line 3 is not JSON: it holds '.ud83d', half",
        ),
        ("own.jsonl", '{"a": 1}\n\0\0', r"own.jsonl, line 2 holds a NUL byte"),
        ("own.csv", CSV + "Sing\0,,la\n", r"own.csv, line 4 holds a NUL byte"),
        ("own.csv", CSV.encode("utf-16-le"), r"own.csv, line 1 holds a NUL byte"),
        ("own.csv", CSV.encode("utf-16")[:-1], r"own.csv, line 3 is not UTF-16: save it as"),
        ("own.tsv", CSV, r"looks like instruction \(columns: instruction,input,ou"),
        (
            "own.csv",
            "Output,output,prompt\na,b,c\n",
            r"has the columns 'Output' and 'output': name",
        ),
        ("own.xlsx", "PK", r"own.xlsx must end in .jsonl, .csv, .tsv \(rows with fields\) or .txt"),
        ("own.json", "[]", r"own.json must end in .jsonl"),
        (
            "own.csv",
            "frage,antwort\na,b\n",
            r"no column of .*own.csv looks like instruction \(columns: frage, antwort\): name it, "
            r"as in fields={'instruction': 'frage'}",
        ),
        ("own.csv", "question,antwort\na,b\n", r"looks like output \(columns: question, antwort\)"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(write, name, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_own(write(name, content), "instructions")
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for source, message in (
        ("answers.csv", r"answers.csv is not there"),
        ("some/answers.jsonl", r"answers.jsonl is not there"),
        ("answers.xlsx", r"answers.xlsx is not there"),
        (tmp_path / "answers", r"answers is not there"),
        ("folder", r"folder is a folder: name one file in it"),
        ("What is this?" * 50, r"What is this\? is not there"),
        ("~nobody-of-that-name/a.csv", r"a.csv is not there"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            load_own(source, "prompts")


def test_unknown_kinds_and_fields_are_told_what_exists(write):
    path = write("own.csv", CSV)
    with pytest.raises(ValueError, match=r"kind='pairs' must be one of instructions, preferences"):
        load_own(path, "pairs")
    with pytest.raises(ValueError, match=r"fields names 'answer', which is none of instruction, i"):
        load_own(path, "instructions", fields={"answer": "output"})
    with pytest.raises(ValueError, match=r"fields='output' must be a dictionary of columns"):
        load_own(path, "instructions", fields="output")
    with pytest.raises(ValueError, match=r"source=None must be the path of a file or the id of"):
        load_own(None, "instructions")
    with pytest.raises(ValueError, match=r"has no column 'reply' \(columns: instruction, input, o"):
        load_own(path, "instructions", fields={"output": "reply"})

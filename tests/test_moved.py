"""What an old notebook imports is there, under its old name, and a warning says where it is now.

``names_of_0_1.txt`` lists the modules of version 0.1, and of each the names that were public: those
in ``__all__``, those of single modules, and those that the notebooks imported.
"""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from course_utils import methods, moved
from course_utils.memory import estimate

HERE = Path(__file__).parent
LINES = (HERE / "names_of_0_1.txt").read_text().splitlines()
OLD = {place: names.split() for place, _, names in (line.partition(":") for line in LINES)}

# Imports each name as a notebook does, in an interpreter of its own: an old module stays imported.
IMPORT_EACH = """
import json, sys, warnings
said = {}
for place, names in json.loads(sys.argv[1]).items():
    lines = [f"import course_utils.{place}"]
    lines += [f"from course_utils.{place} import {name}" for name in names]
    said[place] = []
    for line in lines:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FutureWarning)
            try:
                exec(compile(line, "cell", "exec"), {})
            except Exception as error:
                said[place].append(f"{line}: {type(error).__name__}: {error}")
        said[place] += [str(w.message) for w in caught if w.filename == "cell"]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said() -> dict[str, list[str]]:
    """What Python says to a notebook that imports the names of version 0.1, module by module."""
    command = [sys.executable, "-c", IMPORT_EACH, json.dumps(OLD)]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stands(place: str) -> bool:
    parts = place.split(".")
    folder = HERE.parent / "course_utils"
    return folder.joinpath(*parts).is_dir() or folder.joinpath(*parts).with_suffix(".py").is_file()


def test_what_stands_where_it_stood_is_imported_without_a_word(said):
    silent = {place: lines for place, lines in said.items() if stands(place)}
    lost = [f"course_utils.{place}.{name} is " for place, name in moved.NAMES]
    wrong = [
        line for lines in silent.values() for line in lines if not line.startswith(tuple(lost))
    ]
    assert len(silent) > 60
    assert wrong == []


def test_what_has_moved_is_imported_with_one_warning_that_names_its_place(said):
    gone = {place: lines for place, lines in said.items() if not stands(place)}
    assert len(gone) > 100
    for place, lines in gone.items():
        assert len(lines) == 1, lines
        start, now = re.fullmatch(r"(\S+) is (.+) now", lines[0]).groups()
        assert start == f"course_utils.{place}"
        assert all(find_spec(new) for new in now.split(" and "))
        assert not set(now.split(" and ")) & {f"course_utils.{old}" for old in gone}


def test_an_old_name_is_the_new_module_and_no_copy_of_it():
    code = (
        "import course_utils.quiz.bank, course_utils.practice.quiz.bank as new\n"
        "assert course_utils.quiz.bank is new and new.__name__.endswith('practice.quiz.bank')\n"
        "assert new.__spec__.name == new.__name__"
    )
    subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, check=True)


def test_the_table_of_moves_holds_what_was_there_and_is_no_more():
    assert not [place for place in moved.MODULES if place not in OLD or stands(place)]
    assert not [(place, name) for place, name in moved.NAMES if name not in OLD[place]]


@pytest.mark.parametrize("name", moved.FOOTPRINTS)
def test_a_footprint_that_has_gone_names_the_configuration_to_give(name):
    old = moved.find("course_utils.memory", name)
    with pytest.raises(ValueError, match=rf"^{name} has gone: give .*\(\.\.\.\)$") as caught:
        estimate("Llama-2-7B", old(rank=8), batch_size=1, seq_len=8)
    assert hasattr(methods, re.search(r"methods\.(\w+)\(", str(caught.value))[1])


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        __import__("course_utils.plotter")
    with pytest.raises(ImportError):
        exec("from course_utils.memory import nonsense")

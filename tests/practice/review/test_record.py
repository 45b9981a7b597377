"""The record of answers: no answer lost or doubled, whatever happens to program, file or clock."""

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from course_utils.practice.review import record as module
from course_utils.practice.review.record import VERSION, Answer, Record, keep_answer, record_path
from tests.faults.children import in_child
from tests.test_files import NOBODY, needs_fork

ROOT = Path(__file__).resolve().parents[3]
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


def answer(number=0, **fields):
    time = NOON + timedelta(minutes=number)
    return Answer(
        **{"question": f"00-q-{number}", "is_right": number % 2 == 0, "time": time} | fields
    )


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "state" / "answers.sqlite")


def fill(record, n_answers):
    for number in range(n_answers):
        record.add(answer(number))


def raw(path, statement):
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        return db.execute(statement).fetchall()


def test_what_is_kept_is_read_back_in_order(record):
    assert record.answers() == []
    assert not record.path.parent.exists(), "a query has made something"
    east = timezone(timedelta(hours=5))
    given = [answer(3), answer(1), answer(3, time=NOON.astimezone(east))]
    for one in given:
        record.add(one)
    assert record.answers() == given
    assert Record(record.path).answers() == given
    assert record.notice == ""


@pytest.mark.parametrize(
    "fields",
    [{"question": 1}, {"is_right": 1}, {"time": "noon"}, {"time": datetime(2026, 1, 1)}],
)
def test_what_is_no_answer_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        answer(**fields)


def test_each_answer_is_flushed_to_the_disk_and_pending_ones_are_apart(record):
    record.add(answer())
    settings = record._run(
        lambda db: [module._pragma(db, name) for name in ("journal_mode", "synchronous")]
    )
    assert settings == ["wal", 2]


def test_the_place_is_the_readers(state_dir):
    assert record_path() == state_dir / "answers.sqlite"
    assert keep_answer("00-q", True) == ""
    (kept,) = Record().answers()
    assert (kept.question, kept.is_right) == ("00-q", True)
    assert abs(kept.time - datetime.now(UTC)) < timedelta(minutes=5)


def test_where_nothing_can_be_written_the_reader_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_STATE_DIR", str(tmp_path / "file" / "folder"))
    told = keep_answer("00-q", True)
    assert told.startswith("Your answer could not be kept: ")
    assert "\n" not in told


def test_a_folder_in_its_place_is_one_sentence_and_stays(record):
    record.path.mkdir(parents=True)
    with pytest.raises(OSError, match="cannot be used"):
        record.add(answer())
    assert record.path.is_dir()


@needs_fork
def test_in_a_read_only_home_answers_are_read_and_a_new_one_is_refused_in_one_sentence(record):
    """As root everything is open, so that another user tries."""
    fill(record, 2)
    for outer in record.path.parents:
        if outer == Path(tempfile.gettempdir()):
            break
        outer.chmod(0o755)
    record.path.parent.chmod(0o555)

    def use() -> None:
        assert len(record.answers()) == 2
        for write in (record.forget, lambda: record.add(answer())):
            with pytest.raises(OSError, match=r"cannot be used: .*readonly"):
                write()

    ending = in_child(use, user=NOBODY if os.geteuid() == 0 else None)
    record.path.parent.chmod(0o755)
    assert ending.said == "None", ending
    assert len(record.answers()) == 2


def test_forgetting_leaves_an_empty_record(record):
    assert record.forget() == 0
    fill(record, 3)
    assert record.forget() == 3
    assert record.answers() == []


# Killed at any moment, and two programs at once

KILLS = """
import os, random, signal, sys
from datetime import datetime, timedelta, UTC
from pathlib import Path
from course_utils.practice.review.record import Answer, Record

folder, chance, done = Path(sys.argv[1]), random.Random(1), []
for round in range(int(sys.argv[2])):
    # Every tenth round begins with no file: its making is interrupted, too.
    path = folder / str(round // 10) / "answers.sqlite"
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        record, number = Record(path), 0
        while True:
            name = f"{round}-{number}"
            record.add(Answer(question=name, is_right=True, time=datetime.now(UTC)))
            os.write(theirs, f"{name}\\n".encode())
            number += 1
    os.close(theirs)
    acknowledged, wanted = b"", chance.randrange(4)
    while acknowledged.count(b"\\n") < wanted:
        acknowledged += os.read(ours, 4096)
    for _ in range(chance.randrange(40_000)):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(ours, 4096):
        acknowledged += more
    os.close(ours)
    done += [(path, acknowledged.decode().split())]
for path in dict.fromkeys(path for path, _ in done):
    record = Record(path)
    kept = [answer.question for answer in record.answers()]
    assert record.notice == "", record.notice
    assert len(set(kept)) == len(kept), "doubled"
    for round, (place, acknowledged) in enumerate(done):
        if place == path:
            of_round = [name for name in kept if name.startswith(f"{round}-")]
            assert of_round == [f"{round}-{k}" for k in range(len(of_round))]
            # The last one may have been written without being acknowledged.
            assert len(of_round) - len(acknowledged) in (0, 1), (of_round, acknowledged)
print(sum(len(acknowledged) for _, acknowledged in done))
"""


def run_python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="forks and kills")
@pytest.mark.parametrize("n_kills", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_writer_killed_at_any_moment_loses_and_doubles_nothing(tmp_path, n_kills):
    assert int(run_python(KILLS, tmp_path, n_kills)) > n_kills


STATEMENTS = """
import os, sqlite3, sys
from datetime import datetime, UTC
from pathlib import Path
from course_utils.practice.review import record as module

path, last = Path(sys.argv[1]), int(sys.argv[2])
connect, seen = sqlite3.connect, []


def killed_at(statement):
    seen.append(statement)
    if len(seen) == last:
        os._exit(9)


def traced(*arguments, **settings):
    db = connect(*arguments, **settings)
    db.set_trace_callback(killed_at)
    return db


for first in range(last + 1):
    seen.clear()
    place = path / str(first) / "answers.sqlite"
    if not os.fork():
        last, module.sqlite3.connect = first, traced
        module.Record(place).add(module.Answer(question="a", is_right=True, time=datetime.now(UTC)))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    record = module.Record(place)
    kept = [answer.question for answer in record.answers()]
    assert kept in ([], ["a"]) and (kept or status), (first, kept, status)
    record.add(module.Answer(question="b", is_right=True, time=datetime.now(UTC)))
    assert [answer.question for answer in record.answers()] == [*kept, "b"]
    assert not record.notice
    print(status)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_the_first_answer_can_be_interrupted_before_each_statement(tmp_path):
    statuses = run_python(STATEMENTS, tmp_path, 16).split()
    assert statuses.count("9") >= 10
    assert statuses[-1] == "0", "16 statements are not all"


WRITER = """
import sys
from datetime import datetime, UTC
from pathlib import Path
from course_utils.practice.review.record import Answer, Record
for number in range(30):
    name = f"{sys.argv[2]}-{number}"
    Record(Path(sys.argv[1])).add(Answer(question=name, is_right=True, time=datetime.now(UTC)))
"""


@pytest.mark.parametrize("is_damaged", [False, True])
def test_several_programs_write_at_once(record, is_damaged):
    if is_damaged:
        record.path.parent.mkdir()
        record.path.write_bytes(b"nothing" * 1000)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, record.path, str(k)], cwd=ROOT)
        for k in range(3)
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    kept = [answer.question for answer in record.answers()]
    assert sorted(kept) == sorted(f"{k}-{number}" for k in range(3) for number in range(30))
    for k in range(3):
        assert [q for q in kept if q.startswith(f"{k}-")] == [f"{k}-{n}" for n in range(30)]
    assert len(list(record.path.parent.glob("*.damaged-*.sqlite"))) == is_damaged


# Files of other versions, of other programs, and damaged ones


def test_a_file_of_a_newer_version_is_refused_and_left_alone(record):
    fill(record, 2)
    raw(record.path, "ALTER TABLE answers ADD COLUMN mood TEXT")
    raw(record.path, f"PRAGMA user_version={VERSION + 1}")
    before = record.path.read_bytes()
    for use in (record.answers, record.forget, lambda: record.add(answer())):
        with pytest.raises(ValueError, match=r"newer version .* \(.*2, .* 1\): update") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert record.path.read_bytes() == before
    assert [path.name for path in record.path.parent.iterdir()] == [record.path.name]


def test_another_programs_database_is_refused_and_left_alone(record):
    record.path.parent.mkdir()
    raw(record.path, "CREATE TABLE cards (front TEXT)")
    before = record.path.read_bytes()
    with pytest.raises(ValueError, match="another program's"):
        record.add(answer())
    assert record.path.read_bytes() == before


def test_an_empty_file_is_a_new_record(record):
    record.path.parent.mkdir()
    record.path.touch()
    record.add(answer())
    assert (record.answers(), record.notice) == ([answer()], "")


def overwrite(path, start, data):
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


DAMAGES = {
    "no database": lambda path: path.write_bytes(b"Dear diary " * 500),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-9000]),
    "a page of the middle": lambda path: overwrite(path, 5 * 4096, b"\xff" * 4096),
    "the table is gone": lambda path: raw(path, "ALTER TABLE answers RENAME TO questions"),
    "the first page": lambda path: overwrite(path, 100, b"\x00" * 3000),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("use", [Record.answers, lambda record: record.add(answer(7777))])
def test_a_damaged_file_is_put_aside_and_a_new_one_begun(record, damage, use):
    record.path.parent.mkdir()
    Record(record.path).forget()
    rows = [(k, f"00-q-{k}", 1, NOON.isoformat()) for k in range(1, 1001)]
    record._run(lambda db: module._insert(db, rows))
    damage(record.path)
    damaged = record.path.read_bytes()
    use(record)
    aside = record.path.with_name("answers.damaged-1.sqlite")
    assert aside.read_bytes() == damaged
    assert "damaged" in record.notice
    assert aside.name in record.notice
    again = Record(record.path)
    rescued = [one.question for one in again.answers()]
    assert again.notice == ""
    assert len(set(rescued)) == len(rescued)
    is_middle = damage is DAMAGES["a page of the middle"]
    assert ("00-q-1" in rescued and "00-q-1000" in rescued) or not is_middle
    assert (len(rescued) > 800) == is_middle or damage is DAMAGES["cut short"]
    again.add(answer())
    assert len(again.answers()) == len(rescued) + 1


def test_what_is_pending_for_a_damaged_file_goes_aside_with_it(record):
    fill(record, 3)
    pending = Path(f"{record.path}-wal")
    with closing(sqlite3.connect(record.path)) as another_program:
        another_program.execute("SELECT * FROM answers").fetchall()
        record.add(answer(3))
        before = pending.read_bytes()
        overwrite(record.path, 0, b"\xff" * 100)
        assert record.answers() == [], "pages of the old file are in the new one"
        aside = record.path.with_name("answers.damaged-1.sqlite")
        assert Path(f"{aside}-wal").read_bytes() == before
        record.add(answer(4))
    assert record.answers() == [answer(4)]


def test_a_second_damage_gets_a_name_of_its_own(record):
    for number in (1, 2):
        record.path.parent.mkdir(exist_ok=True)
        record.path.write_bytes(b"nothing" * number * 1000)
        record.add(answer())
        aside = record.path.with_name(f"answers.damaged-{number}.sqlite")
        assert aside.read_bytes() == b"nothing" * number * 1000
        assert record.answers() == [answer()]


def test_the_reader_is_told_of_a_damaged_record_with_the_answer(state_dir):
    state_dir.mkdir()
    record_path().write_bytes(b"nothing at all" * 100)
    assert "answers.damaged-1.sqlite" in keep_answer("00-q", True)
    assert keep_answer("00-q", True) == ""
    assert len(Record().answers()) == 2


def test_a_row_that_is_no_answer_is_passed_over(record):
    fill(record, 2)
    raw(record.path, "INSERT INTO answers VALUES (50, '00-q', 1, 'yesterday')")
    raw(record.path, "INSERT INTO answers VALUES (51, '00-q', 1, '2026-01-01T00:00:00')")
    raw(record.path, "INSERT INTO answers VALUES (52, CAST(x'ff' AS TEXT), 1, '2026-01-01T00:00Z')")
    assert record.answers()[:2] == [answer(0), answer(1)]
    assert len(record.answers()) == 3

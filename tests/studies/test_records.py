"""Whatever ends a study, its record is taken up again: no run lost, none made twice."""

import json
from threading import Thread

import pytest

from course_utils.paths import data_dir
from course_utils.studies import frontier, records, runner
from course_utils.studies.records import Records, header

KEY = ("task", "seed")
FIRST = {"study": "small", "command": "python -m course_utils.studies small"}
ROWS = [{"task": "topics", "seed": seed, "test": 0.5} for seed in range(4)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / "small.jsonl"


def record(path, rows=ROWS) -> list[int]:
    """Record what is missing of some runs, and return the seeds of those that were made."""
    made = []
    found = Records(path, KEY)
    found.take_up(FIRST)
    for row in rows:
        found.once(("topics", row["seed"]), lambda row=row: row, lambda r: made.append(r["seed"]))
    return made


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (lambda whole: whole, []),
        (lambda whole: whole[:-20], [3]),
        (lambda whole: whole[:-1], []),
        (lambda whole: whole.rstrip(b"\n").rsplit(b"\n", 1)[0], [3]),
        (lambda whole: whole + b"\n \r\n", []),
        (lambda whole: whole + b"\0" * 64, []),
        (lambda whole: whole[:-1] + b"\0" * 64, []),
        (lambda whole: whole[:-30] + b"\0" * 64, [3]),
        (lambda whole: whole.replace(b'0.5}\n{"task": "topics", "seed": 2', b""), [1, 2]),
        (lambda whole: whole + whole, []),
        (lambda whole: whole + b"[" * 10**5, []),
        (lambda whole: whole.split(b"\n", 1)[1], []),
        (lambda whole: whole[20:], []),
        (lambda whole: whole[:20], [0, 1, 2, 3]),
        (lambda whole: b"\0" * 64, [0, 1, 2, 3]),
        (lambda whole: b"", [0, 1, 2, 3]),
    ],
)
def test_a_damaged_record_is_taken_up_again(path, damage, lost):
    assert record(path) == [0, 1, 2, 3]
    path.write_bytes(damage(path.read_bytes()))
    assert record(path) == lost
    assert record(path) == []
    assert sorted(Records(path, KEY).rows, key=lambda row: row["seed"]) == ROWS
    assert json.loads(path.read_text().splitlines()[0]) == FIRST


def test_what_is_whole_is_not_written_to(path):
    record(path)
    before = path.stat()
    assert record(path) == []
    assert path.stat() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_two_writers_share_a_file(path):
    """Lines far longer than a buffer stay whole; a run of both is recorded once."""
    rows = [{"task": "topics", "seed": seed, "samples": "x" * 50_000} for seed in range(30)]
    made = [[], []]

    def write(part):
        found = Records(path, KEY)
        found.take_up(FIRST)
        for row in rows[10 * part : 10 * part + 20]:
            key = ("topics", row["seed"])
            found.once(key, lambda row=row: row, lambda r: made[part].append(r["seed"]))

    threads = [Thread(target=write, args=(part,)) for part in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Records(path, KEY).rows, key=lambda row: row["seed"]) == rows
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    assert {line["task"] for line in lines if "study" not in line} == {"topics"}
    assert record(path, rows) == []


def test_a_run_that_another_made_meanwhile_is_kept(path):
    first, second = Records(path, KEY), Records(path, KEY)
    first.take_up(FIRST)

    def slow():
        second.once(("topics", 0), lambda: ROWS[0])
        return ROWS[0] | {"test": 0.6}

    assert first.once(("topics", 0), slow) == ROWS[0]
    assert len(path.read_text().splitlines()) == 2


def test_a_failed_run_is_not_recorded(path):
    found = Records(path, KEY)
    found.take_up(FIRST)
    with pytest.raises(KeyboardInterrupt):
        found.once(("topics", 0), lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert record(path) == [0, 1, 2, 3]


def test_the_frontier_is_recorded_alike(tmp_path, monkeypatch, capsys):
    def fake(*key, device):
        numbers = {"kl": 1.0, "reward": 2.0, "true_score": 3.0, "seconds": 4.0}
        return {**dict(zip(frontier.KEY, key, strict=True)), **numbers, "validation": 5.0}

    monkeypatch.setattr(runner, "data_dir", lambda: tmp_path)
    monkeypatch.setattr(frontier, "run_once", fake)
    frontier.main(["dpo"])
    path = tmp_path / "results" / "frontier.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    frontier.main(["dpo", "rloo"])
    keys = [tuple(row[name] for name in frontier.KEY) for row in frontier.load_frontier()]
    assert keys == [*frontier.wanted("dpo", []), *frontier.wanted("rloo", [])]
    assert len(capsys.readouterr().out.splitlines()) == len(keys) + 1  # One was damaged.


def test_headers_name_the_command_that_exists():
    for file in (data_dir() / "results").glob("*.jsonl"):
        first = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
        command = frontier.COMMAND if file.stem == "frontier" else runner._command(file.stem)
        assert (first["study"], first["command"]) == (file.stem, command)
        # Records of before 2026-11-27 do not say the device: they are of the processor. Those
        # that were partly made on a card name its library versions as well.
        says = set(first) - {"versions_on_the_card"} | {"device"}
        assert says == set(header("a", (0,), command=command))
        assert records._has_header(file)

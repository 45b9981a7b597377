"""The claims ledger holds to its schema, and every verdict points at a cell that shows it."""

import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output

from course_utils.practice.claims import Claim, Evidence, load_claims

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
ENTRY = {
    "id": "00-half-memory",
    "claim": "Sixteen-bit weights halve the memory of training.",
    "kind": "myth",
    "verdict": "refuted",
    "evidence": {"notebook": "00_start.ipynb", "tag": "evidence-half-memory"},
    "source": "articles on fine-tuning",
}


def missing_evidence(claims: tuple[Claim, ...], folder: Path) -> list[str]:
    """Return one sentence for each claim whose notebook, or cell with the tag, does not exist."""
    complaints = []
    for claim in claims:
        if claim.evidence is None:
            continue
        path = folder / claim.evidence.notebook
        if not path.is_file():
            complaints.append(f"{claim.id}: no notebook {path.name}")
            continue
        cells = nbformat.read(path, as_version=4).cells
        tags = [tag for cell in cells for tag in cell.metadata.get("tags", [])]
        if tags.count(claim.evidence.tag) != 1:
            n = tags.count(claim.evidence.tag)
            complaints.append(
                f"{claim.id}: {n} cells of {path.name} are tagged {claim.evidence.tag}"
            )
    return complaints


def unused_tags(claims: tuple[Claim, ...], folder: Path) -> list[str]:
    """Return the evidence tags in notebooks that no claim points at."""
    known = {(c.evidence.notebook, c.evidence.tag) for c in claims if c.evidence}
    found = [
        (path.name, tag)
        for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))
        for cell in nbformat.read(path, as_version=4).cells
        for tag in cell.metadata.get("tags", [])
        if tag.startswith("evidence-")
    ]
    return [f"{name}: {tag}" for name, tag in found if (name, tag) not in known]


# A number with a point or a per cent sign; not one of an arXiv address or of a version.
NUMBER = re.compile(r"(?<![\w.:])[−-]?\d+(?:\.\d+(?!\d|\.\d)|(?= ?%))")


def said_by(cell) -> str:
    """Return what a cell's outputs say as text: printed, or as a table."""
    texts = [
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for output in cell.get("outputs", [])
    ]
    return "\n".join(text for text in texts if not text.startswith("<"))


def unsaid(claims: tuple[Claim, ...], folder: Path) -> list[str]:
    """Return one sentence for each verdict whose cell does not say what the ledger says it does."""
    complaints = []
    for claim in claims:
        if claim.evidence is None:
            continue
        cells = nbformat.read(folder / claim.evidence.notebook, as_version=4).cells
        (cell,) = [c for c in cells if claim.evidence.tag in c.metadata.get("tags", [])]
        said = said_by(cell).replace("−", "-")
        if not said.strip():
            complaints.append(f"{claim.id}: {claim.evidence.tag} says nothing as text")
        numbers = [number.replace("−", "-") for number in NUMBER.findall(claim.note)]
        complaints += [
            f"{claim.id}: no {number} in it"
            for number in numbers
            if not re.search(rf"(?<![\d.]){re.escape(number)}", said)
        ]
    return complaints


def test_every_cell_says_what_the_ledger_says_of_it():
    assert unsaid(load_claims(), NOTEBOOKS) == []


def test_every_verdict_of_the_course_has_its_cell():
    assert missing_evidence(load_claims(), NOTEBOOKS) == []


def test_every_tagged_cell_of_the_course_has_its_claim():
    assert unused_tags(load_claims(), NOTEBOOKS) == []


# The checks above can fail


@pytest.fixture
def write(tmp_path):
    def write(*entries):
        path = tmp_path / "claims.yaml"
        path.write_text(yaml.safe_dump(json.loads(json.dumps(entries))))
        return path

    return write


def write_notebook(folder, *tags):
    cells = [new_code_cell("1", metadata={"tags": [tag]}) for tag in tags]
    nbformat.write(new_notebook(cells=cells), folder / "00_start.ipynb")


def without(key):
    return {name: value for name, value in ENTRY.items() if name != key}


def test_an_entry_is_read_as_written(write):
    (claim,) = load_claims(write(ENTRY))
    assert claim.evidence == Evidence(**ENTRY["evidence"])
    assert (claim.id, claim.verdict, claim.note) == (ENTRY["id"], "refuted", "")


def test_an_untested_claim_needs_no_evidence(write):
    (claim,) = load_claims(write(without("evidence") | {"verdict": "untested"}))
    assert claim.evidence is None
    assert missing_evidence((claim,), NOTEBOOKS) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (without("source"), "'source' is a required property"),
        (without("evidence"), "'evidence' is a required property"),
        (ENTRY | {"verdict": "depends"}, "'note' is a required property"),
        (ENTRY | {"verdict": True}, "True is not one of"),
        (ENTRY | {"kind": "rumour"}, "'rumour' is not one of"),
        (ENTRY | {"claim": " "}, "does not match"),
        (ENTRY | {"author": "me"}, "'author' was unexpected"),
        (ENTRY | {"evidence": {"notebook": "00_start.ipynb"}}, "'tag' is a required property"),
        (ENTRY | {"evidence": {"notebook": "00_start.ipynb", "tag": "x"}}, "evidence.tag"),
    ],
)
def test_a_fault_names_file_and_claim(write, entry, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_claims(write(entry))
    assert str(caught.value).startswith("claims.yaml: 00-half-memory")


def test_an_id_is_used_once(write):
    with pytest.raises(ValueError, match=r"00-half-memory: the id must be unique \(found 2 times"):
        load_claims(write(ENTRY, ENTRY))


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text("- id: [")
    with pytest.raises(ValueError, match=r"claims\.yaml is not YAML"):
        load_claims(path)


def test_a_missing_notebook_and_a_missing_or_doubled_tag_are_found(write, tmp_path):
    claims = load_claims(write(ENTRY))
    assert missing_evidence(claims, tmp_path) == ["00-half-memory: no notebook 00_start.ipynb"]
    tag = ENTRY["evidence"]["tag"]
    for tags, n in (((), 0), (("other",), 0), ((tag, tag), 2)):
        write_notebook(tmp_path, *tags)
        assert missing_evidence(claims, tmp_path) == [
            f"00-half-memory: {n} cells of 00_start.ipynb are tagged {tag}"
        ]
    write_notebook(tmp_path, tag)
    assert missing_evidence(claims, tmp_path) == []


def test_a_tag_without_a_claim_is_found(write, tmp_path):
    write_notebook(tmp_path, ENTRY["evidence"]["tag"], "evidence-of-nothing")
    claims = load_claims(write(ENTRY))
    assert unused_tags(claims, tmp_path) == ["00_start.ipynb: evidence-of-nothing"]


@pytest.mark.parametrize(
    ("note", "text", "complaint"),
    [
        ("", "", ["00-half-memory: evidence-half-memory says nothing as text"]),
        ("", "<Axes: title>", ["00-half-memory: evidence-half-memory says nothing as text"]),
        ("It was 0.52 of 97 %; see arXiv:1234.56789.", "0.52 97%", []),
        ("It was −0.52.", "-0.53", ["00-half-memory: no -0.52 in it"]),
        ("It was 0.52.", "10.52", ["00-half-memory: no 0.52 in it"]),
    ],
)
def test_a_cell_that_does_not_say_it_is_found(write, tmp_path, note, text, complaint):
    output = new_output("execute_result", {"text/plain": text})
    cell = new_code_cell("1", metadata={"tags": [ENTRY["evidence"]["tag"]]}, outputs=[output])
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "00_start.ipynb")
    entry = ENTRY | ({"note": note} if note else {})
    assert unsaid(load_claims(write(entry)), tmp_path) == complaint

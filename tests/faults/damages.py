"""Checkpoints and adapters that were damaged, mixed up or made to do harm."""

import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from course_utils.files import sha256
from tests.faults.children import in_child

# What code that ran would leave.
MARK = "it-ran"


class Hostile:
    """Runs code when it is unpickled."""

    def __init__(self, folder: Path, how: int) -> None:
        self.folder, self.how = folder, how

    def __reduce__(self) -> tuple:
        path = str(self.folder / MARK)
        return [
            (os.mkdir, (path,)),
            (os.system, (f"touch {path}",)),
            (eval, (f"__import__('os').mkdir({path!r})",)),
            (exec, (f"import os; os.mkdir({path!r})",)),
            (Path.touch, (Path(path),)),
        ][self.how % 5]


# Damage by accident: a file, random numbers


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def truncate(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def extend(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 500)))


def blank(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data))
    length = min(len(data) - start, rng.randint(1, 4096))
    data[start : start + length] = bytes(length)
    path.write_bytes(bytes(data))


def move_within(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    cut = rng.randrange(len(data))
    path.write_bytes(data[cut:] + data[:cut])


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


def swap(path: Path, rng: random.Random) -> None:
    """Take another file of the same folder, or of the one beside it, in its place."""
    others = [p for p in path.parent.parent.rglob("*") if p.is_file() and p != path]
    other = rng.choice(others)
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def put_pipe(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def put_device(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(rng.choice(("/dev/zero", "/dev/random", "/dev/tty")))


ACCIDENTS: tuple[Callable[[Path, random.Random], None], ...] = (
    *(flip, flip, flip, truncate, extend, blank, move_within),
    *(delete, swap, put_pipe, put_device),
)

# Harm by intent: a pickle in the place of a file, in one of several coats


def raw(path: Path, hostile: Hostile) -> None:
    path.write_bytes(pickle.dumps({"weights": [hostile]}))


def by_torch(path: Path, hostile: Hostile) -> None:
    torch.save({"weights": [hostile], "step": 2}, path)


def by_old_torch(path: Path, hostile: Hostile) -> None:
    torch.save([hostile], path, _use_new_zipfile_serialization=False)


def inside(path: Path, hostile: Hostile) -> None:
    """Keep the archive that is there, if one is, and change its pickle."""
    parts = {}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
    name = next((name for name in parts if name.endswith("data.pkl")), "archive/data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        for part, data in {**parts, name: pickle.dumps(hostile)}.items():
            archive.writestr(part, data)


def beside(path: Path, hostile: Hostile) -> None:
    """Leave a file of another name, which other programs would read."""
    for name in ("adapter_model.bin", "pytorch_model.bin", "optimizer.pt"):
        raw(path.with_name(name), hostile)


COATS = (raw, by_torch, by_old_torch, inside, beside)


def plant(path: Path, mark_in: Path, rng: random.Random) -> None:
    """Put code into a file's place, and where there is a manifest, let it agree."""
    rng.choice(COATS)(path, Hostile(mark_in, rng.randrange(5)))
    manifest = path.with_name("manifest.json")
    if manifest.is_file() and path.name == "state.pt":
        said = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(said | {"sha256": {"state.pt": sha256(path)}}))


def try_damaged(
    whole: Path,
    use: Callable[[Path], str],
    expected: Collection[str],
    folder: Path,
    rng: random.Random,
    *,
    is_hostile: bool,
) -> tuple[str, str]:
    """Damage a copy and use it.

    Args:
        whole: What is damaged.
        use: Uses it, and tells what comes of it.
        expected: What may come of it: of a file that is swapped for another's, whole, the other's.
        folder: For the copy.
        rng: Source of the damage.
        is_hostile: Whether code is planted.

    Returns:
        "equal", "refused" or "wrong", and what was done and said.
    """
    copy = shutil.copytree(whole, folder / "copy")
    paths = sorted(p for p in copy.rglob("*") if p.is_file() and p.name != ".lock")
    path = rng.choice(paths)
    before = path.stat().st_size
    if is_hostile:
        plant(path, folder, rng)
        done = f"code in {path.relative_to(copy)}"
    else:
        accident = rng.choice(ACCIDENTS)
        accident(path, rng)
        done = f"{accident.__name__} of {path.relative_to(copy)} ({before} bytes)"
    ending = in_child(lambda: use(copy))
    if (folder / MARK).exists():
        verdict = "wrong"
        done += ", which ran"
    elif ending.said in expected:
        verdict = "equal"
    else:
        verdict = "refused" if ending.said.startswith("clear: ") else "wrong"
    return verdict, f"{done}: {ending.said or ending}"

"""The learner's side of the loopback Hub: a fresh Python, because it reads its settings once.

``python -m tests.hub.client`` answers one JSON line for each JSON line it reads; :class:`HubClient`
starts it with the settings of a fresh machine and asks it to load models.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
CLOSED_PORT = "http://127.0.0.1:9"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one attempt to load a model and its tokenizer gave.

    ``error`` and ``message`` are empty after a success; the model's fields after a failure.
    ``waits_seconds`` is how long the library would have slept before it tried again.
    """

    error: str = ""
    message: str = ""
    model_class: str = ""
    device: str = ""
    embedding_sha256: str = ""
    text: str = ""
    waits_seconds: float = 0


def hub_environment(endpoint: str, home: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a machine that knows the Hub only at ``endpoint``.

    Args:
        endpoint: Address of a :class:`~tests.hub.server.HubServer`.
        home: Folder of the Hub's cache and token; empty on a fresh machine.
        **settings: More variables, such as ``COURSE_PROFILE`` (``t4`` by default).
    """
    foreign = ("HF_", "HUGGING", "COURSE_", "TRANSFORMERS_", "DISABLE_")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "COURSE_PROFILE": "t4",
        **settings,
    }


class HubClient:
    """A child process that loads models through ``course_utils.models``."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process

    def load(self, source: str | None = None, **settings: str) -> Outcome:
        """Load a model and its tokenizer.

        Args:
            source: Hub id or folder; the profile's model by default.
            **settings: Environment variables for this one load.
        """
        request = json.dumps({"source": source, "settings": settings})
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the client died with exit status {self._process.wait()}"
        return Outcome(**json.loads(answer))


@contextmanager
def running_client(environ: Mapping[str, str], log: Path) -> Iterator[HubClient]:
    """Start a client, and end it with the block; what it logs goes to a file."""
    command = [sys.executable, "-m", "tests.hub.client"]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        ) as process,
    ):
        yield HubClient(process)
        process.stdin.close()


def run_notebook(path: Path, environ: Mapping[str, str], timeout_seconds: int) -> "NotebookNode":
    """Execute a copy of a notebook in a kernel with these variables; the file stays as it is.

    Raises:
        CellExecutionError: If a cell raises.
        CellTimeoutError: If a cell takes longer than ``timeout_seconds``.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=timeout_seconds, resources=resources)
    return client.execute(env=dict(environ))


def _load(source: str | None) -> Outcome:
    from course_utils.models import load_base_model, load_tokenizer

    try:
        model, tokenizer = load_base_model(source), load_tokenizer(source)
    except Exception as error:
        return Outcome(error=type(error).__name__, message=str(error))
    text = tokenizer.decode(tokenizer("Two goats & a cheese.")["input_ids"])
    return Outcome(
        model_class=type(model).__name__,
        device=str(model.device),
        text=text,
        embedding_sha256=tensor_sha256(model.get_input_embeddings().weight),
    )


def tensor_sha256(tensor: "torch.Tensor") -> str:
    """Return the SHA-256 of a tensor's values in float32."""
    return hashlib.sha256(tensor.detach().float().cpu().numpy().tobytes()).hexdigest()


def _answer(request: dict[str, Any]) -> Outcome:
    waits: list[float] = []
    before = {key: os.environ.get(key) for key in request["settings"]}
    os.environ.update(request["settings"])
    # huggingface_hub sleeps up to 23 seconds before it gives a file up: counted, not endured.
    time.sleep = waits.append
    try:
        return replace(_load(request["source"]), waits_seconds=sum(waits))
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def main() -> None:
    """Answer requests until there are none."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(asdict(_answer(json.loads(line)))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Fixtures: one loopback Hub, small models to publish on it, and learners who load them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from datasets import Dataset
from trl.chat_template_utils import qwen3_chat_template

from course_utils.models.profiles import PINNED_REVISIONS, current_profile
from tests.hub.client import CLOSED_PORT, HubClient, hub_environment, running_client
from tests.hub.server import HubServer
from tests.tiny_models import write_tiny_model

T4 = current_profile({"COURSE_PROFILE": "t4"})
T4_MODEL, FOUR_BIT_MODEL = T4.model, T4.four_bit_model


@pytest.fixture(scope="package")
def qwen3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small Qwen3 model with its tokenizer; tests copy it before they change it.

    Its chat template is the published one, of which TRL knows the training form.
    """
    folder = tmp_path_factory.mktemp("models") / "qwen3"
    return write_tiny_model(folder, "qwen3", seed=1, chat_template=qwen3_chat_template)


@pytest.fixture(scope="package")
def hub(qwen3_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """Run a Hub with the t4 profile's models at their pinned commits, a newer one, and wikitext."""
    server = HubServer()
    newer = write_tiny_model(tmp_path_factory.mktemp("models") / "newer", "qwen3", seed=2)
    server.publish(T4_MODEL, qwen3_folder, revision=PINNED_REVISIONS[T4_MODEL])
    server.publish(T4_MODEL, newer)
    server.publish(FOUR_BIT_MODEL, qwen3_folder, revision=PINNED_REVISIONS[FOUR_BIT_MODEL])
    wikitext = write_wikitext(tmp_path_factory.mktemp("wikitext"))
    server.publish("datasets/Salesforce/wikitext", wikitext)
    with server.running():
        yield server


def write_wikitext(folder: Path) -> Path:
    """Write a data set in the form of wikitext-2: lines, every other one blank, as parquet."""
    name = "wikitext-2-raw-v1"
    config = f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}.parquet\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n{config}---\n")
    lines = [line for i in range(400) for line in ("", f" A mill grinds {i} sacks of rye . \n")]
    Dataset.from_dict({"text": lines}).to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="package")
def hub_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Hub folder of a machine that starts with an empty cache."""
    return tmp_path_factory.mktemp("hub-home")


@pytest.fixture(scope="package")
def start_client(
    hub: HubServer, hub_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., object]:
    """Return a function that starts a learner's Python with these environment variables."""

    def start(endpoint: str = hub.endpoint, **settings: str) -> object:
        log = tmp_path_factory.mktemp("client") / "stderr.txt"
        return running_client(hub_environment(endpoint, hub_home, **settings), log)

    return start


@pytest.fixture(scope="package")
def online(start_client: Callable[..., object]) -> Iterator[HubClient]:
    """Run a learner who reaches the Hub and starts with an empty cache."""
    with start_client() as client:
        yield client


@pytest.fixture(scope="package")
def filled_cache(online: HubClient) -> None:
    """Have the t4 profile's model in the cache."""
    assert online.load().error == ""


@pytest.fixture(scope="package")
def offline(start_client: Callable[..., object], filled_cache: None) -> Iterator[HubClient]:
    """Run the same learner later, told by HF_HUB_OFFLINE to keep to the cache."""
    with start_client(HF_HUB_OFFLINE="1") as client:
        yield client


@pytest.fixture(scope="package")
def cut_off(start_client: Callable[..., object], filled_cache: None) -> Iterator[HubClient]:
    """Run the same learner later, where nobody answers at the Hub's address."""
    with start_client(endpoint=CLOSED_PORT) as client:
        yield client

"""JupyterLab as a reader meets it: `course lab` on a copy of the notebooks, seen in Chromium."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit
from urllib.request import Request, urlopen

import psutil
from playwright.sync_api import BrowserContext, Locator, Page, expect

ARTEFACTS = Path(__file__).resolve().parents[2] / "runs" / "browser"
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Limits on a machine that is as fast as the one they were set on; see `slowness`.
ANSWER_SECONDS = 10
START_SECONDS = 60
CELLS_SECONDS = 300
# What a kernel begins with; it took so long on two quiet cores.
WORK = "import torch; a = torch.ones(512, 512)\nfor _ in range(50): a = a @ a / 512"
WORK_SECONDS = 1.5

_STATE = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    const cells = Array.from(panel.content.model.cells);
    const code = cells.filter(c => c.type === 'code' && c.sharedModel.getSource().trim());
    return {
        name: panel.context.path,
        status: panel.sessionContext.session?.kernel?.status ?? 'none',
        executed: code.filter(c => c.executionCount !== null).length,
        pending: code.filter(c => c.executionState === 'running').length,
        total: code.length,
        errors: cells.flatMap((c, i) => c.type !== 'code' ? [] :
            c.outputs.toJSON().filter(o => o.output_type === 'error')
                .map(o => `cell ${i}: ${o.ename}: ${o.evalue}`)),
    };
}"""


@functools.cache
def slowness() -> float:
    """Measure, once, how many times slower this machine is than the one the limits are for."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", WORK], check=True)
    return max(1.0, (time.perf_counter() - start) / WORK_SECONDS)


class Server:
    """JupyterLab's server, seen through its REST interface.

    Args:
        address: What `course lab` printed, the token included.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        parts = urlsplit(address)
        self._root = f"{parts.scheme}://{parts.netloc}/api/kernels"
        self._token = parse_qs(parts.query)["token"][0]

    def address_of(self, notebook: str) -> str:
        """Return the address of a notebook alone, without those that were open before."""
        page = urlsplit(self.address)._replace(path=f"/lab/tree/{notebook}")
        return f"{urlunsplit(page)}&reset"

    def kernels(self) -> list[str]:
        """Return the ids of all kernels alive."""
        return [kernel["id"] for kernel in json.loads(self._ask("GET", self._root))]

    def shut_down_kernels(self) -> None:
        """End every kernel, whatever it is doing, and wait until it is gone."""
        for kernel in self.kernels():
            self._ask("DELETE", f"{self._root}/{kernel}")
        assert self.kernels() == []

    def _ask(self, method: str, address: str) -> bytes:
        headers = {"Authorization": f"token {self._token}"}
        request = Request(address, method=method, headers=headers)
        with urlopen(request, timeout=START_SECONDS * slowness()) as answer:
            return answer.read()


@contextmanager
def serve(folder: Path, scratch: Path) -> Iterator[Server]:
    """Run `course lab` on a folder, away from the user's settings; nothing of it is left behind."""
    environ = os.environ | {
        f"JUPYTER_{name}_DIR": str(scratch / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    environ["IPYTHONDIR"] = str(scratch / "ipython")
    environ["COURSE_STATE_DIR"] = str(scratch / "state")
    command = [sys.executable, "-m", "course_utils.cli", "lab", "--no-browser", "--port", "0"]
    command += ["--folder", str(folder), "--LabApp.expose_app_in_browser=True"]
    process = subprocess.Popen(
        command,
        env=environ,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    log: list[str] = []
    with process:
        try:
            yield Server(_read_address(process, log))
        finally:
            _end(process)


def _end(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=ANSWER_SECONDS * slowness())
    for member in alive:
        member.kill()


def _read_address(process: subprocess.Popen, log: list[str]) -> str:
    for line in process.stdout:
        log.append(line)
        if match := re.search(r"http://127\.0\.0\.1:\d+/\S+", line):
            # A pipe that nobody empties would stop the server after some thousand lines.
            threading.Thread(target=log.extend, args=(process.stdout,), daemon=True).start()
            return match[0]
    raise RuntimeError("JupyterLab printed no address:\n" + "".join(log))


@contextmanager
def notebooks(
    context: BrowserContext, server: Server, folder: Path
) -> Iterator[Callable[[Path], "NotebookPage"]]:
    """Yield a function that opens a copy of a notebook in a new tab.

    Afterwards the tabs are closed and their kernels shut down, however the block ends.
    """
    tabs: list[Page] = []

    def open_copy(notebook: Path) -> NotebookPage:
        shutil.copy(notebook, folder)
        tabs.append(context.new_page())
        page = NotebookPage(tabs[-1])
        page.open(server.address_of(notebook.name))
        return page

    try:
        yield open_copy
    finally:
        for tab in tabs:
            tab.close()
        server.shut_down_kernels()


class NotebookPage:
    """One notebook open in JupyterLab."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open(self, address: str) -> None:
        """Go to an address of `course lab` and wait until the notebook's kernel is ready."""
        milliseconds = START_SECONDS * slowness() * 1000
        self.page.goto(address, timeout=milliseconds)
        expect(self.page.locator(".jp-Notebook")).to_be_visible(timeout=milliseconds)
        self._wait(f"(({_STATE})()).status === 'idle'", START_SECONDS)

    def run_all(self, limit_seconds: float = CELLS_SECONDS) -> None:
        """Choose Run, Run All Cells in the menu, and wait until every cell has run.

        Args:
            limit_seconds: How long that may take, on a machine that is fast.

        Raises:
            AssertionError: If a cell ends in an error; it names the cell.
            TimeoutError: If the cells still run after so long; it is Playwright's own.
        """
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self._wait(
            f"(s => s.errors.length || (s.executed === s.total && s.status === 'idle'))"
            f"(({_STATE})())",
            limit_seconds,
        )
        errors = self.state()["errors"]
        assert not errors, "\n".join(errors)

    def state(self) -> dict:
        """Return name, kernel status, numbers of executed and of all code cells, and errors."""
        return self.page.evaluate(_STATE)

    def output(self, number: int) -> Locator:
        """Return the output of the cell at this position, scrolled into view."""
        cell = self.page.locator(".jp-Notebook .jp-Cell").nth(number)
        cell.scroll_into_view_if_needed()
        return cell.locator(".jp-Cell-outputWrapper")

    def widgets(self) -> Locator:
        """Return the widgets drawn in the outputs."""
        return self.page.locator(".jp-OutputArea-output .jupyter-widgets:visible")

    def save_picture(self, name: str) -> Path:
        """Keep a picture of the page among the test's artefacts."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def _wait(self, condition: str, limit_seconds: float) -> None:
        milliseconds = limit_seconds * slowness() * 1000
        self.page.wait_for_function(f"() => {condition}", timeout=milliseconds)

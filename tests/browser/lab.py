"""JupyterLab as a reader meets it: `course lab` on a copy of the notebooks, seen in Chromium."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

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
START_SECONDS = 120
CELLS_SECONDS = 600

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


@contextmanager
def serve(folder: Path, scratch: Path) -> Iterator[str]:
    """Run `course lab` on a folder, away from the user's settings, and yield its address."""
    environ = os.environ | {
        f"JUPYTER_{name}_DIR": str(scratch / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    environ["IPYTHONDIR"] = str(scratch / "ipython")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "course_utils.cli",
            "lab",
            "--no-browser",
            "--port",
            "0",
            "--folder",
            str(folder),
            "--LabApp.expose_app_in_browser=True",
        ],
        env=environ,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    log: list[str] = []
    try:
        yield _read_address(process, log)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _read_address(process: subprocess.Popen, log: list[str]) -> str:
    for line in process.stdout:
        log.append(line)
        if match := re.search(r"http://127\.0\.0\.1:\d+/\S+", line):
            # A pipe that nobody empties would stop the server after some thousand lines.
            threading.Thread(target=log.extend, args=(process.stdout,), daemon=True).start()
            return match[0]
    raise RuntimeError("JupyterLab printed no address:\n" + "".join(log))


class NotebookPage:
    """One notebook open in JupyterLab."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open(self, address: str) -> None:
        """Go to an address of `course lab` and wait until the notebook's kernel is ready."""
        self.page.goto(address, timeout=START_SECONDS * 1000)
        expect(self.page.locator(".jp-Notebook")).to_be_visible(timeout=START_SECONDS * 1000)
        self._wait(f"(({_STATE})()).status === 'idle'", START_SECONDS)

    def run_all(self) -> None:
        """Choose Run, Run All Cells in the menu, and wait until every cell has run.

        Raises:
            AssertionError: If a cell ends in an error; it names the cell.
        """
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self._wait(
            f"(s => s.errors.length || (s.executed === s.total && s.status === 'idle'))"
            f"(({_STATE})())",
            CELLS_SECONDS,
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

    def _wait(self, condition: str, timeout_seconds: float) -> None:
        self.page.wait_for_function(f"() => {condition}", timeout=timeout_seconds * 1000)

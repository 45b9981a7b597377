"""The short form of ``python -m tests.faults``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_runs_end_in_the_same_bits_and_damaged_files_in_one_sentence():
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout.splitlines()
    assert [line.split(" ")[:3] for line in told] == [
        ["8", "of", "8"],
        ["30", "of", "30"],
        ["10", "of", "10"],
    ]
    assert " killed 0 times" not in told[0]
    assert told[2].endswith(" 0 run")

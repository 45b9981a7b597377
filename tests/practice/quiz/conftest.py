"""Answers of these tests go to a record of their own, never to the reader's."""

import pytest


@pytest.fixture(autouse=True)
def own_record(state_dir):
    return state_dir

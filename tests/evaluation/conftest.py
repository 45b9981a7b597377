"""The embedded model and its tokenizer, loaded once a module: no test spoils another's."""

import pytest

from course_utils.models import load_base_model, load_tokenizer


@pytest.fixture(scope="module")
def model():
    return load_base_model("embedded")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")

import matplotlib

matplotlib.use("agg")

import pytest

from course_utils.models import load_base_model, load_tokenizer


@pytest.fixture(scope="session")
def model():
    return load_base_model("embedded")


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer("embedded")

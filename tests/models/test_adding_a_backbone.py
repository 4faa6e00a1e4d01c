"""docs/models.md, section "Add a backbone", followed word by word in a copy of the project."""

import pytest

from helpers.followed_page import Copy

pytestmark = pytest.mark.slow

PROGRAM = """
from mmfl.errors import UserError
from mmfl.params import validate
model = {"backbone": "plain", "share_from_stage": 1}
validate({"model": model, "train": {"methods": ["mf", "mf+fw"]}})
try:
    validate({"model": {"backbone": "plain", "share_from_stage": 2}})
except UserError as error:
    print(error)
"""


def test_what_the_page_says_leaves_the_tests_green(tmp_path):
    copy = Copy(tmp_path)
    copy.follow("models.md", "## Add a backbone")
    said = copy.run("python", "-c", PROGRAM)
    assert "model.share_from_stage: found 2, expected at most 1, the stages of plain" in said
    passed = copy.test(
        "plain or row or numbers or know_of_backbones or drifted or committed",
        "tests/models/test_models_page.py", "tests/models/test_network.py", "tests/test_params.py",
    )  # fmt: skip
    assert passed > 12

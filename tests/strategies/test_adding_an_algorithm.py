"""docs/adding-an-algorithm.md, followed word by word in a copy of the project."""

import pytest

from helpers.followed_page import Copy

pytestmark = pytest.mark.slow


def test_what_the_page_says_leaves_the_tests_green(tmp_path):
    """Its own new ones, and those that know every name, key, value and import."""
    copy = Copy(tmp_path)
    copy.follow("adding-an-algorithm.md")
    passed = copy.test(
        "fedyogi or has_a_reference or committed_files or drifted or every_key or has_bounds",
        "tests/strategies/test_conformance.py", "tests/strategies/test_mutations.py",
        "tests/test_params.py", "tests/test_parameter_files.py", "tests/test_imports.py",
    )  # fmt: skip
    assert passed > 15

"""What a parameter chooses by name: a file of a package, imported only where it is chosen.

An algorithm, backbone, scenario or archive is a file of its own. Nothing imports all of them, so
what is added or edited beside a chosen one decides no result of it (`mmfl.pipeline.code`).
"""

from __future__ import annotations

import importlib
from types import ModuleType


def module(package: str, name: str) -> str:
    """The module of a name: `late-fusion` in `strategies` is `mmfl.strategies.late_fusion`."""
    return f"mmfl.{package}.{name.replace('-', '_')}"


def load(package: str, name: str) -> ModuleType:
    """Import the module of a name."""
    return importlib.import_module(module(package, name))

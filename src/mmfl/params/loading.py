"""Reading a parameter file: one line for the first fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmfl.errors import UserError
from mmfl.facts.faults import Fault
from mmfl.facts.reading import read_yaml
from mmfl.params.schema import Params, validated

WHAT = "a parameter file such as params.yaml"


def load(path: Path | str = "params.yaml", content: bytes | None = None) -> Params:
    """Read and validate a parameter file; `content`: its bytes, where they were read before.

    Raises:
        UserError: one line that names the file's line, the key, what was found and what is
            expected.
    """
    file = read_yaml(Path(path), WHAT, "sections such as train:", content)
    try:
        return validated(file.data)
    except Fault as fault:
        raise UserError(f"{file.at(fault.key, *fault.also)}: {fault}") from None


def validate(data: dict[str, Any], where: str = "params") -> Params:
    """Validate a mapping; the first fault becomes one line."""
    try:
        return validated(data)
    except Fault as fault:
        raise UserError(f"{where}: {fault}") from None

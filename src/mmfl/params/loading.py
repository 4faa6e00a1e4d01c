"""Reading a parameter file: one line for the first fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mmfl.errors import UserError
from mmfl.params.faults import one_line
from mmfl.params.schema import Params


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice: YAML keeps the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def load(path: Path | str = "params.yaml", content: bytes | None = None) -> Params:
    """Read and validate a parameter file; `content`: its bytes, where they were read before.

    Raises:
        UserError: one line that names the key, what was found and what is expected.
    """
    what, keys = "a parameter file such as params.yaml", "sections such as train:"
    return validate(read_yaml(Path(path), what, keys, content), str(path))


def read_yaml(path: Path, what: str, keys: str, content: bytes | None = None) -> dict[str, Any]:
    """The mapping in a yaml file; `what` it should be and the `keys` expected are for the message.

    `content`: the bytes of the file, where they were read before.

    Raises:
        UserError: it is not there, or not such a file.
    """
    try:
        content = path.read_bytes() if content is None else content
        data = yaml.load(content.decode("utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; expected {what}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected {what}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2020-13-45
        text = " ".join(str(error).split())
        raise UserError(f"{path}: not readable as YAML: {text}") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise UserError(f"{path}: found {found}, expected {keys}")
    return data


def validate(data: dict[str, Any], where: str = "params") -> Params:
    """Validate a mapping; the first fault becomes one line."""
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{where}: {one_line(error)}") from None

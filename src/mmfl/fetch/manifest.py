"""Manifests: which files make up an archive, from where, with which checksum."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mmfl.errors import UserError


class File(BaseModel):
    """One file of an archive. `checksum` is md5:<hex>, sha256:<hex> or null (none published)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    url: str = Field(pattern=r"^(file|https?)://")
    bytes: int | None = Field(None, ge=0)
    checksum: str | None = Field(None, pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")
    unpack: bool = False


class Manifest(BaseModel):
    """The files of an archive and their licence."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    archive: str
    licence: str
    files: list[File] = Field(min_length=1)

    @field_validator("files")
    @classmethod
    def _distinct(cls, value: list[File]) -> list[File]:
        if len({file.name for file in value}) != len(value):
            raise ValueError("two files have the same name")
        return value


def read_manifest(path: Path) -> Manifest:
    """Read and validate a manifest.

    Raises:
        UserError: names the file, the key and what is expected.
    """
    try:
        return Manifest.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: not found, expected the archive's manifest") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path}: {key}: found {fault['input']!r}; {fault['msg']}") from None

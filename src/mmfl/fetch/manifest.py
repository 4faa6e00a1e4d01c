"""Manifests: which files make up an archive, from where, with which checksum."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mmfl.errors import UserError
from mmfl.facts.faults import first
from mmfl.facts.reading import read_yaml


class File(BaseModel):
    """One file of an archive. `checksum` is md5:<hex>, sha256:<hex> or null (none published)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    url: str = Field(pattern=r"^(file|https?)://")
    bytes: int | None = Field(None, ge=0)
    checksum: str | None = Field(None, pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")
    unpack: bool = False

    @field_validator("url")
    @classmethod
    def _without_credentials(cls, value: str) -> str:
        if "@" in urlsplit(value).netloc:
            raise ValueError("expected no user or password; put them in ~/.netrc")
        return value


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
        UserError: names the file's line, the key and what is expected.
    """
    file = read_yaml(path, "the archive's manifest", "archive:, licence:, files:")
    try:
        return Manifest.model_validate(file.data)
    except ValidationError as error:
        fault = first(error, Manifest, file.data)
    raise UserError(f"{file.at(fault.key)}: {fault}; correct it")

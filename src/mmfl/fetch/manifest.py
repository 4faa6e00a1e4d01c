"""Manifests: which files make up an archive, from where, with which checksum."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

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
        UserError: names the file, the key and what is expected.
    """
    try:
        return Manifest.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: not found, expected the archive's manifest") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected the archive's manifest") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"])) or "manifest"
        found = "" if "@" in str(fault["input"]) else f"found {str(fault['input'])[:80]!r}; "
        raise UserError(f"{path}: {key}: {found}{fault['msg']}; correct it") from None

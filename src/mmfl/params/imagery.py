"""Where the satellite imagery of label tiles comes from (docs/imagery.md)."""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from mmfl.facts.bands import IMAGERY, S1_BANDS, S2_BANDS
from mmfl.facts.faults import Fault
from mmfl.params.sections import Section, one_of

SENSORS = tuple(IMAGERY)
GRD = (
    "a plain GRD is uncalibrated and carries ground control points instead of a grid; take a "
    "terrain-corrected collection such as sentinel-1-rtc of planetary-computer"
)
REFUSED = {
    "earth-search": f"it has only sentinel-1-grd, whose bucket the requester pays for, and {GRD}",
    "copernicus": f"it has only sentinel-1-grd, and {GRD}",
}


def _one_of(value: str, names: tuple[str, ...], what: str, *key: str) -> None:
    try:
        one_of(value, names, what)
    except ValueError as error:
        raise Fault(key, str(error)) from None


class Catalogue(Section):
    """A STAC API: where it is, what its collections and assets are called, what its pixels mean.

    Of an entry with a built-in name only the keys that are given change it.
    """

    url: str = Field(default="", description="the API's landing page")
    collections: dict[str, str] = Field(default={}, description="modality -> collection")
    assets: dict[str, str] = Field(default={}, description="band -> name of the asset")
    signing: Literal["none", "query", "bearer"] = Field(
        default="none", description="a token joins the url's query, or the header Authorization"
    )
    token_url: str = Field(default="", description="source of tokens; {collection} is replaced")
    client_id: str = Field(default="", description="client of the token's password grant (bearer)")
    offset: Literal["baseline", "earth-search", "bands", "none"] = Field(
        default="bands", description="rule for the scale and offset of Sentinel-2"
    )
    s1_unit: Literal["linear", "dB"] = Field(
        default="linear", description="what Sentinel-1's pixels are"
    )
    parallel: int = Field(default=4, ge=1, le=32, description="most requests at a time")

    @field_validator("url", "token_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if value and not re.match(r"https?://", value):
            raise ValueError("expected http(s)://")
        if "@" in urlsplit(value).netloc:
            raise ValueError("expected no user or password; see docs/imagery.md")
        if "?" in value or "#" in value:
            raise ValueError("expected no query or fragment, where keys stand; see docs/imagery.md")
        return value

    @field_validator("collections")
    @classmethod
    def _collections(cls, value: dict[str, str]) -> dict[str, str]:
        for modality in value:
            _one_of(modality, SENSORS, "modality", modality)
        if re.search(r"(^|[-_])grd($|[-_])", value.get("s1", "").lower()):
            raise ValueError(f"{value['s1']}: {GRD}")
        return value

    @field_validator("assets")
    @classmethod
    def _assets(cls, value: dict[str, str]) -> dict[str, str]:
        for band in value:
            _one_of(band, (*S1_BANDS, *S2_BANDS), "band", band)
        return value

    def changed(self, other: Catalogue) -> Catalogue:
        """This catalogue with the keys that `other` gives; collections and assets are joined."""
        values: dict[str, Any] = {key: getattr(other, key) for key in other.model_fields_set}
        for key in values.keys() & {"collections", "assets"}:
            values[key] = getattr(self, key) | values[key]
        return self.model_copy(update=values)


BUILT_IN = {
    "planetary-computer": Catalogue(
        url="https://planetarycomputer.microsoft.com/api/stac/v1",
        collections={"s1": "sentinel-1-rtc", "s2": "sentinel-2-l2a"},
        assets={"VV": "vv", "VH": "vh", **{band: band for band in S2_BANDS}},
        signing="query",
        token_url="https://planetarycomputer.microsoft.com/api/sas/v1/token/{collection}",
        offset="baseline",
        parallel=8,
    ),
    "earth-search": Catalogue(
        url="https://earth-search.aws.element84.com/v1",
        collections={"s2": "sentinel-2-l2a"},
        assets={
            "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1",
            "B06": "rededge2", "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09",
            "B11": "swir16", "B12": "swir22",
        },
        offset="earth-search",
        parallel=8,
    ),
    "copernicus": Catalogue(
        url="https://stac.dataspace.copernicus.eu/v1",
        collections={"s2": "sentinel-2-l2a"},
        assets={
            **{band: f"{band}_10m" for band in ("B02", "B03", "B04", "B08")},
            **{band: f"{band}_20m" for band in ("B05", "B06", "B07", "B8A", "B11", "B12")},
            **{band: f"{band}_60m" for band in ("B01", "B09")},
        },
        signing="bearer",
        token_url="https://identity.dataspace.copernicus.eu/auth/realms/CDSE/protocol/openid-connect/token",
        client_id="cdse-public",
        offset="bands",
        parallel=4,
    ),
}  # fmt: skip


class Imagery(Section):
    """The imagery of an archive of label tiles, found by STAC search."""

    s1: str = Field("planetary-computer", description="catalogue of Sentinel-1")
    s2: str = Field("planetary-computer", description="catalogue of Sentinel-2")
    days: float = Field(
        15, gt=0, le=365, description="most days between the Sentinel-2 scene and Sentinel-1"
    )
    coverage: float = Field(
        0.99, gt=0, le=1, description="least share of a tile's pixels with data for a scene"
    )
    catalogues: dict[str, Catalogue] = Field(
        {}, description="own catalogues, or changes to a built-in one"
    )

    @model_validator(mode="after")
    def _possible(self) -> Imagery:
        for modality in SENSORS:
            name = self.name(modality)
            _one_of(name, tuple(BUILT_IN | self.catalogues), f"catalogue of {modality}", modality)
            chosen, entry = self.catalogue(modality), ("catalogues", name)
            if not chosen.url:
                raise Fault(entry, "found no url, expected its landing page")
            if modality not in chosen.collections:
                why = REFUSED.get(name) if modality == "s1" else None
                why = why or f"expected collections.{modality} in its entry"
                raise Fault((modality,), f"{name} cannot serve it: {why}", also=[entry])
            for band in IMAGERY[modality]:
                if band not in chosen.assets:
                    raise Fault((*entry, "assets"), f"expected the asset of {band}")
            if chosen.signing != "none" and not chosen.token_url:
                raise Fault((*entry, "signing"), f"{chosen.signing} needs a token_url")
        return self

    def name(self, modality: str) -> str:
        """Name of a modality's catalogue."""
        return {"s1": self.s1, "s2": self.s2}[modality]

    def catalogue(self, modality: str) -> Catalogue:
        """A modality's catalogue, with the changes of `catalogues`."""
        name = self.name(modality)
        built_in, own = BUILT_IN.get(name), self.catalogues.get(name)
        if built_in is None or own is None:
            return built_in or own or Catalogue()
        return built_in.changed(own)

    def choice(self) -> dict[str, Any]:
        """All that decides which pixels come; not how they travel (tokens, parallel requests)."""
        travel = {"signing", "token_url", "client_id", "parallel"}
        catalogues = {
            q: {"name": self.name(q), **self.catalogue(q).model_dump(exclude=travel)}
            for q in SENSORS
        }
        return {"days": self.days, "coverage": self.coverage, "catalogues": catalogues}

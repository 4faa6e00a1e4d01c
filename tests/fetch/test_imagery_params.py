"""The choice of catalogues: what cannot be is refused with its reason, before anything runs."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from mmfl import params as p
from mmfl.facts.bands import IMAGERY as BANDS
from mmfl.facts.faults import first
from mmfl.params.imagery import BUILT_IN, Imagery

OWN = {"url": "https://stac.example/v1", "collections": {"s1": "rtc", "s2": "l2a"}}
ASSETS = {band: band.lower() for bands in BANDS.values() for band in bands}


def choose(**values: object) -> Imagery:
    return Imagery.model_validate(values)


def refused(match: str, **values: object) -> None:
    with pytest.raises(ValidationError, match=match):
        choose(**values)


def test_default() -> None:
    chosen = Imagery()
    assert (chosen.s1, chosen.s2) == ("planetary-computer",) * 2
    assert chosen.days == 15 and chosen.coverage == 0.99
    assert chosen.catalogue("s1").collections["s1"] == "sentinel-1-rtc"


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in(name: str) -> None:
    """Every band but B10 has an asset of its own, and no entry holds a secret."""
    chosen = choose(s2=name).catalogue("s2")
    assets = [chosen.assets[band] for band in ASSETS if band not in ("VV", "VH")]
    assert len(set(assets)) == 10 and chosen.url.startswith("https://")
    assert chosen.signing == "none" or chosen.token_url.startswith("https://")


@pytest.mark.parametrize(("name", "why"), [("earth-search", "requester pays"), ("copernicus", "")])
def test_sentinel1_that_cannot_be_used(name: str, why: str) -> None:
    refused(f"s1: {name} cannot serve it: .*{why}.*ground control points instead", s1=name)


@pytest.mark.parametrize("collection", ["sentinel-1-grd", "GRD", "s1_grd"])
def test_a_grd_by_another_door(collection: str) -> None:
    change = {"planetary-computer": {"collections": {"s1": collection}}}
    refused("uncalibrated.*take a terrain-corrected collection", catalogues=change)


def test_names_with_a_hint() -> None:
    refused("did you mean earth-search", s2="earthsearch")
    refused("unknown modality 's3'", catalogues={"own": {**OWN, "collections": {"s3": "x"}}})
    refused("Extra inputs", bands={"s1": ["VV"]})  # they are the archive's


def test_a_change_keeps_the_rest() -> None:
    change = {"earth-search": {"collections": {"s1": "my-rtc"}, "assets": {"VV": "v", "VH": "h"}}}
    chosen = choose(s1="earth-search", s2="earth-search", catalogues=change).catalogue("s1")
    before = BUILT_IN["earth-search"]
    assert chosen.collections == {"s1": "my-rtc", **before.collections}
    assert chosen.assets["B02"] == "blue" and chosen.assets["VV"] == "v"
    assert chosen.url == before.url and chosen.offset == "earth-search"


def test_own() -> None:
    chosen = choose(s1="own", s2="own", catalogues={"own": {**OWN, "assets": ASSETS}})
    assert chosen.catalogue("s2").offset == "bands"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"url": ""}, "found no url"),
        ({"url": "ftp://x"}, "expected http"),
        ({"url": "https://me:secret@x"}, "expected no user or password"),
        ({"url": "https://x/v1?key=secret"}, "expected no query or fragment"),
        ({"token_url": "https://x/token#secret"}, "expected no query or fragment"),
        ({"assets": {}}, "expected the asset of VV"),
        ({"assets": {"B2": "x"}}, "did you mean B02|did you mean B12"),
        ({"collections": {"s2": "l2a"}}, "s1: own cannot serve it: expected collections.s1"),
        ({"signing": "query"}, "needs a token_url"),
        ({"token_url": "nowhere"}, "expected http"),
        ({"parallel": 0}, "greater than or equal to 1"),
        ({"password": "x"}, "Extra inputs"),
    ],
)
def test_own_that_is_not_whole(change: dict, match: str) -> None:
    refused(match, s1="own", s2="own", catalogues={"own": {**OWN, "assets": ASSETS, **change}})


@pytest.mark.parametrize("url", ["https://me:secret@x", "https://x?key=secret", "https://x#secret"])
def test_a_secret_is_not_in_the_message(url: str) -> None:
    given = {"catalogues": {"own": {"url": url}}}
    with pytest.raises(ValidationError) as error:
        choose(**given)
    message = str(first(error.value, Imagery, given))
    assert "url: expected no " in message and "secret" not in message


def test_what_decides_the_pixels() -> None:
    """How bytes travel does not; everything else does."""
    first = Imagery().choice()
    for key, value in {"parallel": 2, "signing": "none", "token_url": "https://x"}.items():
        changed = choose(catalogues={"planetary-computer": {key: value}})
        assert changed.choice() == first
    assert choose(catalogues={"planetary-computer": {"offset": "none"}}).choice() != first
    assert choose(days=14).choice() != first and choose(s2="earth-search").choice() != first


def test_what_a_download_depends_on() -> None:
    """Not how the bytes travel, either: no other token fetches anything again."""

    def values(**imagery: object) -> dict:
        given = {"archives": {"dynamicworld-expert": {}}, "imagery": imagery}
        return p.step_values(p.validate(given), "download", "dynamicworld-expert")

    change = {"planetary-computer": {"parallel": 2, "token_url": "https://x"}}
    assert values(catalogues=change) == values() != values(days=14)
    assert values(catalogues={"unused": OWN}) == values()

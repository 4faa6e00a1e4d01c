"""Where tokens go: an item's address must not decide it."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime

import pytest
import requests

from helpers.imagery import row_of
from helpers.stac_server import Site
from mmfl.fetch.stac.web import EARLY, Refused, Signer, Web, _token, domain
from mmfl.fetch.watch import Passing
from mmfl.params.imagery import BUILT_IN, Catalogue

HERE = "https://download.dataspace.copernicus.eu"


def signer(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Signer:
    """One that holds a token."""
    monkeypatch.setenv("MMFL_USER_OWN", "me")
    monkeypatch.setenv("MMFL_PASSWORD_OWN", "secret")
    made = Signer(Web(1, 0.01, threading.Event()), "own", catalogue, "s2")
    made._token, made._expiry = "sig=1", float("inf")
    return made


@pytest.mark.parametrize("href", [
    f"{HERE}/x", "https://COPERNICUS.eu:443/x", "https://stac.dataspace.copernicus.eu./x",
])  # fmt: skip
def test_bearer_within_the_domain(href: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options, token = signer(BUILT_IN["copernicus"], monkeypatch).signed(href)
    assert token == "sig=1" and options["url"] == href


@pytest.mark.parametrize("href", [
    "https://evil.example/x", "https://evilcopernicus.eu/x", "https://copernicus.eu.evil.example/x",
    "https://download.dataspace.copernicus.eu@evil.example/x", "https://127.0.0.1/x",
    "https://evil.example\\@copernicus.eu/x",  # to requests, not to urllib, that is evil.example
    HERE.replace("https", "http"), f"HTTP{HERE[5:]}",
])  # fmt: skip
def test_bearer_elsewhere(href: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="no token is sent"):
        signer(BUILT_IN["copernicus"], monkeypatch).signed(href)


def test_query_goes_anywhere_but_not_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token of a collection opens files on the hosts of its storage."""
    made = signer(BUILT_IN["planetary-computer"], monkeypatch)
    url = "https://x.blob.core.windows.net/a"
    assert made.signed(url)[0] == {"url": f"{url}?sig=1"}
    with pytest.raises(Refused, match="no token is sent over plain http"):
        made.signed(url.replace("https", "http"))


@pytest.mark.parametrize(("host", "expected"), [
    ("a.b.example.org", "example.org"), ("Example.ORG.", "example.org"), ("localhost", "localhost"),
    ("10.0.0.1", "10.0.0.1"), ("[::1]", "::1"), ("0:0::1", "::1"), ("", ""),
])  # fmt: skip
def test_domain(host: str, expected: str) -> None:
    assert domain(host) == expected


def test_an_asset_on_another_host(stac: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scene is not used, and nothing is asked there; another one is taken."""
    monkeypatch.setenv("MMFL_USER_OWN", "me")
    monkeypatch.setenv("MMFL_PASSWORD_OWN", "secret")
    stac.bearer = True
    entry = {"signing": "bearer", "token_url": f"{stac.url}/token"}
    item = stac.s1(days=1, orbit=1)
    for asset in item["assets"].values():
        asset["href"] = asset["href"].replace("127.0.0.1", "localhost")
    row = row_of(stac, "s1", catalogue=entry)
    assert row["outcome"] == "unusable scene"
    assert row["reason"].endswith("no token is sent there, only to ['127.0.0.1']")
    assert stac.asked[f"/data/{item['id']}_VV.tif"] == 0 == stac.asked["/token"]
    stac.s1(days=2, orbit=2)
    assert row_of(stac, "s1", catalogue=entry, days=14)["days"] == "2.0000"


def holding(**found: object) -> requests.Response:
    answer = requests.Response()
    answer._content, answer.url = json.dumps(found).encode(), "http://x/token"
    return answer


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
@pytest.mark.parametrize("text", [
    "2030-01-01T00:00:00", "2030-01-01T00:00:00Z", "2030-01-01T09:00:00+09:00",
    "2029-12-31T23:59:60z", "2030-01-01 00:00:00 UTC",
])  # fmt: skip
def test_when_a_token_ends(text: str, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In UTC where nothing else is said, wherever the machine stands."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        end = datetime(2030, 1, 1, tzinfo=UTC).timestamp()
        assert _token(holding(token="a", **{"msft:expiry": text})) == ("a", end - EARLY)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("found", [
    {}, {"token": None}, {"token": 5}, {"access_token": ["a"]}, {"token": "a", "expires_in": "x"},
    {"token": "a", "expires_in": float("nan")}, {"token": "a", "expires_in": 10**400},
    {"token": "a", "msft:expiry": None}, {"token": "a", "msft:expiry": "soon"},
])  # fmt: skip
def test_no_token(found: dict) -> None:
    with pytest.raises(Passing, match="the answer holds no token"):
        _token(holding(**found))

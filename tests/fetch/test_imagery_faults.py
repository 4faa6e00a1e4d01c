"""A faulty STAC server: nothing is lost, nothing is done twice, and every outcome has its name."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import rasterio
import requests

from helpers.imagery import B02, BANDS, COLS, ROWS, S2, choice, read
from helpers.stac_server import SECRET, Fault, Site, cog, numbers, tiles
from mmfl.errors import UserError
from mmfl.fetch.stac import imagery as module
from mmfl.fetch.stac.imagery import fetch_imagery
from mmfl.fetch.stac.listing import check
from mmfl.fetch.stac.web import ATTEMPTS, Signer, Web
from mmfl.params.imagery import Catalogue

LAST = {"transform": (10, 0, 501_150, 0, -10, 4_998_900)}  # a tile in the scenes' last blocks


def run(site: Site, count: int = 1, **changed: object) -> tuple[Path, dict]:
    """The folder, and the outcomes by tile and modality. Nothing written holds a signature."""
    parallel = int(changed.pop("parallel", 4))  # type: ignore[call-overload]
    pause = float(changed.pop("pause", 0.01))  # type: ignore[arg-type]
    bands = changed.pop("bands", BANDS)
    frame = tiles(count, **changed.pop("tile", {}))  # type: ignore[arg-type]
    store = site.folder.parent / "store"
    folder = fetch_imagery(
        frame, choice(site, **changed), store, bands=bands,
        parallel=parallel, pause=pause, progress=False,
    )  # fmt: skip
    for path in folder.rglob("*"):
        assert path.is_dir() or b"sig=" not in path.read_bytes(), path
    with (folder / "scenes.csv").open() as stream:
        return folder, {(row["tile"], row["modality"]): row for row in csv.DictReader(stream)}


def whole(folder: Path) -> bool:
    return bool((read(folder, "s2")[0] == numbers("B02", 160)[ROWS, COLS]).all())


@pytest.fixture
def site(stac: Site) -> Site:
    stac.s2()
    stac.s1()
    return stac


@pytest.mark.parametrize("path", ["/", "/search", B02])
@pytest.mark.parametrize(
    "faults",
    [
        [Fault(503)],
        [Fault(429, "0"), Fault(429)],
        [Fault(500), Fault(502), Fault(504), Fault(408)],
    ],
    ids=["503", "429", "many"],
)
def test_faults_that_pass(site: Site, path: str, faults: list[Fault]) -> None:
    site.fail(path, *faults)
    folder, rows = run(site)
    assert whole(folder) and {row["outcome"] for row in rows.values()} == {"ok"}
    assert not site.faults[path]


@pytest.mark.parametrize("path", ["/search", "/token/s2-l2a", B02])
def test_retry_after_is_obeyed_by_all(site: Site, path: str) -> None:
    """Nobody asks for about a second, though others have work to do and the back-off is short.

    A busy machine only makes gaps longer; `test_retry_after_holds_back_the_others` has no clock.
    """
    site.signed, site.slow = True, 0.05
    site.fail(path, Fault(429, "1"))
    entry = {"signing": "query", "token_url": f"{site.url}/token/{{collection}}"}
    folder, _ = run(site, 6, catalogue=entry, parallel=3)
    assert whole(folder)
    assert np.diff(site.times).max() >= 0.8


def test_retry_after_holds_back_the_others(site: Site, monkeypatch) -> None:
    """By a clock that only waiting moves: whoever comes while one waits, waits as long."""
    clock, waits = [0.0], []

    class Stop:
        def is_set(self) -> bool:
            return False

        def wait(self, timeout: float) -> bool:
            waits.append(timeout)
            if len(waits) == 1:  # one pauses after its 429: another asks
                assert ask("/token/x") == "/token/x" and waits == [7.0, 7.0]
            clock[0] = max(clock[0], 7.0)
            return False

    monkeypatch.setattr("mmfl.fetch.stac.web.time", SimpleNamespace(monotonic=lambda: clock[0]))
    web = Web(2, 0.01, Stop())  # type: ignore[arg-type]

    def ask(path: str) -> str:
        url = f"{site.url}{path}"
        return web.ask(url, lambda: {"method": "GET", "url": url}, lambda _: path)

    site.fail("/", Fault(429, "7"))
    assert ask("/") == "/" and waits == [7.0, 7.0]


def test_an_answer_that_is_not_json(site: Site) -> None:
    site.fail("/search", Fault(cut=3))
    assert run(site)[1]["dw_0", "s2"]["outcome"] == "ok"


@pytest.mark.parametrize("cut", [0, 10, 20_000])
def test_a_transfer_that_breaks_off(site: Site, cut: int) -> None:
    site.fail(B02, Fault(cut=cut), Fault(cut=cut))
    assert whole(run(site)[0]) and site.asked[B02] == 3


@pytest.mark.parametrize("fault", [Fault(shift=8), Fault(shorter=1000)])
def test_another_range_than_asked_for(site: Site, fault: Fault) -> None:
    site.fail(B02, fault)
    assert whole(run(site)[0]) and site.asked[B02] == 2


class TestTokens:
    def entry(self, site: Site, **more: object) -> dict:
        return {"signing": "query", "token_url": f"{site.url}/token/{{collection}}", **more}

    def test_one_token_for_many_images(self, site: Site) -> None:
        site.signed = True
        folder, rows = run(site, 4, catalogue=self.entry(site), parallel=1, s1="other", catalogues={
            "own": site.catalogue(**self.entry(site)),
            "other": site.catalogue(),
        }, bands={"s1": ["VV"], "s2": ["B02"]})  # fmt: skip
        assert whole(folder) and site.asked["/token/s2-l2a"] == 1
        assert all("?" not in row["hrefs"] for row in rows.values())

    def test_an_expired_signature_is_renewed(self, site: Site) -> None:
        """The server forgets the token in the middle of a tile."""
        site.signed = True
        first = run(site, 2, catalogue=self.entry(site), parallel=1)
        before = site.asked["/token/s2-l2a"]
        site.fail(f"/data/{S2}_B11.tif", Fault(403))
        folder, rows = run(site, 2, catalogue=self.entry(site), parallel=1, days=14)
        assert {row["outcome"] for row in rows.values()} == {"ok"}
        assert site.asked["/token/s2-l2a"] > before + 1
        assert (read(folder, "s2") == read(first[0], "s2")).all()

    def test_a_token_is_renewed_before_it_expires(self, site: Site) -> None:
        site.signed, site.life, site.slow = True, 0.2, 0.05
        site.items = [item for item in site.items if item["id"] == S2]
        _, rows = run(site, 2, catalogue=self.entry(site), parallel=1)
        assert rows["dw_1", "s2"]["outcome"] == "ok"
        assert site.asked["/token/s2-l2a"] >= 2
        # never denied: as many requests as a run without tokens
        assert site.asked[B02] == 2

    def test_the_token_endpoint_is_busy(self, site: Site) -> None:
        site.signed = True
        site.fail("/token/s2-l2a", Fault(429, "0"), Fault(503), Fault(429))
        assert run(site, catalogue=self.entry(site))[1]["dw_0", "s2"]["outcome"] == "ok"

    def test_denied_for_ever(self, site: Site) -> None:
        site.fail(B02, *[Fault(403)] * 99)
        folder, rows = run(site, catalogue=self.entry(site))
        row = rows["dw_0", "s2"]
        assert row["outcome"] == "failed" and "HTTP 403" in row["reason"]
        assert site.asked[B02] == ATTEMPTS and rows["dw_0", "s1"]["outcome"] == "ok"
        with pytest.raises(UserError, match=r"1 of 2 images failed, e\.g\. dw_0 s2") as error:
            check(folder / "scenes.csv")
        assert "\n" not in str(error.value) and "sig=" not in str(error.value)

    def test_a_key_goes_to_the_token_endpoint_only(self, site: Site, monkeypatch) -> None:
        monkeypatch.setenv("MMFL_KEY_OWN", "key-of-mine")
        folder, _ = run(site, catalogue=self.entry(site))
        assert set(site.keys) == {"key-of-mine"}
        assert not any(b"key-of-mine" in p.read_bytes() for p in folder.rglob("*") if p.is_file())

    def test_a_variable_for_each_catalogue(self, site: Site, monkeypatch) -> None:
        monkeypatch.setenv("MMFL_KEY_PLANETARY_COMPUTER", "key")
        token_url = f"{site.url}/token/{{collection}}"
        catalogue = Catalogue(url=site.url, signing="query", token_url=token_url)
        web = Web(1, 0.01, threading.Event())
        signer = Signer(web, "planetary-computer", catalogue, "sentinel-2-l2a")
        options, token = signer.signed("http://x/y?z=1")
        assert options == {"url": f"http://x/y?z=1&{token}"} and site.keys == ["key"]
        assert site.asked["/token/sentinel-2-l2a"] == 1

    def test_bearer(self, site: Site, monkeypatch) -> None:
        site.bearer = True
        monkeypatch.setenv("MMFL_USER_OWN", "me")
        monkeypatch.setenv("MMFL_PASSWORD_OWN", "secret")
        entry = {"signing": "bearer", "token_url": f"{site.url}/token", "client_id": "public"}
        folder, rows = run(site, catalogue=entry, parallel=1)
        assert whole(folder) and rows["dw_0", "s1"]["outcome"] == "ok"
        expected = {"grant_type": "password", "username": "me", "password": "secret"}
        assert site.logins[0] == {**expected, "client_id": "public"}

    def test_credentials_of_netrc(self, site: Site, monkeypatch, tmp_path: Path) -> None:
        site.bearer = True
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
        (tmp_path / ".netrc").chmod(0o600)
        monkeypatch.setenv("HOME", str(tmp_path))
        entry = {"signing": "bearer", "token_url": f"{site.url}/token"}
        assert whole(run(site, catalogue=entry, parallel=1)[0])
        assert site.logins[0]["username"] == "me"

    @pytest.mark.parametrize("status", [400, 401, 403])
    def test_wrong_credentials_are_tried_once(self, site: Site, monkeypatch, status: int) -> None:
        """Services lock accounts."""
        monkeypatch.setenv("MMFL_USER_OWN", "me")
        monkeypatch.setenv("MMFL_PASSWORD_OWN", "wrong")
        site.fail("/token", *[Fault(status)] * 9)
        entry = {"signing": "bearer", "token_url": f"{site.url}/token"}
        with pytest.raises(UserError, match=r"imagery\.own: found no token at") as error:
            run(site, catalogue=entry, parallel=1)
        assert site.asked["/token"] == 1 and "wrong" not in str(error.value)

    def test_no_credentials(self, site: Site, monkeypatch, tmp_path: Path) -> None:
        """Said before anything is asked."""
        monkeypatch.setenv("HOME", str(tmp_path))
        entry = {"signing": "bearer", "token_url": f"{site.url}/token"}
        with pytest.raises(UserError, match="set MMFL_USER_OWN and MMFL_PASSWORD_OWN, or put"):
            run(site, catalogue=entry)
        assert not site.asked


class TestFailures:
    def test_kept_apart_and_tried_again(self, site: Site) -> None:
        """The service is away for one image; the next run fetches that one only."""
        site.fail(B02, *[Fault(503)] * ATTEMPTS)
        folder, rows = run(site, 3, parallel=1)
        assert [row["outcome"] for row in rows.values()].count("failed") == 1
        assert rows["dw_0", "s2"]["reason"] == f"{site.url}{B02}: HTTP 503"
        assert not (folder / "outcomes/s2/dw_0.json").exists()
        with pytest.raises(UserError, match="1 of 6 images failed"):
            check(folder / "scenes.csv")
        site.asked.clear()
        again, rows = run(site, 3, parallel=1)
        assert again == folder and {row["outcome"] for row in rows.values()} == {"ok"}
        assert site.asked[B02] == 1 and site.asked["/search"] == 1
        check(folder / "scenes.csv")
        site.asked.clear()
        assert run(site, 3)[1] == rows and not site.asked

    @pytest.mark.parametrize("status", [400, 404])
    def test_a_search_that_is_refused(self, site: Site, status: int) -> None:
        site.fail("/search", *[Fault(status)] * 9)
        _, rows = run(site)
        assert rows["dw_0", "s2"]["outcome"] == "failed"
        assert site.asked["/search"] == 2  # not tried again

    def test_no_stac_api(self, site: Site) -> None:
        _, rows = run(site, catalogue={"url": f"{site.url}/token/x"})
        assert "no STAC API" in rows["dw_0", "s1"]["reason"]
        assert rows["dw_0", "s1"]["outcome"] == "failed"

    @pytest.mark.parametrize("key", ["geometry", "assets", "properties"])
    def test_an_item_that_is_not_whole_is_left_out(self, site: Site, key: str) -> None:
        site.s1(days=1, orbit=1)[key] = {} if key == "properties" else None
        assert run(site)[1]["dw_0", "s1"]["days"] == "2.0000"

    def test_the_service_is_away(self, site: Site, monkeypatch) -> None:
        """After some failures in a row the rest is not tried, and a later run does it."""
        monkeypatch.setattr(module, "GIVE_UP", 3)
        site.fail("*", *[Fault(503)] * (3 * ATTEMPTS))
        _, rows = run(site, 5, parallel=1)
        reasons = [row["reason"] for row in rows.values()]
        assert sum("not tried: 3 images in a row failed" in reason for reason in reasons) == 7
        assert {row["outcome"] for row in run(site, 5)[1].values()} == {"ok"}

    def test_failures_here_and_there(self, site: Site, monkeypatch) -> None:
        """One image in two fails, never two in a row: all are tried."""
        monkeypatch.setattr(module, "GIVE_UP", 2)
        site.fail(B02, *[Fault(503)] * 99)
        _, rows = run(site, 4, parallel=1)
        assert [row["outcome"] for row in rows.values()] == ["ok", "failed"] * 4
        assert site.asked[B02] == 4 * ATTEMPTS

    def test_an_asset_that_is_gone(self, site: Site) -> None:
        (site.folder / f"{S2}_B11.tif").unlink()
        row = run(site)[1]["dw_0", "s2"]
        assert row["outcome"] == "unusable scene" and "_B11.tif: HTTP 404" in row["reason"]

    def test_no_ranges(self, site: Site) -> None:
        site.ranges = False
        row = run(site)[1]["dw_0", "s2"]
        assert row["outcome"] == "unusable scene" and "no ranges of bytes" in row["reason"]

    @pytest.mark.parametrize("pack", ["deflate", "none"])
    @pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
    def test_a_cog_that_is_cut_off(self, site: Site, share: float, pack: str) -> None:
        """Read again, then an outcome: the next run does not hang on it."""
        path = site.folder / f"{S2}_B02.tif"
        cog(path, numbers("B02", 160).astype(np.uint16), 10, nodata=0, pack=pack)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        _, rows = run(site, tile=LAST)
        row = rows["dw_0", "s2"]
        assert row["outcome"] == "unusable scene" and "band B02 is damaged" in row["reason"]
        assert site.asked[B02] >= 3 and rows["dw_0", "s1"]["outcome"] == "ok"
        site.asked.clear()
        assert run(site, tile=LAST)[1] == rows and not site.asked

    def test_a_cog_that_is_no_raster(self, site: Site) -> None:
        """Said in the same words each time."""
        (site.folder / f"{S2}_B02.tif").write_bytes(b"<html>please log in</html>" * 100)
        first, second = (run(site, days=days)[1]["dw_0", "s2"]["reason"] for days in (14, 15))
        assert "band B02 is damaged" in first and first == second

    def test_a_file_of_zeros_in_the_middle(self, site: Site) -> None:
        """Blocks that do not unpack are damage, not pixels."""
        path = site.folder / f"{S2}_B02.tif"
        data = bytearray(path.read_bytes())
        data[len(data) // 4 :] = bytes(len(data) - len(data) // 4)
        path.write_bytes(data)
        assert "is damaged" in run(site, tile=LAST)[1]["dw_0", "s2"]["reason"]


@pytest.mark.parametrize(("threads", "limit"), [(1, 8), (3, 8), (6, 2)])
def test_the_bound_is_held(site: Site, threads: int, limit: int) -> None:
    """Never more requests at a time than threads or the catalogue allow, and as many as that."""
    site.together = min(threads, limit)
    run(site, 4, parallel=threads, catalogue={"parallel": limit})
    assert site.most == min(threads, limit)


def test_two_processes_do_not_meet(site: Site) -> None:
    """The second waits for the first and finds all done."""
    site.slow = 0.01
    children = [start(site, 3) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert site.asked[B02] == 3


CHILD = """
import json, resource, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
import pandas as pd
from pathlib import Path
from mmfl.fetch.stac.imagery import fetch_imagery
from mmfl.params.imagery import Imagery
frame, choice, bands, store, most = sys.argv[1:]
if int(most):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
fetch_imagery(pd.DataFrame(json.loads(frame)), Imagery.model_validate_json(choice), Path(store),
              bands=json.loads(bands), parallel=2, pause=0.01, progress=False)
"""


def start(site: Site, count: int, most: int = 0) -> subprocess.Popen[bytes]:
    """The same call in a process of its own, which may write files of `most` bytes."""
    frame = tiles(count).to_json(orient="records")
    chosen = choice(site).model_dump_json(exclude_unset=True)
    arguments = [frame, chosen, json.dumps(BANDS), str(site.folder.parent / "store"), str(most)]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stderr=subprocess.PIPE)


def test_killed_in_the_middle(site: Site) -> None:
    """kill -9 at several moments: what is done is not done again, and all is there at last."""
    site.slow, count = 0.01, 8
    store = site.folder.parent / "store"
    done: dict[Path, tuple[int, int]] = {}
    for least in (3, 7, 12):
        child = start(site, count)
        while child.poll() is None and len(list(store.glob("*/outcomes/*/*.json"))) < least:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        for path, stamp in done.items():
            assert (path.stat().st_ino, path.stat().st_mtime_ns) == stamp
        for path in store.glob("*/outcomes/*/*.json"):
            assert json.loads(path.read_text())["outcome"] == "ok"
            image = path.parents[2] / path.parent.name / f"{path.stem}.tif"
            for file in (path, image):
                done[file] = (file.stat().st_ino, file.stat().st_mtime_ns)
    assert len(done) >= 2 * 12
    requests.get(site.url, timeout=60)  # connections of the killed process come before this one
    while site.busy:
        time.sleep(0.01)
    site.asked.clear()
    assert start(site, count).wait() == 0
    left = 2 * count - len(done) // 2
    assert site.asked["/search"] == left
    for path, stamp in done.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == stamp
    (folder,) = store.iterdir()
    assert not list(folder.glob("**/.*.tmp"))
    rows = pd.read_csv(folder / "scenes.csv")
    assert len(rows) == 2 * count and set(rows["outcome"]) == {"ok"}
    clean, _ = run(site, count, days=14)  # never killed
    for path in clean.glob("s*/*.tif"):
        assert (folder / path.relative_to(clean)).read_bytes() == path.read_bytes()
    assert (folder / "scenes.csv").read_bytes() == (clean / "scenes.csv").read_bytes()


def test_what_a_killed_process_left_is_removed(site: Site) -> None:
    folder, rows = run(site)
    for place in ("s2", "outcomes/s1", "."):
        (folder / place / ".dw_0.tif.77.tmp").write_bytes(b"half")
    assert run(site)[1] == rows and not list(folder.glob("**/.*.tmp"))


def test_an_image_that_was_deleted_is_fetched_again(site: Site) -> None:
    folder, rows = run(site)
    (folder / "s2/dw_0.tif").unlink()
    (folder / "outcomes/s1/dw_0.json").write_text("half a rec")
    assert run(site)[1] == rows and whole(folder)


def test_another_choice_has_another_folder(site: Site) -> None:
    """What only says how bytes travel does not count."""
    first = run(site)[0]
    assert run(site, catalogue={"parallel": 2, "token_url": "http://127.0.0.1/x"})[0] == first
    assert len({first, run(site, days=14)[0], run(site, coverage=0.5)[0]}) == 3


def test_another_list_of_tiles(site: Site) -> None:
    """Only what is new is fetched; the table is of the present list."""
    folder, first = run(site, 2)
    site.asked.clear()
    again, rows = run(site, 3)
    assert again == folder and len(rows) == 6 and rows.items() >= first.items()
    assert site.asked[B02] == 1 and site.asked["/search"] == 2
    site.asked.clear()
    assert run(site, 2)[1] == first and not site.asked


@pytest.mark.parametrize("change", [LAST, {"height": 47}, {"date": "2019-07-02"}])
def test_a_tile_that_changed_is_fetched_again_alone(site: Site, change: dict) -> None:
    frame, store = tiles(3), site.folder.parent / "store"

    def fetch() -> Path:
        return fetch_imagery(frame, choice(site), store, bands=BANDS, pause=0.01, progress=False)

    before = fetch()
    for key, value in change.items():
        frame.at[1, key] = value
    site.asked.clear()
    assert fetch() == before and site.asked[B02] == 1 and site.asked["/search"] == 2
    with rasterio.open(before / "s2/dw_1.tif") as source:
        assert tuple(source.transform)[:6] == frame["transform"][1]
        assert source.height == frame["height"][1]
    frame.at[1, "product"] = "of another scene"
    fetch()
    assert not (before / "s2/dw_1.tif").exists()  # and none of the old grid is left
    assert (before / "s1/dw_1.tif").exists() and (before / "s2/dw_0.tif").exists()


def test_addresses_that_come_signed(site: Site) -> None:
    """Some catalogues sign what they answer; the table has the plain address."""
    for item in site.items:
        for asset in item["assets"].values():
            asset["href"] += f"?{SECRET}"
    row = run(site)[1]["dw_0", "s2"]
    assert row["outcome"] == "ok" and row["hrefs"].startswith(f"{site.url}{B02} ")


def test_no_signature_is_logged(site: Site, caplog) -> None:
    """Whatever is logged at any level by anybody here, tokens are not in it."""
    site.signed = True
    site.fail(B02, Fault(503), Fault(cut=10), Fault(403))
    entry = {"signing": "query", "token_url": f"{site.url}/token/{{collection}}"}
    with caplog.at_level("INFO"):
        run(site, catalogue=entry, parallel=1)
    assert "HTTP 503; trying again" in caplog.text and "broke off" in caplog.text
    assert SECRET not in caplog.text and "sig=" not in caplog.text


@pytest.mark.parametrize("most", [300, 2_000, 5_000])
def test_a_file_that_cannot_be_written(site: Site, most: int) -> None:
    """The kernel refuses bytes of the images: no outcome says that they are there."""
    child = start(site, 1, most)
    assert b"UserError" in child.communicate()[1].splitlines()[-1].partition(b":")[0]
    store = site.folder.parent / "store"
    assert not list(store.glob("*/s*/*")) and not list(store.glob("*/scenes.csv"))
    assert whole(run(site)[0])


def test_ctrl_c(site: Site) -> None:
    """It ends in the middle of a long pause, of which it asks no more, and a later run goes on."""
    site.fail("/search", *[Fault(429, "300")] * 99)
    child = start(site, 2)
    assert child.stderr is not None
    while b"trying again in 300 s" not in child.stderr.readline():
        assert child.poll() is None
    os.kill(child.pid, signal.SIGINT)
    assert b"KeyboardInterrupt" in child.communicate()[1] and child.returncode != 0
    assert site.asked["/search"] <= 4  # its threads, once each
    site.faults.clear()
    assert {row["outcome"] for row in run(site, 2)[1].values()} == {"ok"}

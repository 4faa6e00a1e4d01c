"""Unpacking: inside one folder, whole or not at all, within a stated size."""

from __future__ import annotations

import gzip
import io
import random
import stat
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import zstandard

from mmfl import tar as tars
from mmfl.errors import UserError
from mmfl.fetch.unpack import unpack

FILES = {"S2/a/a_B02.tif": b"x" * 5000, "S2/b/b_B02.tif": b"", "readme.txt": b"hello"}


def tar(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def plain(files: dict[str, bytes] = FILES) -> bytes:
    return tar([(tarfile.TarInfo(name), data) for name, data in files.items()])


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zstd(data: bytes) -> bytes:
    """Several frames, as parallel compressors write them."""
    half = len(data) // 2
    return b"".join(zstandard.compress(piece) for piece in (data[:half], data[half:]))


def write(folder: Path, data: bytes, name: str = "a.tar") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def content(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(source: Path, text: str, **limits: int) -> None:
    folder = source.with_name("out")
    with pytest.raises(UserError, match=text) as error:
        unpack(source, folder, **limits)
    assert str(source) in str(error.value) and "\n" not in str(error.value)
    assert {item.name for item in source.parent.iterdir()} == {source.name}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress, zstd])
def test_unpacks_by_content(tmp_path: Path, pack) -> None:
    """The name says nothing."""
    source = write(tmp_path, pack(plain()), "content")
    unpack(source, tmp_path / "out")
    assert content(tmp_path / "out") == FILES
    assert {item.name for item in tmp_path.iterdir()} == {"content", "out"}


def test_long_names(tmp_path: Path) -> None:
    files = {"/".join(["n" * 60] * 4): b"1", "é.txt": b"2"}
    unpack(write(tmp_path, plain(files)), tmp_path / "out")
    assert content(tmp_path / "out") == files


def test_nothing_is_done_twice(tmp_path: Path) -> None:
    source = write(tmp_path, plain())
    unpack(source, tmp_path / "out")
    source.unlink()
    unpack(source, tmp_path / "out")
    assert content(tmp_path / "out") == FILES


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".out.unpacking"
    left.mkdir()
    (left / "half").touch()
    unpack(write(tmp_path, plain()), tmp_path / "out")
    assert content(tmp_path / "out") == FILES
    assert not left.exists()


@pytest.mark.parametrize("name", ["/etc/x", "../x", "S2/../../x", "..", "S2/.."])
def test_paths_that_lead_out(tmp_path: Path, name: str) -> None:
    refused(write(tmp_path, plain({"ok": b"1", name: b"2"})), "leads out")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../x", "ok"])
def test_links(tmp_path: Path, kind: bytes, target: str) -> None:
    link = special("link", kind, target)
    through = tarfile.TarInfo("link/x")
    data = tar([(tarfile.TarInfo("ok"), b"1"), (link, b""), (through, b"2")])
    refused(write(tmp_path, data), "is a link, a device or sparse")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices(tmp_path: Path, kind: bytes) -> None:
    refused(write(tmp_path, tar([(special("dev", kind), b"")])), "is a link, a device or sparse")


def test_sparse_members(tmp_path: Path) -> None:
    """A few bytes that claim 300 GB, which the limit on the whole would let through."""
    info = tarfile.TarInfo("hole")
    info.type = tarfile.GNUTYPE_SPARSE
    data = bytearray(tar([(info, b"")]))
    number = lambda value: f"{value:011o}".encode() + b"\0"  # noqa: E731
    data[386 : 386 + 24] = number(0) + number(0)  # one piece of nothing
    data[483 : 483 + 12] = number(1 << 32)  # the real size
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}".encode() + b"\0 "
    refused(write(tmp_path, bytes(data)), "is a link, a device or sparse")


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    refused_folder = plain({"a": b"1"})[:1024] + plain({"a/b": b"2"})
    source = write(tmp_path, refused_folder)
    with pytest.raises(UserError, match="make room or correct"):
        unpack(source, tmp_path / "out")
    assert {item.name for item in tmp_path.iterdir()} == {source.name}


FULL = """
import resource, sys
from pathlib import Path
from mmfl.errors import UserError
from mmfl.fetch.unpack import unpack
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
except UserError as error:
    sys.exit(f"refused: {error}")
"""


def test_no_room_while_unpacking(tmp_path: Path) -> None:
    """The kernel refuses to write on: nothing appears, nothing stays."""
    source = write(tmp_path, zstd(plain({"a": b"1", "b": bytes(100_000)})))
    command = [sys.executable, "-c", FULL, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("refused: ")
    assert "File too large" in done.stderr and done.stderr.count("\n") == 1
    assert {item.name for item in tmp_path.iterdir()} == {source.name}


def test_bomb(tmp_path: Path) -> None:
    data = zstandard.compress(plain({f"{i}": bytes(1 << 20) for i in range(20)}))
    assert len(data) < 10_000
    refused(write(tmp_path, data), "left|more than 5,000,000 bytes", max_bytes=5_000_000)


def test_one_member_claims_too_much(tmp_path: Path) -> None:
    info = tarfile.TarInfo("big")
    info.size = 1 << 40
    refused(write(tmp_path, info.tobuf()), "1,099,511,627,776 bytes", max_bytes=1 << 30)


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    """A header block alone, which claims so many bytes."""
    info = special(name, kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


EXTENDED = [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK]  # fmt: skip


@pytest.mark.parametrize("kind", EXTENDED)
def test_bomb_in_a_header(tmp_path: Path, kind: bytes) -> None:
    """64 MiB of a name or an attribute, packed into a few kB, are never in memory."""
    size = 64 << 20
    data = zstandard.compress(header(kind, size) + b"x" * size + plain())
    source = write(tmp_path, data)
    assert source.stat().st_size < 20_000
    del data
    tracemalloc.start()
    refused(source, "a header of 67,108,864 bytes, expected at most")
    assert tracemalloc.get_traced_memory()[1] < size / 4
    tracemalloc.stop()


@pytest.mark.parametrize("kind", EXTENDED)
def test_headers_without_end(tmp_path: Path, kind: bytes) -> None:
    one = b"20 comment=" + b"x" * 8 + b"\n"
    data = (header(kind, len(one)) + one.ljust(512, b"\0")) * 3000 + plain()
    refused(write(tmp_path, data), "headers without end")


def test_attributes_of_all_members_do_not_pile_up(tmp_path: Path) -> None:
    def one(number: int) -> bytes:
        value = b"x" * 600_000
        rest = b" key%06d=" % number + value + b"\n"
        record = b"%d" % (len(rest) + 6) + rest
        padded = record.ljust(-(-len(record) // 512) * 512, b"\0")
        return header(tarfile.XGLTYPE, len(record)) + padded + plain({f"{number}": b"1"})[:1024]

    refused(write(tmp_path, b"".join(map(one, range(3))) + bytes(1024)), "headers without end")


@pytest.mark.parametrize("size", [-1, -512, -(1 << 40)])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
def test_negative_sizes(tmp_path: Path, kind: bytes, size: int) -> None:
    refused(write(tmp_path, header(kind, size) + bytes(2048)), "bytes, expected|damaged")


@pytest.mark.parametrize("levels", [200, 3000, 100_000])
@pytest.mark.parametrize("pack", ["tar", "zip"])
def test_deep_paths(tmp_path: Path, levels: int, pack: str) -> None:
    """Whoever walks such a tree ends in a RecursionError."""
    files = {"a/" * levels + "b": b"1"}
    if pack == "zip" and levels > 30_000:
        pytest.skip("a zip has no longer names")
    data = plain(files) if pack == "tar" else zipped(files)
    refused(write(tmp_path, data), f"levels and {2 * levels + 1:,} characters, expected at most")
    assert len(str(tmp_path)) < 300


def test_deep_enough(tmp_path: Path) -> None:
    files = {"a/" * 60 + "b": b"1"}
    unpack(write(tmp_path, plain(files)), tmp_path / "out")
    assert content(tmp_path / "out") == files


@pytest.mark.parametrize("second", ["a/b", "./a/b", "a//b", "a/./b"])
def test_twice(tmp_path: Path, second: str) -> None:
    """Nothing says which is right."""
    members = [(tarfile.TarInfo(name), name.encode()) for name in ("a/b", second)]
    refused(write(tmp_path, tar(members)), "is there twice, expected it once")


def test_sparse_in_pax(tmp_path: Path) -> None:
    """Its map may be as long as the stream; it is not read."""
    for version in ("0.0", "0.1", "1.0"):
        info = tarfile.TarInfo("hole")
        major, minor = version.split(".")
        info.pax_headers = {
            "0.0": {"GNU.sparse.size": "9", "GNU.sparse.numblocks": "1"},
            "0.1": {"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"},
            "1.0": {"GNU.sparse.major": major, "GNU.sparse.minor": minor,
                    "GNU.sparse.realsize": "9"},
        }[version]  # fmt: skip
        info.size = 512
        data = info.tobuf(tarfile.PAX_FORMAT) + b"99999999999\n".ljust(512, b"7") + bytes(1024)
        refused(write(tmp_path, data), "is a link, a device or sparse")


def test_more_than_packing_explains(tmp_path: Path, monkeypatch) -> None:
    """A few kB that would fill the disk."""
    monkeypatch.setattr(tars, "SLACK", 1 << 20)
    one = {"a": bytes(30 << 20)}
    for data in (zstandard.compress(plain(one)), gzip.compress(plain(one)), zipped(one)):
        source = write(tmp_path, data)
        assert source.stat().st_size < 40_000
        refused(source, "31,457,280 bytes, expected at most|more than")


def test_too_many_members(tmp_path: Path) -> None:
    data = plain({f"{i}": b"" for i in range(11)})
    refused(write(tmp_path, data), "more than 10 members", max_members=10)
    unpack(tmp_path / "a.tar", tmp_path / "out", max_members=11)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_cut_off_compressed(tmp_path: Path, pack, at: float) -> None:
    data = pack(plain({f"{i}": f"{i}".encode() * 500 for i in range(40)}))
    refused(write(tmp_path, data[: int(at * len(data))]), "damaged")


@pytest.mark.parametrize("at", [0, 512, 512 + 5120, 512 + 5120 + 100, 512 + 5120 + 512])
def test_cut_off_where_tarfile_sees_an_end(tmp_path: Path, at: int) -> None:
    refused(write(tmp_path, plain()[:at]), "damaged")


def test_garbage(tmp_path: Path) -> None:
    refused(write(tmp_path, b"<html>not found</html>" * 100), "damaged")
    data = bytearray(plain())
    data[512 + 5120 : 512 + 5120 + 512] = b"\xff" * 512
    refused(write(tmp_path, bytes(data)), "damaged")


def test_flipped_bit_in_zstd(tmp_path: Path) -> None:
    data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(plain()))
    data[len(data) // 2] ^= 1
    refused(write(tmp_path, bytes(data)), "damaged")


def test_executable_bits_and_owners_are_not_taken_over(tmp_path: Path) -> None:
    info = tarfile.TarInfo("run")
    info.mode = 0o6777
    unpack(write(tmp_path, tar([(info, b"#!")])), tmp_path / "out")
    assert (tmp_path / "out/run").stat().st_mode & 0o7111 == 0


def zipped(files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def zip_special(name: str, mode: int, data: bytes = b"/etc/passwd") -> bytes:
    stream, info = io.BytesIO(), zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(info, data)
    return stream.getvalue()


class TestZip:
    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_unpacks(self, tmp_path: Path, method: int) -> None:
        source = write(tmp_path, zipped({**FILES, "empty/": b""}, method), "content")
        unpack(source, tmp_path / "out")
        assert content(tmp_path / "out") == FILES
        assert (tmp_path / "out/empty").is_dir()

    def test_as_a_program_writes_it(self, tmp_path: Path) -> None:
        """With folders and modes, from files."""
        (tmp_path / "S2").mkdir()
        (tmp_path / "S2/a.tif").write_bytes(b"x" * 9000)
        command = [sys.executable, "-m", "zipfile", "-c", "a.zip", "S2"]
        subprocess.run(command, cwd=tmp_path, check=True)
        unpack(tmp_path / "a.zip", tmp_path / "out")
        assert content(tmp_path / "out") == {"S2/a.tif": b"x" * 9000}

    def test_without_members(self, tmp_path: Path) -> None:
        unpack(write(tmp_path, zipped({})), tmp_path / "out")
        assert content(tmp_path / "out") == {}

    def test_resource_forks_stay_out(self, tmp_path: Path) -> None:
        source = write(tmp_path, zipped({"a.tif": b"a", "__MACOSX/._a.tif": b"fork"}))
        unpack(source, tmp_path / "out")
        assert content(tmp_path / "out") == {"a.tif": b"a"}

    @pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x"])
    def test_outside(self, tmp_path: Path, name: str) -> None:
        refused(write(tmp_path, zipped({"good": b"", name: b"evil"})), "leads out of its folder")

    def test_twice(self, tmp_path: Path) -> None:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("a/b", "1")
            archive.writestr("a//b", "2")
        refused(write(tmp_path, stream.getvalue()), "is there twice, expected it once")

    @pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
    def test_links_and_devices(self, tmp_path: Path, kind: int) -> None:
        refused(write(tmp_path, zip_special("a", kind | 0o777)), "is a link, a device")

    def test_encrypted(self, tmp_path: Path) -> None:
        data = bytearray(zipped({"a": b"secret"}))
        for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.index(magic) + flags] |= 1
        refused(write(tmp_path, bytes(data)), "is encrypted")

    def test_other_methods(self, tmp_path: Path) -> None:
        refused(write(tmp_path, zipped(method=zipfile.ZIP_LZMA)), "method 14")

    def test_too_large_and_too_many(self, tmp_path: Path) -> None:
        source = write(tmp_path, zipped())
        refused(source, "5,000 bytes, expected at most", max_bytes=4_999)
        refused(source, "more than 2 members", max_members=2)
        unpack(source, tmp_path / "out", max_bytes=5_005, max_members=3)

    def test_no_more_than_stated(self, tmp_path: Path) -> None:
        """A member that unpacks to more than its header says is damaged."""
        data = bytearray(zipped({"a": b"x" * 5000}))
        for magic, size in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            at = data.index(magic) + size
            assert struct.unpack_from("<I", data, at) == (5000,)
            struct.pack_into("<I", data, at, 10)
        refused(write(tmp_path, bytes(data)), "damaged")

    def test_cut_off_anywhere(self, tmp_path: Path) -> None:
        whole = zipped()
        for end in range(4, len(whole) - 1, 7):
            refused(write(tmp_path, whole[:end]), "damaged")

    def test_a_wrong_byte(self, tmp_path: Path) -> None:
        """One line, or files with the right content: a name or a comment has no checksum."""
        rng, seen = random.Random(1), 0
        files = {"S2/a.tif": bytes(range(256)) * 4, "b": b"hello"}
        for number in range(300):
            data = bytearray(zipped(files))
            data[rng.randrange(4, len(data))] ^= rng.randrange(1, 256)
            source, out = write(tmp_path, bytes(data)), tmp_path / f"out{number}"
            try:
                unpack(source, out)
            except UserError as error:
                seen += 1
                assert "\n" not in str(error) and not out.exists()
            else:
                assert set(content(out).values()) <= set(files.values())
        assert seen > 100

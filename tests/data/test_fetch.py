"""However the network behaves, what is fetched is the whole published archive, or nothing and one line says why."""

import gzip
import hashlib
import io
import pickle
import socket
import tarfile
from pathlib import Path

import pytest

from proteinlm.data import store
from proteinlm.data.fetch import tape
from proteinlm.data.fetch.tape import Archive
from proteinlm.errors import InputError
from tests.data.samples import tape_record, write_tape
from tests.data.servers import QUICK, Server

LARGEST = 1 << 20


def packed(directory: Path) -> bytes:
    """A tar.gz of `directory`, with its name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(directory, directory.name)
    return buffer.getvalue()


@pytest.fixture
def stability(tmp_path) -> bytes:
    for split in ("train", "valid", "test"):
        write_tape(tmp_path / "made", "stability", split, [tape_record("stability", index) for index in range(3)])
    return packed(tmp_path / "made" / "stability")


def archive(content: bytes, largest: int = LARGEST, unpacked: int = LARGEST) -> Archive:
    return Archive("stability", hashlib.md5(content).hexdigest(), largest, unpacked)


def get(server: Server, to: Path, what: Archive) -> bool:
    return tape.fetch(what, to, f"http://127.0.0.1:{server.server_port}/data/", QUICK)


def assert_fetched(to: Path) -> None:
    content = store.ensure(to, to.parent / "cache")
    assert {name: split.records for name, split in content.splits("stability").items()} == {
        "test": 3,
        "train": 3,
        "valid": 3,
    }
    assert sorted(path.name for path in to.iterdir()) == [".lock", "stability"]


FAULTS = [
    [],
    ["redirect"],
    ["redirect", "cut", "redirect"],
    ["cut"],
    ["cut", "cut"],
    ["stall"],
    ["503", "cut", "stall"],
    ["429", "500", "redirect"],
]


@pytest.mark.parametrize("faults", FAULTS, ids=" ".join)
@pytest.mark.parametrize("server_is", ["good", "without versions", "unable to continue"])
def test_an_archive_arrives_whole_through_faults(tmp_path, server, stability, faults, server_is):
    server.content, server.faults = stability, list(faults)
    server.has_version, server.continues = server_is != "without versions", server_is != "unable to continue"
    assert get(server, tmp_path / "data", archive(stability)) is True
    assert_fetched(tmp_path / "data")
    assert get(server, tmp_path / "data", archive(stability)) is False


def test_without_a_length_the_content_tells_a_cut_from_the_end(tmp_path, server, stability):
    server.content, server.faults, server.says_length = stability, ["cut"], False
    assert_refused(server, tmp_path / "data", archive(stability), "not the published")
    get(server, tmp_path / "data", archive(stability))
    assert_fetched(tmp_path / "data")


def test_a_cut_download_continues_where_it_was_in_the_next_run(tmp_path, server, stability):
    server.content, server.faults = stability, ["cut", "404"]
    with pytest.raises(InputError, match="404 Not Found"):
        get(server, tmp_path / "data", archive(stability))
    third = len(stability) // 3
    assert (tmp_path / "data/.stability.tar.gz.part").stat().st_size == third
    assert not (tmp_path / "data/stability.tar.gz").exists()
    get(server, tmp_path / "data", archive(stability))
    assert server.ranges == [None, f"bytes={third}-", f"bytes={third}-"]
    assert_fetched(tmp_path / "data")


def test_another_version_on_the_server_starts_afresh(tmp_path, server, stability):
    server.content, server.faults = b"\x1f\x8b" + b"older" * 1000, ["cut", "404"]
    with pytest.raises(InputError):
        get(server, tmp_path / "data", archive(stability))
    server.content = stability
    get(server, tmp_path / "data", archive(stability))
    assert_fetched(tmp_path / "data")


def assert_refused(server: Server, to: Path, what: Archive, message: str) -> None:
    with pytest.raises(InputError) as error:
        get(server, to, what)
    text = str(error.value)
    assert message in text
    assert f"by hand: get http://127.0.0.1:{server.server_port}/data/stability.tar.gz, put it at {to}" in text
    assert "\n" not in text
    assert not (to / "stability").exists()
    assert {path.name for path in to.iterdir()} <= {".lock", ".stability.tar.gz.part", ".stability.tar.gz.part.version"}


@pytest.mark.parametrize("status", ["403", "404", "410"])
def test_a_refusal_is_final_and_its_page_is_not_kept(tmp_path, server, stability, status):
    server.content, server.faults = stability, [status]
    assert_refused(server, tmp_path / "data", archive(stability), f"the server answers {status}")
    assert server.ranges == [None]
    assert not (tmp_path / "data/.stability.tar.gz.part").exists()


def test_tries_are_bounded(tmp_path, server, stability):
    server.content, server.faults = stability, ["503"] * 10
    assert_refused(server, tmp_path / "data", archive(stability), "cannot be fetched: the server answers 503")
    assert len(server.ranges) == QUICK.attempts


def test_offline_is_one_line_with_the_address_and_the_place(tmp_path, server):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        server.server_port = unused.getsockname()[1]  # nobody listens there
        assert_refused(server, tmp_path / "data", archive(b""), "Connection refused")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>Access denied</html>", "not a gzip archive, it begins with b'<html>"),
        (b"\x1f\x8b" + b"a" * 100, "not the published"),
        (b"", "not a gzip archive"),
    ],
)
def test_other_bytes_are_refused_and_not_kept(tmp_path, server, stability, content, message):
    server.content = content
    assert_refused(server, tmp_path / "data", archive(stability), message)
    server.content = stability
    get(server, tmp_path / "data", archive(stability))
    assert_fetched(tmp_path / "data")


@pytest.mark.parametrize("says_length", [True, False])
def test_no_more_is_downloaded_than_plausible(tmp_path, server, stability, says_length):
    server.content, server.says_length = stability, says_length
    assert_refused(server, tmp_path / "data", archive(stability, largest=1000), "1000")
    assert not (tmp_path / "data/.stability.tar.gz.part").exists()


def test_an_archive_placed_by_hand_is_used_and_kept(tmp_path, server, stability):
    place = tmp_path / "data" / "stability.tar.gz"
    place.parent.mkdir()
    place.write_bytes(stability[:-1])
    with pytest.raises(InputError, match="not the published"):
        get(server, tmp_path / "data", archive(stability))
    place.write_bytes(stability)
    get(server, tmp_path / "data", archive(stability))
    assert server.ranges == []
    assert place.read_bytes() == stability
    place.unlink()
    assert_fetched(tmp_path / "data")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 3) -> tarfile.TarInfo:
    result = tarfile.TarInfo(name)
    result.type, result.linkname, result.size = kind, link, size if kind == tarfile.REGTYPE else 0
    return result


EVIL = {
    "absolute": [member("/tmp/evil")],
    "above": [member("stability/../../evil")],
    "above, as a directory": [member("../evil", tarfile.DIRTYPE)],
    "symbolic link": [member("stability/a", tarfile.SYMTYPE, "/etc/passwd")],
    "hard link": [member("stability/a", tarfile.LNKTYPE, "/etc/passwd")],
    "through a link": [member("stability/a", tarfile.SYMTYPE, "/tmp"), member("stability/a/evil")],
    "device": [member("stability/a", tarfile.CHRTYPE)],
    "pipe": [member("stability/a", tarfile.FIFOTYPE)],
    "twice": [member("stability/a"), member("stability/a")],
    "large": [member("stability/a", size=LARGEST + 1)],
    "other name": [member("something/a")],
    "nothing": [],
}


@pytest.mark.parametrize("name", EVIL)
def test_an_archive_cannot_write_elsewhere_or_too_much(tmp_path, server, name):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as made:
        for item in EVIL[name]:
            made.addfile(item, io.BytesIO(b"a" * item.size))
    server.content = buffer.getvalue()
    with pytest.raises(InputError):
        get(server, tmp_path / "data", archive(server.content))
    assert [path.name for path in tmp_path.rglob("*")] == ["data"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "checksum", "bomb behind the end"])
def test_a_damaged_archive_leaves_nothing(tmp_path, server, stability, damage):
    middle = len(stability) // 2
    server.content = {
        "truncated": stability[:-20],
        "flipped": stability[:middle] + bytes([stability[middle] ^ 255]) + stability[middle + 1 :],
        "checksum": stability[:-8] + b"\0" * 8,
        "bomb behind the end": gzip.compress(gzip.decompress(stability) + bytes(8 * LARGEST)),
    }[damage]
    assert_refused(server, tmp_path / "data", archive(server.content, unpacked=2 * LARGEST), "stability.tar.gz: ")
    assert not [*(tmp_path / "data").iterdir()]


def test_what_is_published_is_where_it_is_published():
    tasks = [archive.task for archive in tape.TAPE]
    assert sorted(tasks) == [
        "fluorescence",
        "pfam",
        "proteinnet",
        "remote_homology",
        "secondary_structure",
        "stability",
    ]
    assert tape.ADDRESS == "https://s3.amazonaws.com/songlabdata/proteindata/data_pytorch"
    with pytest.raises(InputError, match="protein is not one of"):
        list(tape.fetch_all(Path("nowhere"), ("protein",)))
    assert pickle.loads(pickle.dumps(tape.TAPE)) == tape.TAPE

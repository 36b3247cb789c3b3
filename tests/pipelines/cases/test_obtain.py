"""What sources have in common, without a network: the server is on this machine."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.cases.formats import manifest
from pipelines.cases.obtain import check_digest, content_digest, download, local_files, write_manifest


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.bin").write_bytes(b"content")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_is_downloaded(address: str, tmp_path: Path) -> None:
    download(f"{address}a.bin", tmp_path / "out" / "a.bin", "put it there")
    assert (tmp_path / "out" / "a.bin").read_bytes() == b"content"


def test_a_file_that_cannot_be_had_is_told_with_the_way_out(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"b\.bin: cannot be downloaded \(.*404.*\); .* or put it there"):
        download(f"{address}b.bin", tmp_path / "b.bin", "put it there")
    assert not (tmp_path / "b.bin").exists()


def test_a_folder_and_a_zip_hold_the_same_files(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    assert local_files(folder) == {}
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a/b.txt", "x")
    assert {name: file.read_bytes() for name, file in local_files(folder).items()} == {"a/b.txt": b"x"}
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "b.txt").write_text("y")
    assert {name: file.read_bytes() for name, file in local_files(folder).items()} == {"a/b.txt": b"y"}


def test_a_damaged_zip_is_told(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"set\.zip: not a zip file"):
        local_files(tmp_path / "set")


def test_a_digest_is_of_names_and_contents_and_not_of_their_order() -> None:
    contents = {"a": b"1", "b": b"2"}
    digest = content_digest(contents)
    assert content_digest(dict(reversed(contents.items()))) == digest
    assert content_digest({"a": b"2", "b": b"1"}) != digest
    check_digest(contents, digest, "here")
    with pytest.raises(ValueError, match=r"here: the digest of its 2 files is .*, not 00; a file was changed"):
        check_digest(contents, "00", "here")


def test_a_table_is_read_back(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, ("case_id", "image", "label"), [("a", "a.png", "b.png")], '{"channels": ["EM"]}')
    raw = manifest.read(path)
    assert raw.info.channels == ("EM",)
    assert raw.entries[0].label_path == str(tmp_path / "b.png")

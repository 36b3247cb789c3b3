"""The download against a server on this machine, with files and digests of its own."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.cases.formats import planetoid as planetoid_format
from pipelines.cases.sources import planetoid

FILES = {"ind.a.x": b"first", "ind.a.y": b"second"}
SHARED = Path(__file__).parents[4] / "../shared/data/planetoid/data"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder whose files the source takes for those of the authors."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(planetoid, "ADDRESS", f"http://127.0.0.1:{server.server_port}/")
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(planetoid, "SHA256", digests)
    monkeypatch.chdir(tmp_path)
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def test_files_are_downloaded(served: Path, tmp_path: Path) -> None:
    assert planetoid.make(tmp_path / "out") == tmp_path / "out"
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == FILES


def test_a_file_with_another_digest_is_refused_and_not_kept(served: Path, tmp_path: Path) -> None:
    (served / "ind.a.y").write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"ind\.a\.y: its SHA-256 is \w{64}, not \w{64}; the file was changed"):
        planetoid.make(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ind.a.x"]


def test_a_file_that_is_not_there_is_told_with_the_way_out(served: Path, tmp_path: Path) -> None:
    (served / "ind.a.x").unlink()
    with pytest.raises(ValueError, match=r"ind\.a\.x: cannot be downloaded \(.*404.*put the files into data/planetoid"):
        planetoid.make(tmp_path / "out")


def test_a_server_out_of_reach_is_told(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planetoid, "ADDRESS", "http://127.0.0.1:9/")
    with pytest.raises(ValueError, match="cannot be downloaded"):
        planetoid.make(tmp_path / "out")


def local(folder: Path, **contents: bytes) -> None:
    (folder / planetoid.LOCAL_DIR).mkdir(parents=True)
    for name, content in contents.items():
        (folder / planetoid.LOCAL_DIR / f"ind.a.{name}").write_bytes(content)


def test_files_in_the_local_folder_are_taken_from_there(served: Path, tmp_path: Path) -> None:
    local(tmp_path, x=b"first", y=b"second")
    (served / "ind.a.x").unlink()
    assert planetoid.make(tmp_path / "out") == planetoid.LOCAL_DIR
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        ({"x": b"first"}, r"data/planetoid/ind\.a\.y: missing, while others are there; copy it from http"),
        ({"x": b"first", "y": b"changed"}, r"data/planetoid/ind\.a\.y: its SHA-256 is"),
    ],
    ids=["missing", "changed"],
)
def test_a_local_file_that_is_wrong_is_told(
    served: Path, tmp_path: Path, contents: dict[str, bytes], told: str
) -> None:
    local(tmp_path, **contents)
    with pytest.raises(ValueError, match=told):
        planetoid.make(tmp_path / "out")


def test_the_files_are_those_of_two_graphs() -> None:
    expected = [*planetoid_format.file_names("cora"), *planetoid_format.file_names("citeseer")]
    assert sorted(planetoid.SHA256) == sorted(expected)


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/planetoid is not there")
def test_the_digests_are_those_of_the_real_files() -> None:
    for name, digest in planetoid.SHA256.items():
        assert hashlib.sha256((SHARED / name).read_bytes()).hexdigest() == digest, name

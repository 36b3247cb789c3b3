"""Cora and Citeseer with the splits of Planetoid (Yang, Cohen and Salakhutdinov, 2016, arXiv 1603.08861).

The graphs are of Sen et al. (2008): papers that cite each other, described by the words they use. The files are those
of the authors' repository at one commit; the repository is under the MIT licence, the graphs come without one.

The data set's name in params.yaml says which graph it is: `cora` or `citeseer`. Where `data/planetoid` has the files,
they are taken from there, else downloaded (2 MB); either way their digests must be those below.
"""

from __future__ import annotations

import hashlib
import urllib.request
from pathlib import Path

from pipelines.atomic_files import atomic_path

ADDRESS = "https://raw.githubusercontent.com/kimiyoung/planetoid/af6abf468a772cc055bec88c52e4d6f51b7c37e3/data/"
LOCAL_DIR = Path("data/planetoid")
TIMEOUT_S = 60.0

SHA256 = {
    "ind.citeseer.allx": "2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668",
    "ind.citeseer.ally": "f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95",
    "ind.citeseer.graph": "d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7",
    "ind.citeseer.test.index": "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4",
    "ind.citeseer.tx": "539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21",
    "ind.citeseer.ty": "55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce",
    "ind.citeseer.x": "d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6",
    "ind.citeseer.y": "8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924",
    "ind.cora.allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
    "ind.cora.ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
    "ind.cora.graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
    "ind.cora.test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
    "ind.cora.tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
    "ind.cora.ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
    "ind.cora.x": "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab",
    "ind.cora.y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
}


def make(folder: Path) -> Path:
    """Give a folder with the files of both graphs.

    Args:
        folder: gets the files where `data/planetoid` has none of them.

    Raises:
        ValueError: a file is not the one it should be, or cannot be downloaded.
    """
    if any((LOCAL_DIR / name).exists() for name in SHA256):
        for name in SHA256:
            if not (LOCAL_DIR / name).exists():
                raise ValueError(f"{LOCAL_DIR / name}: missing, while others are there; copy it from {ADDRESS}{name}")
            _check(str(LOCAL_DIR / name), (LOCAL_DIR / name).read_bytes(), SHA256[name])
        return LOCAL_DIR
    for name in SHA256:
        _download(name, folder / name)
    return folder


def _download(name: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(ADDRESS + name, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read()
    except OSError as error:
        raise ValueError(
            f"{ADDRESS}{name}: cannot be downloaded ({error}); run the same command again later, or put the files into "
            f"{LOCAL_DIR}"
        ) from error
    _check(ADDRESS + name, content, SHA256[name])
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _check(place: str, content: bytes, expected: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise ValueError(
            f"{place}: its SHA-256 is {digest}, not {expected}; the file was changed or cut short: get it again from "
            f"{ADDRESS}"
        )

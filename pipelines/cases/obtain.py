"""Files of a published data set: from a folder or zip that somebody put under data/, or downloaded."""

from __future__ import annotations

import hashlib
import shutil
import urllib.request
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipelines.atomic_files import atomic_path

TIMEOUT_S = 60.0
# Of a file in a folder or in a zip; what is asked of it is `read_bytes`.
Held = Path | zipfile.Path


def local_files(place: Path) -> dict[str, Held]:
    """Files of the folder `place`, or of `place.zip` beside where it would be; none where there is neither.

    Returns:
        Path below the folder, or name in the zip, to the file; sorted.

    Raises:
        ValueError: the zip is damaged.
    """
    archive = place.with_name(f"{place.name}.zip")
    if place.is_dir():
        return {path.relative_to(place).as_posix(): path for path in sorted(place.rglob("*")) if path.is_file()}
    return archived_files(archive) if archive.is_file() else {}


def archived_files(archive: Path) -> dict[str, Held]:
    """Files of a zip, by their names in it, sorted.

    Raises:
        ValueError: it is damaged.
    """
    try:
        opened = zipfile.ZipFile(archive)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive}: not a zip file ({error}); copy it again from where it came") from error
    return {name: zipfile.Path(opened, name) for name in sorted(opened.namelist()) if not name.endswith("/")}


def download(address: str, path: Path, remedy: str) -> None:
    """Fetch a file; there is none where it fails.

    Args:
        address: of the file.
        path: where to put it.
        remedy: what to do where it cannot be had, for the message.

    Raises:
        ValueError: it cannot be had.
    """
    try:
        with (
            urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer,
            atomic_path(path) as temporary,
            temporary.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise ValueError(
            f"{address}: cannot be downloaded ({error}); run the same command again later, or {remedy}"
        ) from error


def content_digest(contents: Mapping[str, bytes]) -> str:
    """Sha256 over the sorted lines "sha256  name" of some files."""
    lines = sorted(f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in contents.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_digest(contents: Mapping[str, bytes], expected: str, place: str) -> None:
    """Compare files with the digest that `content_digest` gave of the right ones.

    Raises:
        ValueError: they differ.
    """
    digest = content_digest(contents)
    if digest != expected:
        raise ValueError(
            f"{place}: the digest of its {len(contents)} files is {digest}, not {expected}; a file was changed or cut "
            "short: get them again"
        )


def write_manifest(folder: Path, columns: Iterable[str], rows: Iterable[Iterable[object]], described: str) -> Path:
    """Write `manifest.csv`, and `manifest.json` with what `described` says of it (`pipelines.cases.formats.manifest`).

    Returns:
        Path of the table.
    """
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    table = folder / "manifest.csv"
    for path, text in ((table, "\n".join(lines) + "\n"), (table.with_suffix(".json"), described)):
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return table

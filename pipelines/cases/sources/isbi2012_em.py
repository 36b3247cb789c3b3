"""Membranes in electron microscopy: the 30 training sections of the ISBI 2012 challenge.

Serial sections of the ventral nerve cord of a first instar larva of Drosophila, 512 x 512 pixels, with labels of cells
parted by membranes (Arganda-Carreras et al., 2015, doi 10.3389/fnana.2015.00142); the data of the U-Net paper. The
labels of the 30 test sections were never published, so these are left out. The challenge gave them free for research
with citation.

Where data/isbi2012_em, or data/isbi2012_em.zip, has train/image/N.png and train/label/N.png for N of 0 to 29, they are
taken from there, else downloaded (7 MB); either way the digest of all 60 must be the one below.

The sections are consecutive, so neighbours look alike. Folds are five blocks of six sections, which keeps all but the
sections at the ends of a block away from their neighbours; a study of them sets `split.num_folds: 5`. All sections
are of one animal: intervals speak of other sections of it and of no other animal.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.atomic_files import atomic_path
from pipelines.cases.obtain import check_digest, download, local_files, write_manifest

ADDRESS = "https://raw.githubusercontent.com/zhixuhao/unet/b45af4d458437d8281cc218a07fd4380818ece4a/data/membrane/"
LOCAL_DIR = Path("data/isbi2012_em")
NUM_SECTIONS = 30
SECTIONS_PER_FOLD = 6
DIGEST = "7c50287c1f25a5cf750dcaf0c4d0ca3165333a11d5143cc9a3d146b8e89d567b"
DESCRIBED = {
    "labels": {"membrane": 0, "cell": 1},
    "channels": ["EM"],
    "measures": ["pixel_error", "rand_error"],
    "description": "consecutive sections of one Drosophila larva (ISBI 2012)",
}


def make(folder: Path) -> Path:
    """Write the sections, their labels and a table of them.

    Args:
        folder: gets the files.

    Raises:
        ValueError: a file is missing, is not the one it should be, or cannot be downloaded.
    """
    names = [f"train/{kind}/{number}.png" for number in range(NUM_SECTIONS) for kind in ("image", "label")]
    held = local_files(LOCAL_DIR)
    contents = {}
    for name in names:
        if not held:
            download(ADDRESS + name, folder / name, f"put the files into {LOCAL_DIR}")
            contents[name] = (folder / name).read_bytes()
            continue
        # A zip may have a folder around them.
        found = next((path for path in held if path == name or path.endswith(f"/{name}")), None)
        if found is None:
            raise ValueError(f"{LOCAL_DIR}: {name} is missing, while others are there; copy it from {ADDRESS}{name}")
        contents[name] = held[found].read_bytes()
    check_digest(contents, DIGEST, str(LOCAL_DIR) if held else ADDRESS)
    for name, content in contents.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)
    rows = [
        (f"section_{number:02}", f"train/image/{number}.png", f"train/label/{number}.png", number // SECTIONS_PER_FOLD)
        for number in range(NUM_SECTIONS)
    ]
    return write_manifest(folder, ("case_id", "image", "label", "fold"), rows, json.dumps(DESCRIBED, indent=2) + "\n")

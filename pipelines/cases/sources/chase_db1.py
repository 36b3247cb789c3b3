"""Vessels in photographs of the retina: CHASE_DB1 (Fraz et al., 2012, doi 10.1109/TBME.2012.2205687).

Both eyes of 14 children, 999 x 960 pixels in colour, vessels drawn by two observers; the first one's are the labels, as
is usual. The data set came without a split. Here the eyes of children 11 to 14 are the test cases, which are the last
8 of 28 images, as in most later papers; the others have five folds of two children each, so a study of them sets
`split.num_folds: 5`. Both eyes of a child are always on one side.

Where data/chase_db1, or data/chase_db1.zip, has Image_01L.jpg to Image_14R.jpg and Image_01L_1stHO.png to
Image_14R_1stHO.png, they are taken from there, else downloaded (2 MB); either way the digest of all 56 must be the one
below. No mask of the field of view was published: all pixels are scored, the black ones around the retina too, which
flatters specificity and AUC.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.atomic_files import atomic_path
from pipelines.cases.obtain import check_digest, download, local_files, write_manifest

ADDRESS = "https://raw.githubusercontent.com/mipple1986/data/92b9449a2e7a38dbd4c62825418dafcd5eba4fec/CHASEDB1/"
LOCAL_DIR = Path("data/chase_db1")
NUM_CHILDREN = 14
FIRST_TEST_CHILD = 11
NUM_FOLDS = 5
DIGEST = "8c65ead1f7a9dccbf41c840ddd1e350d85624e5061e53b61799c89cbdcf4fd2b"
DESCRIBED = {
    "labels": {"background": 0, "vessel": 1},
    "channels": ["red", "green", "blue"],
    "measures": ["auc", "sensitivity", "specificity"],
    "description": "photographs of the retina of children; labels of the first observer (CHASE_DB1)",
}


def make(folder: Path) -> Path:
    """Write the photographs, their labels and a table of them.

    Args:
        folder: gets the files.

    Raises:
        ValueError: a file is missing, is not the one it should be, or cannot be downloaded.
    """
    eyes = [(child, f"Image_{child:02}{side}") for child in range(1, NUM_CHILDREN + 1) for side in "LR"]
    names = [name for _, eye in eyes for name in (f"{eye}.jpg", f"{eye}_1stHO.png")]
    held = local_files(LOCAL_DIR)
    contents = {}
    for name in names:
        if not held:
            download(ADDRESS + name, folder / name, f"put the files into {LOCAL_DIR}")
            contents[name] = (folder / name).read_bytes()
            continue
        found = next((path for path in held if Path(path).name == name), None)
        if found is None:
            raise ValueError(f"{LOCAL_DIR}: {name} is missing, while others are there; copy it from {ADDRESS}{name}")
        contents[name] = held[found].read_bytes()
    check_digest(contents, DIGEST, str(LOCAL_DIR) if held else ADDRESS)
    for name, content in contents.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)
    rows = []
    for child, eye in eyes:
        is_test = child >= FIRST_TEST_CHILD
        place = ("test", "") if is_test else ("train", (child - 1) % NUM_FOLDS)
        rows.append((eye.removeprefix("Image_"), f"{eye}.jpg", f"{eye}_1stHO.png", f"child_{child:02}", *place))
    columns = ("case_id", "image", "label", "patient", "split", "fold")
    return write_manifest(folder, columns, rows, json.dumps(DESCRIBED, indent=2) + "\n")

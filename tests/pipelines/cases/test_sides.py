from __future__ import annotations

import pytest

from pipelines.cases.sides import sided_pair


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (("background", "left grey matter", "right grey matter"), ("left grey matter", "right grey matter")),
        (("right kidney", "left kidney"), ("left kidney", "right kidney")),
        (("Kidney_L", "kidney_r"), ("Kidney_L", "kidney_r")),
        (("LeftLung", "rightlung"), ("LeftLung", "rightlung")),
        (("anterior", "posterior"), None),
        (("left atrium", "right ventricle"), None),
        (("left", "liver"), None),
    ],
)
def test_sided_labels_are_found_left_first(names: tuple[str, ...], pair: tuple[str, str] | None) -> None:
    assert sided_pair(names) == pair

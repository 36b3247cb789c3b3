from __future__ import annotations

from typing import Any, Literal

import pytest

from pipelines.planning.overrides import is_of, network_config
from repro_models import registry

_NNUNET, _SWIN = registry.load("segmentation/nnunet").Config(), registry.load("segmentation/swin_unetr").Config()


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (_NNUNET, "residual_blocks", 3),
        (_NNUNET, "residual_blocks", [1, "3"]),
        (_NNUNET, "base_features", 8.0),
        (_NNUNET, "base_features", True),
        (_NNUNET, "deep_supervision", 1),
        (_NNUNET, "strides", "222"),
        (_SWIN, "depths", 2),
    ],
)
def test_a_value_of_another_kind_is_told_with_the_default(config: Any, field: str, value: Any) -> None:
    with pytest.raises(ValueError) as error:
        network_config(config, {field: value})
    assert str(error.value) == (
        f"override network.{field} is {value!r}; it must be of a kind with its default {getattr(config, field)!r}"
    )


@pytest.mark.parametrize(
    ("config", "field", "value", "kept"),
    [
        (_NNUNET, "residual_blocks", [1, 3], (1, 3)),
        (_NNUNET, "residual_blocks", None, None),
        (_NNUNET, "strides", [1, [1, 2, 2]], (1, (1, 2, 2))),
        (_NNUNET, "negative_slope", 0, 0),
        (_NNUNET, "deep_supervision", False, False),
        (_SWIN, "depths", [2, 2], (2, 2)),
    ],
)
def test_a_value_of_the_right_kind_replaces_the_default(config: Any, field: str, value: Any, kept: Any) -> None:
    assert getattr(network_config(config, {field: value}), field) == kept


def test_an_unknown_field_is_told_with_near_names() -> None:
    with pytest.raises(ValueError, match="unknown override network 'base_feature'; valid are base_features, "):
        network_config(_NNUNET, {"base_feature": 8})


@pytest.mark.parametrize(
    ("hint", "value", "is_kept"),
    [
        (Literal["batch", "instance"], "batch", True),
        (Literal["batch", "instance"], "group", False),
        (Any, {"name": "relu"}, True),
    ],
)
def test_a_field_of_few_values_takes_these_and_one_of_any_kind_takes_all(hint: Any, value: Any, is_kept: bool) -> None:
    assert is_of(hint, value) is is_kept

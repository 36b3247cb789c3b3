"""The studies that ship are read, and the quickstart is what `params.yaml` holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.params import read_params
from repro_models import registry

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_a_study_is_read_and_its_architectures_exist(path: Path) -> None:
    study = read_params(path)
    ours = {str(study.entry(name).architecture) for name in study.architectures if not study.entry(name).target}
    assert ours <= set(registry.names())


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_a_study_opens_with_a_comment(path: Path) -> None:
    first, second, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ")
    assert second.startswith("#")


def test_params_yaml_is_the_quickstart() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "studies" / "quickstart.yaml").read_bytes()

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.tiny_plan import TinyStudy


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """Cases, plans and prepared files of a tiny study; read only."""
    from tests.tiny_plan import make_tiny_study, one_after_the_other

    with pytest.MonkeyPatch.context() as patch:
        one_after_the_other(patch)
        return make_tiny_study(tmp_path_factory.mktemp("tiny_study"))

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cases.python_source import make_source


def test_a_file_makes_its_data_in_the_folder_given(tmp_path: Path) -> None:
    script = tmp_path / "source.py"
    script.write_text("def make(folder):\n    folder.mkdir()\n    (folder / 'made').touch()\n    return folder\n")
    assert make_source(script, tmp_path / "out") == tmp_path / "out"
    assert (tmp_path / "out" / "made").exists()


def test_a_file_without_make_is_told(tmp_path: Path) -> None:
    script = tmp_path / "source.py"
    script.write_text("")
    with pytest.raises(ValueError, match=r"source\.py: has no function make\(folder\)"):
        make_source(script, tmp_path)

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.tuning.saved_search import can_go_on


def save(folder: Path, session: str, trials: Sequence[str], known: Sequence[str]) -> None:
    """What Tune has on disk after a session, as far as it matters here."""
    folder.mkdir(exist_ok=True)
    (folder / "tuner.pkl").write_bytes(pickle.dumps({"a": 1}))
    state = {"trial_data": [[json.dumps({"trial_id": trial}), "{}"] for trial in trials]}
    (folder / f"experiment_state-{session}.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / f"search_gen_state-{session}.json").write_bytes(pickle.dumps({"counter": 1}))
    searcher = {"_ot_trials": dict.fromkeys(known)}
    (folder / f"searcher-state-{session}.pkl").write_bytes(pickle.dumps(searcher))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_state_that_is_whole_is_gone_on_from_and_kept(tmp_path: Path) -> None:
    save(tmp_path / "tune", "2026-01-01", ["a", "b"], ["a", "b", "c"])
    before = names(tmp_path / "tune")
    assert can_go_on(tmp_path / "tune")
    assert names(tmp_path / "tune") == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("file", ["experiment_state-2.json", "search_gen_state-2.json", "searcher-state-2.pkl"])
@pytest.mark.parametrize("damage", [cut, Path.unlink], ids=["cut", "gone"])
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path, file: str, damage: object) -> None:
    folder = tmp_path / "tune"
    for session in ("1", "2"):
        save(folder, session, ["a"], ["a"])
    assert callable(damage)
    damage(folder / file)
    is_seen = (folder / "experiment_state-2.json").exists()
    assert can_go_on(folder)
    assert not is_seen or not [name for name in names(folder) if "-2." in name]
    assert "experiment_state-1.json" in names(folder)


def test_a_trial_that_the_searcher_does_not_know_yet_damages_a_state(tmp_path: Path) -> None:
    save(tmp_path / "tune", "1", ["a", "b"], ["a"])
    assert not can_go_on(tmp_path / "tune")
    assert not (tmp_path / "tune").exists()


def test_nothing_can_be_gone_on_from_without_the_search_itself(tmp_path: Path) -> None:
    assert not can_go_on(tmp_path / "never")
    save(tmp_path / "tune", "1", ["a"], ["a"])
    cut(tmp_path / "tune" / "tuner.pkl")
    assert not can_go_on(tmp_path / "tune")

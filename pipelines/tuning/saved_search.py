"""Whether the state that Ray Tune left of a search can be gone on from.

Tune writes its state in several files, once a second, and copies them one after the other. A search that is killed in
that moment leaves files that are cut, or that do not fit together, and Tune would fail on them for ever.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

# Tune's files of one session, and a name for each (ray/tune/execution/tune_controller.py, 2.60).
_FILES = {
    "trials": "experiment_state-{}.json",
    "generator": "search_gen_state-{}.json",
    "searcher": "searcher-state-{}.pkl",
}


def can_go_on(experiment_dir: Path) -> bool:
    """Whether there is a state to go on from; states that are damaged are removed, so that Tune takes the one before.

    Args:
        experiment_dir: folder of Tune's state; removed where nothing in it is of use.
    """
    prefix, suffix = _FILES["trials"].split("{}")
    sessions = [path.name[len(prefix) : -len(suffix)] for path in experiment_dir.glob(f"{prefix}*{suffix}")]
    if _is_pickle(experiment_dir / "tuner.pkl"):
        for session in sorted(sessions, reverse=True):
            paths = {kind: experiment_dir / name.format(session) for kind, name in _FILES.items()}
            if _fit_together(paths):
                return True
            for path in paths.values():
                path.unlink(missing_ok=True)
    shutil.rmtree(experiment_dir, ignore_errors=True)
    return False


def _is_pickle(path: Path) -> bool:
    try:
        pickle.loads(path.read_bytes())
    except Exception:
        # What is cut may fail in any way.
        return False
    return True


def _fit_together(paths: dict[str, Path]) -> bool:
    """Whether all files are whole, and the searcher knows every trial."""
    if not _is_pickle(paths["generator"]):
        return False
    try:
        described = json.loads(paths["trials"].read_text(encoding="utf-8"))["trial_data"]
        known = pickle.loads(paths["searcher"].read_bytes())["_ot_trials"]
        return {json.loads(trial)["trial_id"] for trial, _ in described} <= known.keys()
    except Exception:
        return False

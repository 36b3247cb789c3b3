"""The search inside a study: what it finds is what is trained, and neither a kill nor Ctrl-C repeats what is done."""

import json
import os
import signal
import subprocess
import time

import pyarrow.parquet as pq
import pytest
import yaml
from tiny_study import PARAMS, copy_project, environment, ray_head, repro, write_params

# Ray starts four times.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ENTRY = "unet_3d_tiny"
STUDY = {
    "architectures": [ENTRY],
    "budget": PARAMS["budget"] | {"steps": 12, "steps_per_epoch": 2},
    "tuning": {"trials": 6, "reduction_factor": 2},
}
STAGE = f"tune@blobs-{ENTRY}"


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The study, its search killed in the second trial and interrupted in the fourth, then run to the end."""
    folder = copy_project(tmp_path_factory.mktemp("search"), **STUDY)
    repro(folder, "preprocess")
    kept = []
    for number, stop in ((1, signal.SIGKILL), (3, signal.SIGINT)):
        process = start(folder)
        wait_for_trials(folder, process, number)
        kept.append(finished_trials(folder))
        os.killpg(process.pid, stop)
        output, _ = process.communicate(timeout=120)
        assert process.returncode != 0
        if stop == signal.SIGINT:
            assert "interrupted: nothing is lost" in output
            assert "Traceback" not in output
    with ray_head(folder):
        ran = repro(folder)
    assert ran == [STAGE, f"train@blobs-{ENTRY}", f"evaluate@blobs-{ENTRY}", "compare@blobs"]
    return folder, kept


def start(folder):
    # One processor runs one trial at a time, so trials end in the order they began.
    command = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), "dvc", "repro", STAGE]
    return subprocess.Popen(
        command, cwd=folder, env=environment(), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finished_trials(folder):
    """Events of every trial that was trained to the end, by its file."""
    found = {}
    for path in folder.glob("work/tune/*/trials/*/events.jsonl"):
        content = path.read_text(encoding="utf-8")
        if content.count('"kind": "epoch"') == 6:
            found[path.relative_to(folder)] = content
    return found


def wait_for_trials(folder, process, number):
    deadline = time.monotonic() + 400
    while len(list(folder.glob("work/tune/*/trials/*/events.jsonl"))) <= number:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "the search did not get there"
        time.sleep(0.05)


def test_trials_that_were_finished_are_not_run_again(interrupted):
    folder, kept = interrupted
    assert kept[0]
    for finished in kept:
        for path, content in finished.items():
            assert (folder / path).read_text(encoding="utf-8") == content


def test_every_fold_has_its_trials_and_some_were_stopped_early(interrupted):
    folder, _ = interrupted
    rows = pq.read_table(folder / "tuned" / "blobs" / ENTRY / "trials.parquet").to_pylist()
    assert [row["trial"] for row in rows] == [f"fold{fold}_trial{number:03d}" for fold in (0, 1) for number in range(3)]
    statuses = {row["status"] for row in rows}
    assert statuses == {"finished", "stopped_early"}
    assert all(row["epochs"] == 6 for row in rows if row["status"] == "finished")
    assert all(row["epochs"] < 6 for row in rows if row["status"] == "stopped_early")
    assert len(list((folder / "tuned" / "blobs" / ENTRY / "events").glob("*.jsonl"))) == 6


def test_models_are_trained_by_what_the_search_found(interrupted):
    folder, _ = interrupted
    best = yaml.safe_load((folder / "tuned" / "blobs" / ENTRY / "best.yaml").read_text(encoding="utf-8"))
    model = json.loads((folder / "models" / "blobs" / ENTRY / "model.json").read_text(encoding="utf-8"))
    assert best["num_trials"] == 6
    assert model["plan"]["optimizer"]["learning_rate"] == best["folds"][0]["optimizer"]["learning_rate"]
    for training in model["trainings"]:
        found = best["folds"][training["fold"]]
        assert training["optimizer"] == found["optimizer"]
        assert training["network"]["norm"] == found["network"]["norm"]


def test_the_table_says_how_many_trials_an_entry_had(interrupted):
    folder, _ = interrupted
    rows = json.loads((folder / "reports" / "blobs" / "ranking.json").read_text(encoding="utf-8"))
    assert {row["entry"]: row.get("tuning") for row in rows}[ENTRY] == 6
    report = (folder / "reports" / "blobs" / "index.html").read_text(encoding="utf-8")
    assert "Settings of the trials" in report
    assert "Importance of the settings" in report


def test_naming_the_entries_to_search_for_runs_the_stage_but_no_trial_and_no_training(interrupted):
    folder, _ = interrupted
    assert repro(folder) == []
    trials = folder / "tuned" / "blobs" / ENTRY / "trials.parquet"
    before, searches = trials.read_bytes(), set(folder.glob("work/tune/*"))
    write_params(folder, **STUDY | {"tuning": STUDY["tuning"] | {"entries": [ENTRY]}})
    assert repro(folder) == [STAGE]
    assert trials.read_bytes() == before
    assert set(folder.glob("work/tune/*")) == searches

"""A study that is killed or interrupted loses nothing: run again, it ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest
from tiny_study import PARAMS, copy_project, environment, repro, weights

pytestmark = pytest.mark.slow

TRAIN = "train@blobs-nnunet_tiny"
BUDGET = PARAMS["budget"] | {"steps": 60, "steps_per_epoch": 5}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("uninterrupted"), budget=BUDGET)
    repro(folder, TRAIN)
    return weights(folder)


def start(folder):
    return subprocess.Popen(
        ["dvc", "repro", TRAIN], cwd=folder, env=environment(), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def steps_done(folder):
    done = 0
    for path in folder.glob("work/train/*/fold0_seed0/events.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            done = max(done, event.get("step", 0))
    return done


def wait_for_step(folder, process, step):
    deadline = time.monotonic() + 300
    while steps_done(folder) < step:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "the training did not get there"
        time.sleep(0.02)


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    assert len(left) == 2
    for name in left:
        assert left[name].keys() == right[name].keys()
        for key in left[name]:
            np.testing.assert_array_equal(left[name][key], right[name][key])


def kill_tree(process):
    # Whatever the run started, in its session or not, goes at once, as in a power cut.
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    children = {}
    for pid, parent in zip(listed[::2], listed[1::2], strict=True):
        children.setdefault(int(parent), []).append(int(pid))
    waiting = [process.pid]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def test_killed_at_a_random_step_the_weights_end_bit_equal(tmp_path, uninterrupted):
    folder = copy_project(tmp_path, budget=BUDGET)
    process = start(folder)
    wait_for_step(folder, process, random.choice([5, 10, 15, 20, 25, 30]))
    kill_tree(process)
    process.stdout.close()
    assert weights(folder) == {}
    lock = folder / ".dvc" / "tmp" / "rwlock"
    assert lock.parent.exists()
    repro(folder, TRAIN)
    assert_same_bits(weights(folder), uninterrupted)


def test_ctrl_c_in_training_saves_and_the_next_run_goes_on(tmp_path, uninterrupted):
    folder = copy_project(tmp_path, budget=BUDGET)
    process = start(folder)
    wait_for_step(folder, process, 10)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "interrupted: nothing is lost" in output
    assert "Traceback" not in output
    repro(folder, TRAIN)
    assert_same_bits(weights(folder), uninterrupted)
    starts = [
        json.loads(line)["step"]
        for line in next(folder.glob("work/train/*/fold0_seed0/events.jsonl")).read_text().splitlines()
        if '"epoch"' in line and "step" in json.loads(line)
    ]
    assert starts == sorted(set(starts)), "no epoch was trained twice"

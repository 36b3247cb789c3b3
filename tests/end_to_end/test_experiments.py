"""`dvc exp`, its queue, and remotes on the tiny study: what docs/how-to/experiments.md says one can do."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import time
import urllib.request
from contextlib import closing

import numpy as np
import pytest
from tiny_study import copy_project, environment, ray_head, repro, weights, write_params

pytestmark = pytest.mark.slow

SETTINGS = {"tracking": {"uri": "sqlite:///mlflow.db"}}
METRICS = "results/blobs/nnunet_tiny/metrics.json"
PATIENCE_SECONDS = 600.0
KEYS = {"AWS_ACCESS_KEY_ID": "tiny", "AWS_SECRET_ACCESS_KEY": "tiny", "AWS_DEFAULT_REGION": "us-east-1"}


def run(folder, *command):
    process = subprocess.run(
        command, cwd=folder, env=environment(NO_PROXY="127.0.0.1", DVC_PAGER="", **KEYS),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A study that was run and committed, its data under DVC."""
    folder = copy_project(tmp_path_factory.mktemp("experiments"), **SETTINGS)
    run(folder, "git", "config", "user.name", "t")
    run(folder, "git", "config", "user.email", "t@t")
    run(folder, "dvc", "add", "-q", "data/blobs")
    with ray_head(folder):
        repro(folder)
        run(folder, "git", "add", "-A")
        run(folder, "git", "commit", "-qm", "study")
        yield folder
        run(folder, "dvc", "queue", "stop", "--kill")


@pytest.fixture(scope="module")
def steeper(project):
    """An experiment that ran in the checkout."""
    run(project, "dvc", "exp", "run", "-n", "steeper", "-S", "+training.optimizer.learning_rate=0.02")
    return "steeper"


@pytest.fixture(scope="module")
def shorter(project, steeper):
    """An experiment that ran in the queue, while the checkout holds the commit again."""
    back_to_the_commit(project)
    run(project, "dvc", "exp", "run", "--queue", "-n", "shorter", "-S", "budget.steps=4")
    run(project, "dvc", "queue", "start")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(state in status(project, "shorter") for state in ("Queued", "Running")):
        assert time.monotonic() < deadline
        time.sleep(2.0)
    assert "Success" in status(project, "shorter"), run(project, "dvc", "queue", "logs", "shorter")
    return "shorter"


def status(folder, name):
    lines = run(folder, "dvc", "queue", "status").splitlines()
    return next(line for line in lines if f" {name} " in line)


def back_to_the_commit(folder):
    run(folder, "git", "checkout", "-q", "--", ".")
    run(folder, "dvc", "checkout", "-q")


def table(folder):
    """Name -> values of an experiment, as `dvc exp show` knows them."""
    (commit,) = [row for row in json.loads(run(folder, "dvc", "exp", "show", "--json")) if row["rev"] != "workspace"]
    shown = {"commit": commit["data"]}
    shown |= {row["name"]: row["revs"][0]["data"] for row in commit["experiments"] or []}
    return {
        name: (data["metrics"][METRICS]["data"], data["params"]["params.yaml"]["data"]) for name, data in shown.items()
    }


def runs_of(folder, name):
    """Kind of each MLflow run of an experiment -> the commit it is based on."""
    query = (
        "select kind.value, base.value from tags exp join tags kind using (run_uuid) join tags base using (run_uuid) "
        "where exp.key = 'dvc.exp' and exp.value = ? and kind.key = 'repro.kind' and base.key = 'dvc.baseline'"
    )
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return sorted(database.execute(query, [name]).fetchall())


@pytest.mark.parametrize("name", ["steeper", "shorter"])
def test_the_name_of_an_experiment_reaches_mlflow(project, name, request):
    request.getfixturevalue(name)
    head = run(project, "git", "rev-parse", "HEAD").strip()
    assert runs_of(project, name) == [("entry", head), ("training", head), ("training", head)]


def test_an_experiment_in_the_queue_leaves_the_checkout_as_it_is(project, shorter):
    assert run(project, "git", "status", "--porcelain") == ""
    assert run(project, "dvc", "status").strip() == "Data and pipelines are up to date."
    assert list((project / ".dvc" / "tmp" / "exps").glob("tmp*")) == []


def test_the_table_has_settings_and_scores_of_the_commit_and_of_each_experiment(project, steeper, shorter):
    shown = table(project)
    assert shown.keys() == {"commit", "steeper", "shorter"}
    scores = {name: metrics["validation"]["dice"] for name, (metrics, _) in shown.items()}
    assert len(set(scores.values())) == 3, "each has scores of its own"
    assert {name: params["budget"]["steps"] for name, (_, params) in shown.items()} == {
        "commit": 6,
        "steeper": 6,
        "shorter": 4,
    }
    assert shown["steeper"][1]["training"]["optimizer"] == {"learning_rate": 0.02}


def test_the_difference_of_two_experiments_names_settings_and_scores(project, steeper, shorter):
    told = json.loads(run(project, "dvc", "exp", "diff", "--json", steeper, shorter))
    assert told["params"]["params.yaml"]["budget.steps"] == {"old": 6, "new": 4, "diff": -2}
    assert {"old", "new", "diff"} == told["metrics"][METRICS]["validation.dice"].keys()


def test_an_applied_experiment_is_in_the_folders_and_the_commit_comes_back(project, steeper, shorter):
    def rate():
        return json.loads((project / "models/blobs/nnunet_tiny/model.json").read_text())["plan"]["optimizer"][
            "learning_rate"
        ]

    run(project, "dvc", "exp", "apply", "steeper")
    assert rate() == 0.02
    assert repro(project) == []
    back_to_the_commit(project)
    assert rate() == 0.01
    assert repro(project) == []


def test_settings_of_an_earlier_study_bring_its_files_back_though_its_lock_was_never_committed(project, steeper):
    run(project, "dvc", "exp", "apply", "steeper")
    (project / "dvc.lock").unlink()
    for name in ("plans", "prepared", "tuned", "models", "results", "reports"):
        shutil.rmtree(project / name)
    write_params(project, **SETTINGS)
    assert repro(project) == []
    assert run(project, "git", "status", "--porcelain") == "", "the lock is that of the commit"


@pytest.fixture(scope="module")
def s3():
    """Address of an S3 server of this machine with the bucket `study`."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(f"{address}/study", method="PUT")):
        yield address
    server.stop()


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_clone_pulls_what_was_pushed_and_trains_nothing(project, steeper, kind, tmp_path, request):
    def add_remote(folder):
        url = "s3://study/dvc" if kind == "s3" else str(tmp_path / "store")
        run(folder, "dvc", "remote", "add", "--local", "-f", "-d", "store", url)
        if kind == "s3":
            run(folder, "dvc", "remote", "modify", "--local", "store", "endpointurl", request.getfixturevalue("s3"))

    def assert_has_weights_of(pulled, pushed):
        assert pulled.keys() == pushed.keys()
        for name in pushed:
            for key in pushed[name]:
                np.testing.assert_array_equal(pulled[name][key], pushed[name][key])

    back_to_the_commit(project)
    add_remote(project)
    hub, clone = tmp_path / "hub", tmp_path / "clone"
    run(tmp_path, "git", "init", "-q", "--bare", str(hub))
    run(project, "git", "push", "-q", str(hub), "HEAD:refs/heads/master")
    run(project, "dvc", "push", "--run-cache")
    run(project, "dvc", "exp", "push", str(hub), steeper)
    run(tmp_path, "git", "clone", "-q", "-b", "master", str(hub), str(clone))
    add_remote(clone)
    run(clone, "dvc", "pull", "--run-cache")
    assert run(clone, "dvc", "status").strip() == "Data and pipelines are up to date."
    assert_has_weights_of(weights(clone), weights(project))
    assert (clone / "data" / "blobs" / "dataset.json").is_file(), "data under DVC come along"
    run(clone, "dvc", "exp", "pull", "origin", steeper)
    run(clone, "git", "config", "user.name", "t")
    run(clone, "git", "config", "user.email", "t@t")
    run(clone, "dvc", "exp", "apply", steeper)
    run(project, "dvc", "exp", "apply", steeper)
    assert_has_weights_of(weights(clone), weights(project))
    assert repro(clone) == []

"""Every stage as dvc.yaml calls it, in one process: what it writes, and what Ctrl-C leaves."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny_plan import DATASET, ENTRY, PARAMS, TinyStudy, one_after_the_other

ROOT = Path(__file__).parents[2]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
HINT = "interrupted: nothing is lost; run the same command again to go on"


def filled(text: str) -> str:
    """A text of dvc.yaml for the one data set and entry."""
    values = {"key": DATASET, "item.dataset": DATASET, "item.entry": ENTRY}
    return re.sub(r"\$\{([^}]*)\}", lambda match: values[match[1]], text)


def described(stage: str) -> dict[str, Any]:
    return STAGES[stage].get("do", STAGES[stage])


def outputs(stage: str) -> list[Path]:
    listed = [item for kind in ("outs", "metrics", "plots") for item in described(stage).get(kind, [])]
    return [Path(filled(item if isinstance(item, str) else next(iter(item)))) for item in listed]


def call(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = filled(described(stage)["cmd"]).split()
    assert command[:3] == ["python", "-m", f"stages.{stage}"]
    monkeypatch.setattr(sys, "argv", [f"stages/{stage}.py", *command[3:]])
    importlib.import_module(f"stages.{stage}").main()


def files_in(paths: list[Path]) -> list[Path]:
    return [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]


@pytest.fixture(scope="module")
def project(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny_study.root / "data", folder / "data")
    params = PARAMS | {"architectures": [ENTRY]}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    one_after_the_other(monkeypatch)
    monkeypatch.setattr("pipelines.training.folds.num_local_cpus", lambda: 1)
    monkeypatch.setattr("pipelines.training.folds.num_local_gpus", lambda: 0)


def test_every_box_of_the_graph_is_a_file() -> None:
    files = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert files == set(STAGES)


# In the order of the graph: each stage reads what the ones before it wrote.
@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_leaves_nothing_and_the_next_run_writes_everything(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    monkeypatch.chdir(project)
    outs = outputs(stage)
    assert files_in([path for path in outs if path.exists()]) == []

    def interrupt(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # The moment before the first file that the stage writes gets its name.
        patch.setattr(Path, "replace", interrupt)
        with pytest.raises(SystemExit) as end:
            call(stage, monkeypatch)
    assert end.value.code == 130
    told = capsys.readouterr().err
    assert told.splitlines()[-1] == HINT
    assert "Traceback" not in told
    assert files_in([path for path in outs if path.exists()]) == []
    assert list(project.rglob(f".{os.getpid()}-*")) == []

    call(stage, monkeypatch)
    for path in outs:
        assert path.exists(), path
    assert files_in(outs)


def test_the_outputs_fit_together(project: Path) -> None:
    ranking = json.loads((project / "reports" / DATASET / "ranking.json").read_text(encoding="utf-8"))
    assert {row["entry"] for row in ranking} == {ENTRY, "intensity_classifier"}
    assert {row["num_cases"] for row in ranking} == {4}
    plan = json.loads((project / "plans" / DATASET / f"{ENTRY}.json").read_text(encoding="utf-8"))
    sources = json.loads((project / "sources" / f"{ENTRY}.json").read_text(encoding="utf-8"))
    assert plan["sources"] == sources
    model = json.loads((project / "models" / DATASET / ENTRY / "model.json").read_text(encoding="utf-8"))
    assert model["plan"] == plan


# `tune` reads the plan alone.
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "tune"])
def test_a_mistake_in_params_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS | {"budgets": {}}), encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        call(stage, monkeypatch)
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: params.yaml: unknown key budgets; did you mean budget? Valid keys here: family")


@pytest.mark.parametrize(
    ("stage", "changes", "told"),
    [
        ("sources", {"architectures": ["nnunett"]}, "did you mean segmentation/nnunet"),
        ("sources", {"family": "segmentaton"}, "unknown architecture 'segmentaton/nnunet'"),
        ("sources", {"architectures": ["mamba"]}, "'segmentation/mamba': sequence/mamba is of another family"),
        ("sources", {"architectures": ["vision_mamba"]}, "classification/vision_mamba is of another family"),
        ("cases", {"family": "sequence"}, "family 'sequence' has networks, but a study cannot train them yet"),
        ("fingerprint", {"family": "segmentaton"}, "family 'segmentaton' is not known; params.yaml takes one of: "),
        ("cases", {"datasets": {DATASET: {"source": "nowhere"}}}, "nowhere: no such file or folder"),
        ("plan", {"budget": {"memory_gib": 1e-5}}, "budget.memory_gib is 1e-05, but for segmentation/nnunet"),
    ],
)
def test_what_a_stage_refuses_is_one_line(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    changes: dict[str, Any],
    told: str,
) -> None:
    monkeypatch.chdir(project)
    before = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(yaml.safe_dump(yaml.safe_load(before) | changes), encoding="utf-8")
    try:
        with pytest.raises(SystemExit) as end:
            call(stage, monkeypatch)
    finally:
        Path("params.yaml").write_text(before, encoding="utf-8")
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_an_interrupt_from_the_keyboard_ends_a_stage_with_the_hint(tmp_path: Path) -> None:
    (tmp_path / "source.py").write_text(
        "import time\ndef make(folder):\n    open('started', 'w').close()\n    time.sleep(120)\n", encoding="utf-8"
    )
    params = PARAMS | {"datasets": {DATASET: {"source": "source.py"}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    stage = subprocess.Popen(
        [sys.executable, "-m", "stages.cases", "--dataset", DATASET, "--out", "out"],
        cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(ROOT)), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists():
        assert stage.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(stage.pid, signal.SIGINT)
    output, _ = stage.communicate(timeout=60)
    assert (stage.returncode, output) == (130, HINT + "\n")
    assert files_in([tmp_path / "out"] if (tmp_path / "out").exists() else []) == []


@pytest.mark.parametrize("stage", STAGES)
def test_starting_a_stage_loads_neither_torch_nor_ray(stage: str) -> None:
    heavy = ("torch", "ray", "mlflow", "monai", "pandas")
    script = f"import sys, stages.{stage}; sys.exit(', '.join(n for n in {heavy!r} if n in sys.modules) or 0)"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")

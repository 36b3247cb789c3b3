from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.cli import main
from tests.tiny_plan import DATASET, ENTRY, PARAMS, TinyStudy, one_after_the_other

HEAVY = (
    "torch",
    "ray",
    "mlflow",
    "dvc",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "nibabel",
    "matplotlib",
    "yaml",
    "tqdm",
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_after_the_other(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS), encoding="utf-8")


def failure(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    script = f"""
import sys
from pipelines.cli import main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code
sys.exit(", ".join(name for name in {HEAVY!r} if name in sys.modules) or 0)
"""
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "usage: repro" in ended.stdout


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = failure(capsys=capsys)
    assert code == 2
    assert "COMMAND" in text


def test_check_counts_what_it_found(tiny_study: TinyStudy, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", str(tiny_study.root / "data" / "manifest.csv")])
    assert capsys.readouterr().out.splitlines()[-1].endswith("manifest.csv: 6 cases, 0 errors, 0 warnings, 0 notes")


def test_check_lists_errors_and_ends_with_code_1(tiny_study: TinyStudy, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny_study.root / "data", "data")
    Path("data/b1.nii.gz").write_bytes(Path("data/b1.nii.gz").read_bytes()[:100])
    with pytest.raises(SystemExit) as end:
        main(["check", "data/manifest.csv"])
    assert end.value.code == 1
    *findings, total = capsys.readouterr().out.splitlines()
    assert total == "data/manifest.csv: 6 cases, 1 error, 0 warnings, 0 notes"
    assert [line for line in findings if line.startswith("error: ") and "b1" in line]


def test_check_for_machines_is_one_document(tiny_study: TinyStudy, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny_study.root / "data", "data")
    Path("data/b1.nii.gz").unlink()
    Path("own.py").write_text("def make(folder):\n    print('working')\n    return 'data/manifest.csv'\n")
    with pytest.raises(SystemExit) as end:
        main(["check", "own.py", "--json"])
    assert end.value.code == 1
    document = json.loads(capsys.readouterr().out)
    (error,) = document.pop("findings")
    assert document == {"dataset": "own.py", "num_cases": 6}
    assert error == {
        "severity": "error",
        "kind": "missing-file",
        "case_id": "b1",
        "files": ["data/b1.nii.gz"],
        "message": "no such file",
        "remedy": "put it there, or take the case out of the data set",
    }


def test_check_of_nothing_tells_the_layouts(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = failure("check", "nowhere", capsys=capsys)
    assert code == 1
    assert "nowhere: no such file or folder" in text
    assert "Decathlon" in text


@pytest.fixture
def planned(tiny_study: TinyStudy) -> None:
    for kind in ("cases", "fingerprints"):
        shutil.copytree(tiny_study.folder(kind), Path(kind) / DATASET)


@pytest.mark.usefixtures("planned")
def test_plan_gives_reasons_for_an_entry_in_its_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", DATASET, "--architecture", ENTRY, "--explain"])
    title, *lines = capsys.readouterr().out.strip().splitlines()
    assert title == f"{ENTRY} 3d_fullres"
    assert "  patch_size: [16, 16, 16]" in lines
    assert any("patch: 16x16x16" in line for line in lines)
    assert any("batch: 2 " in line for line in lines)


@pytest.mark.usefixtures("planned")
def test_plan_without_a_name_shows_every_entry_and_no_reason(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", DATASET])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line and line[0] != " "] == [
        f"{entry} 3d_fullres" for entry in PARAMS["architectures"]
    ]
    assert not any("because" in line for line in lines)


@pytest.mark.usefixtures("planned")
def test_plan_takes_planner_preset_and_memory_in_place_of_the_entrys(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", DATASET, "--architecture", ENTRY, "--json"])
    as_entry = json.loads(capsys.readouterr().out)
    assert (as_entry["planner"], as_entry["preset"]) == ("house", None)
    settings = {"architecture": "nnunet", "planner": "nnunet", "preset": "M", "memory-gib": "1"}
    main(["plan", DATASET, "--json", *(f"--{name}={value}" for name, value in settings.items())])
    changed = json.loads(capsys.readouterr().out)
    assert (changed["dataset"], changed["entry"], changed["planner"], changed["preset"]) == (
        DATASET,
        "nnunet",
        "nnunet",
        "M",
    )
    fullres = changed["configurations"]["3d_fullres"]
    assert (fullres["network"]["residual_blocks"], fullres["features_per_stage"]) == ([1, 3, 4, 6], [32, 64, 128])
    assert fullres["memory"]["reference_elements"] == 680e6 / 8
    assert "0.25 is enough" in changed["refused"]["3d_lowres"]


@pytest.mark.usefixtures("planned")
def test_plan_of_our_folder_is_that_of_the_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--architecture", "nnunet", "--memory-gib", "1", "--json"]
    shown = []
    for data in (DATASET, f"fingerprints/{DATASET}"):
        main(["plan", data, *options])
        shown.append(json.loads(capsys.readouterr().out))
    assert shown[0]["configurations"].keys() == shown[1]["configurations"].keys() == {"2d", "3d_fullres"}
    for name, plan in shown[0]["configurations"].items():
        assert plan["patch_size"] == shown[1]["configurations"][name]["patch_size"]
    Path("params.yaml").unlink()
    main(["plan", f"fingerprints/{DATASET}", *options])
    assert json.loads(capsys.readouterr().out) == shown[1]


def test_plan_of_what_is_nothing_names_the_data_sets(capsys: pytest.CaptureFixture[str]) -> None:
    told = f"x: neither a data set of params.yaml ({DATASET}) nor a folder with a fingerprint; give such a name"
    assert told in failure("plan", "x", capsys=capsys)[1]
    Path("x").mkdir()
    assert told in failure("plan", "x", capsys=capsys)[1]


@pytest.mark.usefixtures("planned")
def test_a_folder_with_a_fingerprint_is_planned_beside_a_broken_study() -> None:
    Path("params.yaml").write_text("datasets: 3\n", encoding="utf-8")
    main(["plan", f"fingerprints/{DATASET}", "--memory-gib", "1"])


@pytest.mark.usefixtures("planned")
def test_plan_shows_all_configurations_of_an_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    params = PARAMS | {"budget": PARAMS["budget"] | {"memory_gib": 1.0}}
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    main(["plan", DATASET, "--architecture", "nnunet"])
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("nnunet ")]
    assert titles[:2] == ["nnunet 3d_fullres", "nnunet 2d"]
    assert titles[2].startswith(f"nnunet 3d_lowres: data set {DATASET} has no configuration 3d_lowres, because a patch")


@pytest.mark.usefixtures("planned")
def test_plan_of_an_unknown_architecture_names_the_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = failure("plan", DATASET, "--architecture", "nnunett", capsys=capsys)
    assert code == 1
    assert text.count("\n") == 1
    assert "unknown architecture 'segmentation/nnunett'" in text
    assert "did you mean segmentation/nnunet" in text


@pytest.mark.usefixtures("planned")
def test_plan_with_an_unknown_override_fails(capsys: pytest.CaptureFixture[str]) -> None:
    entries = {ENTRY: {"architecture": "nnunet", "overrides": {"patchsize": [8, 8, 8]}}}
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS | {"entries": entries}), encoding="utf-8")
    code, text = failure("plan", DATASET, "--architecture", ENTRY, capsys=capsys)
    assert code == 1
    assert "unknown override 'patchsize'; valid are patch_size" in text


def test_plan_before_the_cases_tells_what_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = failure("plan", DATASET, "--architecture", ENTRY, capsys=capsys)
    assert code == 1
    assert text == f"error: cases/{DATASET}: not there yet; run `dvc repro fingerprint@{DATASET}` first\n"


def test_models_lists_every_architecture_and_variant(capsys: pytest.CaptureFixture[str]) -> None:
    from repro_models import registry

    main(["models"])
    output = capsys.readouterr().out
    for name in registry.names():
        assert f"{name}: " in output
    assert "hippocampus_3d: 5,603,177 parameters" in output
    assert "residual: 102,349,770 parameters" in output
    assert "tiny: not counted (ours)" in output


def test_show_before_a_report_tells_what_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = failure("show", capsys=capsys)
    assert code == 1
    assert text == f"error: reports/{DATASET}: no report yet; run `dvc repro` first\n"


def test_show_prints_the_table_and_where_the_report_is(
    tiny_study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_study.folder("cases"), Path("cases") / DATASET)
    row = {
        "rank": 1, "entry": ENTRY, "score": 0.5, "score_low": 0.25, "score_high": 0.75, "measure": "dice",
        "classes": {"cube": {"dice": 0.5, "iou": 0.4, "hd95_mm": 2.0, "assd_mm": 1.0, "nsd": 0.5}},
        "num_cases": 4, "num_patients": 4, "num_cases_left_out": 0, "score_per_seed": {"0": 0.5},
        "score_std_over_seeds": None, "behind_first": None, "test": None, "is_reference": False, "tuning": None,
        "num_parameters": 1000, "train_seconds": 61.0,
    }  # fmt: skip
    report = Path("reports") / DATASET
    report.mkdir(parents=True)
    (report / "ranking.json").write_text(json.dumps([row]), encoding="utf-8")
    main(["show", DATASET])
    output = capsys.readouterr().out
    assert ENTRY in output
    assert "0.500 (0.250 to 0.750)" in output
    assert f"report: {(report / 'index.html').resolve().as_uri()}" in output


@pytest.mark.parametrize("command", ["sync", "ui"])
def test_without_tracking_there_is_nothing_to_tell_or_show(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = failure(command, capsys=capsys)
    assert code == 1
    assert "tracking.uri is none in params.yaml" in text


@pytest.mark.parametrize("command", ["show", "sync", "ui"])
def test_without_params_the_file_is_named(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").unlink()
    code, text = failure(command, capsys=capsys)
    assert code == 1
    assert text.startswith("error: params.yaml: no such file")


def use_tracking(uri: str) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS | {"tracking": {"uri": uri}}), encoding="utf-8")


def test_sync_before_a_training_tells_that_there_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    use_tracking("sqlite:///mlflow.db")
    main(["sync"])
    assert capsys.readouterr().out.splitlines() == [
        f"models/{DATASET}/{entry}: not trained yet, nothing to tell" for entry in PARAMS["architectures"]
    ]
    assert not Path("mlflow.db").exists()


def test_ui_of_a_server_names_its_address(capsys: pytest.CaptureFixture[str]) -> None:
    use_tracking("http://mlflow.example:5000")
    main(["ui"])
    assert capsys.readouterr().out == "MLflow is served at http://mlflow.example:5000\n"

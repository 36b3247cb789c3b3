"""What runs again when a study changes: DESIGN's table of stages, held by looking at what DVC ran."""

import copy

import pytest
from tiny_study import PARAMS, copy_project, make_blobs, ray_head, repro, write_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("graph"), architectures=["nnunet_tiny", "unet_3d_tiny"])
    with ray_head(folder):
        ran = repro(folder)
        assert ran[0] in ("sources", "cases@blobs")
        assert ran[-1] == "compare@blobs"
        assert len(ran) == 5 + 2 * 4
        yield folder


def trained(ran):
    return [stage for stage in ran if stage.startswith(("train@", "tune@", "evaluate@"))]


def test_nothing_runs_twice(project):
    write_params(project, architectures=["nnunet_tiny", "unet_3d_tiny"])
    assert repro(project) == []


def test_adding_an_entry_that_wants_other_preprocessing_runs_its_branch_alone(project):
    write_params(project, architectures=["nnunet_tiny", "unet_3d_tiny", "nnunet_2d_tiny"])
    ran = repro(project)
    assert trained(ran) == [f"{stage}@blobs-nnunet_2d_tiny" for stage in ("tune", "train", "evaluate")]
    assert "compare@blobs" in ran
    assert "cases@blobs" not in ran
    assert "fingerprint@blobs" not in ran


def test_editing_an_entry_runs_its_branch_alone(project):
    entries = copy.deepcopy(PARAMS["entries"])
    entries["unet_3d_tiny"]["overrides"] = {"learning_rate": 0.005}
    write_params(project, architectures=["nnunet_tiny", "unet_3d_tiny"], entries=entries)
    ran = repro(project)
    assert trained(ran) == [f"{stage}@blobs-unet_3d_tiny" for stage in ("tune", "train", "evaluate")]
    assert "compare@blobs" in ran


def test_dropping_an_entry_trains_nothing_and_leaves_it_out_of_the_table(project):
    write_params(project, architectures=["nnunet_tiny"])
    ran = repro(project)
    assert trained(ran) == []
    assert "compare@blobs" in ran
    table = (project / "reports" / "blobs" / "ranking.json").read_text(encoding="utf-8")
    assert "nnunet_tiny" in table
    assert "unet_3d_tiny" not in table


def test_going_back_to_an_earlier_study_trains_nothing(project):
    write_params(project, architectures=["nnunet_tiny", "unet_3d_tiny"])
    repro(project)
    model = project / "models" / "blobs" / "unet_3d_tiny" / "model.json"
    assert '"learning_rate": 0.01' in model.read_text(encoding="utf-8"), "the run cache restores the unedited entry"


def test_an_added_case_is_prepared_alone_and_moves_no_other_case(project):
    import pyarrow.parquet as pq

    def folds():
        table = pq.read_table(project / "cases" / "blobs" / "cases.parquet")
        return dict(zip(table["case_id"].to_pylist(), table["fold"].to_pylist(), strict=True))

    def prepared():
        return set((project / "work" / "preprocess").rglob("*.arrow"))

    write_params(project, architectures=["nnunet_tiny"])
    repro(project)
    folds_before, prepared_before = folds(), prepared()
    times_before = {path: path.stat().st_mtime_ns for path in prepared_before}
    make_blobs(project / "data" / "blobs", num_cases=7)
    ran = repro(project)
    assert trained(ran) == [f"{stage}@blobs-nnunet_tiny" for stage in ("tune", "train", "evaluate")]
    folds_after = folds()
    assert {case: folds_after[case] for case in folds_before} == folds_before
    assert set(folds_after) - set(folds_before) == {"blob_06"}
    assert len(prepared() - prepared_before) == 1
    assert {path: path.stat().st_mtime_ns for path in prepared_before} == times_before

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from pipelines.atomic_files import DiskFullError
from pipelines.cases.case import Case
from pipelines.planning.plan import Preprocessing
from pipelines.preprocessing import prepare
from pipelines.preprocessing.prepare import needed_bytes, prepare_case, prepare_dataset
from pipelines.preprocessing.shards import open_case, write_case

FULLRES = Preprocessing("3d_fullres", (0, 1, 2), (1.0, 1.0, 1.0), ("zscore",), (False,), ({},))


def scan(shape: tuple[int, ...] = (6, 8, 10)) -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((1, *shape), np.float32)
    inner = tuple(slice(1, size - 1) for size in shape)
    image[(0, *inner)] = np.random.default_rng(0).normal(100, 10, [size - 2 for size in shape])
    label = np.zeros(shape, np.int16)
    label[2:4, 2:4, 2:5] = 1
    return image, label


def test_unit_spacing_is_crop_and_zscore() -> None:
    image, label = scan()
    prepared = prepare_case(image, label, (1, 1, 1), FULLRES)
    inner = image[:, 1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(prepared.image, (inner - inner.mean()) / inner.std(), atol=1e-4)
    np.testing.assert_array_equal(prepared.label, label[1:-1, 1:-1, 1:-1])
    assert prepared.properties == {
        "shape": [6, 8, 10],
        "spacing_mm": [1.0, 1.0, 1.0],
        "transpose_forward": [0, 1, 2],
        "box": [[1, 5], [1, 7], [1, 9]],
        "shape_after_crop": [4, 6, 8],
        "shape_after_resampling": [4, 6, 8],
        "spacing_after_mm": [1.0, 1.0, 1.0],
    }
    assert len(prepared.locations[1]) == 12


def test_transposition_comes_first() -> None:
    image, label = scan()
    turned = dataclasses.replace(FULLRES, transpose_forward=(2, 0, 1), spacing_mm=(3.0, 1.0, 1.0))
    prepared = prepare_case(image, label, (1, 1, 3), turned)
    assert prepared.image.shape == (1, 8, 4, 6)
    assert prepared.properties["box"] == [[1, 9], [1, 5], [1, 7]]
    plain = prepare_case(image, label, (1, 1, 1), FULLRES)
    np.testing.assert_array_equal(prepared.image, plain.image.transpose(0, 3, 1, 2))
    assert plain.label is not None
    np.testing.assert_array_equal(prepared.label, plain.label.transpose(2, 0, 1))


def test_new_shape_rounds_halves_to_even() -> None:
    image = np.random.default_rng(0).normal(size=(1, 5, 10, 7)).astype(np.float32)
    prepared = prepare_case(image, None, (1, 1, 1), dataclasses.replace(FULLRES, spacing_mm=(2.0, 4.0, 2.0)))
    assert prepared.image.shape == (1, 2, 2, 4)
    assert prepared.label is None
    assert prepared.locations == {}


def test_2d_keeps_the_slices_of_the_case() -> None:
    image, label = scan()
    flat = dataclasses.replace(FULLRES, configuration="2d", spacing_mm=(None, 2.0, 2.0))
    prepared = prepare_case(image, label, (7, 1, 1), flat)
    assert prepared.image.shape == (1, 4, 3, 4)
    assert prepared.properties["spacing_after_mm"] == [7.0, 2.0, 2.0]


def test_the_mask_rule_takes_statistics_inside_and_leaves_the_outside() -> None:
    image = np.zeros((2, 1, 3, 3), np.float32)
    image[:, 0, 0] = 1
    image[:, 0, :, 0] = 3
    masked = dataclasses.replace(
        FULLRES, normalisation=("zscore", "zscore"), uses_nonzero_mask=(True, False), intensity=({}, {})
    )
    label = np.zeros((1, 3, 3), np.int16)
    prepared = prepare_case(image, label, (1, 1, 1), masked)
    assert prepared.label is not None
    np.testing.assert_array_equal(prepared.label[0], [[0, 0, 0], [0, -1, -1], [0, -1, -1]])
    assert (prepared.image[0][prepared.label == -1] == 0).all()
    assert prepared.image[0][prepared.label == 0].mean() == pytest.approx(0, abs=1e-6)
    assert (prepared.image[1][prepared.label == -1] < 0).all()
    unlabelled = prepare_case(image, None, (1, 1, 1), masked)
    np.testing.assert_array_equal(unlabelled.image, prepared.image)


def test_channels_stay_apart_and_in_order() -> None:
    image, label = scan()
    channels = np.concatenate([image, -3 * image, image**2])
    three = dataclasses.replace(
        FULLRES,
        normalisation=("zscore", "nonorm", "zscore"),
        uses_nonzero_mask=(False, False, False),
        intensity=({}, {}, {}),
        spacing_mm=(1.0, 0.8, 0.8),
    )
    prepared = prepare_case(channels, label, (1, 1, 1), three)
    assert prepared.image.shape == (3, 4, 8, 10)
    alone = prepare_case(image, label, (1, 1, 1), dataclasses.replace(FULLRES, spacing_mm=(1.0, 0.8, 0.8)))
    np.testing.assert_array_equal(prepared.image[0], alone.image[0])
    assert prepared.image[1].max() < -100


def test_nothing_left_is_explained() -> None:
    with pytest.raises(ValueError, match="nothing is left"):
        prepare_case(*scan(), (1, 1, 1), dataclasses.replace(FULLRES, spacing_mm=(100.0, 1.0, 1.0)))


def plan(entry: str, preprocessing: Preprocessing = FULLRES) -> Any:
    return SimpleNamespace(dataset="demo", entry=entry, preprocessing=preprocessing, ignore_label=None)


class Study:
    """Two cases on disk and a count of what is computed, in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self.work = folder / "prepared" / "demo", folder / "work"
        self.cases = [self._case(folder, name, fold) for fold, name in enumerate(["a", "b"])]
        self.computed: list[str] = []
        self.needs: list[int] = []
        original = prepare._prepare_to_files

        def counted(job: Any) -> str | None:
            self.computed.append(job.case.case_id)
            return original(job)

        def map_here(function: Callable, items: Sequence, desc: str, imports: Any, memory_bytes: list[int]) -> list:
            assert len(memory_bytes) == len(items)
            self.needs = memory_bytes
            return [function(item) for item in items]

        monkeypatch.setattr(prepare, "_prepare_to_files", counted)
        self.map_here = map_here
        monkeypatch.setattr("pipelines.ray_session.map_cases.map_cases", map_here)

    @staticmethod
    def _case(folder: Path, name: str, fold: int) -> Case:
        image, label = scan()
        paths = [folder / f"{name}.nii", folder / f"{name}_label.nii"]
        for path, array in zip(paths, [image[0] + fold * (image[0] > 0), label], strict=True):
            nib.save(nib.Nifti1Image(np.ascontiguousarray(array.T), np.eye(4)), path)
        return Case(
            case_id=name,
            image_paths=(str(paths[0]),),
            label_path=str(paths[1]),
            patient=f"patient_{name}",
            split="train",
            fold=fold,
            digest=f"digest of {name}",
            shape=(6, 8, 10),
            spacing_mm=(1.0, 1.0, 1.0),
            affine=tuple(np.eye(4).ravel().tolist()),
        )

    def prepare(self, plans: list[Any], code_digest: str = "code", compression: str = "none") -> list[str]:
        """Run; give the ids of the cases that were computed."""
        self.computed.clear()
        prepare_dataset(self.cases, plans, self.out, self.work, code_digest, compression)
        return list(self.computed)

    def prepare_here(self, cases: list[Case]) -> None:
        """Fill the cache with some cases."""
        every, self.cases = self.cases, cases
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipelines.ray_session.map_cases.map_cases", self.map_here)
            self.prepare([plan("nnunet")])
        self.cases = every

    def index(self, entry: str) -> dict[str, Any]:
        return json.loads((self.out / "index" / f"{entry}.json").read_text())


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    return Study(tmp_path, monkeypatch)


def test_files_and_index(study: Study) -> None:
    study.prepare([plan("nnunet")])
    index = study.index("nnunet")
    digest = FULLRES.digest()
    assert index["folder"] == f"3d_fullres-{digest[:8]}"
    assert {key: index[key] for key in ("dataset", "entry", "configuration", "preprocessing_digest")} == {
        "dataset": "demo",
        "entry": "nnunet",
        "configuration": "3d_fullres",
        "preprocessing_digest": digest,
    }
    assert [record["case_id"] for record in index["cases"]] == ["a", "b"]
    first = index["cases"][0]
    prepared = open_case(study.out / index["folder"] / first["file"])
    assert prepared.image.shape == (1, 4, 6, 8)
    expected = {"digest": prepared.digest, "patient": "patient_a", "split": "train", "fold": 0, "has_label": True}
    assert {key: first[key] for key in expected} == expected
    assert prepared.path.stat().st_nlink == 2


def test_an_unchanged_case_is_never_computed_twice(study: Study) -> None:
    assert study.prepare([plan("nnunet"), plan("unet")]) == ["a", "b"]
    before = {path: path.read_bytes() for path in study.out.rglob("*.json")}
    for path in study.out.rglob("*.arrow"):
        path.unlink()
    assert study.prepare([plan("nnunet"), plan("unet")]) == []
    assert study.index("unet")["cases"] == study.index("nnunet")["cases"]
    assert {path: path.read_bytes() for path in study.out.rglob("*.json")} == before
    assert len(list(study.out.rglob("*.arrow"))) == 2
    study.cases[1] = dataclasses.replace(study.cases[1], digest="changed")
    assert study.prepare([plan("nnunet")]) == ["b"]
    assert study.prepare([plan("nnunet")], code_digest="other code") == ["a", "b"]


def test_another_preprocessing_has_its_own_folder(study: Study) -> None:
    study.prepare([plan("nnunet")])
    coarse = dataclasses.replace(FULLRES, spacing_mm=(2.0, 2.0, 2.0))
    assert study.prepare([plan("nnunet"), plan("coarse", coarse)]) == ["a", "b"]
    folders = {study.index(entry)["folder"] for entry in ("nnunet", "coarse")}
    assert folders == {path.name for path in study.out.iterdir()} - {"index"}
    assert len(folders) == 2


def test_an_interrupted_run_keeps_what_was_finished(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = prepare._prepare_to_files

    def interrupted(job: Any) -> str | None:
        if job.case.case_id == "b":
            raise KeyboardInterrupt
        return counted(job)

    monkeypatch.setattr(prepare, "_prepare_to_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.prepare([plan("nnunet")])
    monkeypatch.setattr(prepare, "_prepare_to_files", counted)
    assert study.prepare([plan("nnunet")]) == ["b"]


def test_without_hard_links_files_are_copied(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    study.prepare([plan("nnunet")])
    files = sorted(study.out.rglob("*.arrow"))
    assert [path.name for path in files] == ["a.arrow", "b.arrow"]
    assert all(path.stat().st_nlink == 1 for path in files)
    assert open_case(files[0]).image.shape == (1, 4, 6, 8)


def test_entries_that_differ_read_a_case_once(study: Study) -> None:
    coarse = dataclasses.replace(FULLRES, spacing_mm=(2.0, 2.0, 2.0))
    assert study.prepare([plan("nnunet"), plan("coarse", coarse)]) == ["a", "b"]
    shapes = {}
    for entry in ("nnunet", "coarse"):
        index = study.index(entry)
        shapes[entry] = open_case(study.out / index["folder"] / "a.arrow").image.shape
    assert shapes == {"nnunet": (1, 4, 6, 8), "coarse": (1, 2, 3, 4)}


def test_another_compression_is_another_file_with_the_same_digest(study: Study) -> None:
    study.prepare([plan("nnunet")])
    before = study.index("nnunet")
    assert study.prepare([plan("nnunet")], compression="zstd") == ["a", "b"]
    assert study.index("nnunet") == before
    (path,) = study.out.glob("*/a.arrow")
    assert b"zstd" in path.read_bytes()
    assert study.prepare([plan("nnunet")], compression="zstd") == []


def test_a_failing_case_is_named(study: Study) -> None:
    impossible = dataclasses.replace(FULLRES, spacing_mm=(100.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"case a \(.*a\.nii\): at a spacing of"):
        study.prepare([plan("nnunet", impossible)])


def test_the_others_are_prepared_and_all_failing_cases_are_listed(study: Study) -> None:
    good = study.cases[1]
    cut, missing = Path(study.cases[0].image_paths[0]), "gone.nii"
    cut.write_bytes(cut.read_bytes()[:400])
    study.cases.insert(1, dataclasses.replace(good, case_id="c", image_paths=(missing,), digest="digest of c"))
    with pytest.raises(ValueError) as error:
        study.prepare([plan("nnunet")])
    first, *reasons = str(error.value).splitlines()
    assert first == "2 of 3 cases could not be prepared; the others are done and kept:"
    assert [reason.split("(")[0] for reason in reasons] == ["  case a ", "  case c "]
    assert "a.nii" in reasons[0]
    assert "no such file" in reasons[1]
    assert not list(study.out.rglob("*.json")), "an index without all its cases"
    study.cases[:] = [good]
    assert study.prepare([plan("nnunet")]) == []


def test_a_case_without_enough_memory_is_named_and_the_others_are_prepared(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = prepare.prepare_case

    def greedy(image: np.ndarray, *arguments: Any) -> Any:
        if image.max() > 200:
            raise MemoryError("Unable to allocate 40 GiB")
        return real(image, *arguments)

    monkeypatch.setattr(prepare, "prepare_case", greedy)
    large = Path(study.cases[0].image_paths[0])
    nib.save(nib.Nifti1Image(np.full((10, 8, 6), 300, np.int16), np.eye(4)), large)
    with pytest.raises(ValueError, match=r"case a \(.*a\.nii\): out of memory \(Unable to allocate 40 GiB\); end"):
        study.prepare([plan("nnunet")])
    assert study.computed == ["a", "b"]


def test_a_full_disk_ends_the_work_at_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: Any, compression: str) -> None:
        raise DiskFullError(f"{path}: disk full")

    monkeypatch.setattr(prepare, "write_case", full)
    with pytest.raises(DiskFullError):
        study.prepare([plan("nnunet")])
    assert study.computed == ["a"]


def test_a_killed_process_is_explained(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures.process import BrokenProcessPool

    def killed(*_: Any, **__: Any) -> list:
        study.prepare_here([study.cases[0]])
        raise BrokenProcessPool

    monkeypatch.setattr("pipelines.ray_session.map_cases.map_cases", killed)
    with pytest.raises(ValueError, match="was killed, most likely because memory ran out; not finished: b; end other"):
        study.prepare([plan("nnunet")])


def test_the_memory_of_a_case_grows_with_its_voxels_channels_and_new_voxels(study: Study) -> None:
    case = dataclasses.replace(study.cases[0], shape=(100, 200, 300))
    plain = needed_bytes(case, [FULLRES])
    assert plain > 6_000_000 * 14
    assert needed_bytes(dataclasses.replace(case, shape=(200, 200, 300)), [FULLRES]) > plain + 6_000_000 * 14
    fine = dataclasses.replace(FULLRES, spacing_mm=(0.5, 0.5, 0.5))
    assert needed_bytes(case, [FULLRES, fine]) == needed_bytes(case, [fine]) > plain + 7 * 6_000_000 * 6
    two = dataclasses.replace(FULLRES, normalisation=("zscore", "zscore"))
    assert needed_bytes(case, [two]) > plain + 6_000_000 * 8
    turned = dataclasses.replace(FULLRES, transpose_forward=(2, 0, 1), spacing_mm=(None, 1.0, 0.5), configuration="2d")
    flat = dataclasses.replace(FULLRES, spacing_mm=(1.0, 0.5, 1.0))
    assert needed_bytes(case, [turned]) == needed_bytes(case, [flat])
    study.prepare([plan("nnunet")])
    assert study.needs == [needed_bytes(case, [FULLRES]) for case in study.cases]


@pytest.mark.shared_data
def test_hippocampus_fits_float16_after_normalisation(tmp_path: Path) -> None:
    from pipelines.cases.nifti import read_image, read_label

    folder = Path(__file__).parents[3] / "../shared/data"
    images = sorted((folder / "Task04_Hippocampus/imagesTr").glob("hippocampus_*.nii.gz"))[:3]
    if not images:
        pytest.skip(f"no hippocampus scans under {folder}")
    for path in images:
        image = read_image(path)
        label, _ = read_label(path.parents[1] / "labelsTr" / path.name)
        prepared = prepare_case(image.array, label, image.spacing_mm, FULLRES)
        assert prepared.image.mean() == pytest.approx(0, abs=1e-3)
        assert set(prepared.locations) == {1, 2}
        write_case(tmp_path / "case.arrow", *prepared)
        assert open_case(tmp_path / "case.arrow").image.dtype == np.float16

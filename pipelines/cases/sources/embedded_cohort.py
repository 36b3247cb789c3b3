"""Synthetic brain MR cases from a real template, for machines that can download no data.

Each case is the MNI152 T1 template (ICBM 2009a symmetric, carried by the `nilearn` package with its grey- and
white-matter maps) under a random smooth diffeomorphic deformation, with a bias field, a change of contrast and noise,
on a grid of its own spacing. Labels: 1 CSF (brain minus grey minus white), 2 left and 3 right grey matter, 4 white
matter. The sides look alike, so intensity cannot tell them apart and mirroring along x harms.

Axes here are the template's: x to the right, y to the front, z up; positions in mm from the middle of the brain.
The random numbers of a case depend on its number alone. Voxels are rounded before they are written, so they are the
same everywhere; the bytes of a file also depend on the zlib that packs them.
"""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from tqdm import tqdm

from pipelines.atomic_files import write_text
from pipelines.cases.nifti import write_nifti

SEED = 20090
LABELS = {"background": 0, "csf": 1, "left_grey_matter": 2, "right_grey_matter": 3, "white_matter": 4}


@dataclass(frozen=True)
class Group:
    """Cases of one spacing.

    Attributes:
        spacing_mm: (x, y, z).
        shape: (x, y, z) voxels.
        training: numbers of the training cases.
        test: numbers of the test cases.
    """

    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    training: tuple[int, ...]
    test: tuple[int, ...]


# The training numbers are chosen, not counted through: sha256 of the case id modulo 2 then puts 12 cases, 4 of each
# group, into either of two folds, so a quick study is balanced. With other numbers of folds the sizes are uneven, as
# for any data set.
GROUPS = (
    Group((3.5, 3.5, 3.5), (48, 56, 48), (1, 3, 7, 9, 11, 15, 18, 23), (41, 42, 43)),
    Group((3.0, 3.0, 4.0), (54, 66, 42), (2, 4, 8, 12, 14, 17, 20, 27), (44, 45, 46)),
    Group((3.0, 3.0, 10.0), (54, 66, 17), (5, 6, 10, 13, 16, 19, 22, 28), (47, 48)),
)

# The range of each random property: wide enough that the intensities of the tissues overlap between and within cases.
_GAMMA_LOG_STD = 0.35
_GREY_SHIFT = 0.12
# The template is a mean of many brains, in which thin CSF has blurred into its neighbours; a scan shows it darker.
_CSF_DARKENING_RANGE = (0.2, 0.6)
_BIAS_LOG_STD = 0.28
_NOISE_RANGE = (0.03, 0.07)
_GAIN_RANGE = (300.0, 1500.0)
_ROTATION_STD_DEGREES = 5.0
_SCALE_STD = 0.04
_SHIFT_STD_MM = 4.0
_DEFORMATION_STD_MM = 4.0

# Sulci are thinner than a voxel; with a plain majority CSF would all but vanish from the labels.
_CSF_WEIGHT = 1.5

_DEFORMATION_SMOOTHNESS_MM = 18.0
_BIAS_SMOOTHNESS_MM = 35.0
_NUM_SQUARINGS = 5

_TEMPLATE_STEP_MM = 2.0
_CONTROL_STEP_MM = 8.0
# Half the side of the box, in mm, in which random fields are drawn; every grid of a case lies inside.
_CONTROL_HALF_MM = np.array([104.0, 120.0, 104.0])


@dataclass(frozen=True)
class Template:
    """The template at 2 mm, each map (X, Y, Z) in 0..1.

    Attributes:
        maps: (4, X, Y, Z): T1 intensity, brain, grey matter, white matter.
        middle_voxel: (3,) index of the middle of the brain; its x is the plane between the hemispheres.
    """

    maps: np.ndarray
    middle_voxel: np.ndarray

    def at_spacing(self, spacing_mm: tuple[float, float, float]) -> Template:
        """Smoothed so that a voxel of that size (x, y, z) sees about the mean over its volume."""
        sigmas = 0.35 * np.array(spacing_mm) / _TEMPLATE_STEP_MM
        return replace(self, maps=np.stack([gaussian_filter(volume, sigmas) for volume in self.maps]))


def case_id(number: int) -> str:
    """Name of the case with this number."""
    return f"brain_{number:03d}"


def load_template() -> Template:
    """Read the template out of the `nilearn` package, averaged over blocks of 2x2x2 voxels.

    Raises:
        ValueError: the package is not installed.
    """
    # Importing nilearn takes seconds and only its files are needed.
    package = importlib.util.find_spec("nilearn")
    if package is None or not package.submodule_search_locations:
        raise ValueError("the embedded cohort is made from a template in the package nilearn: pip install nilearn")
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "data"
    images = [
        nib.Nifti1Image.from_filename(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
        for kind in ("t1", "gm", "wm")
    ]
    t1, grey, white = (np.asarray(image.dataobj) for image in images)
    maps = np.stack([_halved(volume) for volume in (t1 / 255, t1 > 0, grey / 255, white / 255)])

    inside = np.argwhere(t1 > 0)
    middle = (inside.min(axis=0) + inside.max(axis=0)) / 2
    middle[0] = -images[0].affine[0, 3]
    # A block of two voxels i, i+1 has its centre at i + 1/2.
    return Template(maps, (middle - 0.5) / _TEMPLATE_STEP_MM)


def _halved(volume: np.ndarray) -> np.ndarray:
    even = volume[tuple(slice(0, side - side % 2) for side in volume.shape)].astype(np.float64)
    x, y, z = (side // 2 for side in even.shape)
    return even.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))


def make_case(number: int, group: Group, template: Template) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Make one case.

    Args:
        number: of the case; all its random numbers follow from it.
        group: its grid.
        template: as seen at the spacing of the group.

    Returns:
        (image int16, label uint8), both (X, Y, Z) with the same affine.
    """
    rng = np.random.default_rng([SEED, number])
    spacing = np.array(group.spacing_mm)
    first_mm = -(np.array(group.shape) - 1) / 2 * spacing
    grid = np.moveaxis(np.indices(group.shape), 0, -1) * spacing + first_mm

    positions = grid + _sample_vectors(_deformation(rng), grid)
    positions = (positions + rng.normal(0, _SHIFT_STD_MM, 3)) @ _linear_map(rng).T
    voxels = np.moveaxis(positions / _TEMPLATE_STEP_MM + template.middle_voxel, -1, 0)
    t1, brain, grey, white = (map_coordinates(volume, voxels, order=1, prefilter=False) for volume in template.maps)
    csf = brain - grey - white

    likelihoods = np.stack([1 - brain, _CSF_WEIGHT * csf, grey, white])
    label = np.array([0, 1, 2, 4], np.uint8)[likelihoods.argmax(axis=0)]
    label[(label == LABELS["left_grey_matter"]) & (positions[..., 0] > 0)] = LABELS["right_grey_matter"]
    image = _scanned(t1, csf, grey, grid, rng)

    affine = np.diag([*group.spacing_mm, 1.0])
    affine[:3, 3] = first_mm
    return nib.Nifti1Image(image, affine), nib.Nifti1Image(label, affine)


def _scanned(
    t1: np.ndarray, csf: np.ndarray, grey: np.ndarray, grid: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Intensity as another scanner might give it: contrast, bias field, gain, and noise of a magnitude image."""
    gamma = math.exp(rng.normal(0, _GAMMA_LOG_STD))
    signal = t1 + rng.uniform(-_GREY_SHIFT, _GREY_SHIFT) * grey - rng.uniform(*_CSF_DARKENING_RANGE) * csf
    signal = np.clip(signal, 0, 1) ** gamma
    bias = _sample(_BIAS_LOG_STD * _smooth_field(rng, _BIAS_SMOOTHNESS_MM), grid)
    real, imaginary = rng.normal(0, rng.uniform(*_NOISE_RANGE), (2, *signal.shape))
    magnitude = np.hypot(signal * np.exp(bias) + real, imaginary)
    return np.rint(rng.uniform(*_GAIN_RANGE) * magnitude).astype(np.int16)


def _linear_map(rng: np.random.Generator) -> np.ndarray:
    angles = np.radians(rng.normal(0, _ROTATION_STD_DEGREES, 3))
    matrix = np.diag(np.exp(rng.normal(0, _SCALE_STD, 3)))
    for axis, angle in enumerate(angles):
        first, second = (other for other in range(3) if other != axis)
        rotation = np.eye(3)
        rotation[first, first] = rotation[second, second] = math.cos(angle)
        rotation[first, second], rotation[second, first] = -math.sin(angle), math.sin(angle)
        matrix = rotation @ matrix
    return matrix


def _smooth_field(rng: np.random.Generator, smoothness_mm: float) -> np.ndarray:
    """A random field of standard deviation 1 on the control grid."""
    shape = (2 * _CONTROL_HALF_MM / _CONTROL_STEP_MM).astype(int) + 1
    field = gaussian_filter(rng.standard_normal(shape), smoothness_mm / _CONTROL_STEP_MM, mode="wrap")
    return field / field.std()


def _deformation(rng: np.random.Generator) -> np.ndarray:
    """Displacement in mm on the control grid, (3, X, Y, Z), without folds.

    It is the flow of a smooth velocity field, by scaling and squaring (Arsigny et al., 2006): the small step of the
    flow is composed with itself again and again.
    """
    velocity = np.stack([_smooth_field(rng, _DEFORMATION_SMOOTHNESS_MM) for _ in range(3)])
    displacement = _DEFORMATION_STD_MM * velocity / 2**_NUM_SQUARINGS
    control = np.moveaxis(np.indices(displacement.shape[1:]), 0, -1) * _CONTROL_STEP_MM - _CONTROL_HALF_MM
    for _ in range(_NUM_SQUARINGS):
        moved = control + np.moveaxis(displacement, 0, -1)
        displacement = displacement + np.moveaxis(_sample_vectors(displacement, moved), -1, 0)
    return displacement


def _sample(field: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Field of the control grid at positions (..., 3) in mm."""
    voxels = np.moveaxis((positions + _CONTROL_HALF_MM) / _CONTROL_STEP_MM, -1, 0)
    return map_coordinates(field, voxels, order=1, mode="nearest", prefilter=False)


def _sample_vectors(field: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return np.stack([_sample(component, positions) for component in field], axis=-1)


def make(folder: Path) -> Path:
    """Write the cohort in Medical Segmentation Decathlon layout.

    Args:
        folder: gets dataset.json, imagesTr, labelsTr, imagesTs and labelsTs.

    Returns:
        The folder.
    """
    template = load_template()
    with tqdm(total=sum(len(group.training + group.test) for group in GROUPS), desc="make cohort", unit="case") as bar:
        for group in GROUPS:
            seen = template.at_spacing(group.spacing_mm)
            for number in group.training + group.test:
                part = "Tr" if number in group.training else "Ts"
                image, label = make_case(number, group, seen)
                write_nifti(folder / f"images{part}" / f"{case_id(number)}.nii.gz", image)
                write_nifti(folder / f"labels{part}" / f"{case_id(number)}.nii.gz", label)
                bar.update()
    training = sorted(number for group in GROUPS for number in group.training)
    test = sorted(number for group in GROUPS for number in group.test)
    description = {
        "name": "embedded_cohort",
        "description": "Synthetic cases from a real template: deformed MNI152 T1 with bias field, contrast and noise",
        "reference": "MNI152 ICBM 2009a nonlinear symmetric template, as the nilearn package carries it",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {str(value): name for name, value in LABELS.items()},
        "numTraining": len(training),
        "numTest": len(test),
        "training": [
            {"image": f"./imagesTr/{case_id(number)}.nii.gz", "label": f"./labelsTr/{case_id(number)}.nii.gz"}
            for number in training
        ],
        "test": [f"./imagesTs/{case_id(number)}.nii.gz" for number in test],
    }
    write_text(folder / "dataset.json", json.dumps(description, indent=2) + "\n")
    return folder

"""The benchmarks as a table: what they compare, which files they need, how published evaluators differ.

Protocols: CameraHMR (3DPW, EMDB, SPEC-SYN), HSMR (MOYO), 4D-Humans (Human3.6M, COCO), SKEL-CF (MOYO-HARD). This module
imports nothing heavy, so that `--help` can list the benchmarks.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hmr_skel.errors import UserError
from hmr_skel.places import DATA_VARIABLE

_CAMERAHMR = "CameraHMR's test-labels.zip (camerahmr.is.tue.mpg.de, after registration)"
_HMR2 = "4D-Humans' hmr2_evaluation_data.tar.gz (its README on GitHub has the link)"
_HSMR = "HSMR's hsmr_evaluation_data.tar.gz (its README on GitHub has the link)"


@dataclass(frozen=True)
class JointRule:
    """The joints to compare: a regressor on the vertices of the skin, the joints of the root, the scored joints."""

    name: str
    """The name in reports; `joint_set` in JSON."""
    regressor: Literal["h36m", "smpl_neutral", "smpl_male", "keypoints_44"]
    root: tuple[int, ...]
    """The root is the mean of these."""
    scored: tuple[int, ...]


_LSP_OF_H36M = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)
LSP_14 = JointRule("14 LSP joints of the Human3.6M regressor, root pelvis", "h36m", (0,), _LSP_OF_H36M)
H36M_17 = JointRule("17 joints of the Human3.6M regressor, root middle of hips", "h36m", (1, 4), tuple(range(17)))
H36M_17_LEGACY = JointRule(
    "17 joints of the Human3.6M regressor, root middle of right hip and right knee", "h36m", (1, 2), tuple(range(17))
)
SMPL_24 = JointRule(
    "24 joints of neutral SMPL's regressor, root middle of hips", "smpl_neutral", (1, 2), tuple(range(24))
)
MOYO_24 = JointRule(
    "24 joints: J_regressor_SMPL_MALE against SMPL's own, root pelvis", "smpl_male", (0,), (*range(24),)
)
H36M_14 = JointRule(
    "14 label keypoints (12 limbs, neck, head), root Pelvis (MPII)", "keypoints_44", (39,), (*range(25, 37), 37, 43)
)
COCO_44 = JointRule("44 label keypoints, in the image", "keypoints_44", (39,), (*range(44),))

LEGACY = {
    "spec-root": "SPEC-SYN: the root is the middle of a hip and the knee below it",
    "bgr-focal": "MOYO, MOYO-HARD, Human3.6M, COCO: HumanFoV gets blue and red exchanged",
    "moyo-box": "MOYO, MOYO-HARD: the network gets the side of the box before it was widened to what the crop shows",
    "moyo-crop": "MOYO, MOYO-HARD: the box is cut at whole pixels, and the crop is shifted by OpenCV's half pixel",
    "neutral-female": "3DPW, EMDB, SPEC-SYN: the truth of rows that are not male is female, EMDB's neutral ones too",
    "aliased-crop": "all: crops are interpolated without smoothing first, which adds aliasing where they shrink",
}
"""Mistakes of published evaluators that affect their figures. They are off by default."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark."""

    name: str
    """Its name on the command line."""
    title: str
    """Its name in the paper."""
    format: Literal["camerahmr", "hmr2", "moyo"]
    """The format of the label file."""
    labels: str
    labels_from: str
    images: str
    """The folder that image names are relative to."""
    images_from: str
    truth: Literal["gendered_smpl", "neutral_smpl", "keypoints_3d", "keypoints_2d"]
    """The ground truth: a mesh of SMPL, neutral or of the row's gender, or keypoints of the label."""
    joints: JointRule
    metrics: tuple[str, ...]
    """The metrics that the paper prints."""
    sequence: str | None = None
    """A regular expression whose first group finds the recording in an image's name; rows of one recording are not
    independent. None: all rows are independent."""
    bgr_legacy: bool = False
    """Whether the published figure is from images with blue and red exchanged."""
    quirks: str = ""
    """The peculiarities of the protocol, for `--help`."""

    @property
    def model_files(self) -> tuple[str, ...]:
        """The body model files that SKEL, the ground truth and the joints need. SKEL genders that are not predicted and
        SMPL genders of no row are not needed."""
        meshes = {
            "gendered_smpl": ("SMPL_MALE.pkl", "SMPL_FEMALE.pkl", "SMPL_NEUTRAL.pkl"),
            "neutral_smpl": ("SMPL_NEUTRAL.pkl",),
        }.get(self.truth, ())
        return tuple(dict.fromkeys((*_SKEL_FILES, *meshes, *REGRESSOR_FILES[self.joints.regressor])))

    def with_legacy(self, switches: Sequence[str]) -> "Benchmark":
        """The same benchmark, with the joints that the switches select."""
        return replace(self, joints=H36M_17_LEGACY) if "spec-root" in self.legacy(switches) else self

    def legacy(self, switches: Sequence[str]) -> tuple[str, ...]:
        """The switches that change this benchmark."""
        apply = {
            "spec-root": self.name == "spec-syn",
            "bgr-focal": self.bgr_legacy,
            "moyo-box": self.format == "moyo",
            "moyo-crop": self.format == "moyo",
            "neutral-female": self.truth == "gendered_smpl",
            "aliased-crop": True,
        }
        return tuple(name for name in LEGACY if name in switches and apply[name])


_SKEL_FILES = ("skel_male.pkl", "skel_female.pkl")

REGRESSOR_FILES = {
    "h36m": ("J_regressor_h36m.npy",),
    "smpl_neutral": ("SMPL_NEUTRAL.pkl",),
    "smpl_male": ("J_regressor_SMPL_MALE.pkl",),
    "keypoints_44": ("J_regressor_SKEL_mix_MALE.pkl", "SMPL_to_J19.pkl"),
}

MODELS_FROM = {
    **dict.fromkeys(("skel_male.pkl", "skel_female.pkl"), "skel.is.tue.mpg.de"),
    **dict.fromkeys(("SMPL_NEUTRAL.pkl", "SMPL_MALE.pkl", "SMPL_FEMALE.pkl"), "smpl.is.tue.mpg.de"),
    "J_regressor_h36m.npy": "CameraHMR's train-eval-utils (camerahmr.is.tue.mpg.de)",
    **dict.fromkeys(
        ("J_regressor_SMPL_MALE.pkl", "J_regressor_SKEL_mix_MALE.pkl", "SMPL_to_J19.pkl"),
        "body_models of HSMR-data_inputs on Hugging Face (IsshikiHugh)",
    ),
}
"""The source of each file of `Benchmark.model_files`."""

_MESH = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm")

_MOYO = Benchmark(
    name="moyo",
    title="MOYO",
    format="moyo",
    labels="moyo_v2.npz",
    labels_from=_HSMR,
    images="moyo",
    images_from="MOYO's images (moyo.is.tue.mpg.de)",
    truth="neutral_smpl",
    joints=MOYO_24,
    metrics=_MESH,
    sequence=r"^([^/]+)/",
    bgr_legacy=True,
    quirks="truth and prediction have different joints: the true mesh does not give 0; boxes widened to 192:256 first",
)

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="3dpw",
            title="3DPW",
            format="camerahmr",
            labels="3dpw_test.npz",
            labels_from=_CAMERAHMR,
            images="3dpw",
            images_from="3DPW's imageFiles (virtualhumans.mpi-inf.mpg.de/3DPW)",
            truth="gendered_smpl",
            joints=LSP_14,
            metrics=_MESH,
            sequence=r"imageFiles/([^/]+)/",
            quirks="wide people are cut: the network sees the middle 192 of 256 columns",
        ),
        Benchmark(
            name="emdb",
            title="EMDB",
            format="camerahmr",
            labels="emdb_test.npz",
            labels_from=_CAMERAHMR,
            images="emdb",
            images_from="EMDB 1 (ait.ethz.ch/emdb)",
            truth="gendered_smpl",
            joints=SMPL_24,
            metrics=_MESH,
            sequence=r"(P\d+/[^/]+)/",
            quirks="joints of every body by neutral SMPL's regressor",
        ),
        Benchmark(
            name="spec-syn",
            title="SPEC-SYN",
            format="camerahmr",
            labels="spec_test.npz",
            labels_from=_CAMERAHMR,
            images="spec-syn",
            images_from="SPEC-SYN (spec.is.tue.mpg.de)",
            truth="gendered_smpl",
            joints=H36M_17,
            metrics=_MESH,
            quirks="published root: middle of a hip and its knee (--legacy spec-root)",
        ),
        Benchmark(
            name="h36m-p2",
            title="Human3.6M",
            format="hmr2",
            labels="h36m_val_p2.npz",
            labels_from=_HMR2,
            images="h36m-select",
            images_from="Human3.6M (vision.imar.ro/human3.6m), frames as SPIN names them, in one flat folder",
            truth="keypoints_3d",
            joints=H36M_14,
            metrics=("mpjpe_mm", "pa_mpjpe_mm"),
            sequence=r"^(?:.*/)?(S\d+_.+)_\d+\.",
            bgr_legacy=True,
            quirks="no mesh: no PVE; rows that lack a keypoint are left out and counted",
        ),
        _MOYO,
        replace(
            _MOYO,
            name="moyo-hard",
            title="MOYO-HARD",
            labels="moyo_hard.npz",
            labels_from="SKEL-CF's skel-evaluation-labels, or `hmr-skel moyo-hard` makes it of MOYO's",
            quirks="as MOYO; front camera, middle half of every sequence: 9,725 images",
        ),
        Benchmark(
            name="coco",
            title="COCO",
            format="hmr2",
            labels="coco_val.npz",
            labels_from=_HMR2,
            images="coco",
            images_from="COCO's val2017 (cocodataset.org)",
            truth="keypoints_2d",
            joints=COCO_44,
            metrics=("pck_05", "pck_10"),
            bgr_legacy=True,
            quirks="PCK as HMR2 computes it: mean over keypoints; CameraHMR's own COCO figure is another metric",
        ),
    )
}


def chosen(text: str) -> list[Benchmark]:
    """The benchmarks of a list such as `3dpw,emdb`, or `all`. Raises `UserError` for an unknown name."""
    names = [name.strip().lower() for name in text.split(",")]
    if "all" in names:
        return list(BENCHMARKS.values())
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise UserError(f"no benchmark {unknown[0]!r}. Expected some of {', '.join(BENCHMARKS)}, or `all`.")
    return [BENCHMARKS[name] for name in dict.fromkeys(names)]


def legacy_switches(text: str, known: Collection[str] = tuple(LEGACY)) -> tuple[str, ...]:
    """The switches of a list such as `spec-root,bgr-focal`, or `all`. Raises `UserError` for an unknown one."""
    names = tuple(known) if text == "all" else tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"--legacy {unknown[0]}: there is no such switch. Expected some of {', '.join(known)}, or `all`."
        )
    return names


@dataclass(frozen=True)
class BenchmarkFiles:
    """The paths of a benchmark's files."""

    labels: Path
    images: Path

    @classmethod
    def find(cls, benchmark: Benchmark, folder: Path | None) -> "BenchmarkFiles":
        """Find the files in `folder`. Raises `UserError` if no folder is named, or the label file is missing."""
        if folder is None:
            raise UserError(
                f"no folder with the files of {benchmark.title}. Name it with --benchmark-data DIR (or name "
                f"its parent in {DATA_VARIABLE}, where it is `evaluation`). It needs labels/{benchmark.labels} from "
                f"{benchmark.labels_from}, and images/{benchmark.images}: {benchmark.images_from}."
            )
        labels = folder / "labels" / benchmark.labels
        if not labels.is_file():
            raise UserError(f"no label file {labels} of {benchmark.title}. Get it from {benchmark.labels_from}.")
        return cls(labels, folder / "images" / benchmark.images)

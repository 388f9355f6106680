"""`hmr-skel doctor --deep`: read all files, fit a hundred rows of each source, and run the networks.

The findings contain sizes, versions, hashes and errors of fits, but no data of body models, labels or images.
"""

import hashlib
import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hmr_skel.commands.doctor import Finding
from hmr_skel.data.manifest import CAMERAHMR, HSMR, Manifest, Source
from hmr_skel.errors import UserError

_ROWS = 50
"""The number of first rows and of last rows of a label file to read and fit."""
_REGRESSORS = {"J_regressor_h36m.npy": 17, "J_regressor_SKEL_mix_MALE.pkl": 24, "J_regressor_SMPL_MALE.pkl": 24}
"""The number of joints that each file regresses."""
_SMPLX = 10475  # vertices
_SMPL_VERSIONS = {10: "as SMPL 1.0", 300: "as SMPL 1.1"}
_FAULTS_REPORTED = datetime(2025, 5, 17, tzinfo=UTC)
"""When faults in CameraHMR's labels of MPII and COCO were reported (its issue 12). It corrected them on 4 June."""


def body_findings(folder: Path) -> Iterator[Finding]:
    """Findings about the body models and regressors in a folder."""
    from hmr_skel.body.assets import SKEL_FILES, SMPL_FILES, load_regressor
    from hmr_skel.body.smpl import load_points_matrix
    from hmr_skel.model.checkpoint import load_mean

    def regressor(path: Path) -> str:
        return _sums(load_regressor(path, _REGRESSORS[path.name]))

    looks: dict[str, Callable[[Path], str]] = dict.fromkeys(SMPL_FILES.values(), _smpl)
    looks |= dict.fromkeys(SKEL_FILES.values(), _skel) | dict.fromkeys(_REGRESSORS, regressor)
    looks["SMPL_to_J19.pkl"] = lambda path: _sums(load_points_matrix(path).numpy())
    looks["SKEL_mean.npz"] = lambda path: f"pelvis tilt {load_mean(path)['mean_q'][0]:.4f} rad"
    for name, look in looks.items():
        yield from _opened(folder / name, look)


def source_findings(manifest: Manifest) -> Iterator[Finding]:
    """Findings about the first and last rows of each label file, and the errors of their fits."""
    for source in manifest.sources:
        yield from _opened(source.file, lambda _, source=source: _source(manifest, source), f"labels {source.name}")


def weight_findings() -> Iterator[Finding]:
    """Findings about published weights in $HMR_SKEL_BODY_MODELS, from a grey picture."""
    import torch

    from hmr_skel.model.config import VIT_SIZES
    from hmr_skel.model.fov import HumanFov
    from hmr_skel.model.published import load_vitpose
    from hmr_skel.model.vit import Vit

    def fov(path: Path) -> str:
        focal = HumanFov.load(path).intrinsics(np.full((480, 640, 3), 128, np.uint8))[0, 0]
        return f"focal length of a grey picture of 640 x 480 px: {focal:.0f} px"

    def vitpose(path: Path) -> str:
        with torch.device("meta"):
            vit = Vit(VIT_SIZES["vit_h"])
        with warnings.catch_warnings(action="ignore"):  # only names and sizes are compared
            load_vitpose(vit, path)
        return "the encoder of ViTPose-H"

    if (folder := os.environ.get("HMR_SKEL_BODY_MODELS")) is not None:
        looks = {"cam_model_cleaned.ckpt": fov, "vitpose_backbone.pth": vitpose, "best.pth": _skel_cf}
        for name, look in looks.items():
            yield from _opened(Path(folder) / name, look)


def _opened(path: Path, look: Callable[[Path], str], what: str = "") -> Iterator[Finding]:
    """The result of `look` at a file, with the start of its sha256. Yields nothing if the file is missing."""
    if not path.is_file():
        return
    try:
        found = look(path)
    except Exception as error:  # the report is for files that nobody has tried yet, so it names any exception
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        yield "broken", what or path.name, kind + str(error).replace(str(path), path.name)
        return
    with path.open("rb") as file:
        yield "ok", what or path.name, f"{found}; sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def _smpl(path: Path) -> str:
    from hmr_skel.body.assets import dense, load_model_file, load_smpl_arrays

    raw = load_model_file(path)
    if isinstance(raw, dict) and np.shape(dense(raw.get("v_template")))[:1] == (_SMPLX,):
        raise UserError(f"{path}: this is SMPL-X, expected SMPL ({_SMPLX:,} vertices, expected 6,890).")
    arrays = load_smpl_arrays(path)
    shapes = arrays["shapedirs"].shape[2]
    return f"{shapes} shape components ({_SMPL_VERSIONS.get(shapes, 'of no known version')}), {_arrays(arrays)}"


def _skel(path: Path) -> str:
    from hmr_skel.body.assets import load_skel_arrays
    from hmr_skel.body.skel import Skel

    arrays = load_skel_arrays(path)
    Skel.load(path)  # checks the joint tree
    return f"SKEL 1.1.1, {len(arrays['skel_template_v']):,} bone vertices, {_arrays(arrays)}"


def _arrays(arrays: dict[str, np.ndarray]) -> str:
    kinds = ", ".join(sorted({str(array.dtype) for array in arrays.values()}))
    return f"{100 * np.mean(arrays['posedirs'] != 0):.0f} % of pose correctives are not 0, {kinds}"


def _sums(matrix: np.ndarray) -> str:
    sums = matrix.sum(1)
    return f"{len(matrix)} points of {np.count_nonzero(matrix):,} weights, sums {sums.min():.4f} to {sums.max():.4f}"


def _source(manifest: Manifest, source: Source) -> str:
    import torch

    import fitting
    from flows.fitter import Fitter
    from flows.sources import ModelFiles
    from hmr_skel.data.annotations import check_rows, plan_source

    changed = datetime.fromtimestamp(source.file.stat().st_mtime, UTC)
    corrected = source.format == CAMERAHMR and re.search("mpii|coco", source.file.name, re.IGNORECASE)
    if corrected and changed < _FAULTS_REPORTED:
        raise UserError(
            f"{source.file}: last changed on {changed:%Y-%m-%d}, expected one of June 2025 or later: CameraHMR has "
            "corrected its labels of MPII and COCO. Fetch it again."
        )
    with tempfile.TemporaryDirectory(prefix="hmr-skel-doctor-") as cache:
        reader = plan_source(source, Path(cache)).open()
        total = reader.num_rows
        parts = [(0, min(_ROWS, total)), (max(total - _ROWS, min(_ROWS, total)), total)]
        checked = [check_rows(reader.read(*part), source.exclude) for part in parts]
    kept = [rows for rows, _ in checked]
    reasons = Counter(reject.reason for _, rejects in checked for reject in rejects)
    text = f"{total:,} rows; first and last {_ROWS}: {sum(map(len, kept))} can be used"
    text += "".join(f", {count} rejected for {reason}" for reason, count in reasons.items())
    if corrected:
        text += "; nothing in the file tells whether it is the corrected one of June 2025"
    if source.format == HSMR or not any(map(len, kept)):
        return text
    fitter = Fitter(ModelFiles.of(manifest), fitting.recipe(manifest.recipe), torch.device("cpu"))
    fits = [fitter.fit(rows) for rows in kept]
    v2v = np.concatenate([table["v2v_mm"].to_numpy() for table, _, _ in fits])
    rejected = sum(len(rejects) for _, rejects, _ in fits)
    errors = f" to {v2v.mean():.1f} mm (worst row {v2v.max():.1f})" if len(v2v) else ""
    return f"{text}; {len(v2v)} fitted{errors}, {rejected} without a fit"


def _skel_cf(path: Path) -> str:
    import torch

    from hmr_skel.model.camera import CropGeometry
    from hmr_skel.model.checkpoint import load_any_network

    network, info = load_any_network(path)
    intrinsics = torch.tensor([[[500.0, 0, 128], [0, 500, 128], [0, 0, 1]]])
    geometry = CropGeometry.from_box(torch.full((1, 2), 128.0), torch.tensor([256.0]), intrinsics)
    with torch.no_grad():
        found = network(torch.full((1, 3, 256, 256), 128, dtype=torch.uint8), geometry).final.skel_params(geometry)
    if not all(bool(values.isfinite().all()) for values in vars(found).values()):
        raise UserError(f"{path}: the network's prediction for a grey picture is not finite. Fetch the file again.")
    return f"{info.recipe}; a grey picture's body is {found.transl[0, 2]:.2f} m away"

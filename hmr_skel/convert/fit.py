"""Clips of SMPL to clips of SKEL: smoothed if asked, then every row is fitted by itself; and angles do not jump."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fitting
from fitting.distances import mesh_distances_mm
from hmr_skel.body.assets import SKEL_FILES, SMPL_FILES, model_path
from hmr_skel.body.dofs import limits
from hmr_skel.body.open_body.export import models_folder
from hmr_skel.body.other import OtherBody, find_map, find_other
from hmr_skel.body.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.convert.clips import SkelClip, SmplClip
from hmr_skel.convert.continuity import shared_betas, without_jumps
from hmr_skel.convert.mesh_rows import MeshRows, RootedMeshes
from hmr_skel.convert.resample import left_unsmoothed, smoothed
from hmr_skel.convert.upright import level
from hmr_skel.convert.vertices import rest_pelvis, with_parameters
from hmr_skel.data.annotations import MAX_ABS_BETA, MAX_ANGLE, MAX_DISTANCE
from hmr_skel.data.schema import GIVEN
from hmr_skel.errors import UserError
from hmr_skel.rows import SkelParams, SmplParams

SKEL_GENDERS = ("male", "female", "best")

_FITTED = {"q": (46,), "betas": (10,), "transl": (3,), "v2v_mm": (), "v2v_max_mm": (), "max_limit_violation_deg": ()}
"""What a `SkelClip` takes from a fit, besides the status: float32, shape of one row."""

ONE_SHAPE_MM, ANY_SHAPE_MM = 3.0, 15.0
"""A person's frames are annotated with one shape where their T-poses are no further from the mean one than this, in the
mean over frames and in each frame."""


class Bodies:
    """The body models of a folder (`open`: the openly licensed body). Each is loaded when a row first needs it."""

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu", recipe: str = "default") -> None:
        self.folder = models_folder(folder)
        self.device = torch.device(device)
        self.config = fitting.recipe(recipe)
        self._smpl: dict[str, Smpl] = {}
        self._skel: dict[str, Skel] = {}
        self._models: dict[tuple[str, str], fitting.FitModel] = {}
        self._others: dict[tuple[str, str], OtherBody] = {}
        self._maps: dict[int, Tensor] = {}

    def smpl(self, gender: str) -> Smpl:
        """SMPL. Raises `UserError` where its file is missing or damaged, as `skel` and `model` do."""
        if gender not in self._smpl:
            self._smpl[gender] = Smpl.load(model_path(self.folder, SMPL_FILES[gender])).to(self.device)
        return self._smpl[gender]

    def skel(self, gender: str) -> Skel:
        """SKEL, male or female."""
        if gender not in self._skel:
            self._skel[gender] = Skel.load(model_path(self.folder, SKEL_FILES[gender])).to(self.device)
        return self._skel[gender]

    def model(self, smpl_gender: str, skel_gender: str) -> fitting.FitModel:
        """The pair of bodies, prepared for the fit."""
        key = (smpl_gender, skel_gender)
        if key not in self._models:
            smpl, skel = self.smpl(smpl_gender), self.skel(skel_gender)
            self._models[key] = fitting.prepare(smpl, skel, self.config, skel_gender, self.device)
        return self._models[key]

    def other(self, model: str, gender: str, source: str) -> OtherBody:
        """SMPL-X or STAR, which `source` holds."""
        if (model, gender) not in self._others:
            path = find_other(self.folder, model, gender, source)
            self._others[model, gender] = OtherBody.load(path, model, self.device)
        return self._others[model, gender]

    def in_smpl_topology(self, vertices: Tensor, source: str) -> Tensor:
        """Vertices [B 6890 3] of vertices [B V 3]: by a map, where V is another body's."""
        count = vertices.shape[1]
        if count == 6890:
            return vertices
        if count not in self._maps:
            self._maps[count] = find_map(self.folder, count, source).to(self.device)
        flat = vertices.to(self.device).transpose(0, 1).flatten(1)
        return (self._maps[count] @ flat).unflatten(1, (-1, 3)).transpose(0, 1)


def wanted_genders(smpl_gender: str, skel_gender: str | None) -> tuple[str, ...]:
    """The SKEL bodies to try for an annotation: those asked for; by default its own gender, and male for neutral.

    The default for neutral is one body, as the better one can change from frame to frame: a frame alone has to give
    the same fit as in its recording.
    """
    if skel_gender is None:
        return (smpl_gender,) if smpl_gender in SKEL_FILES else ("male",)
    return tuple(SKEL_FILES) if skel_gender == "best" else (skel_gender,)


def fit_clips(
    clips: Sequence[SmplClip],
    bodies: Bodies,
    skel_gender: str | None = None,
    smooth_hz: float | int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[SkelClip]:
    """Fit SKEL to every row of every clip, together.

    Args:
        clips: from `read_clips` or `clip_from_arrays`.
        bodies: the body models.
        skel_gender: male, female, or best, which tries both and takes the one nearer to the annotated meshes: one body
            for a moving clip, else row by row. None takes the annotation's gender, and male for neutral, as the
            published trainers do.
        smooth_hz: cut-off of `hmr_skel.convert.resample.smoothed` for moving clips of SMPL, which their errors ignore:
            these are to the meshes as annotated. 0 does not smooth.
        progress: called with the number of fits just made; a row takes one for each body tried.

    Returns:
        One clip for each given, in its own frame; but in a y-up one for z-up (`hmr_skel.convert.upright.level`). Rows
        that cannot be fitted are left out of it and named in `rejected`.

    Raises:
        UserError: a model file is missing or damaged, the frames of one person change their SMPL gender, no row at all
            can be fitted, a clip cannot be smoothed so.
    """
    clips = [with_parameters(clip, bodies) for clip in clips]
    pieces = [(_about_the_pelvis(level(clip), bodies), rejected) for clip, rejected in map(_usable, clips)]
    if smooth_hz:
        pieces = [(_noted(clip, left_unsmoothed(clip, smooth_hz)), rejected) for clip, rejected in pieces]
    targets = [_target(clip, bodies, smooth_hz) for clip, _ in pieces if clip.skel_q is None]
    found = _fit_rows(targets, bodies, skel_gender, progress)
    finished, stop, fitted_to = [], 0, iter(targets)
    for clip, rejected in pieces:
        if clip.skel_q is not None:
            finished.append(_as_given(clip, clip.skel_q, rejected, bodies, skel_gender))
            continue
        start, stop = stop, stop + len(clip)
        fits = {skel: {name: values[start:stop] for name, values in fit.items()} for skel, fit in found.items()}
        chosen = _choose(clip, fits, rejected)
        finished.append(_in_time(chosen, bodies, next(fitted_to) is not clip))
    if clips and not any(map(len, finished)):
        number, reason = finished[0].rejected[0]
        raise UserError(f"{clips[0].source}: no row can be fitted (row {number}: {reason}). Expected SMPL parameters.")
    return finished


def count_fits(clips: Sequence[SmplClip], skel_gender: str | None) -> int:
    """The number of fits that `fit_clips` will make, for a progress bar."""
    fitted = [_usable(clip)[0] for clip in clips if clip.skel_q is None]
    return sum(len(wanted_genders(gender, skel_gender)) for clip in fitted for gender in clip.gender)


@np.errstate(over="ignore", invalid="ignore")
def _usable(clip: SmplClip) -> tuple[SmplClip, tuple[tuple[int, str], ...]]:
    """The rows that can be bodies, and the (number, reason) of the others."""
    pose = clip.pose if clip.skel_q is None else clip.skel_q[..., None]
    arrays = (pose, clip.betas, clip.transl, *(() if clip.turn is None else (clip.turn,)))
    why = [
        (~np.all([np.isfinite(values.reshape(len(clip), -1)).all(1) for values in arrays], axis=0), "not finite"),
        (np.abs(clip.betas).max(1) > MAX_ABS_BETA, f"betas beyond {MAX_ABS_BETA:g}"),
        (np.linalg.norm(pose, axis=-1).max(1) > MAX_ANGLE, f"a rotation beyond {MAX_ANGLE:.1f} rad"),
        (np.abs(clip.transl).max(1) > MAX_DISTANCE, f"a translation beyond {MAX_DISTANCE:g} m"),
    ]
    reason = np.full(len(clip), None, object)
    for bad, text in reversed(why):
        reason[bad] = text
    good = np.flatnonzero([text is None for text in reason])
    rejected = (*clip.left_out, *((int(clip.number[i]), reason[i]) for i in np.flatnonzero([*map(bool, reason)])))
    # The rows' numbers show the gaps, across which `SmplClip.starts` couples nothing.
    kept = clip if len(good) == len(clip) else clip.take(good)
    if clip.moving and len(set(kept.gender.tolist())) > 1:
        raise UserError(
            f"{clip.source}: the frames of {clip.name} are of several SMPL genders. Expected one for one person: "
            "say --smpl-gender, or --rows people."
        )
    return kept, rejected


def _about_the_pelvis(clip: SmplClip, bodies: Bodies) -> SmplClip:
    """The clip without `turn`: where the origin turns with the mesh, as in EasyMocap, SMPL turns about the pelvis.

    R (S (v - j) + j) + t is (R S) (v - j) + j + (R j + t - j), S the root's rotation, j the pelvis of the shape.
    """
    if clip.turn is None:
        return clip
    turn = rotvec_to_rotmat(torch.from_numpy(clip.turn).double())
    root = rotvec_to_rotmat(torch.from_numpy(clip.pose[:, 0]).double())
    pelvis = rest_pelvis(clip, bodies)
    pose = clip.pose.copy()
    pose[:, 0] = rotmat_to_rotvec(turn @ root).numpy()
    moved = np.einsum("tij,tj->ti", turn.numpy(), pelvis) + clip.transl - pelvis
    return replace(clip, pose=pose, transl=moved.astype(np.float32), turn=None)


def _noted(clip: SmplClip, note: str | None) -> SmplClip:
    return clip if note is None else replace(clip, notes=(*clip.notes, f"{clip.source}: {note}"))


def _target(clip: SmplClip, bodies: Bodies, smooth_hz: float | int) -> SmplClip:
    """What a clip is fitted to: of one person, with one shape about the annotated pelvis, and smoothed if asked.

    The clip itself where that is no other.
    """
    if not clip.moving or not len(clip):
        return clip
    betas = shared_betas(clip.betas)
    if (betas != clip.betas).any():
        one = replace(clip, betas=betas)
        moved = rest_pelvis(clip, bodies) - rest_pelvis(one, bodies)
        clip = replace(one, transl=(clip.transl + moved).astype(np.float32))
    return smoothed(clip, smooth_hz) if smooth_hz else clip


def _as_given(
    clip: SmplClip, q: np.ndarray, rejected: tuple[tuple[int, str], ...], bodies: Bodies, skel_gender: str | None
) -> SkelClip:
    """A clip that came as SKEL."""
    gender = np.full(len(clip), skel_gender, object) if skel_gender in SKEL_FILES else clip.gender
    if not set(gender.tolist()) <= set(SKEL_FILES):
        raise UserError(f"{clip.source} is SKEL of no gender. Expected male or female: say --gender.")
    unknown = np.full(len(clip), np.nan, np.float32)
    violation = _violation_deg(q, limits(bodies.config.limits)).astype(np.float32)
    status = np.full(len(clip), GIVEN, object)
    return SkelClip(
        clip, gender, q, clip.betas, clip.transl, unknown, unknown, violation, status, tuple(sorted(rejected))
    )


def _fit_rows(
    clips: Sequence[SmplClip], bodies: Bodies, skel_gender: str | None, progress: Callable[[int], object] | None
) -> dict[str, dict[str, np.ndarray]]:
    """Fit the rows of all clips, one clip after the other, to every body that they ask for.

    Returns:
        SKEL gender -> the arrays of `_FITTED` and the status, of all rows; NaN where that body was not tried.
    """
    params = _params(clips)
    smpl_gender = np.concatenate([np.empty(0, object), *(clip.gender for clip in clips)])
    meshed = np.concatenate([np.empty(0, bool), *(np.full(len(clip), clip.mesh is not None) for clip in clips)])
    kinds = dict.fromkeys(zip(smpl_gender, meshed.tolist(), strict=True))
    plan = [(own, skel, mesh) for own, mesh in kinds for skel in wanted_genders(own, skel_gender)]
    for own, skel, _ in plan:  # a missing or damaged file shows before any work
        bodies.model(own, skel)
    meshes = [clip.mesh for clip in clips if clip.mesh is not None]
    place = np.cumsum(meshed) - 1  # of a row among those with meshes
    count = len(smpl_gender)
    fits = {}
    for skel in dict.fromkeys(skel for _, skel, _ in plan or [("male", "male", False)]):
        numbers = {name: np.full((count, *shape), np.nan, np.float32) for name, shape in _FITTED.items()}
        fits[skel] = {**numbers, "status": np.full(count, fitting.Status.rejected, np.int8)}
    for own, skel, mesh in plan:
        rows = np.flatnonzero((smpl_gender == own) & (meshed == mesh))
        given = RootedMeshes(MeshRows.joined(meshes).take(place[rows]), bodies) if mesh else None
        done = 0

        def step(now: int) -> None:  # from rows done so far to rows just done
            nonlocal done
            if progress is not None:
                progress(now - done)
            done = now

        mine = params if len(rows) == count else params[torch.from_numpy(rows)]
        result = fitting.fit_many(mine, bodies.model(own, skel), None, step, given)
        for name, values in fits[skel].items():
            values[rows] = getattr(result.skel if name in ("q", "betas", "transl") else result, name)
    return fits


def _choose(clip: SmplClip, fits: dict[str, dict[str, np.ndarray]], rejected: tuple[tuple[int, str], ...]) -> SkelClip:
    """The better body's fit: one body for a moving clip, else the better one for every row."""
    v2v = np.stack([fit["v2v_mm"] for fit in fits.values()])  # [bodies T], NaN where not tried
    if clip.moving:
        means = [np.nanmean(rows) if np.isfinite(rows).any() else np.inf for rows in v2v]
        best = np.full(len(clip), int(np.argmin(means)))
    else:
        best = np.where(np.isnan(v2v), np.inf, v2v).argmin(0)
    rows = np.arange(len(clip))
    found = {name: np.stack([fit[name] for fit in fits.values()])[best, rows] for name in (*_FITTED, "status")}
    kept = found["status"] != fitting.Status.rejected
    rejected += tuple((int(number), "no fit was found") for number in clip.number[~kept])
    found = {name: values[kept] for name, values in found.items()}
    found["status"] = np.array([fitting.Status(int(code)).name for code in found["status"]], object)
    gender = np.array([list(fits)[i] for i in best], object)[kept]
    return SkelClip(clip.take(kept), gender, **found, rejected=tuple(sorted(rejected)))


def _in_time(clip: SkelClip, bodies: Bodies, measure: bool) -> SkelClip:
    """The clip with angles that do not jump, and its errors measured anew where it was fitted to something else."""
    if not len(clip) or not clip.smpl.moving:
        return clip
    clip = replace(clip, q=without_jumps(clip.q, clip.smpl.starts(), limits(bodies.config.limits)))
    if not measure:
        return clip
    smpl, before, (mean, largest) = clip.smpl, clip.v2v_mm, distances_mm(clip, bodies)
    apart = _shapes_apart_mm(smpl, bodies)
    if apart.mean() > ONE_SHAPE_MM or apart.max() > ANY_SHAPE_MM:
        note = (
            f"the betas of {smpl.name} vary as if of several people (T-poses {apart.mean():.1f} mm from their mean, up "
            f"to {apart.max():.1f} mm), and SKEL gets one shape, of the mean: v2v is {mean.mean():.1f} mm to the "
            f"annotated meshes, {before.mean():.1f} mm to what was fitted"
        )
        clip = replace(clip, smpl=_noted(smpl, note))
    # A row that is far from what it was fitted to stays far.
    status = np.where(mean > bodies.config.far_v2v_mm, fitting.Status.far.name, clip.status)
    return replace(clip, v2v_mm=mean, v2v_max_mm=largest, status=status)


def _shapes_apart_mm(clip: SmplClip, bodies: Bodies) -> np.ndarray:
    """Mean distance [T] of each frame's T-pose from that of the shared betas; all rows are of one SMPL gender."""
    smpl = bodies.smpl(clip.gender[0])
    shapes, of = np.unique(clip.betas - shared_betas(clip.betas), axis=0, return_inverse=True)
    apart = torch.from_numpy(shapes).to(smpl.shapedirs)
    found = [(one @ smpl.shapedirs).unflatten(0, (-1, 3)).norm(dim=1).mean().item() for one in apart]
    return 1000 * np.array(found)[of]


def distances_mm(clip: SkelClip, bodies: Bodies) -> tuple[np.ndarray, np.ndarray]:
    """Mean and largest distance [N] of the skin from the annotated mesh; all rows are of one body."""
    fitted = SkelParams(*(torch.from_numpy(v) for v in (clip.q, clip.betas, clip.transl)))
    mesh = None if clip.smpl.mesh is None else RootedMeshes(clip.smpl.mesh, bodies)
    found = mesh_distances_mm(_params([clip.smpl]), fitted, bodies.model(clip.smpl.gender[0], clip.gender[0]), mesh)
    return found[0].numpy(), found[1].numpy()


def _violation_deg(q: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """How far the worst dof [N] is outside its range; whole turns do not count."""
    q, bounds = q[:, 3:].astype(np.float64), bounds[3:]
    middle = np.where(np.isfinite(bounds).all(1), bounds.mean(1), 0)
    q = q - 2 * np.pi * np.round((q - middle) / (2 * np.pi))
    return np.degrees(np.maximum(bounds[:, 0] - q, q - bounds[:, 1]).max(1).clip(0))


def _params(clips: Sequence[SmplClip]) -> SmplParams:
    def column(name: str, shape: tuple[int, ...]) -> Tensor:
        arrays = [np.asarray(getattr(clip, name), np.float32) for clip in clips]
        return torch.from_numpy(np.concatenate(arrays) if arrays else np.empty((0, *shape), np.float32))

    pose = column("pose", (24, 3))
    return SmplParams(pose[:, 0], pose[:, 1:], column("betas", (10,)), column("transl", (3,)))

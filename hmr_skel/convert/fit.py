"""Clips of SMPL to clips of SKEL: every row is fitted for itself, whatever its file, then clips are finished."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fitting
from fitting.sequence import smooth
from hmr_skel.body.dofs import limits
from hmr_skel.body.files import SKEL_FILES, SMPL_FILES, model_path
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.convert.clips import SkelClip, SmplClip
from hmr_skel.convert.continuity import shared_betas, without_jumps
from hmr_skel.convert.distance import mesh_distances_mm
from hmr_skel.data.checks import MAX_ABS_BETA, MAX_ANGLE, MAX_DISTANCE
from hmr_skel.errors import UserError
from hmr_skel.rows import SkelParams, SmplParams

SKEL_GENDERS = ("male", "female", "best")


class Bodies:
    """The body models of a folder, loaded when a row first needs them."""

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu", recipe: str = "default") -> None:
        self.folder = Path(folder)
        self.device = torch.device(device)
        self.config = fitting.recipe(recipe)
        self._smpl: dict[str, Smpl] = {}
        self._skel: dict[str, Skel] = {}
        self._models: dict[tuple[str, str], fitting.FitModel] = {}

    def smpl(self, gender: str) -> Smpl:
        """SMPL. Raises `UserError` where its file is missing or damaged; so does `skel`."""
        if gender not in self._smpl:
            self._smpl[gender] = Smpl.load(model_path(self.folder, SMPL_FILES[gender])).to(self.device)
        return self._smpl[gender]

    def skel(self, gender: str) -> Skel:
        """SKEL, male or female."""
        if gender not in self._skel:
            self._skel[gender] = Skel.load(model_path(self.folder, SKEL_FILES[gender])).to(self.device)
        return self._skel[gender]

    def model(self, smpl_gender: str, skel_gender: str) -> fitting.FitModel:
        """The pair made ready to be fitted."""
        key = (smpl_gender, skel_gender)
        if key not in self._models:
            smpl, skel = self.smpl(smpl_gender), self.skel(skel_gender)
            self._models[key] = fitting.prepare(smpl, skel, self.config, skel_gender, self.device)
        return self._models[key]


def wanted_genders(smpl_gender: str, skel_gender: str | None) -> tuple[str, ...]:
    """The SKEL bodies to try for an annotation: as asked for; else its own gender, and male for neutral ones.

    Not both for neutral ones: which is nearer can change from frame to frame, and a frame alone is to give what it
    gives in its recording.
    """
    if skel_gender is None:
        return (smpl_gender,) if smpl_gender in SKEL_FILES else ("male",)
    return tuple(SKEL_FILES) if skel_gender == "best" else (skel_gender,)


def fit_clips(
    clips: Sequence[SmplClip],
    bodies: Bodies,
    skel_gender: str | None = None,
    smoothness: float | int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[SkelClip]:
    """Fit SKEL to every row of every clip, together.

    Args:
        clips: as read.
        bodies: where the models are.
        skel_gender: male, female, or best: of both the one nearer to the annotated meshes, once per moving clip, else
            row by row. None takes the annotation's own, and male for neutral ones, as the published trainers do.
        smoothness: weight of `fitting.sequence.smooth`, for moving clips; 0 leaves every frame to itself.
        progress: called with the number of fits just made; a row takes one per body tried.

    Returns:
        A clip for each. Rows that cannot be fitted are left out of it, and named in `rejected`.

    Raises:
        UserError: a model file is missing or damaged, the frames of one person change their SMPL gender, no row at all
            can be fitted.
    """
    pieces = [_usable(clip) for clip in clips]
    found = _fit_rows([clip for clip, _ in pieces], bodies, skel_gender, progress)
    finished, start = [], 0
    for clip, rejected in pieces:
        rows = slice(start, start + len(clip))
        start += len(clip)
        chosen = _choose(clip, [one.rows(rows) for one in found], rejected)
        finished.append(_in_time(chosen, bodies, smoothness) if clip.moving else chosen)
    if clips and not any(map(len, finished)):
        number, reason = finished[0].rejected[0]
        raise UserError(f"{clips[0].source}: no row can be fitted (row {number}: {reason}). Expected SMPL parameters.")
    return finished


def count_fits(clips: Sequence[SmplClip], skel_gender: str | None) -> int:
    """How many fits `fit_clips` will make, for a progress bar."""
    return sum(len(wanted_genders(gender, skel_gender)) for clip in clips for gender in _usable(clip)[0].gender)


@dataclass(frozen=True)
class _Fits:
    """Fits of all rows [N] to one SKEL body; NaN where a row was not to be tried with it."""

    skel_gender: str
    q: np.ndarray
    betas: np.ndarray
    transl: np.ndarray
    v2v_mm: np.ndarray
    v2v_max_mm: np.ndarray
    max_limit_violation_deg: np.ndarray
    status: np.ndarray  # int8

    def rows(self, rows: slice | np.ndarray) -> "_Fits":
        arrays = {k: v[rows] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return _Fits(skel_gender=self.skel_gender, **arrays)


@np.errstate(over="ignore", invalid="ignore")
def _usable(clip: SmplClip) -> tuple[SmplClip, tuple[tuple[int, str], ...]]:
    """The rows that are bodies, with one shape where they are one person; and the others, with the reason."""
    why = [
        (_not_finite(clip), "not finite"),
        (np.abs(clip.betas).max(1) > MAX_ABS_BETA, f"betas beyond {MAX_ABS_BETA:g}"),
        (np.linalg.norm(clip.pose, axis=-1).max(1) > MAX_ANGLE, f"a rotation beyond {MAX_ANGLE:.1f} rad"),
        (np.abs(clip.transl).max(1) > MAX_DISTANCE, f"a translation beyond {MAX_DISTANCE:g} m"),
    ]
    reason = np.full(len(clip), None, object)
    for bad, text in reversed(why):
        reason[bad] = text
    good = np.flatnonzero([text is None for text in reason])
    rejected = tuple((int(clip.number[i]), reason[i]) for i in range(len(clip)) if reason[i] is not None)
    # Where a frame is left out nothing is coupled across the gap, which its number tells.
    kept = clip.take(good)
    if clip.moving and len(kept):
        if len(set(kept.gender.tolist())) > 1:
            raise UserError(
                f"{clip.source}: the frames of {clip.name} are of several SMPL genders. Expected one for one person: "
                "say --smpl-gender, or --rows people."
            )
        kept = replace(kept, betas=shared_betas(kept.betas))
    return kept, rejected


def _not_finite(clip: SmplClip) -> np.ndarray:
    flat = (clip.pose.reshape(len(clip), -1), clip.betas, clip.transl)
    return ~np.all([np.isfinite(values).all(1) for values in flat], axis=0)


def _fit_rows(
    clips: Sequence[SmplClip], bodies: Bodies, skel_gender: str | None, progress: Callable[[int], object] | None
) -> list[_Fits]:
    """All rows of all clips, one after the other, with every body that any of them asks for."""
    params = _params(clips)
    smpl_gender = np.concatenate([clip.gender for clip in clips]) if clips else np.empty(0, object)
    count = len(smpl_gender)
    plan = [(own, skel) for own in dict.fromkeys(smpl_gender) for skel in wanted_genders(own, skel_gender)]
    for own, skel in plan:  # a missing or damaged file shows before any work
        bodies.model(own, skel)
    fits = {}
    for own, skel in plan:
        rows = np.flatnonzero(smpl_gender == own)
        one = fits.setdefault(skel, _nothing(skel, count))
        result = fitting.fit_many(
            params[torch.from_numpy(rows)], bodies.model(own, skel), None, _by_increments(progress)
        )
        one.q[rows], one.betas[rows], one.transl[rows] = result.skel.q, result.skel.betas, result.skel.transl
        for name in ("v2v_mm", "v2v_max_mm", "max_limit_violation_deg", "status"):
            getattr(one, name)[rows] = getattr(result, name)
    return list(fits.values())


def _nothing(skel_gender: str, count: int) -> _Fits:
    def nan(*shape: int) -> np.ndarray:
        return np.full((count, *shape), np.nan, np.float32)

    status = np.full(count, fitting.Status.rejected, np.int8)
    return _Fits(skel_gender, nan(46), nan(10), nan(3), nan(), nan(), nan(), status)


def _choose(clip: SmplClip, fits: list[_Fits], rejected: tuple[tuple[int, str], ...]) -> SkelClip:
    """The better body, once for one person, else for every row."""
    if not len(clip):
        fits = [_nothing("male", 0)]
    v2v = np.stack([fit.v2v_mm for fit in fits])  # NaN where not tried
    distance = np.where(np.isnan(v2v), np.inf, v2v)
    if clip.moving:
        tried = [i for i, fit in enumerate(fits) if not np.isnan(fit.v2v_mm).all()]
        means = [float(np.nanmean(v2v[i])) for i in tried]
        best = np.full(len(clip), tried[int(np.argmin(means))] if tried else 0)
    else:
        best = distance.argmin(0)
    rows = np.arange(len(clip))
    names = [fit.skel_gender for fit in fits]

    def of(name: str) -> np.ndarray:
        return np.stack([getattr(fit, name) for fit in fits])[best, rows]

    status = of("status")
    lost = status == fitting.Status.rejected
    rejected += tuple((int(clip.number[i]), "no fit was found") for i in np.flatnonzero(lost))
    kept = ~lost
    return SkelClip(
        smpl=clip.take(kept),
        gender=np.array([names[i] for i in best], object)[kept],
        q=of("q")[kept],
        betas=of("betas")[kept],
        transl=of("transl")[kept],
        v2v_mm=of("v2v_mm")[kept],
        v2v_max_mm=of("v2v_max_mm")[kept],
        max_limit_violation_deg=of("max_limit_violation_deg")[kept],
        status=np.array([fitting.Status(int(code)).name for code in status[kept]], object),
        rejected=tuple(sorted(rejected)),
    )


def _in_time(clip: SkelClip, bodies: Bodies, smoothness: float | int) -> SkelClip:
    """Angles without jumps, and smooth ones where that was asked for."""
    if not len(clip) or not clip.smpl.moving:
        return clip
    starts, table = clip.smpl.starts(), bodies.config.limits
    clip = replace(clip, q=without_jumps(clip.q, starts, limits(table)))
    if smoothness == 0:
        return clip
    q = smooth(
        torch.from_numpy(clip.q), torch.from_numpy(clip.betas), torch.from_numpy(starts), bodies.skel(clip.gender[0]),
        smoothness, table, clip.smpl.row_rate,
    ).numpy()  # fmt: skip
    clip = replace(clip, q=q)
    mean, largest = distances_mm(clip, bodies)
    return replace(
        clip,
        v2v_mm=mean,
        v2v_max_mm=largest,
        max_limit_violation_deg=_violation_deg(q, limits(table)).astype(np.float32),
    )


def distances_mm(clip: SkelClip, bodies: Bodies) -> tuple[np.ndarray, np.ndarray]:
    """Mean and largest distance [N] of the skin to the annotated mesh, of a clip of one body."""
    fitted = SkelParams(*(torch.from_numpy(v) for v in (clip.q, clip.betas, clip.transl)))
    return mesh_distances_mm(
        _params([clip.smpl]), bodies.smpl(clip.smpl.gender[0]), fitted, bodies.skel(clip.gender[0])
    )


def _violation_deg(q: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """How far the worst dof [N] is outside its range, whole turns aside."""
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


def _by_increments(progress: Callable[[int], object] | None) -> Callable[[int], object] | None:
    """From rows done so far, as the fit tells them, to rows just done."""
    if progress is None:
        return None
    last = 0

    def step(done: int) -> None:
        nonlocal last
        progress(done - last)
        last = done

    return step

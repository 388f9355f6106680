"""Clips at another frame rate, or without fast changes: rotations on the sphere, each run of frames by itself."""

from dataclasses import replace

import numpy as np

from hmr_skel.convert.clips import SmplClip
from hmr_skel.errors import UserError


def resampled(clip: SmplClip, frame_rate: float) -> SmplClip:
    """The clip at this number of frames a second.

    Each run of frames between cuts and gaps is one smooth motion: cubic splines through every frame's rotations (of
    each joint against its parent) and translation. Frame k is at time k / frame_rate of the recording. Frames that are
    not finite are left out, and nothing is put in their place.

    Raises:
        UserError: the clip is no motion of SMPL, or its own frame rate is not known.
    """
    _refuse_meshes(clip, "--frame-rate")
    if not clip.moving or clip.skel_q is not None:
        found = "SKEL already" if clip.moving else "no frames of one person in time"
        raise UserError(
            f"{clip.source} is {found}, and only a motion of SMPL can be brought to another frame rate. Leave "
            "--frame-rate out."
        )
    if clip.frame_rate is None:
        raise UserError(
            f"{clip.source} does not say how many frames a second it has. Say --frame-rate, the rate that it was "
            "recorded at."
        )
    finite = np.isfinite(clip.pose).all((1, 2)) & np.isfinite(clip.transl).all(1)
    lost = int((~finite).sum())
    clip = clip.take(np.flatnonzero(finite))
    if not len(clip):
        raise UserError(f"no frame of {clip.source} is finite. Expected SMPL parameters.")
    time, starts = clip.number / clip.frame_rate, np.flatnonzero(clip.starts())
    turns = clip.pose if clip.turn is None else np.concatenate((clip.pose, clip.turn[:, None]), 1)
    numbers, rotvecs, transls, nearest = [clip.number[:0]], [turns[:0]], [clip.transl[:0]], [np.empty(0, np.int64)]
    for start, stop in zip(starts, [*starts[1:], len(clip)], strict=True):
        at = time[start:stop]
        first, last = np.ceil(at[0] * frame_rate - 1e-6), np.floor(at[-1] * frame_rate + 1e-6)
        wanted = np.arange(first, last + 1)
        if not len(wanted):
            lost += stop - start
            continue
        when = np.clip(wanted / frame_rate, at[0], at[-1])
        rotvec, transl = _splines(at, turns[start:stop], clip.transl[start:stop], when)
        numbers.append(wanted.astype(np.int64))
        rotvecs.append(rotvec)
        transls.append(transl)
        nearest.append(start + np.abs(at - when[:, None]).argmin(1))
    if len(numbers) == 1:
        raise UserError(f"{clip.source}: no stretch of frames is as long as one frame at {frame_rate:g} a second.")
    rotvec = np.concatenate(rotvecs).astype(np.float32)
    note = f"{clip.source}: resampled from {clip.frame_rate:g} to {frame_rate:g} frames a second"
    note += f"; {lost} frames left out, not finite or too short a stretch" if lost else ""
    return replace(
        clip.take(np.concatenate(nearest)),
        pose=rotvec[:, :24],
        turn=None if clip.turn is None else rotvec[:, 24],
        transl=np.concatenate(transls).astype(np.float32),
        number=np.concatenate(numbers),
        frame_rate=frame_rate,
        imgname=None,
        notes=(*clip.notes, note),
    )


def _refuse_meshes(clip: SmplClip, option: str) -> None:
    if clip.mesh is not None:
        raise UserError(
            f"{option} changes SMPL's parameters over time, and {clip.source} is fitted as meshes. Leave {option} out."
        )


SHORTEST_RUN = 3  # frames
SLOWEST_HZ = 1.0
"""No lower cut-off: people move faster. Of versions whose option was a weight, 0.1 was usual."""


def smoothed(clip: SmplClip, cutoff: float | int) -> SmplClip:
    """The clip without what changes faster than `cutoff`, Hz: rotations of the root and all joints, and translation.

    Every run x of frames between cuts and gaps becomes the y of least sum |y - x|^2 + weight * sum |second difference
    of y|^2 (Whittaker 1923; a cubic smoothing spline). A frequency f keeps the share 1 / (1 + weight (2 sin(pi f /
    rate))^4) of its amplitude, without phase lag: as of the usual Butterworth filter, of 2nd order and run both ways,
    and 1 / sqrt(2) at the cut-off. But it needs no frames beyond the ends, where it keeps straight lines: runs of under
    `SHORTEST_RUN` frames stay as they are. Above a quarter of the rate a cut-off takes little (`left_unsmoothed`).
    Rotations are smoothed as unit quaternions, which no angle's branches disturb.

    Args:
        clip: moving, of SMPL about its pelvis (`turn` is None), all rows finite.
        cutoff: below half of the clip's rows a second.

    Raises:
        UserError: the frame rate is not known, or holds no such frequency, or the cut-off is below `SLOWEST_HZ`.
    """
    from scipy.linalg import solveh_banded
    from scipy.spatial.transform import Rotation

    _refuse_meshes(clip, "--smooth")
    if not SLOWEST_HZ <= cutoff < np.inf:
        raise UserError(
            f"smoothing with a cut-off of {cutoff:g} Hz. Expected {SLOWEST_HZ:g} Hz or more; 6 is usual, as people's "
            "movements have little beyond. Earlier versions took a weight here."
        )
    rate = clip.row_rate
    if rate is None:
        raise UserError(
            f"{clip.source} does not say how many frames a second it has, and smoothing is in Hz. Say --frame-rate."
        )
    if cutoff >= rate / 2:
        raise UserError(
            f"{clip.source} has {rate:g} rows a second, which hold nothing of {cutoff:g} Hz and faster that could be "
            f"smoothed. Expected a cut-off below {rate / 2:g} Hz, or no smoothing."
        )
    weight = _weight(cutoff, rate)
    quat = Rotation.from_rotvec(clip.pose.reshape(-1, 3)).as_quat().reshape(len(clip), -1, 4)
    side = np.where((quat[1:] * quat[:-1]).sum(-1, keepdims=True) < 0, -1, 1)  # q and -q are one rotation
    quat[1:] *= np.cumprod(side, 0)
    found = np.concatenate((quat.reshape(len(clip), -1), clip.transl), 1)
    starts = np.flatnonzero(clip.starts())
    for start, stop in zip(starts, [*starts[1:], len(clip)], strict=True):
        if stop - start >= SHORTEST_RUN:
            band = np.zeros((3, stop - start))  # of I + weight D^T D, D the second differences
            for lag, factors in enumerate(((1, 4, 1), (-2, -2), (1,))):
                for k, factor in enumerate(factors):
                    band[lag, k : stop - start - 2 + k] += weight * factor
            band[0] += 1
            found[start:stop] = solveh_banded(band, found[start:stop], lower=True, check_finite=False)
    pose = Rotation.from_quat(found[:, :-3].reshape(-1, 4)).as_rotvec().reshape(clip.pose.shape)
    return replace(clip, pose=pose.astype(np.float32), transl=found[:, -3:].astype(np.float32))


def left_unsmoothed(clip: SmplClip, cutoff: float | int) -> str | None:
    """What of a clip `smoothed` leaves as it is, in words; None: nothing."""
    if clip.skel_q is not None:
        return f"{clip.name} is SKEL already and is not smoothed"
    if not clip.moving:
        return f"{clip.name} holds no frames in time and is not smoothed"
    rate = clip.row_rate
    if rate is not None and rate / 4 < cutoff < rate / 2:
        kept = 1 / (1 + 16 * _weight(cutoff, rate))
        return f"at {rate:g} rows a second a cut-off of {cutoff:g} Hz keeps {100 * kept:.0f} % of the fastest movement"
    runs = np.diff([*np.flatnonzero(clip.starts()), len(clip)])
    short = int(runs[runs < SHORTEST_RUN].sum())
    return f"{short} frames of {clip.name} stand in runs too short to be smoothed" if short else None


def _weight(cutoff: float | int, rate: float) -> float:
    return (np.sqrt(2) - 1) / (2 * np.sin(np.pi * cutoff / rate)) ** 4


def _splines(at: np.ndarray, rotvec: np.ndarray, transl: np.ndarray, when: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations [T K 3] and translations [T 3] of the times `when`, from those of the times `at`."""
    from scipy.interpolate import CubicSpline
    from scipy.spatial.transform import Rotation, RotationSpline

    if len(at) == 1:
        return rotvec[[0] * len(when)], transl[[0] * len(when)]
    turned = [RotationSpline(at, Rotation.from_rotvec(rotvec[:, k]))(when).as_rotvec() for k in range(rotvec.shape[1])]
    return np.stack(turned, 1), CubicSpline(at, transl, axis=0)(when)

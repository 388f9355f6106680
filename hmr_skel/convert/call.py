"""The converter as one call: arrays in, arrays out."""

from pathlib import Path
from typing import Any

from hmr_skel.body.assets import SMPL_FILES
from hmr_skel.convert.clips import UPRIGHT, SkelClip
from hmr_skel.convert.fit import SKEL_GENDERS, Bodies, count_fits, fit_clips
from hmr_skel.convert.parameters import ANGLES, LENGTHS, Units
from hmr_skel.convert.reading import ROWS, ReadOptions, clip_from_arrays
from hmr_skel.device import resolve_device
from hmr_skel.errors import UserError
from hmr_skel.progress import progress_bar


def smpl_to_skel(
    poses: Any,
    betas: Any,
    transl: Any = None,
    *,
    smpl_gender: str,
    body_models: str | Path,
    skel_gender: str | None = None,
    frame_rate: float | int | None = None,
    rows: str = "frames",
    smooth_hz: float | int = 0,
    frame: str | None = None,
    lengths: str | None = None,
    angles: str | None = None,
    device: str = "auto",
    progress: bool = False,
) -> SkelClip:
    """SMPL parameters to SKEL.

    Args:
        poses: numpy, torch or lists: axis-angles [T 72], [T 24 3] (SMPL), [T 66], [T 22 3] or [T 156] (SMPL-H, fingers
            dropped), or rotation matrices [T 24 3 3]; or one row, [72]. Results are in the same frame,
            but for z-up (see `frame`).
        betas: [10], [1 10] or [T 10]; of more coefficients the first ten are used.
        transl: [T 3]; the body stays at the origin if not given.
        smpl_gender: neutral, male or female: the SMPL model that the parameters are for.
        body_models: the folder with the SMPL and SKEL files; `open` takes the openly licensed body.
        skel_gender: male, female or best (tries both and takes the one nearer to the meshes); by default the
            annotation's gender, and male for neutral.
        frame_rate: frames a second, for times and for smoothing.
        rows: `frames`: the rows are frames of one person, in order; the person gets one shape (the mean), and angles do
            not jump. `people`: each row stands for itself.
        smooth_hz: cut-off of smoothing in time, Hz, see `hmr_skel.convert.resample.smoothed`; 6 is usual, 0 is off.
        frame: camera, y-up or z-up. z-up is turned to y-up, where the pelvis' angles do not jump; `from_input` of the
            result's `smpl` says how.
        lengths: m, cm or mm; metres by default, and an error where the numbers speak against it.
        angles: rad or deg; radians by default, and an error likewise.
        device: cpu, cuda, cuda:1; auto takes the first CUDA device, else the CPU.
        progress: show a progress bar on a terminal, and elsewhere a line every ten seconds.

    Returns:
        A `SkelClip`: `q` [N 46] rad, `betas` [N 10], `transl` [N 3] m, `gender`, `v2v_mm` [N] and more. N is T less the
        rows that cannot be a body (not finite, or far too large); `rejected` names these.

    Raises:
        UserError: a shape, unit or option that cannot be used; the text says what was expected.
    """
    choices = {
        "smpl_gender": (smpl_gender, tuple(SMPL_FILES)),
        "skel_gender": (skel_gender, (None, *SKEL_GENDERS)),
        "rows": (rows, ROWS[:2]),
        "frame": (frame, (None, *UPRIGHT)),
        "lengths": (lengths, (None, *LENGTHS)),
        "angles": (angles, (None, *ANGLES)),
    }
    for name, (value, known) in choices.items():
        if value not in known:
            raise UserError(f"{name} is {value!r}. Expected one of {', '.join(map(repr, known))}.")
    if frame_rate is not None and not 0.1 <= frame_rate <= 10_000:
        raise UserError(f"frame_rate is {frame_rate}. Expected frames a second.")
    arrays = {"poses": poses, "betas": betas} | ({} if transl is None else {"transl": transl})
    units = Units(lengths, angles)
    options = ReadOptions(smpl_gender=smpl_gender, frame_rate=frame_rate, rows=rows, frame=frame, units=units)
    clip = clip_from_arrays(arrays, "arrays", options)
    bodies = Bodies(body_models, resolve_device(device))
    with progress_bar(not progress, "frame", count_fits([clip], skel_gender), "fit") as bar:
        return fit_clips([clip], bodies, skel_gender, smooth_hz, bar.update)[0]

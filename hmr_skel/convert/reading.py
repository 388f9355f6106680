"""One person's arrays to a clip, by what the user says of them and what the tool that wrote them is known to mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hmr_skel.convert.clips import SmplClip, looks_like
from hmr_skel.convert.parameters import Units, first_key, read_parameters, refuse_centimetres
from hmr_skel.data.annotations import GENDER_OF, to_genders, to_texts
from hmr_skel.errors import UserError

ROWS = ("people", "frames", "folders")
_ENOUGH = 10  # rows, to tell from how people stand that a frame is another than is said
_RATE_KEYS = ("mocap_framerate", "mocap_frame_rate", "frame_rate", "framerate", "fps")


class UnsaidGender(UserError):
    """Nothing says which SMPL model the parameters are for: not the file, not its kind, not the options."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What the user says of the files. None: as the file says."""

    smpl_gender: str | None = None
    """neutral, male or female: the SMPL model that the annotations are for."""
    frame: str | None = None
    """camera, y-up or z-up."""
    frame_rate: float | int | None = None
    """Frames a second."""
    rows: str | None = None
    """people: each row stands for itself. frames: the rows of a person are consecutive frames. folders: rows are frames
    of one clip if their images share a folder."""
    units: Units = field(default_factory=Units)


@dataclass(frozen=True)
class Maker:
    """What the tool that writes a kind of file is known to mean."""

    gender: str | None = None
    frame: str | None = None
    rows: str = "frames"
    metric_depth: bool = True  # whether distances are real; False: they follow from a conventional focal length


NOBODY = Maker()
"""Of a file that any tool may have written."""


def clip_from_arrays(arrays: Mapping, name: str, options: ReadOptions) -> SmplClip:
    """A clip of arrays under any of the keys that files have. Raises `UserError` as `make_clip` does."""
    return make_clip(arrays, name, name, options, NOBODY)


def make_clip(
    found: Mapping,
    where: str,
    name: str,
    options: ReadOptions,
    maker: Maker,
    number: np.ndarray | None = None,
    shot: np.ndarray | None = None,
    notes: tuple[str, ...] = (),
) -> SmplClip:
    """A clip of arrays, completed by the options and by what is known of the file's maker.

    Raises `UserError` where something is missing, has a wrong shape, or cannot be in metres and radians.
    """
    parameters = read_parameters(found, where, options.units)
    count = len(parameters.pose)
    rate_key = first_key(found, _RATE_KEYS)
    rate = options.frame_rate or (_rate(found[rate_key], f"{where}: {rate_key!r}") if rate_key else None)
    moving = count > 1 and (options.rows or maker.rows) != "people"
    frame = options.frame or maker.frame
    if options.units.lengths is None and maker.metric_depth:
        refuse_centimetres(parameters.transl, where, frame, rate, moving)
    seems = looks_like(parameters.pose) if count >= _ENOUGH else None
    if options.frame is None and None not in (maker.frame, seems) and seems != maker.frame:
        notes += (
            f"{where}: files of this kind are {maker.frame}, but these people stand as in a {seems} frame: give "
            f"--frame {maker.frame} or --frame {seems} to settle it",
        )
        frame = None
    return SmplClip(
        name=name,
        source=Path(where).name,
        file=Path(where).stem,
        pose=parameters.pose,
        betas=parameters.betas,
        transl=parameters.transl,
        gender=_gender(found, where, count, options, maker),
        number=np.arange(count, dtype=np.int64) if number is None else number,
        moving=moving,
        frame=frame,
        frame_rate=rate,
        shot=shot,
        imgname=_names(found["imgname"], count) if "imgname" in found else None,
        notes=notes + parameters.notes,
    )


def _gender(found: Mapping, where: str, count: int, options: ReadOptions, maker: Maker) -> np.ndarray:
    if options.smpl_gender is not None:
        return np.full(count, options.smpl_gender, object)
    if "gender" not in found:
        if maker.gender is not None:
            return np.full(count, maker.gender, object)
        raise UnsaidGender(
            f"{where} does not say which SMPL model it is for. Expected 'gender' in it: say --smpl-gender neutral, "
            "male or female. The same numbers are another body in each of them."
        )
    genders = to_genders(to_texts(np.ravel(found["gender"])))
    known = all(isinstance(gender, str) and gender in GENDER_OF for gender in genders)
    if not known or len(genders) not in (1, count):
        raise UserError(
            f"{where}: 'gender' is {genders.tolist()[:3]}. Expected neutral, male or female, once or per row: say "
            "--smpl-gender."
        )
    return np.repeat(genders, count if len(genders) == 1 else 1)


def _rate(value: Any, what: str) -> float:
    try:
        rate = float(np.asarray(value).reshape(()))
    except (TypeError, ValueError):
        rate = np.nan
    if not 0.1 <= rate <= 10_000:
        raise UserError(f"{what} is {value}. Expected frames a second: say --frame-rate.")
    return rate


def _names(value: Any, count: int) -> np.ndarray | None:
    names = to_texts(np.ravel(value))
    return names.astype(str).astype(object) if len(names) == count else None

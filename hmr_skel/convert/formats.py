"""Files to clips: which tool made the file, what its rows are, and what that tool is known to mean.

A file is recognised by its keys. The options say what the tool leaves open (gender, frame, frame rate); where neither
says what a fit needs, reading fails and names the option.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hmr_skel.convert.clips import SmplClip, split_folders
from hmr_skel.convert.files import READABLE, is_parquet, read_contents, read_parquet
from hmr_skel.convert.parameters import POSE_KEYS, Units, first_key, has_pose, refuse_smplx
from hmr_skel.convert.reading import NOBODY, Maker, ReadOptions, make_clip
from hmr_skel.data.npz import LabelFile
from hmr_skel.errors import UserError

_CODEC_MODELS = ("SMPL", "SMPL-H", "SMPL-X", "SUPR", "SMPL++", "SKEL", "SMIL", "SMPL-XS")
_CODEC_GENDERS = ("neutral", "male", "female")
_SKEL_KEYS = ("skel_q", "skel_poses", "orig_poses")

_AMASS = Maker(frame="z-up")
_LABELS = Maker(gender="neutral", frame="camera", rows="people")
_REGRESSED = Maker(gender="neutral", frame="camera", rows="people", metric_depth=False)
_TRACKED = replace(_REGRESSED, rows="frames")


def read_clips(path: Path, options: ReadOptions) -> list[SmplClip]:
    """All people of a file.

    Raises:
        UserError: the kind of the file is not read, or it lacks what a fit needs; the text says what was found, what
            was expected and what to do.
    """
    if is_parquet(path):
        if options.units != Units():
            raise UserError(f"{path} is Parquet of ours, in metres and radians. Leave --lengths and --angles out.")
        clips = [_as_said(clip, options) for clip in read_parquet(path, options.rows)]
    else:
        clips = _clips(read_contents(path), path, options)
    if not clips:
        raise UserError(f"{path} holds no person.")
    if options.rows == "folders":
        return [part for clip in clips for part in split_folders(clip)]
    return clips


def _as_said(clip: SmplClip, options: ReadOptions) -> SmplClip:
    if options.smpl_gender is not None:
        clip = replace(clip, gender=np.full(len(clip), options.smpl_gender, object))
    return replace(clip, frame=options.frame or clip.frame, frame_rate=options.frame_rate or clip.frame_rate)


def _clips(contents: Any, path: Path, options: ReadOptions) -> list[SmplClip]:
    where, stem = str(path), path.stem
    if isinstance(contents, Mapping):
        keys = {str(key) for key in contents}
        if {"smplVersion", "bodyPose", "shapeParameters"} & keys:
            with _read_as("a .smpl file", where):
                return [_smplcodec(contents, where, stem, options)]
        if not has_pose(contents) and (found := first_key(contents, _SKEL_KEYS)):
            raise UserError(
                f"{where} holds SKEL already ({found!r}) and no SMPL. Expected SMPL to convert; `hmr-skel export` "
                "writes datasets in other formats."
            )
        if {"skel_q", "smpl_pose"} <= keys:
            raise UserError(
                f"{where} was written by `hmr-skel convert`, whose .npz is not read back. Convert the original again, "
                "or write Parquet, which is read."
            )
        if "pred_smpl_params" in keys:
            return [_regressed(contents, where, stem, options)]
        if has_pose(contents):
            return _people(contents, where, stem, options)
        values = [] if isinstance(contents, LabelFile) else list(contents.values())
        if values and all(isinstance(value, Mapping) and "smpl" in value for value in values):
            with _read_as("the results of 4D-Humans' or TokenHMR's track.py", where):
                return _tracks(values, where, stem, options)
        if values and all(isinstance(value, Mapping) and has_pose(value) for value in values):
            return [make_clip(person, where, f"{stem}_{key}", options, NOBODY) for key, person in contents.items()]
        found = ", ".join(sorted(keys)[:20]) or "nothing"
    elif isinstance(contents, Sequence) and contents and all(isinstance(item, Mapping) for item in contents):
        if all(has_pose(item) for item in contents):
            return [make_clip(_stacked(contents, where), where, stem, options, _REGRESSED)]
        found = f"{len(contents)} entries with {', '.join(sorted(map(str, contents[0]))[:20])}"
    else:
        found = f"a {type(contents).__name__}"
    raise UserError(f"{where} holds no SMPL parameters that are recognised. It has {found}. Expected {READABLE}.")


@contextmanager
def _read_as(kind: str, where: str) -> Generator[None]:
    """Report an error for a file that has the keys of this kind and something else under them."""
    try:
        yield
    except (TypeError, ValueError, LookupError, MemoryError) as error:
        raise UserError(
            f"{where} has the keys of {kind}, but not what belongs there: {error}. Write it again, or save pose, betas "
            "and translation as .npz."
        ) from error


def _people(found: Mapping, where: str, stem: str, options: ReadOptions) -> list[SmplClip]:
    """Labels, AMASS, what a detector found in one image, one person's arrays; or several people side by side (3DPW)."""
    pose = first_key(found, POSE_KEYS)
    poses = None if pose is None or "imgname" in found else found[pose]
    if isinstance(poses, list) and poses and all(np.ndim(item) == 2 for item in poses):  # a list with an entry a person
        lists = {key: value for key, value in found.items() if isinstance(value, list) and len(value) == len(poses)}
        if "genders" in lists:
            lists["gender"] = lists["genders"]
        people = [{key: value[i] for key, value in lists.items()} for i in range(len(poses))]
        return [make_clip(one, where, f"{stem}_{i}", options, NOBODY) for i, one in enumerate(people)]
    maker = NOBODY
    if "imgname" in found:
        maker = _LABELS
    elif first_key(found, ("mocap_framerate", "mocap_frame_rate", "dmpls")) is not None:
        maker = _AMASS
    elif first_key(found, ("pred_cam", "pred_cam_t", "pred_cam_t_full")) is not None:
        maker = _REGRESSED
    return [make_clip(found, where, stem, options, maker)]


def _regressed(contents: Mapping, where: str, stem: str, options: ReadOptions) -> SmplClip:
    """The output of HMR2 and TokenHMR for a batch of detections."""
    inner = contents["pred_smpl_params"]
    if not isinstance(inner, Mapping):
        raise UserError(
            f"{where}: 'pred_smpl_params' is a {type(inner).__name__}. Expected global_orient, body_pose ..."
        )
    return make_clip({**contents, **inner}, where, stem, options, _REGRESSED)


def _stacked(people: Sequence[Mapping], where: str) -> dict[str, Any]:
    """One mapping made of many: each key that all of them have gets a row of each."""
    shared = set(people[0]).intersection(*people[1:])
    stacked = {}
    for key in shared:
        try:
            rows = [np.asarray(person[key]) for person in people]
            stacked[key] = np.stack([row[0] if row.ndim > 1 and len(row) == 1 else row for row in rows])
        except (ValueError, TypeError):  # of different shapes: not a parameter
            continue
    if not has_pose(stacked):
        raise UserError(f"{where}: its entries have poses of different shapes. Expected one row of pose in each.")
    return stacked


def _tracks(frames: list[Mapping], where: str, stem: str, options: ReadOptions) -> list[SmplClip]:
    """A clip for each tracked person in PHALP's results, which `track.py` of 4D-Humans and TokenHMR writes.

    A frame lists tracks. A track that was not seen in it (`tracked_time` above 0) repeats an older frame: left out.
    """
    seen: dict[Any, list[tuple[int, Mapping, Any]]] = {}
    shots = []
    for i, frame in enumerate(frames):
        number = int(frame.get("time", i))
        if frame.get("shot"):
            shots.append(number)
        tracks = list(frame.get("tid", range(len(frame["smpl"]))))
        unseen = list(frame.get("tracked_time", [0] * len(tracks)))
        cameras = list(frame.get("camera", []))
        for row, parameters in enumerate(frame["smpl"]):
            if row < len(tracks) and isinstance(parameters, Mapping) and not (row < len(unseen) and unseen[row]):
                camera = cameras[row] if row < len(cameras) else None
                seen.setdefault(tracks[row], []).append((number, parameters, camera))
    clips = []
    for track, rows in seen.items():
        rows.sort(key=lambda row: row[0])
        number = np.array([row[0] for row in rows], np.int64)
        found = _stacked([parameters for _, parameters, _ in rows], where)
        if all(camera is not None for _, _, camera in rows):
            found["camera"] = np.stack([np.asarray(camera).reshape(-1)[:3] for _, _, camera in rows])
        shot = np.searchsorted(np.sort(shots), number, side="right")
        clips.append(make_clip(found, where, f"{stem}_{track}", options, _TRACKED, number, shot))
    return clips


def _smplcodec(found: Mapping, where: str, stem: str, options: ReadOptions) -> SmplClip:
    """Meshcapade's `.smpl`: camelCase keys, whole numbers for model and gender."""

    def number(key: str, default: int) -> int:
        return int(np.asarray(found[key]).reshape(-1)[0]) if key in found else default

    version = number("smplVersion", 2)
    model = _CODEC_MODELS[version] if 0 <= version < len(_CODEC_MODELS) else f"version {version}"
    if model in ("SMPL-X", "SUPR", "SMPL-XS"):
        refuse_smplx(where, f"smplVersion {version}, {model}")
    if model not in ("SMPL", "SMPL-H"):
        raise UserError(f"{where} holds {model} (smplVersion {version}). Expected SMPL or SMPL-H.")
    arrays: dict[str, Any] = {}
    for key, ours in (("shapeParameters", "betas"), ("bodyTranslation", "trans"), ("frameRate", "fps")):
        if key in found:
            arrays[ours] = found[key]
    count, notes = number("frameCount", 1), ()
    if "bodyPose" in found:
        arrays["pose"] = found["bodyPose"]
        if model == "SMPL-H":
            notes = ("SMPL-H: the 30 finger joints are dropped",)
    else:
        arrays["pose"] = np.zeros((max(count, 1), 24, 3))
        notes = ("no pose in the file: the body stands in the T-pose",)
    arrays.setdefault("betas", np.zeros(10))
    gender = number("gender", 0)
    if gender not in range(len(_CODEC_GENDERS)):
        raise UserError(
            f"{where}: gender is {gender}. Expected 0 (neutral), 1 (male) or 2 (female): say --smpl-gender."
        )
    arrays["gender"] = _CODEC_GENDERS[gender]
    return make_clip(arrays, where, stem, options, NOBODY, notes=notes)

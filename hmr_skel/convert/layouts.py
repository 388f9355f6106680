"""The layouts that mappings have: each becomes rows of arrays, one mapping from keys to arrays per clip."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hmr_skel.convert.clips import last_number
from hmr_skel.convert.files import FEWEST_VERTICES, NoMotion
from hmr_skel.convert.known import ANY_KEYS, MARKS, MESHES, Format
from hmr_skel.convert.parameters import plain
from hmr_skel.data.npz import LabelFile
from hmr_skel.errors import UserError

_KINDS, _PLAIN = "fiubUS", int | float | str | list | tuple | np.generic  # numbers and texts
_WIDTHS = {"pose": (72, 69, 66, 156, 165, 46), "body": (69, 63, 153, 162)}


@dataclass(frozen=True)
class Subject:
    """The rows of one clip, not read yet."""

    name: str  # what tells it from others of its file: "", or _1, _2 ...
    found: Mapping
    format: Format
    number: np.ndarray | None = None  # int64 [T] of the frames
    shot: np.ndarray | None = None  # int64 [T]
    notes: tuple[str, ...] = ()


def has_pose(found: Mapping) -> bool:
    """Whether the mapping has a pose under a key of `ANY_KEYS`."""
    return any(key in found for key in ANY_KEYS["pose"]) or (
        any(key in found for key in ANY_KEYS["orient"]) and any(key in found for key in ANY_KEYS["body"])
    )


def mesh_key(found: Mapping) -> str | None:
    """The key of vertices [V 3] or [T V 3]; None where there are none."""
    shapes = {key: shape_of(found, key) or () for key in MESHES.keys["vertices"]}
    bodies = (key for key, s in shapes.items() if len(s) in (2, 3) and s[-1] == 3 and s[-2] >= FEWEST_VERTICES)
    return next(bodies, None)


def shape_of(found: Mapping, key: str) -> tuple[int, ...] | None:
    """The shape of the numbers or texts under a key; None of anything else."""
    if isinstance(found, LabelFile):
        return found.shape(key) if key in found and found.dtype(key).kind in _KINDS else None
    value = opened(found[key]) if key in found else None
    if hasattr(value, "detach"):
        return tuple(value.shape)
    if isinstance(value, np.ndarray):
        return value.shape if value.dtype.kind in _KINDS else None
    if isinstance(value, list | tuple) and value and isinstance(value[0], _PLAIN):
        try:
            return np.shape(value)
        except ValueError:  # rows of different lengths
            return None
    return None


def at(found: Mapping, path: str) -> Any:
    """What is under a key, or under a path of keys, `opened`; None where there is nothing."""
    for key in path.split("/"):
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = opened(found[key])
    return found


def opened(value: Any) -> Any:
    """The object in an array of one object; other values as they are."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        return opened(value.reshape(-1)[0])
    return value


def pose_key(found: Mapping, format: Format) -> str | None:
    """The key that tells how many rows there are: of the pose, else of the body's part of it."""
    views = (key for view in format.views.values() for key in view.keys.get("pose", ()))
    keys = (*format.keys.get("pose", ()), *views, *ANY_KEYS["pose"], *ANY_KEYS["body"])
    return next((key for key in keys if key in found), None)


def pose_rows(found: Mapping, format: Format) -> int:
    """The rows of pose in a mapping; 0 where it has none, or lists that vary in length."""
    key = pose_key(found, format)
    shape = () if key is None else shape_of(found, key)
    return int(np.prod(shape[: batch_shape(shape, "body" if key in ANY_KEYS["body"] else "pose")])) if shape else 0


def _arrays(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """A row per frame; or, told by the shapes, one of the layouts that many tools share."""
    key = pose_key(found, format)
    value = None if key is None else found[key]
    what = "body" if key in ANY_KEYS["body"] else "pose"
    lists = isinstance(value, list) and value and all(batch_shape(np.shape(plain(item)), what) == 1 for item in value)
    if lists and "imgname" not in found:
        betas = next((found[key] for key in ANY_KEYS["betas"] if key in found), None)
        per_person = isinstance(betas, list) and len(betas) == len(value) and all(np.ndim(b) == 1 for b in betas)
        if not per_person and len({len(item) for item in value}) == 1 and len(value[0]) > 1 and rows is None:
            raise UserError(
                f"{where}: {key!r} is a list of {len(value)} arrays of {len(value[0])} rows. Say --rows frames if each "
                "is a person with a row per frame, or --rows people if each is an image with a row per person."
            )
        person = per_person or rows == "frames" or (rows is None and len(value) == 1)
        yield from (_people_lists if person else _images)(found, format, where, rows)
        return
    shape = np.shape(plain(value))
    axes = shape[: batch_shape(shape, what)]
    if len(axes) == 2 and min(axes) > 1:
        yield from _people_first(found, format, where, rows)
        return
    several = sum(size > 1 for size in axes)
    if len(axes) > 2 and several > 1:
        raise UserError(f"{where}: {key!r} has shape {shape}. Expected [frames, ...], or [people, frames, ...].")
    if len(axes) > 1 and several and rows is None and format.rows == "frames":
        raise UserError(
            f"{where}: {key!r} has shape {shape}: frames of one person, or people in one frame. Say --rows frames or "
            "--rows people."
        )
    yield Subject("", found, format)


def batch_shape(shape: tuple[int, ...], what: str) -> int:
    """How many leading axes of a pose count frames and people."""
    if shape[-1:] and shape[-1] in _WIDTHS[what]:
        return len(shape) - 1
    joints = tuple(width // 3 for width in _WIDTHS[what])
    if len(shape) >= 3 and shape[-2:] == (3, 3) and shape[-3] in joints:
        return len(shape) - 3
    return len(shape) - 2 if len(shape) >= 2 and shape[-1] == 3 and shape[-2] in joints else 0


def _people_first(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """Arrays [people, frames, ...]."""
    arrays = {key: found[key] for key in found}
    key = pose_key(arrays, format)
    pose = np.asarray(plain(arrays[key]))
    if pose.ndim < 3:
        raise UserError(f"{where}: {key!r} has shape {pose.shape}. Expected [people, frames, ...].")
    people, frames = pose.shape[:2]
    guessed = format.layout != "people first"
    if guessed and people > 1 and frames > 1:
        flat = pose.reshape(people, frames, -1)
        in_time, across = (np.nanmean(np.abs(np.diff(flat, axis=axis))) for axis in (1, 0))
        if people > frames or in_time > across:
            raise UserError(
                f"{where}: {key!r} has shape {pose.shape}, and its second axis does not look like one person's frames. "
                "Expected [people, frames, ...]: swap the axes, or write a file per person."
            )
    notes = (f"{where}: {people} people side by side, a clip each",) if people > 1 and guessed else ()
    for i in range(people):
        one = dict(arrays)
        for key, value in arrays.items():
            shape = getattr(value, "shape", (_entries(value),))
            if shape[:1] == (people,) and (people > 1 or shape[:2] == (1, frames)):
                one[key] = value[i]
        yield Subject(f"_{i}" if people > 1 else "", one, format, notes=notes)


def _people_lists(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """Lists with an entry per person, as 3DPW's sequences have them; or these stacked to arrays."""
    poses = found[pose_key(found, format)]
    if _entries(poses) is None:
        yield from _people_first(found, format, where, rows)
        return
    count = len(poses)
    for i in range(count):
        one = {key: found[key] for key in found}
        one |= {key: value[i] for key, value in one.items() if _entries(value) == count}
        yield Subject(f"_{i}", one, format)


def _people(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """A mapping per person, as InterHuman's files have them; the rate of frames is beside them."""
    rate = {key: found[key] for key in ANY_KEYS["rate"] if key in found}
    held = {key: opened(found[key]) for key in found}
    for key, one in held.items():
        if isinstance(one, Mapping) and has_pose(one):
            yield Subject(f"_{key}", {**rate, **one}, format)


def _meshes(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """Vertices; those of a regressor are in its camera's frame once they are moved by `pred_cam_t`."""
    key = str(mesh_key(found))
    moved = ("pred_cam_t",) if key == "pred_vertices" else ()
    yield Subject("", found, replace(format, keys={**format.keys, "vertices": (key,), "transl": moved}))


def _entries(value: Any) -> int | None:
    """How many entries a list or an array of numbers has; None of anything else."""
    return len(value) if isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1 else None


def _images(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """Lists with an entry per image: its people become rows, with the image's number, or the one that the file says."""
    poses = found[pose_key(found, format)]
    if not isinstance(poses, list | tuple):
        yield Subject("", found, format)
        return
    counts = np.array([len(item) for item in poses])
    if not counts.sum():
        raise NoMotion(f"{where}: nobody was found in any of its images ({len(counts)}).")
    lists = [key for key in found if _entries(found[key]) == len(counts)]
    images = [(int(count), {key: found[key][i] for key in lists}) for i, count in enumerate(counts) if count]
    rows_of, left = _rows_of_images(images, where)
    one = {key: found[key] for key in found if key not in lists} | rows_of
    empty = int((counts == 0).sum())
    notes = [f"{where}: {len(counts)} images with {counts.sum()} people; rows are people, numbered by their image"]
    if empty:
        notes.append(f"{where}: nobody was found in {empty} of {len(counts)} images")
    number = np.repeat(np.arange(len(counts)), counts)
    yield Subject("", one, replace(format, rows="people"), number, notes=(*notes, *left))


def _rows_of_images(images: Sequence[tuple[int, Mapping]], where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(how many people, what there is of them) of every image, as rows. What is said once is for all in the image."""
    parts, every = [], {}
    for count, image in images:
        every |= image
        there = {key: plain(value) for key, value in image.items() if np.shape(value)[:1] in ((), (count,))}
        parts.append({key: value if np.ndim(value) else np.repeat(value, count) for key, value in there.items()})
    rows_of = {key: np.concatenate([part[key] for part in parts]) for key in set(parts[0]).intersection(*parts)}
    return rows_of, _left_out({key: value for key, value in every.items() if key not in rows_of}, where)


def _pictures(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """A mapping per image, with a row per person: a clip per track, or rows where nobody was tracked.

    Frames have the numbers at the end of the images' names, as images in which nobody was seen may be left out.
    """
    numbers = [last_number(str(picture).rpartition("/")[2]) for picture in found]
    counted = min(numbers, default=-1) < 0 or len(set(numbers)) < len(numbers)
    held = {str(picture): opened(one) for picture, one in found.items()}
    number = dict(zip(held, range(len(held)) if counted else numbers, strict=True))
    held = {picture: one for picture, one in held.items() if isinstance(one, Mapping) and len(one)}
    if not held:
        raise NoMotion(f"{where}: nobody was found in any of its images ({len(found)}).")
    counts = [pose_rows(one, format) for one in held.values()]
    one = next(iter(held.values()))
    if has_pose(one) and set(counts) == {1}:  # perhaps without an axis of people
        rows_of, left = stacked(list(held.values()), where)
    else:
        rows_of, left = _rows_of_images(list(zip(counts, held.values(), strict=True)), where)
    notes = (f"{where}: its images have no numbers of their own: frames are counted",) if counted else ()
    alone = replace(format, rows="frames" if "track_ids" in rows_of else "people")
    rows_of["imgname"] = np.repeat(list(held), counts)
    yield Subject("", rows_of, alone, np.repeat([number[picture] for picture in held], counts), notes=(*notes, *left))


def stacked(people: Sequence[Mapping], where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """One mapping made of many, a row of each; and notes on the keys that not all of them have alike.

    Raises `UserError` where these are masks or ids, or poses.
    """
    rows_of, left = {}, {}
    for key in dict.fromkeys(key for person in people for key in person):
        try:
            rows = [np.asarray(plain(person[key])) for person in people]
            rows_of[key] = np.stack([row[0] if row.ndim > 1 and len(row) == 1 else row for row in rows])
        except (ValueError, TypeError, KeyError):  # of different shapes, or not in all
            left[key] = next(person[key] for person in people if key in person)
    if not has_pose(rows_of):
        raise UserError(f"{where}: its entries have poses of different shapes. Expected one row of pose in each.")
    return rows_of, _left_out(left, where)


def _left_out(left: Mapping, where: str) -> tuple[str, ...]:
    """A note on keys that not all entries have alike (with the value of one entry). Raises `UserError` for marks."""
    for key, value in left.items():
        value = np.asarray(plain(value)) if not isinstance(value, list | tuple | Mapping) else np.empty((0, 0))
        mark = MARKS.search(str(key).lower()) and value.ndim < 2 and value.dtype.kind in "fiub"
        if mark or any(key in ANY_KEYS[meaning] for meaning in ("number", "person", "seen", "annotated", "gender")):
            raise UserError(f"{where}: not all of its entries have {key!r} alike. Expected one for every row, or none.")
    return (f"{where}: NOT USED, as not all entries have it alike: {', '.join(map(str, left))}",) if left else ()


def _tracks(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """A clip for each tracked person in PHALP's results, which `track.py` of 4D-Humans and TokenHMR writes.

    A frame lists tracks. A track that was not seen in it (`tracked_time` above 0) repeats an older frame: left out.
    """
    if len({("time" in frame, "tracked_time" in frame) for frame in found.values()}) > 1:
        raise UserError(f"{where}: only some of its frames have 'time' and 'tracked_time'. Expected them in all.")
    seen: dict[Any, list[tuple[int, Mapping]]] = {}
    shots = []
    for i, frame in enumerate(found.values()):
        number = int(frame.get("time", i))
        if frame.get("shot"):
            shots.append(number)
        tracks = list(frame.get("tid", range(len(frame["smpl"]))))
        unseen = list(frame.get("tracked_time", [0] * len(tracks)))
        cameras = list(frame.get("camera", []))
        for row, parameters in enumerate(frame["smpl"]):
            if row < len(tracks) and isinstance(parameters, Mapping) and not (row < len(unseen) and unseen[row]):
                camera = {"camera": np.ravel(cameras[row])[:3]} if row < len(cameras) else {}
                seen.setdefault(tracks[row], []).append((number, {**parameters, **camera}))
    if not seen:
        raise NoMotion(f"{where}: nobody was tracked in any of its frames ({len(found)}).")
    for track, members in seen.items():
        members.sort(key=lambda row: row[0])
        number = np.array([row[0] for row in members], np.int64)
        one, notes = stacked([parameters for _, parameters in members], where)
        shot = np.searchsorted(np.sort(shots), number, side="right")
        yield Subject(f"_{track}", one, format, number, shot, notes)


_CODEC_MODELS = ("SMPL", "SMPL-H", "SMPL-X", "SUPR", "SMPL++", "SKEL", "SMIL", "SMPL-XS")
_CODEC_GENDERS = {0: "neutral", 1: "male", 2: "female"}


def _codec(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """Meshcapade's `.smpl`: camelCase keys, whole numbers for model and gender."""

    def number(key: str, default: int) -> int:
        return int(np.asarray(found[key]).reshape(-1)[0]) if key in found else default

    if "smplVersion" not in found:
        raise UserError(f"{where} does not say whose numbers it has. Expected 'smplVersion', as smplcodec writes it.")
    version = number("smplVersion", 2)
    model = _CODEC_MODELS[version] if 0 <= version < len(_CODEC_MODELS) else f"version {version}"
    ours = {"shapeParameters": "betas", "bodyTranslation": "trans", "frameRate": "fps", "bodyPose": "pose"}
    if model == "SMPL-X":
        format = replace(format, model="smplx", name=f"smplVersion {version}, {model}")
        ours |= {"leftHandPose": "left_hand_pose", "rightHandPose": "right_hand_pose"}
        ours |= {"expressionParameters": "expression"}
    elif model == "SKEL":
        format = replace(format, model="skel")
    elif model not in ("SMPL", "SMPL-H"):
        raise UserError(f"{where} holds {model} (smplVersion {version}). Expected SMPL, SMPL-H, SMPL-X or SKEL.")
    for key, name in ours.items():
        if {key, name} <= found.keys() and not np.array_equal(plain(found[key]), plain(found[name])):
            raise UserError(f"{where}: {key!r} and {name!r} say the same, and they differ. Leave the wrong one out.")
    known = ("codecVersion", "smplVersion", "frameCount")
    arrays = {"betas": np.zeros(10)} | {ours.get(key, key): found[key] for key in found if key not in known}
    if model == "SMPL-X" and "headPose" in arrays:
        head = np.reshape(arrays.pop("headPose"), (-1, 9))
        arrays["jaw_pose"], arrays["pose_eye"] = np.split(head, [3], 1)
    notes = [] if "pose" in arrays else ["no pose in the file: the body stands in the T-pose"]
    notes += [] if "shapeParameters" in found else ["no shapeParameters in the file: the average body is taken"]
    inner = (46,) if model == "SKEL" else (24, 3)
    arrays.setdefault("pose", np.zeros((max(number("frameCount", 1), 1), *inner)))
    if "gender" in arrays:  # another number is refused as the gender that it is not
        arrays["gender"] = _CODEC_GENDERS.get(number("gender", 0), str(found["gender"]))
    yield Subject("", arrays, format, notes=tuple(notes))


LAYOUTS = {
    "arrays": _arrays, "people first": _people_first, "people lists": _people_lists, "images": _images,
    "pictures": _pictures, "tracks": _tracks, "codec": _codec, "people": _people,
    "meshes": _meshes,
}  # fmt: skip

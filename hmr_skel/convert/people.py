"""What a file holds, taken apart into people: nested containers are entered, and each layout becomes rows of arrays.

Which layout a mapping has says `known.FORMATS`. What comes out is one mapping from keys to arrays per clip.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hmr_skel.convert.known import ANY, ANY_KEYS, FORMATS, PEOPLE, Format
from hmr_skel.convert.parameters import plain
from hmr_skel.data.npz import LabelFile
from hmr_skel.errors import UserError

_DEEPEST = 6  # containers in containers
_INHERITED = (*ANY_KEYS["rate"], "gender")  # what a container says of all that is in it
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


def people_of(contents: Any, where: str, rows: str | None) -> list[Subject]:
    """All people in what a file holds; none where nothing is recognised.

    Args:
        contents: from `read_contents`.
        where: the file, for errors.
        rows: what the user says that rows are, which settles lists with an entry per person or per image.

    Raises:
        UserError: a layout is recognised, but something else is in it, or it is ambiguous.
    """
    return list(_walk(contents, where, rows, {}, 0))


def recognise(found: Mapping) -> Format | None:
    """The format whose marks are all there; `ANY` for other mappings with a pose; None where there is none."""
    for format in reversed(FORMATS):
        if all(any(_has(found, option) for option in mark.split("|")) for mark in format.marks):
            return format
    return ANY if has_pose(found) else None


def has_pose(found: Mapping) -> bool:
    """Whether the mapping has a pose under a key of `ANY_KEYS`."""
    return any(key in found for key in ANY_KEYS["pose"]) or (
        any(key in found for key in ANY_KEYS["orient"]) and any(key in found for key in ANY_KEYS["body"])
    )


def _has(found: Mapping, path: str) -> bool:
    outer, _, inner = path.rpartition("/")
    if outer == "*":
        values = [] if isinstance(found, LabelFile) else list(found.values())
        return bool(values) and all(isinstance(value, Mapping) and inner in value for value in values)
    return path in found if not outer else isinstance(at(found, outer), Mapping) and inner in at(found, outer)


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


def _walk(contents: Any, where: str, rows: str | None, said: Mapping, depth: int) -> Iterator[Subject]:
    contents = opened(contents)
    if isinstance(contents, Mapping):
        format = recognise(contents)
        if format is not None:
            if said and any(key not in contents for key in said):
                contents = {**said, **contents}
            with _read_as(format, where):
                yield from _LAYOUTS[format.layout](_entered(contents, format, where), format, where, rows)
        elif depth < _DEEPEST:
            said = {**said, **{key: contents[key] for key in _INHERITED if key in contents}}
            held = [(str(key), contents[key]) for key in contents if _may_hold(contents, key)]
            parts = {key: list(_walk(value, where, rows, said, depth + 1)) for key, value in held}
            parts = {key: people for key, people in parts.items() if people}
            if len(parts) > 1 and all(len(people) == 1 and _is_one_row(people[0]) for people in parts.values()):
                note = f"{where}: {len(parts)} entries of one row are taken for people (frames: say --rows frames)"
                found = stacked([people[0].found for people in parts.values()], where)
                yield Subject("", found, replace(ANY, rows="people"), notes=(note,))
                return
            for key, people in parts.items():
                wrapper = len(parts) == 1 and not key.lstrip("-").isdigit()
                yield from people if wrapper else (replace(one, name=f"_{key}{one.name}") for one in people)
    elif isinstance(contents, Sequence) and contents and all(isinstance(item, Mapping) for item in contents):
        if all(has_pose(item) for item in contents):
            found = stacked(contents, where)
            mark = recognise(found)
            yield Subject("", found, PEOPLE if mark is None or mark is ANY else replace(mark, rows="files"))
        elif len(contents) == 1:
            yield from _walk(contents[0], where, rows, said, depth + 1)


def _is_one_row(one: Subject) -> bool:
    key = next((key for key in (*ANY_KEYS["pose"], *ANY_KEYS["body"]) if key in one.found), None)
    if one.format is not ANY or key is None:
        return False
    shape = np.shape(plain(one.found[key]))
    batch = batch_shape(shape, "body" if key in ANY_KEYS["body"] else "pose")
    return int(np.prod(shape[:batch])) == 1


def _may_hold(found: Mapping, key: Any) -> bool:
    if isinstance(found, LabelFile) and (not found.dtype(key).hasobject or found.shape(key) not in ((), (1,))):
        return False
    return isinstance(opened(found[key]), Mapping | list | tuple)


def _entered(found: Mapping, format: Format, where: str) -> Mapping:
    key = next((key for key in format.inside if key in found), None)
    if key is None:
        return found
    inner = opened(found[key])
    if not isinstance(inner, Mapping):
        raise UserError(f"{where}: {key!r} is a {type(inner).__name__}. Expected global_orient, body_pose ...")
    others = {name: found[name] for name in found if name != key}
    return inner if format.layout == "pictures" else {**others, **inner}


@contextmanager
def _read_as(format: Format, where: str) -> Iterator[None]:
    """Report an error for a file that has the keys of this kind and something else under them."""
    try:
        yield
    except (TypeError, ValueError, LookupError, MemoryError) as error:
        raise UserError(
            f"{where} has the keys of {format.name} ({format.file}), but not what belongs there: {error}. Write it "
            "again, or save pose, betas and translation as .npz."
        ) from error


def _arrays(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """A row per frame; or, told by the shapes, one of the layouts that many tools share."""
    key = next((key for key in (*format.keys.get("pose", ANY_KEYS["pose"]), *ANY_KEYS["body"]) if key in found), None)
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
    shape = tuple(value.shape) if hasattr(value, "shape") else np.shape(value) if value is not None else ()
    if batch_shape(shape, what) == 2 and min(shape[:2]) > 1:
        yield from _people_first(found, format, where, rows)
        return
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
    key = next(key for key in (*format.keys.get("pose", ()), *ANY_KEYS["pose"], *ANY_KEYS["body"]) if key in arrays)
    pose = np.asarray(plain(arrays[key]))
    if pose.ndim < 3:
        raise UserError(f"{where}: {key!r} has shape {pose.shape}. Expected [people, frames, ...].")
    people, frames = pose.shape[:2]
    if format is ANY and people > 1 and frames > 1:
        flat = pose.reshape(people, frames, -1)
        in_time, across = (np.nanmean(np.abs(np.diff(flat, axis=axis))) for axis in (1, 0))
        if people > frames or in_time > across:
            raise UserError(
                f"{where}: {key!r} has shape {pose.shape}, and its second axis does not look like one person's frames. "
                "Expected [people, frames, ...]: swap the axes, or write a file per person."
            )
    for i in range(people):
        one = {}
        for key, value in arrays.items():
            shape = getattr(value, "shape", ())
            one[key] = value[i] if shape[:1] == (people,) and (people > 1 or shape[:2] == (1, frames)) else value
        note = f"{where}: {people} people side by side, a clip each" if people > 1 else ""
        yield Subject(f"_{i}" if people > 1 else "", one, format, notes=(note,) if note and format is ANY else ())


def _people_lists(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """Lists with an entry per person, as 3DPW's sequences have them."""
    count = len(found[next(key for key in ANY_KEYS["pose"] if key in found)])
    for i in range(count):
        one = {}
        for key, value in ((key, found[key]) for key in found):
            per_person = isinstance(value, list) and len(value) == count
            one[key] = value[i] if per_person else value
        yield Subject(f"_{i}", one, format)


def _images(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """Lists with an entry per image: its people become rows, with the image's number."""
    key = next(key for key in ANY_KEYS["pose"] if key in found)
    poses = found[key]
    if not isinstance(poses, list | tuple):
        yield Subject("", found, format)
        return
    counts = np.array([len(item) for item in poses])
    one = {}
    for key, value in ((key, found[key]) for key in found):
        if isinstance(value, list | tuple) and len(value) == len(counts):
            if [np.shape(item)[:1] for item in value] == [(count,) for count in counts]:
                full = [plain(item) for item in value if len(item)]
                one[key] = np.concatenate(full) if full else np.empty(0)
        else:
            one[key] = value
    if not counts.sum():
        return
    empty = int((counts == 0).sum())
    notes = [f"{where}: {len(counts)} images with {counts.sum()} people; rows are people, numbered by their image"]
    if empty:
        notes.append(f"{where}: nobody was found in {empty} of {len(counts)} images")
    number = np.repeat(np.arange(len(counts)), counts)
    alone = replace(format, rows="people")
    yield Subject("", one, alone, number=number.astype(np.int64), notes=tuple(notes))


def _pictures(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """A mapping per image, with a row per person: a clip per track, or rows where nobody was tracked."""
    names, parts, number = [], [], []
    for i, (picture, one) in enumerate(found.items()):
        one = opened(one)
        if isinstance(one, Mapping) and len(one):
            count = len(one[format.keys["pose"][0]])
            parts.append({key: plain(value) for key, value in one.items() if np.shape(value)[:1] == (count,)})
            number += [i] * count
            names += [str(picture)] * count
    shared = set(parts[0]).intersection(*parts[1:]) if parts else set()
    rows_of = {key: np.concatenate([part[key] for part in parts]) for key in shared}
    tracked = "track_ids" in rows_of
    if parts:
        alone = replace(format, rows="frames" if tracked else "people")
        yield Subject("", rows_of | {"imgname": np.array(names)}, alone, number=np.array(number, np.int64))


def stacked(people: Sequence[Mapping], where: str) -> dict[str, Any]:
    """One mapping made of many: each key that all of them have gets a row of each."""
    shared = set(people[0]).intersection(*people[1:])
    rows_of = {}
    for key in people[0]:
        if key not in shared:
            continue
        try:
            rows = [np.asarray(plain(person[key])) for person in people]
            rows_of[key] = np.stack([row[0] if row.ndim > 1 and len(row) == 1 else row for row in rows])
        except (ValueError, TypeError):  # of different shapes: not a parameter
            continue
    if not has_pose(rows_of):
        raise UserError(f"{where}: its entries have poses of different shapes. Expected one row of pose in each.")
    return rows_of


def _tracks(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """A clip for each tracked person in PHALP's results, which `track.py` of 4D-Humans and TokenHMR writes.

    A frame lists tracks. A track that was not seen in it (`tracked_time` above 0) repeats an older frame: left out.
    """
    seen: dict[Any, list[tuple[int, Mapping, Any]]] = {}
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
                camera = cameras[row] if row < len(cameras) else None
                seen.setdefault(tracks[row], []).append((number, parameters, camera))
    for track, members in seen.items():
        members.sort(key=lambda row: row[0])
        number = np.array([row[0] for row in members], np.int64)
        one = stacked([parameters for _, parameters, _ in members], where)
        if all(camera is not None for _, _, camera in members):
            one["camera"] = np.stack([np.asarray(camera).reshape(-1)[:3] for _, _, camera in members])
        shot = np.searchsorted(np.sort(shots), number, side="right")
        yield Subject(f"_{track}", one, format, number, shot)


_CODEC_MODELS = ("SMPL", "SMPL-H", "SMPL-X", "SUPR", "SMPL++", "SKEL", "SMIL", "SMPL-XS")
_CODEC_GENDERS = ("neutral", "male", "female")


def _codec(found: Mapping, format: Format, where: str, rows: str | None) -> Iterator[Subject]:
    """Meshcapade's `.smpl`: camelCase keys, whole numbers for model and gender."""

    def number(key: str, default: int) -> int:
        return int(np.asarray(found[key]).reshape(-1)[0]) if key in found else default

    version = number("smplVersion", 2)
    model = _CODEC_MODELS[version] if 0 <= version < len(_CODEC_MODELS) else f"version {version}"
    arrays: dict[str, Any] = {}
    for key, ours in (("shapeParameters", "betas"), ("bodyTranslation", "trans"), ("frameRate", "fps")):
        if key in found:
            arrays[ours] = found[key]
    count, notes = number("frameCount", 1), ()
    if model in ("SMPL-X", "SUPR", "SMPL-XS"):
        format = replace(format, model="smplx", name=f"smplVersion {version}, {model}")
    elif model not in ("SMPL", "SMPL-H"):
        raise UserError(f"{where} holds {model} (smplVersion {version}). Expected SMPL or SMPL-H.")
    if "bodyPose" in found:
        arrays["pose"] = found["bodyPose"]
    else:
        arrays["pose"] = np.zeros((max(count, 1), 24, 3))
        notes = ("no pose in the file: the body stands in the T-pose",)
    arrays.setdefault("betas", np.zeros(10))
    gender = number("gender", 0)
    if gender not in range(len(_CODEC_GENDERS)):
        raise UserError(
            f"{where}: gender is {gender}. Expected 0 (neutral), 1 (male) or 2 (female): say --smpl-gender."
        )
    yield Subject("", arrays | {"gender": _CODEC_GENDERS[gender]}, format, notes=notes)


_LAYOUTS = {
    "arrays": _arrays, "people first": _people_first, "people lists": _people_lists, "images": _images,
    "pictures": _pictures, "tracks": _tracks, "codec": _codec,
}  # fmt: skip

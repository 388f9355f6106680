"""What to say of keys that are not read, and of files in which nothing is recognised."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from hmr_skel.convert.known import ANY_KEYS, FORMATS, MARKS
from hmr_skel.convert.layouts import batch_shape, opened, shape_of
from hmr_skel.data.npz import LabelFile

ALWAYS = "poses [T 72], betas [10], trans [T 3] and gender in an .npz always work"
_POINTS = re.compile(r"vert|joints|j2d|j3d|kp|keypoint|marker|pj2d|vitpose|feat|skin_v")
"""Keys that move no body, whatever their shape."""
_IDLE = re.compile(
    r"cam|box|center|centre|scale$|conf|score|k_full|focal|intrin|img|image|text|label|dmpl|name|path|file|floor|width|"
    r"height|proj|sub$"
)
"""Keys that move no body, unless their shape is that of a pose, or they are a camera's way into the world."""
_CAMERA = re.compile(r"cam.*(rot|trans|pose|ext|orient|world|_r$|_t$)|(rot|trans|pose|orient|world).*cam")
_PLACES = re.compile(r"2world|world2|c2w|w2c")
_SIZES = re.compile(r"^(smpl_|body_)?scal(e|es|ing)$")
"""Keys that place or scale a body, whatever their shape; a scale beside a box is the box's."""
_ONCE = ((3,), (1, 3), (3, 3), (4, 4), (3, 4), (1, 3, 3), (1, 4, 4))
_PER_ROW = ((), (1,), (6,), (4,), *_ONCE)
_MOST = 12  # keys named in one line


def unread_note(
    found: Mapping, used: Collection, others: Collection, idle: Collection, body: Collection, count: int, where: str
) -> list[str]:
    """One line on the keys that were not read, and a louder one on those that could move the body.

    Args:
        found: keys as in the file.
        used: those that were read.
        others: those of another frame of reference that the file holds, which `--which` reads.
        idle: those that move no body in this format.
        body: names of the body's own parameters, which are loud whatever their shape.
        count: the rows of pose.
        where: the file.
    """
    left = [str(key) for key in found if key not in used and key not in others]
    boxes = any("center" in str(key) or "bbox" in str(key) for key in found)
    loud = [key for key in left if key in body or _could_move(key.lower(), shape_of(found, key), count, boxes)]
    loud = [key for key in loud if key not in idle]
    notes = []
    if loud:
        shapes = ", ".join(f"{key} {shape_of(found, key) or ''}".strip() for key in loud)
        notes.append(f"{where}: NOT USED, though it could move or hide the body: {shapes}")
    quiet = [key for key in left if key not in loud]
    if quiet:
        more = f" and {len(quiet) - _MOST} more" if len(quiet) > _MOST else ""
        notes.append(f"{where}: not used: {', '.join(quiet[:_MOST])}{more}")
    return notes


def _could_move(key: str, shape: tuple[int, ...] | None, count: int, boxes: bool) -> bool:
    """A mask, an id, a place, a turn, a scale or a pose: of every row, or once for all."""
    if shape is None:
        return False
    if _PLACES.search(key) or (_SIZES.search(key) and not boxes):
        return True
    per_row, rest = shape[:1] == (count,), shape[1:]
    if "frame" in key and shape == (count,) and count > 1:
        return True
    if MARKS.search(key) and len(shape) > 0 and rest in ((), (1,)):
        return per_row or not key.endswith(("id", "ids"))
    if _POINTS.search(key):
        return False
    poses = per_row and 1 in (batch_shape(shape, "pose"), batch_shape(shape, "body"))
    if poses or (_IDLE.search(key) and not _CAMERA.search(key)):
        return poses
    return shape in _ONCE or (per_row and rest in _PER_ROW)


def describe(contents: Any) -> str:
    """What a file holds in which no body was recognised: keys and shapes, what looks like a pose, near keys."""
    lines, names = [], []

    def enter(value: Any, path: str, depth: int) -> None:
        value = opened(value)
        if isinstance(value, Mapping) and depth < 4:
            for key in list(value)[:_MOST]:
                names.append(str(key))
                place = f"{path}/{key}".lstrip("/")
                if isinstance(value, LabelFile) and not value.dtype(key).hasobject:
                    lines.append(f"{place} {value.shape(key)}{_looks_like(value.shape(key))}")
                else:
                    enter(value[key], place, depth + 1)
        elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping) and depth < 4:
            enter(value[0], f"{path}[0]", depth + 1)
        else:
            shape = getattr(value, "shape", None)
            kind = type(value).__name__ + (f" of {len(value)}" if isinstance(value, list | tuple | dict) else "")
            lines.append(f"{path} ({kind})" if shape is None else f"{path} {tuple(shape)}{_looks_like(tuple(shape))}")

    enter(contents, "", 0)
    held = ", ".join(lines[:_MOST]) + (f" and {len(lines) - _MOST} more" if len(lines) > _MOST else "")
    near = near_keys(names, [key for keys in ANY_KEYS.values() for key in keys])
    return f"{_nearest_format(set(names))}It has {held or 'nothing'}. {near}{ALWAYS}."


def _nearest_format(names: set[str]) -> str:
    """The format of which one mark at most is missing among these keys, and that mark; or nothing."""
    common = {key for keys in ANY_KEYS.values() for key in keys}
    best, most = "", 0
    for format in FORMATS:
        marks = {mark: set(re.split(r"[|/]", mark)) for mark in format.marks}
        own = set().union(*marks.values(), *format.keys.values()) - common
        lacking = [mark for mark, keys in marks.items() if not keys & names]
        if own & names and len(lacking) < 2 and len(marks) - len(lacking) > most:
            without = f", without {' or '.join(map(repr, lacking[0].split('|')))}" if lacking else ""
            best, most = f"It looks like {format.name} ({format.file}){without}. ", len(marks) - len(lacking)
    return best


def _looks_like(shape: tuple[int, ...]) -> str:
    last = shape[-1] if shape else 0
    if last in (72, 156, 165, 66, 69, 63) or shape[-2:] in ((24, 3), (52, 3), (55, 3)) or shape[-3:] == (24, 3, 3):
        return " (like a pose)"
    return {10: " (like betas)", 16: " (like betas)", 300: " (like betas)", 3: " (like a translation)"}.get(last, "")


def near_keys(names: Iterable[str], known: Collection[str]) -> str:
    """`'beta': did you mean betas?` for every name that is nearly a known one."""
    near = {name: get_close_matches(name, known, 1, 0.8) for name in map(str, names) if name not in known}
    return "".join(f"{name!r}: did you mean {match[0]}? " for name, match in near.items() if match)

"""Files whose structure is changed at random: what comes out is the truth, or the user is told."""

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hmr_skel.convert import SmplClip
from hmr_skel.convert.known import ANY_KEYS, FORMATS, MESHES
from hmr_skel.convert.people import people_of
from hmr_skel.data.annotations import MAX_ABS_BETA, MAX_ANGLE
from hmr_skel.errors import UserError
from tests.convert.conftest import FRAMES
from tests.convert.test_layouts import ALL, CASES, HANDS, Case, far_from, read, rows_of, said

NAMES = (
    *("poses", "pose", "body_pose", "global_orient", "trans", "transl", "betas", "shape", "theta", "x", "Rh", "Th"),
    *("id", "frame_ids", "valid", "has_smpl", "smpl_pose", "gender", "pred_cam", "imgname", "mask", "offset"),
    *("cam_R", "cam_trans", "image_pose", "img_frame_ids"),
)
KINDS = (
    *("rename", "drop", "swap", "expand", "mask", "people", "ids", "double", "list", "millimetres", "degrees"),
    *("quaternions", "shuffle", "shuffle all", "shorten", "nan", "gender", "per row", "one row", "texts", "halves"),
)
MOVED = ("JUMP", "T-pose", "no numbers of their own", "are counted")
EXCUSES = {
    "pose": ("BACKWARDS", *MOVED), "root": MOVED, "betas": ("average body", "T-pose"), "hands": ("hands",),
    "transl": ("no translation", "from the origin", "cam_ext", *MOVED), "number": MOVED,
    "gender": ("is read as",), "vertices": ("from the origin", "no translation", *MOVED),
}  # fmt: skip
"""What may be wrong -> how notes begin to say so, unless they name what was changed."""
MARKING = {
    *sum((ANY_KEYS[meaning] for meaning in ("number", "seen", "annotated")), ()),
    "campose_valid",
    "exist_frames",
}


def plain(value: Any) -> Any:
    """Without tensors, which cannot be changed in place, and without most vertices of what is not read."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    value = value.numpy() if hasattr(value, "detach") else value
    return value[..., :5, :] if np.shape(value)[-2:] == (6890, 3) else value


def places(value: Any, unread: tuple[str, ...]) -> Iterator[tuple[dict, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield value, key
        yield from places(inner, unread) if key not in unread else ()
    for inner in value if isinstance(value, list) and value and isinstance(value[0], dict) else ():
        yield from places(inner, unread)


class Change(NamedTuple):
    """What was changed: the kind, the keys in question, and the rows that a new mask hides."""

    kind: str
    keys: tuple[str, ...]
    hidden: np.ndarray = ALL[:0]


def is_pose(key: Any, value: np.ndarray) -> bool:
    """Whether these are angles; components of hands are none."""
    return bool(re.search("pose|orient|Rh|thetas", str(key), re.IGNORECASE)) and value.shape[-1] != HANDS.shape[1]


def change(case: Case, content: Any, rng: np.random.Generator) -> Change | None:
    """Change one thing; None where the thing drawn cannot be changed so."""
    other = {"incam": ("smpl_params_global", "smplx_world"), "global": ("smpl_params_incam", "smplx_cam")}
    options = list(places(content, ("camera", "camera_world", *other.get(case.options.which or "", ()))))
    parent, key = options[rng.integers(len(options))]
    value, kind = parent[key], str(rng.choice(KINDS))
    array = isinstance(value, np.ndarray) and value.ndim > 0 and value.dtype.kind in "fiubUS"
    rows, floats = array and len(value) == FRAMES, array and value.dtype.kind == "f"
    new = str(rng.choice(NAMES))
    lie = new.startswith("trans") and re.search("cam|Rh", str(key))  # nothing tells that it is no translation
    match kind:
        case "rename" if new not in parent and not lie:
            parent[new] = parent.pop(key)
        case "drop" if key != "cam_ext":  # without it, translations are of another camera
            del parent[key]
        case "mask" if rows:
            new = str(rng.choice(["valid", "has_smpl", "track_mask", "camera_valid"]))
            if new in parent:
                return None
            parent[new] = rng.random(FRAMES) > 0.3
            return Change(kind, (new,), np.flatnonzero(~parent[new]))
        case "ids" if rows:
            new = str(rng.choice(["id", "track_id", "frame_ids", "frames"]))
            parent[new] = rng.integers(0, 3, FRAMES)
        case "double" if floats and new not in parent and not lie:
            parent[new] = value + rng.choice([0.0, 0.2])
        case "texts" if array and value.dtype.kind in "fiub":
            parent[key] = value.astype(str)
        case "halves" if array and value.dtype.kind in "iub":
            parent[key] = value * 0.5
        case "swap" if array and value.ndim > 1:
            first, second = rng.choice(value.ndim, 2, replace=False)
            if value.shape[-2:] == (3, 3) and min(first, second) >= value.ndim - 2:
                return None  # still rotations: the elbows tell
            parent[key] = np.swapaxes(value, first, second)
        case "expand" if array:
            parent[key] = np.expand_dims(value, int(rng.integers(value.ndim + 1)))
        case "people" if array:
            parent[key] = np.stack([value] * int(rng.integers(2, 4)), int(rng.integers(2)))
        case "list" if array:
            parent[key] = list(value)
        case "millimetres" if (
            floats and value.shape[-1] == 3 and re.search("tran|Th|camera$|vert|_cam_t|world_cam_T", key)
        ):
            parent[key] = value * 1000
        case "degrees" if floats and is_pose(key, value) and np.abs(value).max() > 0.3:
            parent[key] = np.degrees(value)
        case "quaternions" if floats and value.shape[-1] % 3 == 0 and is_pose(key, value):
            flat = value.reshape(-1, 3)
            parent[key] = np.concatenate((np.ones_like(flat[:, :1]), flat / 2), 1).reshape(*value.shape[:-1], -1)
        case "shuffle" if floats and rows and case.moving and key != "vertices" and np.ptp(value, 0).max() > 0.2:
            parent[key] = value[rng.permutation(FRAMES)]
        case "shuffle all" if case.moving and "vertices" not in parent:  # of meshes, which are read later
            order = rng.permutation(FRAMES)
            rows_of_all = [name for name, one in parent.items() if getattr(one, "shape", ())[:1] == (FRAMES,)]
            parent |= {name: parent[name][order] for name in rows_of_all}
            return Change(kind, tuple(map(str, rows_of_all))) if rows_of_all else None
        case "shorten" if rows:
            parent[key] = value[:-2]
        case "nan" if floats:
            parent[key] = value.copy()
            parent[key][len(value) // 2] = np.nan
        case "gender" if "gender" in str(key):
            parent[key] = str(rng.choice(["man", "", "other", "3"]))
        case "per row" if floats and value.shape in ((10,), (16,)):
            parent[key] = np.tile(value, (FRAMES, 1))
        case "one row" if rows and (value == value[0]).all():
            parent[key] = value[0]
        case _:
            return None
    return Change(kind, (str(key), new))


def changed(case: Case, rng: np.random.Generator) -> tuple[Case, Change]:
    """A case with one change; of files of a frame each, in one or in all of them."""
    while True:
        content, seed = plain(copy.deepcopy(case.content)), int(rng.integers(2**32))
        if not case.files:
            done = change(case, content, np.random.default_rng(seed))
        else:
            names = list(content) if rng.random() < 0.5 else [str(rng.choice(list(content)))]
            done = next(iter([change(case, content[name], np.random.default_rng(seed)) for name in names]))
        if done is not None:
            return case._replace(content=content), done


def wrong(clip: SmplClip, truth: dict, numbers: np.ndarray, done: Change) -> set[str]:
    """What differs by more than moves a vertex by 30 mm, row by row.

    Rows are known by their frames' numbers. Where the keys that held these or a mask are changed, they may be counted.
    """
    found = said(clip) if len(clip) else {}
    if found:  # rows that are not fitted are left out
        values = [value.reshape(len(clip), -1) for value in found.values()]
        kept = np.isfinite(np.concatenate(values, 1)).all(1)
        if clip.mesh is None:
            angles = clip.pose if clip.skel_q is None else clip.skel_q[..., None]
            kept &= np.linalg.norm(angles, axis=-1).max(1) <= MAX_ANGLE
            kept &= np.abs(clip.betas).max(1) <= MAX_ABS_BETA
        clip = clip.take(kept)
    rows = rows_of(truth, numbers)
    ways = [dict(zip(numbers.tolist(), rows.tolist(), strict=True))]
    if set(done.keys) & MARKING:
        ways += [dict(zip(ALL.tolist(), kept.tolist(), strict=False)) for kept in (rows, ALL)]
    best = {"number"} if len(clip) else set()
    for row in ways if len(clip) else ():
        as_they_lie = clip.number.tolist() == numbers.tolist() or set(done.keys) & MARKING
        if not clip.moving and len(clip) == len(rows) and as_they_lie:  # images may show several people
            mine = rows
        elif not set(clip.number.tolist()) <= set(row):
            continue
        else:
            mine = np.array([row[number] for number in clip.number.tolist()], int)
        far = {what for what, apart in far_from(clip, truth, mine).items() if not (apart <= 0.03).all()}
        far |= {"mask"} if np.isin(mine, done.hidden).any() else set()
        best = min(best, far, key=len) if best != {"number"} else far
    return best


def silent(clips: list[SmplClip], case: Case, done: Change, gender: str | None) -> tuple[bool, set[str]]:
    """Whether all clips are true, and what is wrong without a word."""
    right, untold, masked, people = True, set(), [], case.people
    lost = not all(clip.moving for clip in clips) and (case.moving or len(clips) != len(people))
    if lost:  # rows that were frames are people of a photograph each
        clips = [replace(clip.take(np.array([i])), number=np.zeros(1, int)) for clip in clips for i in range(len(clip))]
        people = [(truth | {"rows": rows_of(truth, numbers)[[i]]}, ALL[:1]) for truth, numbers in people
                  for i in range(len(numbers))]  # fmt: skip
    for i, clip in enumerate(clips):
        aligned = len(clips) == len(people) and not lost and not done.keys[0].isdigit()  # a person's key
        faults = min((wrong(clip, *one, done) for one in (people[i : i + 1] if aligned else people)), key=len)
        faults = faults | ({"frame"} if clip.frame not in (None, case.frame or clip.frame) else set())
        faults |= {"gender"} if gender is None and set(clip.gender) - {case.gender} else set()
        if done.kind == "rename" and done.keys[-1] == "frame_ids":  # then the file says so
            faults -= {"number"}
        right &= not faults - {"mask"}
        named = [note for note in clip.notes if "NOT USED" in note or "added" in note]
        if any(re.search(rf"\b{re.escape(key)}\b", note) for key in done.keys for note in named):
            faults = set()
        masked.append("mask" in faults)
        told = {
            fault for fault in faults for text in EXCUSES.get(fault, ()) if any(text in note for note in clip.notes)
        }
        untold |= faults - told
    return right, untold if all(masked) else untold - {"mask"}  # a mask may be one person's


SEEDS = [pytest.param(500, seed, marks=pytest.mark.extra) for seed in range(18, 24)]


@pytest.mark.parametrize(("count", "seed"), [(170, 18), *SEEDS])
def test_nothing_wrong_without_a_word(tmp_path: Path, count: int, seed: int):
    rng, names, untold, right = np.random.default_rng(seed), list(CASES), [], 0
    for i in range(count):
        name = names[i % len(names)]
        case, done = changed(CASES[name], rng)
        gender = case.options.smpl_gender or (None if rng.random() < 0.5 else "neutral")
        try:
            clips = read(case, tmp_path, options=replace(case.options, smpl_gender=gender))
        except UserError:
            continue
        true, faults = silent(clips, case, done, gender)
        right += true
        if faults:
            untold.append(f"{i} {name}: {done.kind} {done.keys}: {', '.join(sorted(faults))}")
    assert not untold, "\n".join(untold)
    assert right > 0.4 * count


def test_every_format_of_the_table_is_a_case():
    contents = [
        content for case in CASES.values() for content in (case.content.values() if case.files else [case.content])
    ]
    found = {one.format.name for content in contents for one in people_of(content, "x", None)}
    assert {format.name for format in (MESHES, *FORMATS) if not format.refuse} <= found

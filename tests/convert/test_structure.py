"""Files whose structure is changed at random: what comes out is the truth, or the user is told."""

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np

from hmr_skel.convert import SmplClip
from hmr_skel.convert.clips import bends_backwards
from hmr_skel.convert.formats import read_clips
from hmr_skel.convert.known import ANY_KEYS
from hmr_skel.data.checks import MAX_ABS_BETA, MAX_ANGLE
from hmr_skel.errors import UserError
from tests.convert import layouts
from tests.convert.conftest import FRAMES, walk
from tests.convert.test_layouts import ALL, CASES, Case

COUNT = 500
NAMES = (
    *(
        "poses",
        "pose",
        "body_pose",
        "global_orient",
        "trans",
        "transl",
        "betas",
        "shape",
        "theta",
        "x",
        "Rh",
        "Th",
        "id",
    ),
    *("frame_ids", "valid", "has_smpl", "smpl_pose", "gender", "pred_cam", "imgname", "mask", "offset"),
)
EXCUSES = {
    "pose": ("BACKWARDS",), "betas": ("average body",), "transl": ("no translation", "from the origin", "cam_ext"),
    "number": ("no numbers of their own",), "person": (), "mask": (),
}  # fmt: skip
"""What may be wrong -> how notes begin to say so, unless they name what was changed."""


def plain(value: Any) -> Any:
    """Without tensors, which cannot be changed in place."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value.numpy() if hasattr(value, "detach") else value


def places(value: Any) -> Iterator[tuple[dict, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield value, key
        yield from places(inner) if key != "camera" else ()  # EMDB's, which is not read
    for inner in value if isinstance(value, list) and value and isinstance(value[0], dict) else ():
        yield from places(inner)


class Change(NamedTuple):
    """What was changed: the kind, the keys in question, and the rows that a new mask hides."""

    kind: str
    keys: tuple[str, ...]
    hidden: np.ndarray = ALL[:0]


def change(content: dict, rng: np.random.Generator) -> Change | None:
    """Change one thing; None where the thing drawn cannot be changed so."""
    options = list(places(content))
    parent, key = options[rng.integers(len(options))]
    value, kind = (
        parent[key],
        rng.choice(["rename", "drop", "swap", "expand", "mask", "people", "ids", "double", "list"]),
    )
    array = isinstance(value, np.ndarray) and value.ndim > 0 and value.dtype.kind == "f"
    new = str(rng.choice(NAMES))
    if kind == "rename" and new not in parent:
        parent[new] = parent.pop(key)
    elif kind == "drop" and key != "cam_ext":  # without it, translations are of another camera
        del parent[key]
    elif kind == "mask" and array and len(value) == FRAMES:
        new = str(rng.choice(["valid", "has_smpl", "track_mask", "camera_valid"]))
        parent[new] = rng.random(FRAMES) > 0.3
        return Change(kind, (new,), np.flatnonzero(~parent[new]))
    elif kind == "ids" and array and len(value) == FRAMES:
        new = str(rng.choice(["id", "track_id", "frame_ids", "frames"]))
        parent[new] = rng.integers(0, 3, FRAMES)
    elif kind == "double" and array and new not in parent:
        parent[new] = value + rng.choice([0.0, 0.2])
    elif kind == "swap" and array and value.ndim > 1:
        first, second = rng.choice(value.ndim, 2, replace=False)
        if value.shape[-2:] == (3, 3) and min(first, second) >= value.ndim - 2:
            return None  # still rotations: the elbows tell, see below
        parent[key] = np.swapaxes(value, first, second)
    elif kind == "expand" and array:
        parent[key] = np.expand_dims(value, int(rng.integers(value.ndim + 1)))
    elif kind == "people" and array:
        parent[key] = np.stack([value] * int(rng.integers(2, 4)), int(rng.integers(2)))
    elif kind == "list" and array:
        parent[key] = list(value)
    else:
        return None
    return Change(str(kind), (str(key), new))


def wrong(clip: SmplClip, truth: dict, numbers: np.ndarray, done: Change, no_betas: bool) -> set[str]:
    """What differs by more than moves a vertex by 30 mm, row by row: a key of EXCUSES.

    Without the key that held them, frames are counted.
    """
    if not len(clip):
        return set()
    sound = (np.abs(clip.betas).max(1) <= MAX_ABS_BETA) & (np.linalg.norm(clip.pose, axis=-1).max(1) <= MAX_ANGLE)
    clip = clip.take(sound)  # others are not fitted
    rows_of = numbers if numbers.max() < FRAMES else ALL  # of the truth
    counted = done.kind in ("drop", "rename") and done.keys[0] in ANY_KEYS["number"] and clip.number.max() < FRAMES
    row = dict(zip(ALL[: len(numbers)].tolist() if counted else numbers.tolist(), rows_of.tolist(), strict=True))
    if done.keys[-1] in ANY_KEYS["number"] and done.kind == ("rename" if clip.moving else "ids"):  # it says others
        clip, row = replace(clip, number=ALL[: len(clip)]), dict(zip(ALL.tolist(), rows_of.tolist(), strict=False))
    if done.kind in ("drop", "rename") and done.keys[0] in (
        *ANY_KEYS["seen"],
        "campose_valid",
    ):  # without its mask, a file has all frames
        row = dict(zip(ALL.tolist(), ALL.tolist(), strict=True))
    if not set(clip.number.tolist()) <= set(row):
        return {"number"}
    rows = np.array([row[number] for number in clip.number.tolist()], int)
    apart = {
        "pose": np.abs(clip.pose[:, 1:22] - truth["pose"][rows, 1:22]).max((1, 2))
        + np.abs(layouts.matrices(clip.pose[:, 0]) - layouts.matrices(truth["pose"][rows, 0])).max((1, 2)),
        "betas": np.abs(clip.betas - (0 if no_betas else truth["betas"][:10])).max(1),
        "transl": np.abs(clip.transl - truth["transl"][rows]).max(1),
    }
    found = {what for what, far in apart.items() if (far > 0.03).any()}
    return found | ({"mask"} if np.isin(rows, done.hidden).any() else set())


def each_row(clip: SmplClip) -> list[SmplClip]:
    """Rows of a clip that is not in time, where they were frames: people of a photograph each."""
    return [replace(clip.take(np.array([i])), number=np.zeros(1, int)) for i in range(len(clip))]


def silent(clips: list[SmplClip], case: Case, done: Change, no_betas: bool) -> tuple[bool, set[str]]:
    """Whether all clips are true, and what is wrong without a word."""
    right, untold, masked = True, set(), []
    lost = not all(clip.moving for clip in clips) and (case.moving or len(clips) != len(case.people))
    people = [(truth, numbers) for truth, numbers in case.people]
    if lost:
        clips = [one for clip in clips for one in each_row(clip)]
        people = [
            ({key: value if key == "betas" else value[[i]] for key, value in truth.items()}, ALL[:1])
            for truth, _ in people
            for i in ALL
        ]
    for i, clip in enumerate(clips):
        if clip.turn is not None:
            continue
        aligned = len(clips) == len(people) and not lost and not done.keys[0].isdigit()  # a person's key
        mine = people[i : i + 1] if aligned else people
        faults = min((wrong(clip, *one, done, no_betas) for one in mine), key=len)
        right &= not faults - {"mask"}
        named = [note for note in clip.notes if "not used" in note.lower() or "added" in note]
        if any(re.search(rf"\b{re.escape(key)}\b", note) for key in done.keys for note in named):
            faults = set()
        masked.append("mask" in faults)
        untold |= {fault for fault in faults if not any(text in note for text in EXCUSES[fault] for note in clip.notes)}
    return right, untold if all(masked) else untold - {"mask"}  # a mask may be one person's


def test_nothing_wrong_without_a_word(tmp_path: Path):
    rng, names, untold, right = np.random.default_rng(18), list(CASES), [], 0
    for i in range(COUNT):
        name, done = names[i % len(names)], None
        while done is None:
            content = plain(copy.deepcopy(CASES[name].content))
            done = change(content, rng)
        joblib.dump(content, tmp_path / "x.pkl")
        try:
            clips = read_clips(tmp_path / "x.pkl", replace(CASES[name].options, smpl_gender="neutral"))
        except UserError:
            continue
        true, faults = silent(clips, CASES[name], done, name == "AIST++")
        right += true
        if faults:
            untold.append(f"{i} {name}: {done.kind} {done.keys}: {', '.join(sorted(faults))}")
    assert not untold
    assert right > 0.5 * COUNT


def test_elbows_that_bend_backwards_are_told(tmp_path: Path):
    truth = walk(up="y-up")
    truth["pose"][:, 18:20, 1] = [-0.9, 0.8]
    c = layouts.columns(truth)
    assert not bends_backwards(truth["pose"])
    for name, poses in (("turned", layouts.matrices(truth["pose"]).swapaxes(-1, -2)), ("mirrored", None)):
        poses = truth["pose"] * [1, -1, -1] if poses is None else poses
        np.savez(tmp_path / f"{name}.npz", poses=poses, betas=c["betas"], trans=c["trans"], gender="male")
        (clip,) = read_clips(tmp_path / f"{name}.npz", replace(CASES["TRAM"].options))
        assert any("ELBOWS BEND BACKWARDS" in note for note in clip.notes)

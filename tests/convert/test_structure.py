"""Files whose structure is changed at random: what comes out is the truth, or the user is told."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from hmr_skel.convert import SmplClip
from hmr_skel.convert.clips import bends_backwards
from hmr_skel.convert.formats import read_clips
from hmr_skel.data.checks import MAX_ABS_BETA, MAX_ANGLE
from hmr_skel.errors import UserError
from tests.convert import layouts
from tests.convert.conftest import FRAMES, walk
from tests.convert.test_layouts import CASES, INCAM, ROOM, SECOND, UPRIGHT

COUNT = 500
TRUTHS = (INCAM, SECOND, UPRIGHT, ROOM)
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
WARNINGS = ("NOT USED", "no translation", "stand as in", "average body", "from the origin", "BACKWARDS", "twice")


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
        yield from places(inner)


def change(content: dict, rng: np.random.Generator) -> str:
    """Change one thing; returns what, or nothing where the thing drawn cannot be changed so."""
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
    elif kind == "drop":
        del parent[key]
    elif kind == "mask":
        parent[str(rng.choice(["valid", "has_smpl", "track_mask"]))] = rng.random(FRAMES) > 0.3
    elif kind == "ids":
        parent[str(rng.choice(["id", "track_id", "frame_ids", "frames"]))] = rng.integers(0, 3, FRAMES)
    elif kind == "double" and array and new not in parent:
        parent[new] = value + rng.choice([0.0, 0.2])
    elif kind == "swap" and array and value.ndim > 1:
        first, second = rng.choice(value.ndim, 2, replace=False)
        if value.shape[-2:] == (3, 3) and min(first, second) >= value.ndim - 2:
            return ""  # still rotations: the elbows tell, see below
        parent[key] = np.swapaxes(value, first, second)
    elif kind == "expand" and array:
        parent[key] = np.expand_dims(value, int(rng.integers(value.ndim + 1)))
    elif kind == "people" and array:
        parent[key] = np.stack([value] * int(rng.integers(2, 4)), int(rng.integers(2)))
    elif kind == "list" and array:
        parent[key] = list(value)
    else:
        return ""
    return f"{kind} {key}"


def is_true(clip: SmplClip, zero_betas: bool) -> bool:
    """Whether every row that a fit would take is a row of some truth, within what moves a vertex by 30 mm."""
    sound = (np.abs(clip.betas).max(1) <= MAX_ABS_BETA) & (np.linalg.norm(clip.pose, axis=-1).max(1) <= MAX_ANGLE)
    clip = clip.take(sound)
    best = np.full(len(clip), np.inf)
    for truth in TRUTHS:
        apart = np.abs(clip.pose[:, None, 1:22] - truth["pose"][None, :, 1:22]).max((2, 3))
        row = apart.argmin(1)
        turned = np.abs(layouts.matrices(clip.pose[:, 0]) - layouts.matrices(truth["pose"][row, 0])).max((1, 2))
        shape = np.abs(clip.betas - (0 if zero_betas else truth["betas"][:10])).max(1)
        best = np.minimum(best, apart.min(1) + turned + shape + np.abs(clip.transl - truth["transl"][row]).max(1))
    return bool((best < 0.03).all())


def test_nothing_wrong_without_a_word(tmp_path: Path):
    rng, names, silent, right = np.random.default_rng(18), list(CASES), [], 0
    for i in range(COUNT):
        name, done = names[i % len(names)], ""
        while not done:
            content = plain(copy.deepcopy(CASES[name].content))
            done = change(content, rng)
        joblib.dump(content, tmp_path / "x.pkl")
        try:
            clips = read_clips(tmp_path / "x.pkl", replace(CASES[name].options, smpl_gender="neutral"))
        except UserError:
            continue
        told = any(warning in note for clip in clips for note in clip.notes for warning in WARNINGS)
        true = all(clip.turn is not None or is_true(clip, name == "AIST++") for clip in clips)
        right += true
        if not true and not told:
            silent.append(f"{i} {name}: {done}")
    assert not silent
    assert right > 0.6 * COUNT


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

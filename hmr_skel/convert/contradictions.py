"""What a file says twice: its model, its frame rate, the same pose, shape or translation.

Two that are equal are fine. Two that differ are refused, as nothing tells which is right.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hmr_skel.body.rotations import rotvec_to_rotmat
from hmr_skel.convert.known import ANY_KEYS, Format
from hmr_skel.convert.layouts import opened
from hmr_skel.convert.parameters import Fields, Units, numbers, plain, rotvecs, whole_pose
from hmr_skel.data.annotations import to_texts
from hmr_skel.errors import UserError

SAME = 5e-3  # of two spellings of one pose, as rotation matrices; of betas, and of metres
_SAME_RATE = 0.01  # of a rate: 59.94 is 60
_WORDS = {"orient": "root", "transl": "translation"}
_MODEL_KEYS = ("surface_model_type", "model_type", "body_model_type", "body_model")
_MODELS = ("smplx", "smplh", "smpl", "star", "skel")
_OTHERS = ("supr", "mano", "flame", "mhr", "ghum", "smil")  # that no option names
_JOINTS = {"pose": (24, 22, 52, 55), "orient": (1,), "body": (23, 21, 51, 54)}


def agreed_model(found: Mapping, format: Format, said: str | None, where: str) -> tuple[str | None, str, str]:
    """The model that the kind of file, the file's own word and the user (`said`) name.

    Returns:
        The model, or None; who says so, in words; and the file's key that says so, or "".

    Raises:
        UserError: they differ, or it is a model that is not read.
    """
    claims = [(format.model, f"{format.name}'s files are of", ""), (said, "--model says", "")]
    for key in _MODEL_KEYS:
        if key in found and len(texts := to_texts(np.ravel(np.asarray(plain(opened(found[key])))))):
            word = re.sub("[^a-z]", "", str(texts[0]).lower())
            model = next((model for model in (*_MODELS, *_OTHERS) if word.startswith(model)), None)
            if model in _OTHERS:
                raise UserError(f"{where}: {key!r} is {texts[0]!r}, which is not read. Expected {', '.join(_MODELS)}.")
            claims.append((model, f"{key!r} says", key))
    claims = [claim for claim in claims if claim[0] is not None]
    for model, who, _ in claims[1:]:
        if {model, claims[0][0]} not in ({model}, {"smpl", "smplh"}):
            raise UserError(
                f"{where}: {claims[0][1]} {claims[0][0]}, but {who} {model}. Expected one: leave the wrong one out."
            )
    key = next((key for _, _, key in claims if key), "")
    return (claims[0][0], claims[0][1], key) if claims else (None, "", "")


def agreed_rate(found: Mapping, where: str) -> tuple[float | None, set[str]]:
    """Frames a second, and the keys that say so. Raises `UserError` where they differ, or are no rates."""
    rates = {key: _rate(key, opened(found[key]), where) for key in ANY_KEYS["rate"] if key in found}
    if rates and max(rates.values()) > min(rates.values()) * (1 + _SAME_RATE):
        both = " and ".join(f"{key!r} {rate:g}" for key, rate in rates.items())
        raise UserError(f"{where}: {both} are different frame rates. Expected one: leave the wrong one out.")
    return next(iter(rates.values()), None), set(rates)


def _rate(key: str, value: Any, where: str) -> float:
    try:
        rate = float(np.unique(np.asarray(value)).reshape(()))
    except (TypeError, ValueError):
        rate = np.nan
    if not 0.1 <= rate <= 10_000:
        raise UserError(f"{where}: {key!r} is {value}. Expected frames a second: say --frame-rate.")
    return rate


def agreeing_keys(fields: Fields, found: Mapping, format: Format, where: str, units: Units) -> set[str]:
    """The second keys under which the file holds pose, betas or translation once more.

    Raises `UserError` where they say otherwise. What has such a name and another number of rows is something else.
    """
    pair = ("orient", "body") if {"orient", "body"} <= fields.keys() else ("pose",)
    used = {meaning: fields[meaning][0] for meaning in (*pair, "betas", "transl") if meaning in fields}
    seconds = {
        meaning: [key for key in ANY_KEYS[meaning] if key in found and "cam" not in key and key not in used.values()]
        for meaning in (*_JOINTS, *(name for name in ("betas", "transl") if name in used and name not in format.keys))
        if not format.views or meaning == "betas"
    }
    if not any(seconds.values()):
        return set()
    pose, _ = whole_pose(fields, where, (*_JOINTS["pose"], 23), units)
    if pose.shape[1] == 23:  # EasyMocap's, whose root is in `turn`
        pose = np.concatenate((np.zeros_like(pose[:, :1]), pose), 1)
    parts = {"pose": pose, "orient": pose[:, :1], "body": pose[:, 1:]}
    agreeing = set()
    for meaning, keys in seconds.items():
        first = used.get(meaning, used[pair[-1]])
        for key in keys:
            what, whole = f"{where}: {key!r}", np.shape(plain(found[key]))[-1:] == (72,)
            kind = "pose" if meaning == "body" and whole else meaning  # as in 4D-Humans' labels: the root is inside
            try:
                if meaning in parts:
                    apart = _turned(parts[kind], rotvecs(found[key], what, _JOINTS[kind], units)[0], kind)
                else:
                    apart = _apart(numbers(fields[meaning][1], where), numbers(found[key], what))
            except UserError:  # something else has that name; it is named among what was not read
                continue
            if apart is not None and apart > SAME:
                both = f"{first!r} and {key!r} both say the {_WORDS.get(meaning, meaning)}"
                raise UserError(f"{where}: {both}, and they differ. Expected one: leave the wrong one out.")
            agreeing |= set() if apart is None else {key}
    return agreeing


def _turned(one: np.ndarray, two: np.ndarray, meaning: str) -> float | None:
    """The largest difference of rotation matrices; None for other rows. Hands count where both have the same joints."""
    if len(one) != len(two):
        return None
    joints = one.shape[1] if one.shape[1] == two.shape[1] else (21 if meaning == "body" else 22)
    turned = [rotvec_to_rotmat(torch.from_numpy(pose[:, :joints]).double()).numpy() for pose in (one, two)]
    return float(np.nanmax(np.abs(turned[0] - turned[1]), initial=0))


def _apart(one: np.ndarray, two: np.ndarray) -> float | None:
    """The largest difference of numbers [T n] or [n] of all rows; None for other rows."""
    one, two = (array.reshape(-1, array.shape[-1] if array.ndim else 1) for array in (one, two))
    if len(one) != len(two) and 1 not in (len(one), len(two)):
        return None
    width = min(one.shape[1], two.shape[1])
    return float(np.nanmax(np.abs(one[:, :width].astype(np.float64) - two[:, :width]), initial=0))

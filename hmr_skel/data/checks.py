"""Row checks: a bad row is left out with a reason and harms no other.

Vectorised over rows. The limits only have to tell annotations from accidents, so they are wide; what is possible but
fits badly is for the fitter's own status and errors to say.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np

from hmr_skel.data.annotations import PX_PER_SCALE
from hmr_skel.rows import AnnotationRows, Reject

MAX_ABS_BETA = 10.0  # standard deviations; people are within 3, bad fits reach 5, and nothing of a body is left at 10
MAX_ANGLE = 4 * np.pi  # two full turns: rotations that optimisers wind up stay below, overflows and degrees do not
MAX_DISTANCE = 1000.0  # m; someone 1 km away is smaller than a pixel
MIN_BOX_SIDE = 1.0  # px
MAX_PIXEL = 1e6  # px; of box sides, box centres and focal lengths
GENDERS = {"smpl_gender": ("neutral", "male", "female"), "skel_gender": ("male", "female")}

# Columns of which every value must be finite.
_FINITE = (
    "center",
    "scale",
    "cam_int",
    "smpl_pose",
    "smpl_betas",
    "smpl_transl",
    "skel_q",
    "skel_betas",
    "skel_transl",
)


@dataclass(frozen=True)
class _Check:
    reason: str
    bad: np.ndarray  # bool [N]
    detail: Callable[[int], str]  # of one bad row


def check_rows(rows: AnnotationRows, exclude: Collection[str] = ()) -> tuple[AnnotationRows, list[Reject]]:
    """Split rows into those that can be used and those that cannot: kept + rejected == read.

    Args:
        rows: as read.
        exclude: image names, without folder and extension, whose rows are to be left out (`Source.exclude`).

    Returns:
        The kept rows in their order, and the rejects in theirs, each with the first reason that holds: `imgname`,
        `excluded`, `gender`, `non_finite`, `box`, `camera`, `betas`, `pose`, `transl`.

    A keypoint that is not there (coordinates not finite, confidence 0 or NaN) is a gap in the annotation and no reason
    to reject; one that claims confidence without coordinates is.
    """
    rejects: dict[int, Reject] = {}
    for check in _checks(rows, frozenset(exclude)):
        for i in np.flatnonzero(check.bad).tolist():
            if i not in rejects:
                name = rows.imgname[i]
                rejects[i] = Reject(
                    source=rows.source,
                    source_row=int(rows.source_row[i]),
                    imgname=name if isinstance(name, str) else repr(name),
                    reason=check.reason,
                    detail=check.detail(i),
                )
    if not rejects:
        return rows, []
    keep = np.ones(len(rows), bool)
    keep[list(rejects)] = False
    return rows.take(keep), [rejects[i] for i in sorted(rejects)]


def _checks(rows: AnnotationRows, exclude: frozenset[str]) -> Iterator[_Check]:
    """Every check, in the order in which reasons are given."""
    names = rows.imgname
    yield _Check(
        "imgname",
        np.fromiter((not (isinstance(name, str) and name.strip()) for name in names), bool, len(names)),
        lambda i: f"imgname is {names[i]!r}; expected a text that is not empty",
    )
    if exclude:
        yield _Check(
            "excluded",
            np.fromiter((isinstance(name, str) and _stem(name) in exclude for name in names), bool, len(names)),
            lambda i: f"{_stem(names[i])} is on the manifest's exclude list",
        )
    for column, known in GENDERS.items():
        if (genders := getattr(rows, column)) is not None:
            yield _unknown(column, genders, known)
    for column in _FINITE:
        if (values := getattr(rows, column)) is not None:
            yield _not_finite(column, values)
    for column in ("keypoints_2d", "keypoints_3d"):
        if (points := getattr(rows, column)) is not None:
            yield _claimed_but_missing(column, points)
    yield from _box(rows)
    if rows.cam_int is not None:
        yield _camera(rows.cam_int)
    for column in ("smpl_betas", "skel_betas"):
        if (values := getattr(rows, column)) is not None:
            yield _too_large("betas", column, np.abs(values), MAX_ABS_BETA, "")
    if rows.smpl_pose is not None:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is too large
            angles = np.linalg.norm(rows.smpl_pose.reshape(len(rows), 24, 3), axis=-1)
        yield _too_large("pose", "angle of smpl_pose, joint", angles, MAX_ANGLE, " rad")
    if rows.skel_q is not None:
        yield _too_large("pose", "skel_q", np.abs(rows.skel_q), MAX_ANGLE, " rad")
    for column in ("smpl_transl", "skel_transl"):
        if (values := getattr(rows, column)) is not None:
            yield _too_large("transl", column, np.abs(values), MAX_DISTANCE, " m")


def _unknown(column: str, genders: np.ndarray, known: tuple[str, ...]) -> _Check:
    return _Check(
        "gender",
        np.fromiter((gender not in known for gender in genders), bool, len(genders)),
        lambda i: f"{column} is {genders[i]!r}; expected {', '.join(known)}",
    )


def _not_finite(column: str, values: np.ndarray) -> _Check:
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))  # -1 would not do for no rows

    def detail(i: int) -> str:
        places = np.flatnonzero(~np.isfinite(flat[i]))
        return f"{column}[{places[0]}] is {flat[i, places[0]]} ({len(places)} of {flat.shape[1]} values are not finite)"

    return _Check("non_finite", _any(~np.isfinite(flat)), detail)


def _claimed_but_missing(column: str, points: np.ndarray) -> _Check:
    confidence = points[..., -1]
    there = np.isfinite(points[..., :-1]).all(axis=-1)
    # NaN confidence is "not there" beside missing coordinates only
    bad = np.where(there, ~np.isfinite(confidence), ~((confidence == 0) | np.isnan(confidence)))
    return _Check(
        "non_finite",
        _any(bad),
        lambda i: (
            f"{column}[{(k := int(np.argmax(bad[i])))}] is {points[i, k].tolist()}; without coordinates the "
            "confidence must be 0"
        ),
    )


def _box(rows: AnnotationRows) -> Iterator[_Check]:
    with np.errstate(over="ignore", invalid="ignore"):
        sides = rows.scale * np.float32(PX_PER_SCALE)
        small = sides.min(axis=1) < MIN_BOX_SIDE
        large = (sides.max(axis=1) > MAX_PIXEL) | (np.abs(rows.center).max(axis=1) > MAX_PIXEL)
    yield _Check(
        "box", small, lambda i: f"box of {sides[i, 0]:g} x {sides[i, 1]:g} px; expected {MIN_BOX_SIDE:g} px or more"
    )
    yield _Check(
        "box",
        large,
        lambda i: (
            f"box of {sides[i, 0]:g} x {sides[i, 1]:g} px at {rows.center[i].tolist()}; expected {MAX_PIXEL:g} px "
            "at most"
        ),
    )


def _camera(cam_int: np.ndarray) -> _Check:
    focal = cam_int[:, [0, 1], [0, 1]]
    with np.errstate(invalid="ignore"):
        bad = (focal <= 0).any(axis=1) | (focal > MAX_PIXEL).any(axis=1)
        bad |= (cam_int[:, 2] != np.array([0, 0, 1], np.float32)).any(axis=1)
    return _Check(
        "camera",
        bad,
        lambda i: (
            f"cam_int has focal lengths {focal[i].tolist()} px and last row {cam_int[i, 2].tolist()}; expected "
            f"more than 0, at most {MAX_PIXEL:g}, and [0, 0, 1]"
        ),
    )


def _too_large(reason: str, what: str, sizes: np.ndarray, limit: float, unit: str) -> _Check:
    def detail(i: int) -> str:
        place = int(np.argmax(sizes[i]))
        return f"|{what}[{place}]| is {sizes[i, place]:g}{unit}; expected {limit:g}{unit} at most"

    with np.errstate(invalid="ignore"):  # NaN was reported above
        return _Check(reason, _any(sizes > limit), detail)


def _any(bad: np.ndarray) -> np.ndarray:
    """[N] whether any value of the row is bad."""
    return np.asarray(bad.any(axis=1))


def _stem(imgname: str) -> str:
    return imgname.rsplit("/", 1)[-1].rsplit(".", 1)[0]

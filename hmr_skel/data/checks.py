"""Row checks: a bad row is left out with a reason and harms no other.

The checks work on columns of all rows. Their limits only tell annotations from accidents, so they are wide. A row that
is possible but fits badly is kept: the fit's status and errors tell.
"""

from collections.abc import Callable, Collection, Iterator

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
    *("center", "scale", "cam_int", "smpl_pose", "smpl_betas", "smpl_transl"),
    *("skel_q", "skel_betas", "skel_transl"),
)

Check = tuple[str, np.ndarray | np.bool_, Callable[[int], str]]
"""A reason, the rows [N] that it holds for, and what was found in one of them."""


def check_rows(rows: AnnotationRows, exclude: Collection[str] = ()) -> tuple[AnnotationRows, list[Reject]]:
    """Split rows into those that can be used and those that cannot: kept + rejected == read.

    Args:
        rows: as read.
        exclude: image names, without folder and extension, whose rows are to be left out (`Source.exclude`).

    Returns:
        The kept rows in their order, and the rejects in theirs, each with the first reason that holds: `imgname`,
        `excluded`, `not annotated`, `gender`, `non_finite`, `box`, `camera`, `betas`, `pose`, `transl`.

    A keypoint that is not there (coordinates not finite, confidence 0 or NaN) is a gap in the annotation and no reason
    to reject; one that claims confidence without coordinates is.
    """
    rejects: dict[int, Reject] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is too large; NaN is reported first
        for reason, bad, detail in _checks(rows, frozenset(exclude)):
            for i in np.flatnonzero(bad).tolist():
                if i not in rejects:
                    name = rows.imgname[i]
                    imgname = name if isinstance(name, str) else repr(name)
                    rejects[i] = Reject(rows.source, int(rows.source_row[i]), imgname, reason, detail(i))
    if not rejects:
        return rows, []
    keep = np.ones(len(rows), bool)
    keep[list(rejects)] = False
    return rows.take(keep), [rejects[i] for i in sorted(rejects)]


def _checks(rows: AnnotationRows, exclude: frozenset[str]) -> Iterator[Check]:
    """Every check, in the order in which reasons are given."""

    def there(*columns: str) -> Iterator[tuple[str, np.ndarray]]:
        return ((column, values) for column in columns if (values := getattr(rows, column)) is not None)

    names = rows.imgname
    nameless = [not (isinstance(name, str) and name.strip()) for name in names]
    yield "imgname", np.array(nameless, bool), lambda i: f"imgname is {names[i]!r}; expected a text that is not empty"
    if exclude:
        bad = [isinstance(name, str) and _stem(name) in exclude for name in names]
        yield "excluded", np.array(bad, bool), lambda i: f"{_stem(names[i])} is on the manifest's exclude list"
    for _, annotated in there("annotated"):
        yield "not annotated", ~annotated, lambda i: "the file's has_* flags say that the row holds no annotation"
    for column, genders in there(*GENDERS):
        yield _unknown_gender(column, genders)
    for column, values in there(*_FINITE):
        yield _not_finite(column, values)
    for column, points in there("keypoints_2d", "keypoints_3d"):
        yield _claimed_but_missing(column, points)
    yield from _box(rows)
    for _, cam_int in there("cam_int"):
        yield _camera(cam_int)
    for column, betas in there("smpl_betas", "skel_betas"):
        yield _too_large("betas", column, betas, MAX_ABS_BETA, "")
    for column, pose in there("smpl_pose"):
        angles = np.linalg.norm(pose.reshape(len(rows), 24, 3), axis=-1)
        yield _too_large("pose", f"angle of {column}, joint", angles, MAX_ANGLE, " rad")
    for column, q in there("skel_q"):
        yield _too_large("pose", column, q, MAX_ANGLE, " rad")
    for column, transl in there("smpl_transl", "skel_transl"):
        yield _too_large("transl", column, transl, MAX_DISTANCE, " m")


def _unknown_gender(column: str, genders: np.ndarray) -> Check:
    known = GENDERS[column]
    bad = np.array([gender not in known for gender in genders], bool)
    return "gender", bad, lambda i: f"{column} is {genders[i]!r}; expected {', '.join(known)}"


def _not_finite(column: str, values: np.ndarray) -> Check:
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))  # -1 would not do for no rows

    def detail(i: int) -> str:
        places = np.flatnonzero(~np.isfinite(flat[i]))
        return f"{column}[{places[0]}] is {flat[i, places[0]]} ({len(places)} of {flat.shape[1]} values are not finite)"

    return "non_finite", ~np.isfinite(flat).all(axis=1), detail


def _claimed_but_missing(column: str, points: np.ndarray) -> Check:
    confidence = points[..., -1]
    there = np.isfinite(points[..., :-1]).all(axis=-1)
    # NaN confidence is "not there" beside missing coordinates only
    bad = np.where(there, ~np.isfinite(confidence), ~((confidence == 0) | np.isnan(confidence)))

    def detail(i: int) -> str:
        k = int(np.argmax(bad[i]))
        return f"{column}[{k}] is {points[i, k].tolist()}; without coordinates the confidence must be 0"

    return "non_finite", bad.any(axis=1), detail


def _box(rows: AnnotationRows) -> Iterator[Check]:
    sides = rows.scale * np.float32(PX_PER_SCALE)

    def box(i: int) -> str:
        return f"box of {sides[i, 0]:g} x {sides[i, 1]:g} px"

    yield "box", sides.min(axis=1) < MIN_BOX_SIDE, lambda i: f"{box(i)}; expected {MIN_BOX_SIDE:g} px or more"
    large = (sides.max(axis=1) > MAX_PIXEL) | (np.abs(rows.center).max(axis=1) > MAX_PIXEL)
    yield "box", large, lambda i: f"{box(i)} at {rows.center[i].tolist()}; expected {MAX_PIXEL:g} px at most"


def _camera(cam_int: np.ndarray) -> Check:
    focal = cam_int[:, [0, 1], [0, 1]]
    bad = ((focal <= 0) | (focal > MAX_PIXEL)).any(axis=1)
    bad |= (cam_int[:, 2] != np.array([0, 0, 1], np.float32)).any(axis=1)

    def detail(i: int) -> str:
        return (
            f"cam_int has focal lengths {focal[i].tolist()} px and last row {cam_int[i, 2].tolist()}; expected more "
            f"than 0, at most {MAX_PIXEL:g}, and [0, 0, 1]"
        )

    return "camera", bad, detail


def _too_large(reason: str, what: str, values: np.ndarray, limit: float, unit: str) -> Check:
    sizes = np.abs(values)

    def detail(i: int) -> str:
        place = int(np.argmax(sizes[i]))
        return f"|{what}[{place}]| is {sizes[i, place]:g}{unit}; expected {limit:g}{unit} at most"

    return reason, (sizes > limit).any(axis=1), detail


def _stem(imgname: str) -> str:
    return imgname.rsplit("/", 1)[-1].rsplit(".", 1)[0]

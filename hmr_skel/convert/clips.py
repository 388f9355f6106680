"""The converter's input and output: a person in the frames of a clip, as SMPL and as SKEL.

A clip is one person in consecutive frames of one recording. The person has one shape, and angles do not jump. A label
file of photographs is a clip too, with `moving` false: each row then stands for itself.
"""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hmr_skel.errors import UserError

if TYPE_CHECKING:  # with torch, which `hmr-skel schema` does without
    from hmr_skel.convert.mesh_rows import MeshRows

_MOST_GAPS = 5  # that are named
_ENOUGH = 10  # rows, to tell from how people stand that a frame is another than is said
_UNSAFE = re.compile(r"[/\\\x00-\x1f]|^\.+")
UPRIGHT = {
    "camera": np.diag([1.0, -1.0, -1.0]),
    "y-up": np.eye(3),
    "z-up": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
}
"""The frames that poses and translations can be in -> the rotation [3 3] from there to y-up, which OpenSim and glTF
expect. camera: x right, y down, z forward; it is taken for level, so the ground is as tilted as the camera was."""


@dataclass(frozen=True)
class SmplClip:
    """SMPL annotations, checked: metres, radians, ten betas. All arrays have T rows."""

    name: str  # unique among the clips of a file; part of the names of written files
    source: str  # the file, without its folder
    file: str  # its name without ending, made unique among the files of a run
    pose: np.ndarray  # float32 [T 24 3] axis-angle, the root first
    betas: np.ndarray  # float32 [T 10]
    transl: np.ndarray  # float32 [T 3] m
    gender: np.ndarray  # object (str) [T] neutral, male or female: the SMPL model annotated with
    number: np.ndarray  # int64 [T] the frame's number in its recording, or the row's in its file
    moving: bool  # whether the rows are frames of one person in time
    frame: str | None = None  # a key of UPRIGHT; None where the file does not say
    frame_rate: float | int | None = None  # frames a second; None where the file does not say
    shot: np.ndarray | None = None  # int64 [T] the shot's number; None where there are no cuts
    imgname: np.ndarray | None = None  # object (str) [T]
    person: np.ndarray | None = None  # object (str) [T] whom the file says a row is of
    turn: np.ndarray | None = None  # float32 [T 3] axis-angle that turns the posed mesh about the origin, then `transl`
    from_input: np.ndarray | None = None  # float64 [T 4 4] takes points of the file's frame to this one; None: the same
    skel_q: np.ndarray | None = None  # float32 [T 46] rad: the rows are SKEL already; `pose` is NaN, betas are SKEL's
    at_pelvis: bool = False  # whether `transl` is the place of SMPL's root joint, not SMPL's translation
    per_file: bool = False  # whether files of this kind hold one frame each
    left_out: tuple[tuple[int, str], ...] = ()  # (number, reason) of rows of the file that hold no annotation
    notes: tuple[str, ...] = ()  # what was left out or assumed, in words
    mesh: "MeshRows | None" = None
    """What is fitted, where it is not SMPL posed by the parameters, which are NaN at first."""

    def __len__(self) -> int:
        return len(self.pose)

    def take(self, rows: np.ndarray) -> "SmplClip":
        """The given rows (indices or a mask) in the given order."""
        return replace(self, **_rows_of(self, rows), mesh=None if self.mesh is None else self.mesh.take(rows))

    @property
    def row_rate(self) -> float | None:
        """Rows a second: less than the frame rate where the rows are every n-th frame. None where it is not known."""
        if self.frame_rate is None:
            return None
        step = np.diff(self.number)
        step = step[step > 0]
        return float(self.frame_rate / np.median(step)) if len(step) else float(self.frame_rate)

    def starts(self) -> np.ndarray:
        """bool [T]: whether a new run of frames begins here, so that this row has nothing to do with the row before.

        True of the first row, after a cut and after a gap; of every row if the clip is not moving.
        """
        if not self.moving:
            return np.ones(len(self), bool)
        starts = np.ones(len(self), bool)
        step = np.diff(self.number)
        usual = np.median(step) if len(step) else 1
        starts[1:] = (step > 1.5 * usual) | (step <= 0)
        if self.shot is not None:
            starts[1:] |= np.diff(self.shot) != 0
        return starts


@dataclass(frozen=True)
class SkelClip:
    """SKEL for those N rows of a clip that could be fitted; metres and radians in the frame of `smpl`."""

    smpl: SmplClip  # the N rows
    gender: np.ndarray  # object (str) [N] male or female; one for all frames of a moving clip
    q: np.ndarray  # float32 [N 46] rad
    betas: np.ndarray  # float32 [N 10] the same in all frames of a moving clip; SMPL's stay as annotated
    transl: np.ndarray  # float32 [N 3] m
    v2v_mm: np.ndarray  # float32 [N] mean distance of the skin to the annotated mesh
    v2v_max_mm: np.ndarray  # float32 [N]
    max_limit_violation_deg: np.ndarray  # float32 [N]
    status: np.ndarray  # object (str) [N] as in datasets: docs/conventions.md
    rejected: tuple[tuple[int, str], ...] = ()  # (number, reason) of the rows without a fit

    def __len__(self) -> int:
        return len(self.q)

    def take(self, rows: np.ndarray) -> "SkelClip":
        """As of `SmplClip`."""
        return replace(self, smpl=self.smpl.take(rows), **_rows_of(self, rows))

    @property
    def name(self) -> str:
        return self.smpl.name

    @property
    def time(self) -> np.ndarray | None:
        """float64 [N] s since frame 0 of the recording; None where the frame rate is not known."""
        if self.smpl.frame_rate is None:
            return None
        return self.smpl.number / self.smpl.frame_rate

    @property
    def gaps(self) -> str:
        """Where no frames are between two that follow each other, in words: `1 gap: 0.17 s to 0.37 s`.

        A cut between two shots counts as one. Empty where there are none.
        """
        after = np.flatnonzero(self.smpl.starts())[1:] if self.smpl.moving else []
        if not len(after):
            return ""
        at = [f"frame {n}" for n in self.smpl.number] if self.time is None else [f"{t:.2f} s" for t in self.time]
        named = ", ".join(f"{at[i - 1]} to {at[i]}" for i in after[:_MOST_GAPS])
        more = f" and {len(after) - _MOST_GAPS} more" if len(after) > _MOST_GAPS else ""
        return f"{len(after)} gap{'s' * (len(after) > 1)}: {named}{more}"


def _rows_of(clip: SmplClip | SkelClip, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value[rows] for name, value in vars(clip).items() if isinstance(value, np.ndarray)}


def looks_like(pose: np.ndarray) -> str | None:
    """The frame in which these people mostly stand upright, from poses [T 24 3]; None where no axis stands out."""
    root = pose[:, 0].astype(np.float64)
    root = root[np.isfinite(root).all(1)]
    if not len(root):
        return None
    angle = np.linalg.norm(root, axis=1, keepdims=True)
    axis = root / np.where(angle > 0, angle, 1)
    y = np.array([0.0, 1.0, 0.0])
    up = y * np.cos(angle) + np.cross(axis, y) * np.sin(angle) + axis * (axis @ y)[:, None] * (1 - np.cos(angle))
    # y-up's y axis, seen from each frame
    return next((name for name, turn in UPRIGHT.items() if up.mean(0) @ turn[1] > 0.8), None)


def agreed_frame(pose: np.ndarray, usual: str | None, said: str | None, where: str) -> tuple[str | None, list[str]]:
    """The frame of poses [T 24 3], as said, else the usual one; None where nothing is said and people stand in another.
    Notes tell of doubts. Raises `UserError` where people stand in the usual one, and another is said.

    In a few rows they may lie or stand on their hands: these change no frame, and only notes tell of them."""
    seems, people, few = looks_like(pose), f"{where}: files of this kind are {usual}", len(pose) < _ENOUGH
    if said is None and None not in (usual, seems) and seems != usual:
        text = f"but these people stand as in a {seems} frame: give --frame {usual} or --frame {seems} to settle it"
        return usual if few else None, [f"{people}, {text}"]
    if said not in (None, usual) and usual is not None and seems == usual and not few:
        text = f"and these people stand so, but --frame says {said}. Leave --frame out; --up says what is up where a"
        raise UserError(f"{people}, {text} camera was tilted.")
    unchecked = usual is None or (few and said != usual)
    if said and unchecked and seems not in (None, said):
        return said, [f"{where}: --frame {said} is taken, but these people stand as in a {seems} frame"]
    return said or usual, []


def bends_backwards(pose: np.ndarray) -> bool:
    """Whether elbows of poses [T 24 3] bend the wrong way mostly, wherever one is bent, as mirrored ones do."""
    bend = pose[:, 18:20, 1] * np.array([-1, 1])  # about y: a left elbow bends to the negative side
    bent = bend[np.abs(bend) > 0.5]
    return len(bent) >= 5 and bool((bent < 0).mean() > 0.8)


def require_frame(clip: SmplClip, what: str) -> str:
    """The clip's frame. Raises `UserError` where it is not known; the text says which frame it looks like."""
    if clip.frame is not None:
        return clip.frame
    seems = looks_like(clip.pose)
    hint = f" These people stand as in a {seems} frame." if seems else ""
    raise UserError(
        f"{clip.source} does not say for sure which way is up, and {what} needs it.{hint} Say --frame camera (x "
        "right, y down, z forward), --frame y-up or --frame z-up."
    )


def by_person(clip: SmplClip, where: str, rows: str | None, *, numbered: bool) -> list[SmplClip]:
    """A clip for each person, with its frames in order; if rows are not `numbered`, each person's are counted from 0.

    Raises `UserError` where every row has another id, unless the user says with `rows` that these are frames.
    """
    if not clip.moving:
        return [clip]
    ids = np.zeros(len(clip)) if clip.person is None else clip.person
    people = list(dict.fromkeys(ids.tolist()))
    if 1 < len(people) == len(clip) == len(set(clip.number.tolist())):  # else some are of one frame
        if rows is None:
            raise UserError(
                f"{where}: all {len(clip)} rows have different ids. Say --rows people if each is a person, or --rows "
                "frames if they are frames of one person."
            )
        clip = replace(clip, notes=(*clip.notes, f"{where}: all ids are different; they are not used"), person=None)
    elif len(people) > 1:
        rows_of = {one: np.flatnonzero(ids == one) for one in people}
        clips = [replace(clip.take(mine), name=f"{clip.name}_{one}") for one, mine in rows_of.items()]
        if not numbered:
            note = f"{where}: its rows have ids and no frame numbers: the frames of each person are counted from 0"
            clips = [replace(one, number=np.arange(len(one)), notes=(*one.notes, note)) for one in clips]
        return [in_order(one, where) for one in clips]
    return [in_order(clip, where)]


def in_order(clip: SmplClip, where: str) -> SmplClip:
    """By the frames' numbers. Raises `UserError` where two rows have one number, or one image of several."""
    images = [] if clip.imgname is None else clip.imgname.tolist()
    if 1 < len(set(images)) < len(images):
        raise UserError(
            f"{where}: several rows of {clip.name} are of one image. Expected one a frame: say --rows people."
        )
    order = np.argsort(clip.number, kind="stable")
    clip = clip if (order == np.arange(len(clip))).all() else clip.take(order)
    twice = np.flatnonzero(np.diff(clip.number) == 0)
    if len(twice):
        raise UserError(
            f"{where}: {clip.name} has several rows of frame {clip.number[twice[0]]}. Expected one a frame: say --rows "
            "people if they are several people."
        )
    return clip


def split_folders(clip: SmplClip) -> list[SmplClip]:
    """One clip for each folder of images. Rows are ordered by the number at the end of the image's name.

    Raises `UserError` where rows name no images, or an image's name has no number of its own.
    """
    if clip.imgname is None:
        raise UserError(f"{clip.source} names no images, and --rows folders needs their folders.")
    parts = [str(name).replace("\\", "/").rpartition("/") for name in clip.imgname]
    folders = np.array([folder for folder, _, _ in parts], object)
    numbers = np.array([last_number(file) for _, _, file in parts])
    clips = []
    for folder in dict.fromkeys(folders.tolist()):
        rows = np.flatnonzero(folders == folder)
        rows = rows[np.argsort(numbers[rows], kind="stable")]
        if (numbers[rows] < 0).any() or len(np.unique(numbers[rows])) < len(rows):
            raise UserError(
                f"{clip.source}: images of {folder!r} have no frame number each, such as 000123.jpg, or several people "
                "share one. Expected one person a frame: say --rows people."
            )
        name = f"{clip.name}_{str(folder).strip('/').replace('/', '_')}"
        clips.append(replace(clip.take(rows), name=name, number=numbers[rows], moving=len(rows) > 1))
    return clips


def last_number(file: str) -> int:
    """The last number in a file's name without its ending; -1 where there is none."""
    digits = re.findall(r"\d+", file.rpartition(".")[0] or file)
    return int(digits[-1]) if digits else -1


def with_unique_names(files: list[list[SmplClip]]) -> list[SmplClip]:
    """The clips of all files under unique names: the second file called `walk` becomes `walk_2`."""
    taken: set[str] = set()
    clips = []
    for members in files:
        file = _unique(members[0].file, {clip.file for clip in clips})
        for clip in members:
            # The name comes from a file and becomes a file's name: no separators, and no hidden files.
            plain = _UNSAFE.sub("_", file + clip.name.removeprefix(clip.file))
            name = _unique(plain, taken)
            taken.add(name)
            clips.append(replace(clip, name=name, file=file))
    return clips


def _unique(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free

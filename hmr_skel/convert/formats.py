"""Files to clips: one file, or all that are named on a command line, folders among them.

A file is recognised by its keys. The options say what the tool leaves open (gender, frame, frame rate); where neither
says what a fit needs, reading fails and names the option.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hmr_skel.convert.clips import SmplClip, in_order, last_number, split_folders, with_unique_names
from hmr_skel.convert.files import READABLE, NoMotion, OtherKind, is_parquet, read_contents, read_parquet
from hmr_skel.convert.known import MESHES
from hmr_skel.convert.layouts import Subject
from hmr_skel.convert.mesh_rows import MeshRows
from hmr_skel.convert.parameters import Units
from hmr_skel.convert.people import people_of
from hmr_skel.convert.reading import ReadOptions, make_clips
from hmr_skel.convert.unread import describe
from hmr_skel.convert.vertices import ENDINGS, read_mesh_file
from hmr_skel.errors import UserError

_FRAME = re.compile(r"frame[_-]?(\d+)", re.IGNORECASE)


def read_clips(path: Path, options: ReadOptions) -> list[SmplClip]:
    """All people of a file.

    Raises:
        UserError: the kind of the file is not read, or it lacks what a fit needs; the text says what was found, what
            was expected and what to do. `NoMotion` where no body is recognised in it.
    """
    if is_parquet(path):
        if options.units != Units() or options.which or options.left_handed or options.model or options.zero_betas:
            wrong = "Leave --lengths and --angles out, and --left-handed, --which, --model and --betas"
            raise UserError(f"{path} is Parquet of ours, in metres and radians. {wrong}.")
        clips = [_as_said(clip, options) for clip in read_parquet(path, options.rows)]
    else:
        if path.suffix.lower() in ENDINGS:
            people = [Subject("", {"vertices": read_mesh_file(path)[None]}, replace(MESHES, rows="files"))]
        else:
            contents = read_contents(path)
            people = people_of(contents, str(path), options.rows)
            if not people:
                raise NoMotion(f"{path} holds no SMPL parameters that are recognised. {describe(contents)}")
        clips = _clips_of(people, path, options)
    if options.rows == "folders":
        return [part for clip in clips for part in split_folders(clip)]
    return clips


def _clips_of(people: Sequence[Subject], path: Path, options: ReadOptions) -> list[SmplClip]:
    """The clips of all people of a file. Who has no motion, such as somebody seen in no frame, is passed over with a
    note. Raises `NoMotion` where that is everybody."""
    clips: list[SmplClip] = []
    passed: list[NoMotion] = []
    for person in people:
        try:
            clips += make_clips(person, str(path), path.stem, options)
        except NoMotion as error:
            passed.append(error)
    if not clips:
        raise passed[0]
    return [replace(clips[0], notes=(*clips[0].notes, *(f"PASSED OVER: {error}" for error in passed))), *clips[1:]]


def read_files(paths: Sequence[Path], options: ReadOptions, person: str | None = None) -> list[SmplClip]:
    """The clips of all files under unique names.

    Of a folder, and of several files, those without motion are passed over with a note. With rows "files", and where
    all files hold one frame in a layout that has a file per frame, the files of a person become one clip.

    Args:
        paths: files, datasets' folders, or folders to be searched for files.
        options: what the user says of them.
        person: the id of the only person that is wanted, as at the end of a clip's name.

    Raises:
        UserError: as `read_clips`; no file holds motion; or nobody has that id.
    """
    files = [file for path in paths for file in _inside(path)]
    read: list[list[SmplClip]] = []
    passed: dict[Path, NoMotion] = {}
    for file in files:
        try:
            read.append(read_clips(file, options))
        except NoMotion as error:
            if len(files) == 1:
                raise
            passed[file] = error
    if not read:
        text = f"The first: {next(iter(passed.values()))}" if passed else f"Expected {READABLE}."
        raise UserError(f"{paths[0]}: none of {len(files)} files holds motion. {text}")
    per_frame = all(clip.per_file for clips in read for clip in clips)
    if len(files) - len(passed) > 1 and (options.rows == "files" or (options.rows is None and per_frame)):
        read = _joined([file for file in files if file not in passed], read)
    clips, notes = with_unique_names(read), []
    if len(read) > 1 and options.rows is None and all(len(clip) == 1 for clip in clips):
        notes.append(f"{len(read)} files of one row each: --rows files makes them the frames of one clip")
    if passed:
        names = ", ".join(file.name for file in list(passed)[:3]) + (" ..." if len(passed) > 3 else "")
        notes.append(f"{len(passed)} of {len(files)} files hold no motion and are passed over: {names}")
        notes += [f"PASSED OVER: {error}" for error in passed.values() if not isinstance(error, OtherKind)][:5]
    clips[0] = replace(clips[0], notes=(*notes, *clips[0].notes))
    if person is not None:
        chosen = [clip for clip in clips if clip.name == clip.file + f"_{person}"]
        if not chosen:
            ids = ", ".join(
                clip.name.removeprefix(clip.file).lstrip("_") or "(one without an id)" for clip in clips[:20]
            )
            raise UserError(f"--person {person}: nobody has that id. The files have: {ids}.")
        return chosen
    return clips


def _inside(path: Path) -> list[Path]:
    """The path itself; of a folder that is no dataset's, all files in it."""
    if not path.is_dir() or (path / "data").is_dir() or any(path.glob("*.parquet")):
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def _joined(files: Sequence[Path], read: Sequence[list[SmplClip]]) -> list[list[SmplClip]]:
    """Files of one frame each as one clip per person, with the frames' numbers from the folders or the files."""
    parts = [file.with_suffix("").parts for file in files]
    depth = min(map(len, parts))
    ends = [part[-depth:] for part in parts]
    changing = [i for i in range(depth) if len({end[i] for end in ends}) > 1]
    numbered = [i for i in changing if all(re.search(r"\d", end[i]) for end in ends)]
    if not numbered:
        raise UserError(f"{files[0]}: no folder or file has a frame's number that changes. Expected 000123.pkl.")
    place = next((i for i in numbered if all(_FRAME.search(end[i]) for end in ends)), None)
    if place is None:  # a recording has more frames than people
        values = {i: len({end[i] for end in ends}) for i in numbered}
        place = max(numbered, key=lambda i: values[i])
        if sum(value == values[place] for value in values.values()) > 1:
            raise UserError(
                f"{files[0]}: folders and files both have numbers that change. Expected frame_000123 in one of them."
            )
    people: dict[tuple, list[tuple[int, SmplClip]]] = {}
    left_out: dict[tuple, list[tuple[int, str]]] = {}
    for file, end, clips in zip(files, ends, read, strict=True):
        text = _FRAME.search(end[place])
        number = int(text[1]) if text else last_number(end[place])
        others = tuple(end[i] for i in changing if i != place)
        for clip in clips:
            clip = replace(clip, notes=tuple(note.replace(str(file), "*") for note in clip.notes))
            left_out.setdefault(others, []).extend((number, reason) for _, reason in clip.left_out)
            for row in range(len(clip)):
                one = clip.take(np.array([row]))
                who = "" if one.person is None else str(one.person[0])
                people.setdefault((others, who), []).append((number, one))
    if not people:
        raise UserError(f"{files[0].parent}: no row of {len(files)} files is annotated.")
    ones = [one for rows in people.values() for _, one in rows]
    kinds = [{*_columns(one), *(() if one.mesh is None else ("meshes",))} for one in ones]
    if mixed := sorted(set.union(*kinds) - set.intersection(*kinds)):
        raise UserError(f"{files[0].parent}: only some files have {', '.join(mixed)}. Expected all files of one kind.")
    name = ends[0][place - 1] if place > 0 else files[0].stem
    joined = []
    for (others, who), rows in people.items():
        first = rows[0][1]
        columns = {key: np.concatenate([getattr(clip, key) for _, clip in rows]) for key in _columns(first)}
        columns["number"] = np.array([number for number, _ in rows], np.int64)
        notes = tuple(dict.fromkeys(note for _, clip in rows for note in clip.notes))
        label = "".join(f"_{part}" for part in (*others, who) if part)
        told: dict[str, Any] = {"notes": notes, "left_out": tuple(left_out.pop(others, ()))}
        if first.mesh is not None:
            told["mesh"] = MeshRows.joined([clip.mesh for _, clip in rows if clip.mesh is not None])
        clip = replace(first, **columns, **told, name=f"{name}{label}", file=name, moving=len(rows) > 1)
        joined.append(in_order(clip, str(files[0].parent)))
    return [joined]


def _columns(clip: SmplClip) -> list[str]:
    return [key for key, value in vars(clip).items() if isinstance(value, np.ndarray)]


def _as_said(clip: SmplClip, options: ReadOptions) -> SmplClip:
    if options.smpl_gender is not None:
        clip = replace(clip, gender=np.full(len(clip), options.smpl_gender, object))
    return replace(clip, frame=options.frame or clip.frame, frame_rate=clip.frame_rate or options.frame_rate)

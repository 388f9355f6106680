"""What a file holds, taken apart into people: containers are entered, until a format is recognised in one.

Which layout a mapping has says `known.FORMATS`, and `layouts` takes it apart into clips.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np

from hmr_skel.convert.known import ANY, ANY_KEYS, FORMATS, MARKS, MESHES, PEOPLE, Format
from hmr_skel.convert.layouts import LAYOUTS, Subject, at, has_pose, mesh_key, opened, pose_rows, shape_of, stacked
from hmr_skel.data.npz import LabelFile
from hmr_skel.errors import UserError

_DEEPEST = 6  # containers in containers
_INHERITED = (*ANY_KEYS["rate"], "gender")  # what a container says of all that is in it


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
    """The format whose marks are all there; `ANY` for other mappings with a pose, `MESHES` for those with vertices; or
    None."""
    for format in reversed(FORMATS):
        if all(any(_has(found, option) for option in mark.split("|")) for mark in format.marks):
            return format
    return ANY if has_pose(found) else MESHES if mesh_key(found) else None


def _has(found: Mapping, path: str) -> bool:
    outer, _, inner = path.rpartition("/")
    if outer == "*":
        values = [] if isinstance(found, LabelFile) else list(found.values())
        return bool(values) and all(isinstance(value, Mapping) and inner in value for value in values)
    return path in found if not outer else isinstance(at(found, outer), Mapping) and inner in at(found, outer)


def _walk(contents: Any, where: str, rows: str | None, said: Mapping, depth: int) -> Iterator[Subject]:
    contents = opened(contents)
    if isinstance(contents, Mapping):
        format = recognise(contents)
        if format is not None:
            if said and any(key not in contents for key in said):
                contents = {**said, **contents}
            with _read_as(format, where):
                yield from LAYOUTS[format.layout](_entered(contents, format, where), format, where, rows)
        elif depth < _DEEPEST:
            number = {key: contents[key] for key in ANY_KEYS["number"] if isinstance(contents.get(key), Integral)}
            said = {**said, **{key: contents[key] for key in _INHERITED if key in contents}, **number}
            held = [(str(key), contents[key]) for key in contents if _may_hold(contents, key)]
            kinds = [recognise(one) if isinstance(one, Mapping) else None for one in (opened(one) for _, one in held)]
            kind = kinds[0] if len(held) > 1 and all(kind is kinds[0] for kind in kinds) else None
            if rows in ("frames", "folders") and kind and kind.rows == "people":  # a mapping per image, of one tool
                images = {key: {**said, **_entered(opened(one), kind, where)} for key, one in held}
                with _read_as(kind, where):
                    yield from LAYOUTS["pictures"](images, kind, where, rows)
                return
            parts = {key: list(_walk(value, where, rows, said, depth + 1)) for key, value in held}
            parts = {key: people for key, people in parts.items() if people}
            alone = [people[0] for people in parts.values() if len(people) == 1 and people[0].format is ANY]
            if len(parts) > 1 and len(alone) == len(parts) and all(pose_rows(one.found, ANY) == 1 for one in alone):
                yield _people_of_one_row([one.found for one in alone], where, rows, replace(ANY, rows="people"))
                return
            names = [key for key in map(str, contents) if MARKS.search(key) or key in ANY_KEYS["annotated"]]
            marks = [key for key in names if len(shape_of(contents, key) or ()) == 1]
            left = (f"{where}: NOT USED, beside the people: {', '.join(marks)}",) if marks else ()
            others = [key for key in map(str, contents) if key not in {*marks, *said, *dict(held)}]
            left += (f"{where}: not used, beside the people: {', '.join(others[:12])}",) if others else ()
            for key, people in parts.items():
                people = [replace(one, notes=(*left, *one.notes)) for one in people]
                wrapper = len(parts) == 1 and not key.lstrip("-").isdigit()
                yield from people if wrapper else (replace(one, name=f"_{key}{one.name}") for one in people)
    elif isinstance(contents, Sequence) and contents and all(isinstance(item, Mapping) for item in contents):
        key = _key_of_people(contents)
        yield from _by_frame(contents, key, where) if key else _items(contents, where, rows, said, depth)


def _key_of_people(frames: Sequence[Mapping]) -> str | None:
    """The key under which every frame has a list of people with poses; None if there is none."""
    for key in frames[0]:
        lists = [frame.get(key) for frame in frames]
        people = [one for people in lists if isinstance(people, list) for one in people]
        listed = people and all(isinstance(people, list) for people in lists)
        if listed and all(isinstance(one, Mapping) and has_pose(one) for one in people):
            return key
    return None


def _by_frame(frames: Sequence[Mapping], key: str, where: str) -> Iterator[Subject]:
    """A list of frames with their people: a clip for each id, or rows of people if they have none."""
    seen: dict[str, list[tuple[int, Mapping]]] = {}
    for i, frame in enumerate(frames):
        number = {name: frame[name] for name in ANY_KEYS["number"] if name in frame}
        for one in frame[key]:
            who = next((f"_{one[name]}" for name in ANY_KEYS["person"] if name in one), "")
            own = {name: one[name] for name in one if name not in ANY_KEYS["person"]}
            seen.setdefault(who, []).append((i, {**number, **own}))
    alone = all(len(frame[key]) < 2 for frame in frames)
    for who, members in seen.items():
        found, notes = stacked([one for _, one in members], where)
        number = np.array([number for number, _ in members], np.int64)
        yield Subject(who, found, ANY if who or alone else replace(ANY, rows="people"), number, notes=notes)


def _items(items: Sequence[Mapping], where: str, rows: str | None, said: Mapping, depth: int) -> Iterator[Subject]:
    """A list of mappings: of one row each, which become rows of one clip; or with the frames of a person each."""
    formats = [recognise(item) for item in items]
    counts = [pose_rows(item, format or ANY) for item, format in zip(items, formats, strict=True)]
    if all(has_pose(item) for item in items) and max(counts) == 1:
        common = set(items[0]).intersection(*items)
        format = recognise(dict.fromkeys(common)) or ANY
        if format is not ANY:
            format = replace(format, rows="files")
        else:  # nothing tells a regressor's people from others but their weak cameras
            format = PEOPLE if {"camera", "pred_cam"} & common else replace(ANY, rows="people")
        one = _people_of_one_row(items, where, rows, format)
        yield replace(one, found={**said, **one.found})
    elif len(items) == 1 and depth < _DEEPEST:
        yield from _walk(items[0], where, rows, said, depth + 1)
    elif all(formats) and (max(counts) > 1 or MESHES in formats) and depth < _DEEPEST:
        for i, item in enumerate(items):
            for one in _walk(item, where, rows, said, depth + 1):
                yield replace(one, name=f"_{i}{one.name}")


def _people_of_one_row(people: Sequence[Mapping], where: str, rows: str | None, format: Format) -> Subject:
    found, notes = stacked(people, where)
    if len(people) > 1 and rows is None:
        taken = f"{where}: {len(people)} entries of one row are taken for people (frames: say --rows frames)"
        notes = (taken, *notes)
    return Subject("", found, format, notes=notes)


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

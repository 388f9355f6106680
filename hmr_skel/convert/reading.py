"""One person's arrays to clips, by what the user says of them and what the tool that wrote them is known to mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hmr_skel.convert.clips import SmplClip, agreed_frame, bends_backwards, by_person, last_number
from hmr_skel.convert.continuity import out_of_order
from hmr_skel.convert.contradictions import SAME, agreed_model, agreed_rate, agreeing_keys
from hmr_skel.convert.files import NoMotion
from hmr_skel.convert.known import ANY, ANY_KEYS, Format, View
from hmr_skel.convert.layouts import Subject, at, opened
from hmr_skel.convert.mesh_rows import MeshRows
from hmr_skel.convert.parameters import (
    Fields,
    Parameters,
    Units,
    check_metres,
    numbers,
    plain,
    radians,
    read_parameters,
    vectors,
)
from hmr_skel.convert.smplx import NAMES, PosedMeshes, other_model, read_other
from hmr_skel.convert.unread import near_keys, unread_note
from hmr_skel.convert.upright import in_world
from hmr_skel.convert.vertices import read_meshes
from hmr_skel.data.annotations import GENDER_OF, to_genders, to_texts
from hmr_skel.errors import UserError

ROWS = ("people", "frames", "folders", "files")
_MIRROR = np.array([-1, 1, 1], np.float32)  # of places; of axis-angles its opposite
_SKEL_DOFS = 46
_BODY = ("pose", "orient", "body", "betas", "transl")


class UnsaidGender(UserError):
    """Nothing says which SMPL model the parameters are for: not the file, not its kind, not the options."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What the user says of the files. None: as the file says."""

    smpl_gender: str | None = None
    """neutral, male or female: the SMPL model that the annotations are for."""
    frame: str | None = None
    """camera, y-up or z-up."""
    frame_rate: float | int | None = None
    """Frames a second, of files that do not say theirs."""
    rows: str | None = None
    """people: each row stands for itself. frames: the rows of a person are consecutive frames. folders: rows are frames
    of one clip if their images share a folder. files: each file holds one frame of a clip."""
    units: Units = field(default_factory=Units)
    which: str | None = None
    """incam or global: the frame of reference to read, of files with both."""
    model: str | None = None
    """smpl, smplh or smplx: whose parameters they are."""
    zero_betas: bool = False
    """Take the average body where there are no betas."""
    left_handed: bool = False
    """Places and rotations are mirrored in x, as from Unity."""


def clip_from_arrays(arrays: Mapping, name: str, options: ReadOptions) -> SmplClip:
    """One clip of arrays under any of the keys that files have. Raises `UserError` as `make_clips` does."""
    return make_clips(Subject("", arrays, replace(ANY, model="smplh")), name, name, options)[0]


def make_clips(person: Subject, where: str, stem: str, options: ReadOptions) -> list[SmplClip]:
    """The clips of a person's arrays, completed by the options and by what is known of the format.

    Several, where rows in time name several people. Raises `UserError` where something is missing, has a wrong shape,
    contradicts itself, or cannot be in metres and radians.
    """
    format = person.format
    if format.refuse:
        raise NoMotion(f"{where}: {format.refuse}")
    if format.world_file and options.which == "global":
        if options.left_handed:
            raise UserError(f"{where}: --which global takes {format.world_file} as it is: leave --left-handed out.")
        if not set(ANY_KEYS["number"]) & set(person.found):
            raise UserError(f"{where} has no 'frame', the rows' numbers, which --which global needs.")
        inner = replace(options, which=None, frame=None)
        return [in_world(clip, Path(where), format.world_file) for clip in make_clips(person, where, stem, inner)]
    found, view = _viewed(person, where, options)
    fields = _fields(found, format, view)
    frame = view.frame if view else format.frame
    if "transl" in found and np.any(plain(found.get("camera_translation", 0))):
        raise UserError(f"{where} has 'transl' and 'camera_translation' other than zero. Expected one: leave one out.")
    turned = numbers(found.get("camera_rotation", np.eye(3)), f"{where}: 'camera_rotation'")
    straight = turned.shape[-2:] == (3, 3) and np.abs(turned - np.eye(3)).max() <= SAME
    if fields.get("transl", ("",))[0] == "camera_translation" and not straight:
        raise UserError(f"{where}: 'camera_rotation' turns the body, which is not read. Expected the identity.")
    flags = {key: found[key] for key in ANY_KEYS["annotated"] if key in found}
    pair = "orient" in fields and "body" in fields
    skel = format.model == "skel" or np.shape(plain(fields.get("pose", ("", None))[1]))[-1:] == (_SKEL_DOFS,)
    said, who, model_key = agreed_model(found, format, options.model, where)
    meshes = format.layout == "meshes"
    other, source = None if skel or meshes else other_model(found, fields, said, who, where), None
    if meshes:
        (parameters, source), q, agreeing = read_meshes(fields, where, options.units, options.left_handed), None, set()
    elif skel:
        (parameters, q), agreeing = _skel(fields, where, options), set()
    elif other is not None:
        if options.left_handed:
            raise UserError(f"{where} holds {NAMES[other[0]]}, which --left-handed cannot mirror. Leave it out.")
        given = other[0], fields, found, where, options.units, options.zero_betas
        (parameters, values, agreeing), q = read_other(*given), None
        agreeing |= agreeing_keys(fields, found, format, where, options.units)
    else:
        (parameters, agreeing), q = _parameters(fields, found, format, where, options, said), None
    if options.left_handed:  # x points the other way
        parameters = replace(parameters, pose=parameters.pose * -_MIRROR, transl=parameters.transl * _MIRROR)
    count = len(parameters.pose)
    own_rate, rates = agreed_rate(found, where)
    rate = own_rate or format.rate or options.frame_rate
    per_file = format.rows == "files" and count == 1
    alone = options.rows == "files" and count > 1  # its rows are no files
    rows = (None if alone else options.rows) or ("frames" if format.rows == "files" and count > 1 else format.rows)
    who_ids = _names(fields, "person", count, where)
    if rows == "frames" and format.rows == "files" and options.rows is None and who_ids is not None:
        rows = "people" if len(set(who_ids)) == count else rows  # those of one frame
    moving = count > 1 and rows in ("frames", "folders")
    said_frame = options.frame or frame
    notes = [*person.notes, *parameters.notes, *([format.note] if format.note else [])]
    if options.units.lengths is None:
        notes += check_metres(parameters.transl, where, said_frame, rate, moving, format.far)
    if "turn" not in fields:
        said_frame, doubts = agreed_frame(parameters.pose, frame, options.frame, where)
        notes += doubts
    if bends_backwards(parameters.pose):
        why = "rotations that are transposed, or --left-handed that is wrong or missing"
        notes.append(f"{where}: ELBOWS BEND BACKWARDS in most rows: {why}?")
    genders, more = _gender(fields, where, count, options, format)
    number, unread = _numbers(fields, count, where), {"pose"} if pair else {"orient", "body"}
    unread |= {"number"} if number is None else set()
    number = person.number if number is None else number
    used = {key for meaning, (key, _) in fields.items() if meaning not in unread}
    used = {view.inside if view else None, format.scaled_by, model_key, *used, *flags, *agreeing, *rates}
    others = {key for other in format.views.values() for key in (other.inside, *sum(other.keys.values(), ()))}
    others |= {*format.inside, *sum((keys for meaning, keys in format.keys.items() if meaning not in unread), ())}
    own = {key for meaning in _BODY if not {meaning, "pose"} & format.keys.keys() for key in ANY_KEYS[meaning]}
    own = set() if skel or meshes or format.views else own
    own -= {key for key in own if "cam" in key} if "cam" in fields.get("transl", ("",))[0] else set()  # a crop's
    notes += [*more, *unread_note(found, used, others, format.idle, own, count, where)]
    idle = [("--model", options.model and (skel or meshes)), ("--angles", options.units.angles and meshes)]
    idle += [("--betas zero", options.zero_betas and (meshes or "betas" in fields)), ("--rows files", alone)]
    if text := " and ".join(option for option, given in idle if given):
        notes.append(f"{where}: {text} changes nothing here, by what the file holds")
    turn = None
    if "turn" in fields:
        turn = radians(vectors(fields["turn"], where, count)[:, None], where, options.units)[:, 0]
        turn = turn * -_MIRROR if options.left_handed else turn
        if np.abs(root := parameters.pose[:, 0]).max(initial=0) > SAME:
            key = fields["turn"][0]
            if np.abs(root - turn).max() < SAME:
                raise UserError(f"{where}: {key!r} is the root of the pose once more. Expected one: set one to zero.")
            notes.append(
                f"{where}: the pose has a root of its own, and {key!r} turns it again, as EasyMocap's body does"
            )
    clip = SmplClip(
        name=stem + person.name,
        source=Path(where).name,
        file=stem,
        pose=parameters.pose,
        betas=parameters.betas,
        transl=parameters.transl,
        gender=genders,
        number=(np.arange(count) if number is None else number).astype(np.int64),
        moving=moving,
        frame=said_frame,
        frame_rate=rate,
        shot=person.shot,
        imgname=_names(fields, "imgname", count, where),
        notes=tuple(notes),
        person=who_ids,
        turn=turn,
        from_input=np.tile(np.diag([*_MIRROR, 1.0]), (count, 1, 1)) if options.left_handed else None,
        skel_q=q,
        per_file=per_file,
        at_pelvis=format.at_pelvis,
    )
    if other is not None:
        source = PosedMeshes(other[0], clip.source, genders[0], transl=clip.transl, **values)
        note = f"{where} holds {NAMES[other[0]]} ({other[1]}): its posed mesh is fitted"
        clip = replace(clip, notes=(*clip.notes, note))
    if source is not None:
        clip = replace(clip, mesh=MeshRows.of(source, count))
    clip = _marked(clip, fields.get("seen"), flags, where)
    if 0 < (empty := (~clip.pose.any((1, 2)) & ~clip.betas.any(1)).sum()) < len(clip):
        note = f"{where}: {empty} of {len(clip)} rows are zero, the T-pose of the average body: are they annotated?"
        clip = replace(clip, notes=(*clip.notes, note))
    return [
        replace(one, notes=(*one.notes, *out_of_order(one)))
        for one in by_person(clip, where, options.rows, numbered=number is not None)
    ]


def _viewed(person: Subject, where: str, options: ReadOptions) -> tuple[Mapping, View | None]:
    """The mapping to read, and its frame of reference where a format has several."""
    format, found = person.format, person.found
    views = {
        name: view
        for name, view in format.views.items()
        if (view.inside or view.keys.get("pose", view.keys.get("orient", ("",)))[0]) in found
    }
    texts = ", ".join(f"{name} ({view.frame or 'its frame is not known'})" for name, view in views.items())
    if not views:
        one = options.frame or format.frame
        if options.which not in (None, one and ("incam" if one == "camera" else "global")):
            raise UserError(f"{where} ({format.name}) holds one frame of reference only: leave --which out.")
        return found, None
    which = options.which or (next(iter(views)) if len(views) == 1 else format.usual_view)
    if which not in views:
        asked = "holds one person" if which is None else f"has no {which} frame; it holds the person"
        name = format.name if format.model != "smplx" else f"{format.name}, SMPL-X"
        raise UserError(f"{where} ({name}) {asked} in the frames {texts}. Say --which {' or '.join(views)}.")
    view = views[which]
    inner = at(found, view.inside) if view.inside else {}
    return {**{key: found[key] for key in found}, **inner}, view


def _fields(found: Mapping, format: Format, view: View | None) -> dict[str, tuple[str, Any]]:
    """What there is of every meaning, under the best of its keys."""
    fields = {}
    for meaning, usual in ANY_KEYS.items():
        keys = format.keys.get(meaning, usual)
        if view is not None and meaning in view.keys:
            keys = view.keys[meaning]
        key = next((key for key in keys if at(found, key) is not None), None)
        if key is not None:
            fields[meaning] = (key, at(found, key))
    if fields.get("transl", ("",))[0] != "trans_cam":
        fields.pop("extrinsics", None)
    if not {"pose", "orient"} & fields.keys() and np.shape(plain(fields.get("body", ("", 0))[1]))[-1:] == (72,):
        fields["pose"] = fields.pop("body")  # as in 4D-Humans' labels: the root is inside
    return fields


def _parameters(
    fields: Fields, found: Mapping, format: Format, where: str, options: ReadOptions, model: str | None
) -> tuple[Parameters, set[str]]:
    """The parameters, and the keys under which the file says the same once more."""
    has = f"It has: {', '.join(sorted(map(str, found))) or 'nothing'}."
    if not {"orient", "body"} <= fields.keys() and "pose" not in fields:
        names = f"{', '.join(map(repr, ANY_KEYS['pose']))}, or 'global_orient' and 'body_pose'"
        raise NoMotion(f"{where} has no SMPL pose. Expected {names}. {near_keys(found, ANY_KEYS['pose'])}{has}")
    scaled = dict(fields)
    if "moved" in fields:
        if "transl" in fields:
            raise UserError(f"{where} has {fields['transl'][0]!r} beside 'Th'. Expected one of them: leave one out.")
        scaled["transl"] = fields["moved"]
    if format.scaled_by in found and "transl" in fields:
        key, value = fields["transl"]
        scale = float(np.ravel(numbers(found[format.scaled_by], f"{where}: {format.scaled_by!r}"))[0])
        scaled["transl"] = (key, numbers(value, f"{where}: {key!r}") / scale)
    parameters = read_parameters(scaled, where, options.units)
    if "betas" not in fields and not (options.zero_betas or format.betas):
        expected = f"Expected {', '.join(map(repr, ANY_KEYS['betas']))}. {near_keys(found, ANY_KEYS['betas'])}{has}"
        raise UserError(f"{where} has no betas. {expected} Say --betas zero to take the average body.")
    if parameters.joints == 22 and model is None:
        raise UserError(
            f"{where} has 21 body joints, as SMPL-H's and SMPL-X's files do, and nothing says which. Say --model smplh "
            "or --model smplx: their betas mean different bodies."
        )
    return parameters, agreeing_keys(scaled, found, format, where, options.units)


def _skel(fields: Fields, where: str, options: ReadOptions) -> tuple[Parameters, np.ndarray]:
    """SKEL's parameters, which no fit is needed for: a `Parameters` without a pose, and q [T 46]."""
    if "pose" not in fields or "betas" not in fields:
        raise UserError(f"{where} holds SKEL, but not all of poses [T 46], betas and trans. Expected all three.")
    if options.left_handed:
        raise UserError(f"{where} holds SKEL, whose angles --left-handed cannot mirror. Expected SMPL: leave it out.")
    key, value = fields["pose"]
    q = numbers(value, f"{where}: {key!r}")
    if q.shape[-1] != _SKEL_DOFS:
        raise UserError(f"{where}: {key!r} has shape {q.shape}. Expected SKEL's (T, {_SKEL_DOFS}).")
    q = radians(q.reshape(-1, _SKEL_DOFS, 1), f"{where}: {key!r}", options.units)[..., 0]
    nothing = np.full((len(q), 24, 3), np.nan, np.float32)
    others = {meaning: field for meaning, field in fields.items() if meaning in ("betas", "transl")}
    read = read_parameters({"pose": ("", np.zeros((len(q), 24, 3))), **others}, where, options.units)
    return replace(read, pose=nothing, notes=(*read.notes, f"{where}: this is SKEL: written on without a fit")), q


def _gender(
    fields: Fields, where: str, count: int, options: ReadOptions, format: Format
) -> tuple[np.ndarray, list[str]]:
    unsaid = format.gender or ("neutral" if format.model == "skel" else None)  # of which there is no SKEL: the fit asks
    if (gender := options.smpl_gender or (None if "gender" in fields else unsaid)) is not None:
        return np.full(count, gender, object), []
    if "gender" not in fields:
        raise UnsaidGender(
            f"{where} does not say which SMPL model it is for. Expected 'gender' in it: say --smpl-gender neutral, "
            "male or female. The same numbers are another body in each of them."
        )
    genders = to_genders(to_texts(np.ravel(fields["gender"][1])))
    if format.neutral and set(genders.tolist()) != {"neutral"}:
        note = (
            f"{where}: 'gender' is the person's in {format.name}'s files, and the numbers are the neutral model's: "
            "read as neutral (--smpl-gender says otherwise)"
        )
        return np.full(count, "neutral", object), [note]
    known = all(isinstance(gender, str) and gender in GENDER_OF for gender in genders)
    if not known or len(genders) not in (1, count):
        raise UserError(
            f"{where}: 'gender' is {genders.tolist()[:3]}. Expected neutral, male or female, once or per row: say "
            "--smpl-gender."
        )
    note = f"{where}: 'gender' is read as the model's. Where it is the person's, as in BEDLAM: --smpl-gender neutral"
    doubt = "imgname" in fields and format.rows == "people" and set(genders.tolist()) != {"neutral"}
    return np.repeat(genders, count if len(genders) == 1 else 1), [note] if doubt else []


def _flat(value: Any) -> np.ndarray | None:
    """All numbers or texts under a key [n]; None of anything else."""
    try:
        values = np.ravel(np.asarray(plain(opened(value))))
        if values.dtype == object:  # a list that was saved as an array
            values = np.ravel(np.array([plain(item) for item in values.tolist()]))
    except ValueError:  # lists of unequal lengths
        return None
    return values if values.dtype.kind in "fiubUS" else None


def _numbers(fields: Fields, count: int, where: str) -> np.ndarray | None:
    """The number of every row's frame [T], as the file says; None where it says one for all, or times.

    Of texts, such as images' names, it is the last number. Raises `UserError` where there is not one for every row.
    """
    key, value = fields.get("number", ("", None))
    values = _flat(value) if key else None
    if values is None or (values.size == 1 != count):
        return None
    texts = values
    if values.dtype.kind in "US":
        values = np.array([last_number(str(text)) for text in to_texts(values)])
    if len(values) != count or (values is not texts and (values < 0).any()):
        raise UserError(f"{where}: {key!r} {_unfit(texts, count)}. Expected the number of every row's frame, or none.")
    return None if (values % 1 != 0).any() else values


def _unfit(values: np.ndarray | None, count: int) -> str:
    """Why values are no numbers of `count` rows, in words."""
    if values is None or values.dtype.kind in "US":
        return "holds no numbers"
    return "has other values than 0 and 1" if len(values) in (1, count) else f"has {len(values)} for {count} rows"


def _mask(key: str, value: Any, count: int, where: str) -> np.ndarray:
    """bool [T] of 0 and 1; NaN is 0. Raises `UserError` for anything else."""
    values = _flat(value)
    values = values if values is None or values.dtype.kind in "US" else np.nan_to_num(values)
    if values is None or len(values) not in (1, count) or not np.isin(values, (0, 1)).all():
        raise UserError(
            f"{where}: {key!r} {_unfit(values, count)}. Expected 0 or 1 for every row: mend it, or leave it out."
        )
    return np.broadcast_to(values != 0, (count,))


def _names(fields: Fields, meaning: str, count: int, where: str) -> np.ndarray | None:
    """A text for every row [T]; None where the file has none, or one for all. Raises `UserError` for another number."""
    if meaning not in fields:
        return None
    key, value = fields[meaning]
    values = np.ravel(np.asarray(plain(value)))
    if meaning == "person" and values.dtype.kind == "f" and (values % 1 != 0).any():
        raise UserError(
            f"{where}: {key!r} has fractions. Expected whole numbers or texts, the same for every row of one."
        )
    texts = to_texts(values)
    if len(texts) not in (1, count):
        raise UserError(f"{where}: {key!r} has {len(texts)} entries for {count} rows. Expected one for every row.")
    return texts.astype(str).astype(object) if len(texts) == count else None


def _marked(clip: SmplClip, seen: tuple[str, Any] | None, flags: Mapping[str, Any], where: str) -> SmplClip:
    """Without the rows that the file marks: as gaps, where a person was not seen; or as not annotated."""
    count = len(clip)
    annotated = np.ones(count, bool)
    for name, flag in flags.items():
        annotated &= _mask(name, flag, count, where)
    there = np.ones(count, bool) if seen is None else _mask(*seen, count, where)
    if seen is not None and not there.all():
        note = f"{where}: {(~there).sum()} of {count} rows of {clip.name} are left out as gaps ({seen[0]})"
        clip = replace(clip, notes=(*clip.notes, note))
    if seen is not None and not there.any():
        raise NoMotion(f"{where}: {seen[0]!r} says that {clip.name} is seen in no frame.")
    if count > 1 and not (there & annotated).any():  # a single row may be one of many files
        raise NoMotion(f"{where}: none of {there.sum()} rows is annotated ({', '.join(flags)}).")
    out = tuple((int(clip.number[i]), "not annotated") for i in np.flatnonzero(there & ~annotated))
    return clip if (there & annotated).all() else replace(clip.take(there & annotated), left_out=out)

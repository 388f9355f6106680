"""The formats that are read, as data: how each is recognised, what its keys mean, which model and frame it is for.

To add one, add a row to `FORMATS` and a case to tests/convert/test_layouts.py. The list in `hmr-skel convert --help`
and the table in docs/convert.md are made of these rows. Layouts are those that the tools' own writers have.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hmr_skel.data.annotations import HAS_SMPL

Keys = Mapping[str, tuple[str, ...]]
"""A meaning -> the keys that may hold it, the best one first. `a/b` is b inside of a."""

ANY_KEYS: Keys = {
    "pose": ("pose_cam", "smpl_pose", "poses", "pose", "full_pose"),  # the root first
    "orient": (
        "global_orient",
        "root_orient",
        "global_orient_axis_angle",
    ),  # the root alone, with `body` for the other joints
    "body": ("body_pose", "pose_body", "body_pose_axis_angle"),
    "betas": ("betas", "shape", "shapes", "smpl_betas"),
    "transl": (
        *("trans_cam", "transl", "trans", "smpl_transl", "cam_t", "global_t"),
        *("pred_cam_t_full", "pred_cam_t"),
    ),
    "gender": ("gender",),
    "rate": ("mocap_framerate", "mocap_frame_rate", "frame_rate", "framerate", "fps"),  # frames a second
    "number": ("frame_ids", "frame_id", "frame_idx", "frame_number", "frames", "frame"),  # of the row's frame
    "person": ("id", "person_id", "track_id", "track_ids", "pid"),
    "seen": ("track_mask", "good_frames_mask", "valid_mask", "valid", "is_valid"),  # 0: the row is a gap
    "annotated": HAS_SMPL,  # 0: the row holds nothing
    "imgname": ("imgname", "img_name"),
    "extrinsics": (),  # [T 4 4]; its translation is added to trans_cam
    "turn": (),  # turns the whole posed mesh about the origin, with `moved` after it
    "moved": (),
    "vertices": (),  # [T V 3], of files without a pose
}
"""What keys mean in a file that any tool may have written."""
MARKS = re.compile(r"mask|valid|visib|seen|(?<!frame)_ids?$")
"""Names of numbers that say which rows count, or whose they are."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One of several frames of reference that a file holds the same body in."""

    frame: str | None
    keys: Keys = field(default_factory=dict)
    inside: str | None = None  # the mapping under this key holds it


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file. The defaults are those of arrays that nothing is known of."""

    name: str  # of the tool or data set
    file: str = ""  # how people know its files
    marks: tuple[str, ...] = ()
    """Keys that all have to be there; `a|b` is either of two, `a/b` is b inside of a."""
    keys: Keys = field(default_factory=dict)
    """Where it differs from `ANY_KEYS`. A meaning without keys is not in such files."""
    idle: tuple[str, ...] = ()
    """Keys that move no body here, though in other files they might."""
    views: Mapping[str, View] = field(default_factory=dict)
    usual_view: str | None = None  # None: the user is asked
    inside: tuple[str, ...] = ()  # the mapping under this key (the first that is there) holds the parameters
    layout: str = "arrays"
    """arrays: one mapping with a row per frame. people first: arrays [people, frames, ...]. people lists: lists with an
    entry per person. images: lists with an entry per image, of as many rows as people were seen. pictures: a mapping
    per image, with a row per person. people: a mapping per person. tracks: PHALP's. codec: smplcodec's.
    meshes: vertices."""
    model: str | None = None  # smpl, smplh, smplx or skel; None: what the number of joints says
    gender: str | None = None  # of the model, where the file says nothing
    neutral: bool = False  # `gender` in the file is the person's; the numbers are the neutral model's
    betas: str | None = None  # zero: such files have none, and mean the average body
    frame: str | None = None
    rate: float | None = None
    rows: str = "frames"
    far: bool = False  # far people are no sign of another unit: metres are sure, or focal lengths are conventional
    at_pelvis: bool = False  # translations are the places of SMPL's root joint
    scaled_by: str | None = None  # translations are divided by this key
    refuse: str = ""  # why it cannot be read, and what to do
    note: str = ""
    world_file: str = ""
    """A file beside it, or a folder above, with `world_cam_R` and `world_cam_T`, which --which global reads."""


_ROMP: Keys = {
    "pose": ("smpl_thetas",), "betas": ("smpl_betas",), "transl": ("cam_trans",), "orient": (), "body": (),
}  # fmt: skip
_REGRESSED: dict[str, Any] = {"gender": "neutral", "frame": "camera", "far": True}

ANY = Format(name="any tool", file="arrays of poses, betas, trans or the like")
"""Of a file that nothing else recognises."""
MESHES = Format(
    name="meshes", file=".npz, .npy with vertices [T 6890 3]; .obj, .ply, a file per frame", layout="meshes",
    gender="neutral", keys={
        **dict.fromkeys(("pose", "orient", "body", "betas", "transl"), ()),
        "vertices": ("vertices", "verts", "smpl_vertices", "pred_vertices", "v"),
    },
)  # fmt: skip
"""Of a file without a pose, in which one of these keys holds a body's mesh."""
PEOPLE = Format(
    name="a list of people", file="a list of dicts", rows="people",
    keys={"transl": (*ANY_KEYS["transl"], "camera")}, **_REGRESSED,
)  # fmt: skip

FORMATS: tuple[Format, ...] = (
    Format(
        name="SKEL-CF's and HSMR's labels", file=".npz with skel_poses: written on without a fit", model="skel",
        marks=("skel_q|skel_poses|orig_poses",), frame="camera", rows="people",
        keys={
            "pose": ("skel_q", "skel_poses", "orig_poses"), "betas": ("skel_betas", "orig_betas"),
            "transl": ("skel_transl", "skel_trans"),
        },
    ),
    Format(
        name="AMASS, SMPL-H", file=".npz with poses of 156 numbers, dmpls or mocap_framerate",
        marks=("poses|pose_body", "mocap_framerate|mocap_frame_rate|dmpls"), frame="z-up",
    ),
    Format(
        name="SPIN, CLIFF, 4D-Humans labels", file=".npz with imgname; rows with has_smpl = 0 are left out",
        marks=("imgname", "pose|poses|body_pose|smpl_pose"), gender="neutral", frame="camera", rows="people",
    ),
    Format(
        name="CameraHMR labels", file=".npz with imgname and pose_cam", marks=("imgname", "pose_cam"), gender="neutral",
        frame="camera", rows="people", keys={"pose": ("pose_cam",), "extrinsics": ("cam_ext",)},
    ),
    Format(
        name="4D-Humans, TokenHMR, PHALP", file="track.py's demo_*.pkl", marks=("*/smpl", "*/tid"), layout="tracks",
        keys={"transl": ("camera",)}, **_REGRESSED,
    ),
    Format(
        name="HMR2, TokenHMR, SKEL's example", file="the model's output, saved as anything",
        marks=("pred_smpl_params|pred_smpl_parms",), inside=("pred_smpl_params", "pred_smpl_parms"), rows="people",
        **_REGRESSED,
    ),
    Format(
        name="WHAM", file="wham_output.pkl", marks=("pose", "pose_world", "trans_world"), gender="neutral", far=True,
        views={
            "incam": View(frame="camera", keys={"pose": ("pose",), "transl": ("trans",)}),
            "global": View(frame="y-up", keys={"pose": ("pose_world",), "transl": ("trans_world",)}),
        },
    ),
    Format(
        name="BEDLAM", file=".npz with pose_cam, pose_world and gender",
        marks=("pose_cam", "pose_world", "gender"), gender="neutral", neutral=True, rows="people",
        views={
            "incam": View(
                frame="camera", keys={"pose": ("pose_cam",), "transl": ("trans_cam",), "extrinsics": ("cam_ext",)}
            ),
            "global": View(frame=None, keys={"pose": ("pose_world",), "transl": ("trans_world",)}),
        },
        usual_view="incam", far=True,
    ),
    Format(
        name="VIBE", file="vibe_output.pkl", marks=("pose", "pred_cam", "orig_cam"), keys={"transl": ()}, **_REGRESSED
    ),
    Format(
        name="TRAM", file="hps_track_*.npy; with camera.npy, --which global",
        marks=("pred_rotmat", "pred_shape", "pred_trans"),
        keys={"pose": ("pred_rotmat",), "betas": ("pred_shape",), "transl": ("pred_trans",)},
        world_file="camera.npy", **_REGRESSED,
    ),
    Format(
        name="GVHMR", file="hmr4d_results.pt", marks=("smpl_params_global|smpl_params_incam",), gender="neutral",
        model="smplx",
        views={
            "incam": View(frame="camera", inside="smpl_params_incam"),
            "global": View(frame="y-up", inside="smpl_params_global"),
        },
    ),
    Format(
        name="PromptHMR", file="results.pkl", marks=("smplx_cam|smplx_world",), gender="neutral", model="smplx",
        keys={"pose": ("pose", "rotmat")},
        views={
            "incam": View(frame="camera", inside="smplx_cam"),
            "global": View(frame="y-up", inside="smplx_world"),
        },
    ),
    Format(
        name="SLAHMR", file="_world_results.npz", marks=("root_orient", "pose_body", "world_scale|floor_plane"),
        layout="people first", model="smplh", gender="neutral", frame="camera", far=True,
        note="SLAHMR: its world is as tilted as the first camera was; floor_plane is not read",
    ),
    Format(
        name="ROMP, BEV", file="an image's .npz, or video_results.npz, a clip per track",
        marks=("smpl_thetas", "smpl_betas"), keys=_ROMP, rows="people", **_REGRESSED,
    ),
    Format(
        name="ROMP, BEV", file="see above", marks=("results", "sequence_results"), inside=("results",),
        layout="pictures", keys=_ROMP, **_REGRESSED,
    ),
    Format(
        name="NLF", file="detect_smpl_batched's output", marks=("pose", "betas", "trans", "vertices3d|joints3d"),
        layout="images", rows="people", **_REGRESSED,
    ),
    Format(
        name="EMDB", file="a sequence's _data.pkl", marks=("smpl/poses_root", "smpl/poses_body"), frame="y-up",
        rate=30.0, far=True, inside=("smpl",), keys={"orient": ("poses_root",), "body": ("poses_body",)},
    ),
    Format(
        name="3DPW", file="a sequence's .pkl", marks=("poses", "genders", "trans"), layout="people lists", rate=30.0,
        keys={"gender": ("genders",), "seen": ("campose_valid",)}, far=True, idle=("cam_poses", "img_frame_ids"),
    ),
    Format(
        name="EasyMocap, FLAG3D", file="smpl/*.json, .npz with Rh and Th", marks=("Rh", "Th"), gender="neutral",
        keys={"turn": ("Rh",), "moved": ("Th",)},
    ),
    Format(
        name="AIST++", file="motions/*.pkl", marks=("smpl_poses", "smpl_trans"), gender="male", betas="zero",
        frame="y-up", rate=60.0, keys={"pose": ("smpl_poses",), "transl": ("smpl_trans",)}, scaled_by="smpl_scaling",
    ),
    Format(
        name="GLAMR", file="a sequence's _seed1.pkl", marks=("smpl_pose", "smpl_orient_world|smpl_orient_cam"),
        gender="neutral", at_pelvis=True, far=True,
        keys={"pose": (), "body": ("smpl_pose",), "betas": ("smpl_beta",), "seen": ("exist_frames",)},
        views={
            "incam": View(frame="camera", keys={"orient": ("smpl_orient_cam",), "transl": ("root_trans_cam",)}),
            "global": View(frame="z-up", keys={"orient": ("smpl_orient_world",), "transl": ("root_trans_world",)}),
        },
    ),
    Format(
        name="HybrIK", file="res.pk of demo_video.py", marks=("pred_thetas|pred_theta_mats", "pred_betas|pred_shape"),
        keys={
            "pose": ("pred_thetas", "pred_theta_mats"), "betas": ("pred_betas", "pred_shape"), "transl": (),
            "imgname": ("img_path",),
        },
        note="HybrIK: its `transl` is the place of Human3.6M's pelvis, not SMPL's translation, and is not read",
        **_REGRESSED,
    ),
    Format(
        name="InterHuman", file="motions/*.pkl, two people", marks=("person1/pose_body", "person2/pose_body"),
        layout="people", model="smplh", frame="z-up",
    ),
    Format(
        name="RICH", file="a .pkl per frame and person: --rows files --frame camera", model="smplx",
        marks=("global_orient", "body_pose", "transl", "jaw_pose", "leye_pose", "left_hand_pose"),
    ),
    Format(
        name="SMPLify-X, EgoBody, PROX", file="results/*/000.pkl, a file per frame, of SMPL or SMPL-X", frame="camera",
        marks=("global_orient", "body_pose", "camera_rotation|camera_translation|pose_embedding"), rows="files",
        keys={"transl": ("transl", "camera_translation")},
    ),
    Format(
        name="smplcodec", file=".smpl of SMPL, SMPL-H, SMPL-X and SKEL",
        marks=("smplVersion|bodyPose|shapeParameters",), layout="codec", model="smplh",
    ),
    Format(
        name="HSMR", file="its output, SKEL: written on without a fit",
        marks=("poses", "patch_cam_t|full_cam_t"), model="skel", gender="male", frame="camera", rows="people",
        keys={"transl": ("full_cam_t", "patch_cam_t")}, far=True,
    ),
    Format(
        name="hmr-skel convert", file="its .npz", marks=("skel_q", "smpl_pose"),
        refuse="This was written by `hmr-skel convert`, whose .npz is not read back. Convert the original again, or "
        "write Parquet, which is read.",
    ),
    Format(
        name="MDM", file="results.npy", marks=("motion", "lengths", "num_samples"),
        refuse="These are joint positions, not angles. MDM's visualize.render_mesh writes SMPL's parameters for them.",
    ),
)  # fmt: skip
"""Tried from the last to the first: what is more particular stands below."""


def describe_formats() -> list[tuple[str, str, str]]:
    """(tool, its files, what is known of them without being told) of every format, by name: for the help and docs."""
    rows: dict[str, tuple[str, str]] = {}
    for format in (MESHES, *FORMATS):
        frames = [view.frame or "" for view in format.views.values()] or [format.frame or ""]
        known = [format.gender or "", " or ".join(filter(None, frames)), f"{format.rate:g} Hz" if format.rate else ""]
        if format.refuse or format.model == "smplx":
            known = ["SMPL-X: needs its model and a map" if format.model == "smplx" else "refused, with what to do"]
        rows.setdefault(format.name, (format.file, ", ".join(filter(None, known)) or "what it says"))
    return [(name, *row) for name, row in sorted(rows.items(), key=lambda row: row[0].lower())]


if __name__ == "__main__":  # the table of docs/convert.md
    for row in describe_formats():
        print(f"| {' | '.join(row)} |")

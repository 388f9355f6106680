"""Write the open body as files that SMPL's and SKEL's own loaders read.

All files have y up, the body faces +z, x is to its left, metres. The installed scipy pickles the matrices: make these
files where they are used, and do not pass them on.
"""

import io
import json
import pathlib
import pickle
import sys
from collections.abc import Mapping

import numpy as np

from hmr_skel.body.assets import SKEL_FILES, SMPL_FILES, model_path, write_whole
from hmr_skel.body.dofs import DOF_NAMES, HSMR_MEAN_Q
from hmr_skel.body.joints import SKEL_JOINTS, SKEL_PARENTS, SMPL_PARENTS
from hmr_skel.body.open_body.unpack import OPEN_BODY_VERSION, GenderedBody, OpenBody, unpack
from hmr_skel.errors import UserError
from hmr_skel.places import data_folder

NOTICE = pathlib.Path(__file__).with_name("NOTICE")
EXPORT_VERSION = 2
"""Raise it by one if the content of the files changes, then write the golden values again with `python -m
tests.golden`. Files of another version are exported again. Rows that were fitted with them are fitted again if more
than the bone meshes changed."""
SKEL_VERSION = "1.1.1"
NO_PARENT = 2**32 - 1
"""The parent of the root in SMPL files: -1 read as unsigned."""
PICKLE_PROTOCOL = 4
"""All supported Pythons read it, and it stores arrays as raw bytes, unlike protocol 2 of the original files."""

SKEL_MEAN_CAMERA = (0.9, 0.0, 0.0)

SKEL_TO_SMPL = (0, 6, 1, 11, 7, 2, 11, 8, 3, 12, 10, 5, 12, 19, 14, 13, 20, 15, 21, 16, 23, 18, 23, 18)
"""For each SMPL joint, the corresponding SKEL joint."""
ANATOMICAL_SMPL_JOINTS = (1, 2, 4, 5, 7, 8, 16, 17, 18, 19, 20, 21)
"""The SMPL joints for which the mixed regressor uses SKEL's: hips, knees, ankles, shoulders, elbows, wrists."""


def models_folder(named: str | pathlib.Path, *, quiet: bool = True) -> pathlib.Path:
    """The folder of body models that is named; for `open` the open body's in the data folder, made if need be."""
    if str(named) != "open":
        return pathlib.Path(named)
    folder = data_folder() / "open" / "body_models"
    make_open_body(folder, quiet=quiet)
    return folder


def model_file(path: str | pathlib.Path, files: Mapping[str, str], gender: str | None) -> pathlib.Path:
    """A model file, named as one, or by its folder (or `open`) and the gender, of which `files` has the names.

    Raises `UserError` where the folder has no such file, or the gender is none of those.
    """
    path = models_folder(path)
    if not path.is_dir():
        return path
    if gender is None or gender not in files:
        raise UserError(f"{path} has a model for each gender, and gender is {gender!r}. Expected {' or '.join(files)}.")
    return model_path(path, files[gender])


def is_open_body(folder: pathlib.Path) -> bool:
    """Whether the models in a folder are the open body's, by the notice beside them."""
    notice = folder / "NOTICE"
    return notice.is_file() and "open body" in notice.read_text(errors="replace")[:200]


def body_note(folder: pathlib.Path) -> dict[str, str]:
    """What tables of this body say of it in their metadata, for those who draw them."""
    return {"hmr_skel.body": "open" if is_open_body(folder) else "licensed"}


def make_open_body(directory: pathlib.Path, *, quiet: bool = False) -> None:
    """Export the open body to a folder, unless it is there."""
    stamp, wanted = directory / "made-by.json", open_body_version()
    names = [*SMPL_FILES.values(), *SKEL_FILES.values(), "SMPL_to_J19.pkl"]
    if is_stamp(stamp, wanted) and all((directory / name).is_file() for name in names):
        return
    if not quiet:
        print(f"exporting the open body to {directory}", file=sys.stderr, flush=True)
    export_body(directory)
    write_whole(stamp, json.dumps(wanted).encode())


def open_body_version() -> dict[str, object]:
    """What the exported files depend on."""
    return {"export": EXPORT_VERSION, "asset": OPEN_BODY_VERSION}


def is_stamp(stamp: pathlib.Path, wanted: Mapping[str, object]) -> bool:
    """Whether what a stamp lies beside was made by the code that is here."""
    try:
        return json.loads(stamp.read_text()) == wanted
    except (OSError, ValueError):
        return False


def export_body(directory: pathlib.Path) -> list[pathlib.Path]:
    """Write all model files and the NOTICE into `directory`, and return their paths.

    Each file appears by rename, whole or not at all. Two exports on the same machine give the same bytes.
    """
    body = unpack()
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    male, h36m, mean = body.genders["male"], io.BytesIO(), io.BytesIO()
    np.save(h36m, body.h36m_regressor)
    np.savez(
        mean,
        poses=np.array(HSMR_MEAN_Q, dtype=np.float32),
        betas=np.zeros(10, dtype=np.float32),  # the published mean betas are in the licensed shape space
        cam=np.array(SKEL_MEAN_CAMERA, dtype=np.float32),
    )
    pickles = {
        **{SMPL_FILES[gender]: smpl_file(body, one) for gender, one in body.genders.items()},
        **{name: skel_file(body, body.genders[gender]) for gender, name in SKEL_FILES.items()},
        "SMPL_to_J19.pkl": body.j19_regressor,
        "J_regressor_SKEL_mix_MALE.pkl": mixed_regressor(male),
        "J_regressor_SMPL_MALE.pkl": male.smpl_regressor,
    }
    contents = {name: pickle.dumps(content, protocol=PICKLE_PROTOCOL) for name, content in pickles.items()}
    contents |= {"J_regressor_h36m.npy": h36m.getvalue(), "SKEL_mean.npz": mean.getvalue()}
    for name, content in (contents | {"NOTICE": NOTICE.read_bytes()}).items():
        write_whole(directory / name, content)
    return [directory / name for name in (*contents, "NOTICE")]


def smpl_file(body: OpenBody, one: GenderedBody) -> dict[str, object]:
    """The content of `SMPL_*.pkl`, with the keys and dtypes of the official files."""
    from scipy.sparse import csc_matrix

    parents = np.array(SMPL_PARENTS, dtype=np.int64)
    parents[0] = NO_PARENT
    return {
        "v_template": one.template,
        "f": body.faces.astype(np.uint32),
        "shapedirs": one.shapedirs,
        "posedirs": one.posedirs,
        "weights": body.smpl_weights,
        "J_regressor": csc_matrix(one.smpl_regressor),
        "J": one.smpl_regressor @ one.template,
        "kintree_table": np.stack([parents, np.arange(24)]),
        "vert_sym_idxs": body.mirror,
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def skel_file(body: OpenBody, one: GenderedBody) -> dict[str, object]:
    """The content of `skel_*.pkl`. Matrices are `coo_matrix`, since the official loader refuses other kinds."""
    from scipy.sparse import coo_matrix

    joints = one.skel_regressor @ one.template
    relative = np.tile(np.eye(4), (24, 1, 1))
    relative[:, :3, :3], relative[:, :3, 3] = one.bone_tilts, one.bone_offsets
    standing = relative.copy()
    for joint, parent in enumerate(SKEL_PARENTS):
        if parent >= 0:
            standing[joint] = standing[parent] @ relative[joint]
    t_pose = np.tile(np.eye(4), (24, 1, 1))
    t_pose[:, :3, :3], t_pose[:, :3, 3] = one.bone_orientations, joints
    one_hot = np.zeros_like(body.bone_weights)
    one_hot[np.arange(len(one_hot)), body.bone_joint] = 1
    return {
        "version": SKEL_VERSION,
        "skin_template_v": one.template,
        "skin_template_f": body.faces,
        "skel_template_v": one.bone_vertices,
        "skel_template_f": body.bone_faces,
        "shapedirs": one.shapedirs,
        "posedirs": one.posedirs,
        "J_regressor": coo_matrix(one.smpl_regressor),
        "J_regressor_osim": coo_matrix(one.skel_regressor),
        "per_joint_rot": one.bone_orientations,
        "skin_weights": coo_matrix(body.skel_weights),
        "skel_weights": coo_matrix(body.bone_weights),
        "skel_weights_rigid": coo_matrix(one_hot),
        "osim_kintree_table": np.stack([np.array(SKEL_PARENTS), np.arange(24)]),
        "apose_rel_transfo": relative,
        "apose_transfo": standing,
        "tpose_transfo": t_pose,
        "parameter_mapping": np.arange(46),
        "bone_names": list(SKEL_JOINTS),
        "joints_name": list(SKEL_JOINTS),
        "pose_params_name": list(DOF_NAMES),
    }


def mixed_regressor(one: GenderedBody) -> np.ndarray:
    """A regressor [24 6890] of joints in SMPL's order: SKEL's for limbs, SMPL's for trunk, collars, hands and feet."""
    mixed = one.smpl_regressor.copy()
    for joint in ANATOMICAL_SMPL_JOINTS:
        mixed[joint] = one.skel_regressor[SKEL_TO_SMPL[joint]]
    return mixed

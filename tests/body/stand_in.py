"""Model files made of random numbers, in the exact format of the official ones: every index and transpose shows."""

import functools
import pickle
from pathlib import Path

import numpy as np
import scipy.sparse
from scipy.spatial.transform import Rotation

from hmr_skel.body.joints import SKEL_JOINTS, SKEL_PARENTS, SMPL_PARENTS

NUM_VERTICES, NUM_BONE_VERTICES = 6890, 500
SMALL = {"posedirs": np.ones((NUM_VERTICES, 3, 207), np.int8)}
"""Correctives of one byte per number: files of 5 MB, not 40."""


def _rotations(rng: np.random.Generator, angle: float, count: int = 24) -> np.ndarray:
    return Rotation.from_rotvec(rng.normal(size=(count, 3)) * angle).as_matrix()


def _weights(rng: np.random.Generator, rows: int, columns: int, per_row: int = 4) -> np.ndarray:
    dense = np.zeros((rows, columns))
    picked = rng.random((rows, columns)).argsort(1)[:, :per_row]
    np.put_along_axis(dense, picked, rng.random((rows, per_row)), 1)
    return dense / dense.sum(1, keepdims=True)


@functools.cache
def skel_arrays() -> dict:
    """The dict of a SKEL file. Read only."""
    rng = np.random.default_rng(0)
    template = rng.normal(size=(NUM_VERTICES, 3)) * [0.3, 0.5, 0.2]
    relative = np.tile(np.eye(4), (24, 1, 1))
    relative[:, :3, :3] = _rotations(rng, 0.4)
    relative[:, :3, 3] = rng.normal(size=(24, 3)) * 0.2
    return {
        "version": "1.1.1",
        "skin_template_v": template,
        "skin_template_f": rng.integers(0, NUM_VERTICES, (13776, 3)).astype(np.int64),
        "skel_template_v": rng.normal(size=(NUM_BONE_VERTICES, 3)) * 0.1,
        "skel_template_f": rng.integers(0, NUM_BONE_VERTICES, (900, 3)).astype(np.int64),
        "shapedirs": rng.normal(size=(NUM_VERTICES, 3, 10)) * 0.02,
        "posedirs": rng.normal(size=(NUM_VERTICES, 3, 207)) * 0.003,
        "J_regressor": scipy.sparse.coo_matrix(_weights(rng, 24, NUM_VERTICES, 8)),
        "J_regressor_osim": scipy.sparse.coo_matrix(_weights(rng, 24, NUM_VERTICES, 8)),
        "per_joint_rot": _rotations(rng, 0.6),
        "skin_weights": scipy.sparse.coo_matrix(_weights(rng, NUM_VERTICES, 24)),
        "skel_weights": scipy.sparse.coo_matrix(_weights(rng, NUM_BONE_VERTICES, 24, 2)),
        "skel_weights_rigid": scipy.sparse.coo_matrix(_weights(rng, NUM_BONE_VERTICES, 24, 1)),
        "osim_kintree_table": np.stack((np.array(SKEL_PARENTS), np.arange(24))),
        "apose_rel_transfo": relative,
        "apose_transfo": np.tile(np.eye(4), (24, 1, 1)),
        "tpose_transfo": np.tile(np.eye(4), (24, 1, 1)),
        "parameter_mapping": [],
        "bone_names": list(SKEL_JOINTS),
        "joints_name": list(SKEL_JOINTS),
        "pose_params_name": [],
    }


@functools.cache
def smpl_arrays() -> dict:
    """The dict of an SMPL file. Read only."""
    rng = np.random.default_rng(0)
    parents = np.array(SMPL_PARENTS).astype(np.uint32)  # the root's -1 becomes 4294967295, as in the official files
    return {
        "v_template": rng.normal(size=(NUM_VERTICES, 3)) * [0.3, 0.5, 0.2],
        "f": rng.integers(0, NUM_VERTICES, (13776, 3)).astype(np.uint32),
        "shapedirs": rng.normal(size=(NUM_VERTICES, 3, 10)) * 0.02,
        "posedirs": rng.normal(size=(NUM_VERTICES, 3, 207)) * 0.003,
        "weights": _weights(rng, NUM_VERTICES, 24),
        "J_regressor": scipy.sparse.csc_matrix(_weights(rng, 24, NUM_VERTICES, 8)),
        "kintree_table": np.stack((parents, np.arange(24, dtype=np.uint32))),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def write(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path

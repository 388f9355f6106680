"""The names of model files, and how to read them into plain arrays.

Sources: the official SMPL and SKEL files. SMPL files are pickles of Python 2, and older ones contain chumpy objects.
chumpy does not run on current Python and is not needed: the states of the objects contain the arrays.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from hmr_skel.errors import UserError
from hmr_skel.foreign import Inert, load_pickle

SMPL_FILES = {"neutral": "SMPL_NEUTRAL.pkl", "male": "SMPL_MALE.pkl", "female": "SMPL_FEMALE.pkl"}
SKEL_FILES = {"male": "skel_male.pkl", "female": "skel_female.pkl"}
"""The names of model files by gender."""

# The arrays that a file must contain, and their shapes; None means any number.
_SMPL_SHAPES = {
    "v_template": (6890, 3), "f": (13776, 3), "shapedirs": (6890, 3, None), "posedirs": (6890, 3, 207),
    "weights": (6890, 24), "J_regressor": (24, 6890), "kintree_table": (2, 24),
}  # fmt: skip
_SKEL_SHAPES = {
    "skin_template_v": (6890, 3), "skin_template_f": (13776, 3), "skel_template_v": (None, 3),
    "skel_template_f": (None, 3), "shapedirs": (6890, 3, None), "posedirs": (6890, 3, 207),
    "J_regressor_osim": (24, 6890), "per_joint_rot": (24, 3, 3), "skin_weights": (6890, 24),
    "skel_weights": (None, 24), "skel_weights_rigid": (None, 24), "osim_kintree_table": (2, 24),
    "apose_rel_transfo": (24, 4, 4),
}  # fmt: skip


def model_path(folder: Path, name: str) -> Path:
    """The path of the file with that name in the folder.

    Raises:
        UserError: the file is missing; the text lists the files in the folder.
    """
    path = folder / name
    if not path.is_file():
        found = sorted(p.name for p in folder.glob("*.*")) if folder.is_dir() else []
        raise UserError(
            f"no body model {path}. The folder "
            + (f"has {', '.join(found[:12])}. " if found else "does not exist or is empty. ")
            + f"Expected the official file under the name {name}; `hmr-skel doctor` lists them all, and "
            "manifests/open.toml needs none."
        )
    return path


def load_model_file(path: str | Path) -> Any:
    """The content of a pickled model file; see `load_pickle`.

    Raises:
        UserError: the file is missing, not a pickle, or contains an object that is not allowed.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file. Run `hmr-skel doctor` to see which model files are in place.")
    return load_pickle(path, "a model file")


def dense(value: Any) -> Any:
    """The dense array of a scipy matrix, of its stand-in from `load_pickle`, or of a chumpy object; else the value.

    Raises any `Exception` if the object is damaged, or if chumpy would have to compute the array.
    """
    if not isinstance(value, Inert):
        return value.toarray() if hasattr(value, "toarray") else value
    if _is_sparse(value):
        return _matrix(value).toarray()
    if type(value).__name__ != "Select":
        return np.asarray(dense(value.state["x"]))
    flat = np.asarray(dense(value.state["a"])).ravel()[np.asarray(value.state["idxs"])]
    shape = value.state.get("preferred_shape")
    return flat if shape is None else flat.reshape(shape)


def sparse(value: Any) -> Any:
    """The scipy matrix, also from its stand-in of `load_pickle`; None for any other value. Raises as `dense`."""
    if isinstance(value, Inert):
        return _matrix(value) if _is_sparse(value) else None
    return value if hasattr(value, "tocsr") else None


def _is_sparse(value: Inert) -> bool:
    return type(value).__name__.endswith(("_matrix", "_array"))


def _matrix(value: Inert) -> Any:
    """A new scipy matrix, with checked indices: scipy's C loops would follow wrong ones out of the array."""
    import scipy.sparse

    state, kind = value.state, getattr(scipy.sparse, type(value).__name__)
    if kind.__name__.startswith("coo"):
        coords = state["coords"] if "coords" in state else (state["row"], state["col"])
        return kind((state["data"], tuple(coords)), shape=state["_shape"])
    made = kind((state["data"], state["indices"], state["indptr"]), shape=state["_shape"])
    made.check_format(full_check=True)
    return made


def load_smpl_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an official SMPL file, chumpy objects as plain arrays.

    Raises:
        UserError: the file is missing or not an SMPL file, or an array has another shape.
    """
    return _checked(_model_dict(path, "SMPL"), _SMPL_SHAPES, path, "SMPL")


def load_skel_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an official SKEL file (version 1.1.1). Bone meshes may have any number of vertices.

    Raises:
        UserError: the file is missing, of another version, or lacks an array.
    """
    raw = _model_dict(path, "SKEL")
    version = raw.get("version")
    if version != "1.1.1" and "skel_weights" in raw:  # a file without bones is not a SKEL file, which _fields reports
        found = "no version (a file from before 1.1)" if version is None else f"version {version!r}"
        raise UserError(
            f"{path}: found {found}, expected SKEL 1.1.1. Download `skel_models_v1.1` from the SKEL project's page."
        )
    arrays = _checked(raw, _SKEL_SHAPES, path, "SKEL")
    bones = len(arrays["skel_template_v"])
    for key in ("skel_weights", "skel_weights_rigid"):
        if len(arrays[key]) != bones:
            raise UserError(f"{path}: {key!r} has {len(arrays[key])} rows for {bones} bone vertices.")
    return arrays


def load_regressor(path: str | Path, rows: int) -> np.ndarray:
    """A joint regressor [rows 6890] from a `.npy` or `.pkl` file, dense or sparse.

    Raises:
        UserError: the file is missing, damaged, or of another shape.
    """
    path = Path(path)
    if path.suffix == ".npy" and path.exists():
        try:
            raw = np.load(path, allow_pickle=False)
        except Exception as error:  # a damaged header can raise any exception
            raise UserError(f"{path}: cannot be read as a .npy array: {error}. Fetch the file again.") from None
    else:
        raw = load_model_file(path)
    return _array(raw, (rows, 6890), f"{path}: the joint regressor")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by rename, so that it appears whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _model_dict(path: str | Path, kind: str) -> dict[str, Any]:
    raw = load_model_file(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path}: holds a {type(raw).__name__}, expected the dict of an official {kind} file.")
    return raw


def _checked(raw: dict[str, Any], expected: dict[str, tuple], path: str | Path, kind: str) -> dict[str, np.ndarray]:
    missing = sorted(set(expected) - set(raw))
    if missing:
        raise UserError(
            f"{path}: is not a {kind} file, or is damaged: it lacks {', '.join(missing)} (found: "
            f"{', '.join(sorted(map(str, raw))) or 'nothing'}). Give the official {kind} model file."
        )
    arrays = {key: _array(raw[key], shape, f"{path}: {key!r}") for key, shape in expected.items()}
    if (columns := arrays["shapedirs"].shape[2]) < 10:
        raise UserError(f"{path}: 'shapedirs' has {columns} columns, expected at least 10 shape coefficients.")
    return arrays


def _array(value: Any, shape: tuple[int | None, ...], what: str) -> np.ndarray:
    try:
        array = np.asarray(dense(value))
    except Exception as error:  # a damaged matrix or chumpy object can raise any exception
        raise UserError(f"{what} is damaged ({type(error).__name__}: {error}). Fetch the file again.") from None
    fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.kind not in "fiu":
        wanted = "x".join("?" if n is None else str(n) for n in shape)
        raise UserError(f"{what} is {array.dtype} of shape {array.shape}, expected numbers of shape {wanted}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{what} contains values that are not finite. Fetch the file again.")
    return array

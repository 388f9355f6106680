"""Model files to plain arrays, unpickled only by an allow-list.

Sources: the official SMPL and SKEL files. SMPL's are pickled under Python 2 and the older ones hold chumpy objects;
chumpy does not import on current Python and is not needed: two stand-in classes recover the arrays that it wrapped.
"""

import contextlib
import os
import pickle
import tokenize
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from hmr_skel.errors import UserError
from hmr_skel.plain_pickle import PlainUnpickler, mapped
from hmr_skel.plain_types import NUMPY, Stated, entries, new_object, plain_bytearray, plain_dict, plain_set, shown

MAX_NUMBERS = 2**24
"""In lists and sparse matrices, a few bytes of which can stand for any number of them; those of models are small."""
_SPARSE = {f"{kind}_matrix" for kind in ("csc", "csr", "coo")} | {f"{kind}_array" for kind in ("csc", "csr", "coo")}


class ChumpyArray(Stated):
    """Stands in for `chumpy.ch.Ch`: the pickled state carries the array under `x`."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The array; any exception if the state is not that of this class (some chumpy classes compute theirs)."""
        return np.asarray(_plain(self.state["x"]))


class ChumpySelect(ChumpyArray):
    """Stands in for `chumpy.reordering.Select`: entries `idxs` of the flattened array `a`."""

    def array(self) -> np.ndarray:
        flat = _plain(self.state["a"]).ravel()[np.asarray(self.state["idxs"])]
        shape = self.state.get("preferred_shape")
        return flat if shape is None else flat.reshape(shape)


def _reconstructor(kind: type, base: Any, state: Any) -> Any:
    """copyreg's, of protocols 0 and 1: an object before its state."""
    if base is not object or state is not None or not isinstance(kind, type):
        raise pickle.UnpicklingError("an object of another base than object is not on the allow-list")
    return new_object(kind)


def _slice(start: Any, stop: Any, step: Any) -> slice:
    return slice(start, stop, step)


_STAND_INS = {
    **NUMPY, ("builtins", "object"): object, ("builtins", "set"): plain_set, ("builtins", "slice"): _slice,
    ("builtins", "bytearray"): plain_bytearray, ("collections", "OrderedDict"): plain_dict,
    ("copyreg", "_reconstructor"): _reconstructor,
}  # fmt: skip


def allowed_class(module: str, name: str) -> Any:
    """What stands for what a pickle may name. Raises `pickle.UnpicklingError` for anything else."""
    if (module, name) in _STAND_INS:
        return _STAND_INS[module, name]
    if module.split(".")[0] == "chumpy":
        return ChumpySelect if name == "Select" else ChumpyArray
    if module.startswith("scipy.sparse") and name in _SPARSE:
        import scipy.sparse

        return getattr(scipy.sparse, name)
    raise pickle.UnpicklingError(f"class {module}.{name} is not on the allow-list")


def load_pickle(path: str | Path) -> Any:
    """The content of a pickle that may hold numpy arrays, scipy.sparse matrices, chumpy arrays and plain containers.

    Raises:
        UserError: no such file, not a pickle, or an object of any other class in it (which is never run).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return PlainUnpickler(mapped(file), allowed_class, path.stat().st_size).load()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Run `hmr-skel doctor` to see which model files are in place.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except Exception as error:  # a damaged pickle can raise anything, from EOFError to AttributeError
        raise UserError(
            f"{path}: cannot be read as a model file: {error}. Expected a pickle of numpy and scipy.sparse arrays, as "
            "the official SMPL and SKEL downloads are; nothing else in it is run. Fetch the file again."
        ) from None


def load_smpl_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an official SMPL file, with chumpy objects made plain.

    Raises:
        UserError: the file is missing, is no SMPL file, or an array has another shape.
    """
    return _smpl_arrays(_model_dict(path, "SMPL"), path)


def _smpl_arrays(raw: dict[str, Any], path: str | Path) -> dict[str, np.ndarray]:
    expected = {
        "v_template": (6890, 3),
        "f": (13776, 3),
        "shapedirs": (6890, 3, None),
        "posedirs": (6890, 3, 207),
        "weights": (6890, 24),
        "J_regressor": (24, 6890),
        "kintree_table": (2, 24),
    }
    return _checked(raw, expected, path, "SMPL")


def load_skel_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an official SKEL file (version 1.1.1). Bone meshes may have any number of vertices.

    Raises:
        UserError: the file is missing, of another version, or lacks an array.
    """
    raw = _model_dict(path, "SKEL")
    version = raw.get("version")
    if version != "1.1.1" and "skel_weights" in raw:  # without bones it is no SKEL file at all, which comes below
        found = "no version (a file from before 1.1)" if version is None else f"version {shown(version)}"
        raise UserError(
            f"{path}: found {found}, expected SKEL 1.1.1. Download `skel_models_v1.1` from the SKEL project's page."
        )
    expected = {
        "skin_template_v": (6890, 3),
        "skin_template_f": (13776, 3),
        "skel_template_v": (None, 3),
        "skel_template_f": (None, 3),
        "shapedirs": (6890, 3, None),
        "posedirs": (6890, 3, 207),
        "J_regressor_osim": (24, 6890),
        "per_joint_rot": (24, 3, 3),
        "skin_weights": (6890, 24),
        "skel_weights": (None, 24),
        "skel_weights_rigid": (None, 24),
        "osim_kintree_table": (2, 24),
        "apose_rel_transfo": (24, 4, 4),
    }
    arrays = _checked(raw, expected, path, "SKEL")
    for key in ("skel_weights", "skel_weights_rigid"):
        if len(arrays[key]) != len(arrays["skel_template_v"]):
            raise UserError(
                f"{path}: {key!r} has {len(arrays[key])} rows for {len(arrays['skel_template_v'])} bone vertices."
            )
    return arrays


def load_regressor(path: str | Path, rows: int) -> np.ndarray:
    """A joint regressor [rows 6890] from a `.npy` or `.pkl` file, dense or sparse.

    Raises:
        UserError: the file is missing, damaged, or of another shape.
    """
    path = Path(path)
    if path.suffix == ".npy":
        try:
            raw = np.array(np.load(path, mmap_mode="r", allow_pickle=False))  # mapped: no memory for the asking
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file. Run `hmr-skel doctor` to see which model files are in place."
            ) from None
        except (OSError, EOFError, ValueError, SyntaxError, MemoryError, OverflowError, tokenize.TokenError) as error:
            raise UserError(f"{path}: cannot be read as a .npy array: {error}. Fetch the file again.") from None
    else:
        raw = load_pickle(path)
    return _array(raw, (rows, 6890), f"{path}: the joint regressor")


def write_plain_smpl(source: str | Path, target: str | Path) -> None:
    """Rewrite an SMPL file as a pickle of numpy and scipy arrays only, which any loader reads without chumpy.

    Entries that no forward pass needs and that chumpy would have to compute are left out.

    Raises:
        UserError: the source is no SMPL file, or the target cannot be written.
    """
    raw = _model_dict(source, "SMPL")
    plain = {}
    for key, value in raw.items():
        with contextlib.suppress(Exception):  # whatever a foreign object's state raises
            plain[key] = _without_chumpy(value)
    _smpl_arrays(plain, source)  # refuses what is no SMPL file before anything is written
    target = Path(target)
    part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with part.open("wb") as file:
            pickle.dump(plain, file, protocol=2)
        os.replace(part, target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}).") from None
    finally:
        part.unlink(missing_ok=True)


def _model_dict(path: str | Path, kind: str) -> dict[str, Any]:
    raw = load_pickle(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path}: holds a {type(raw).__name__}, expected the dict of an official {kind} file.")
    return raw


def _plain(value: Any) -> Any:
    """Dense arrays out of chumpy and scipy.sparse objects, anything else as it is. Raises on damaged ones."""
    if isinstance(value, ChumpyArray):
        return value.array()
    if hasattr(value, "toarray"):
        matrix = _sound(value)
        if prod(matrix.shape) > MAX_NUMBERS:
            raise ValueError(f"a matrix of shape {matrix.shape}")
        return matrix.toarray()
    return value


def _sound(matrix: Any) -> Any:
    """A scipy.sparse matrix made anew.

    An unpickled one is not validated, and scipy's loops in C would follow wrong indices out of the array; nor is it to
    be asked of what kind it is, for its state may say anything.
    """
    kind = type(matrix)
    if kind.__name__.startswith("coo"):
        return kind((matrix.data, (matrix.row, matrix.col)), shape=matrix.shape)
    made = kind((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
    made.check_format(full_check=True)
    return made


def _without_chumpy(value: Any) -> Any:
    if isinstance(value, ChumpyArray):
        return value.array()
    if isinstance(value, dict):
        return {key: _without_chumpy(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_without_chumpy(entry) for entry in value)
    return value


def _checked(raw: dict[str, Any], expected: dict[str, tuple], path: str | Path, kind: str) -> dict[str, np.ndarray]:
    missing = sorted(set(expected) - set(raw))
    if missing:
        raise UserError(
            f"{path}: is no {kind} file, or a damaged one: it lacks {', '.join(missing)} (found: "
            f"{', '.join(sorted(map(str, raw))) or 'nothing'}). Give the official {kind} model file."
        )
    arrays = {key: _array(raw[key], shape, f"{path}: {key!r}") for key, shape in expected.items()}
    if (columns := arrays["shapedirs"].shape[2]) < 10:
        raise UserError(f"{path}: 'shapedirs' has {columns} columns, expected at least 10 shape coefficients.")
    return arrays


def _array(value: Any, shape: tuple[int | None, ...], what: str) -> np.ndarray:
    try:
        if isinstance(value, list | tuple) and entries(value) > MAX_NUMBERS:
            raise ValueError("lists in lists without end")
        array = np.asarray(_plain(value))
    except Exception as error:  # a damaged matrix or chumpy object can raise anything
        raise UserError(f"{what} is damaged ({type(error).__name__}: {error}). Fetch the file again.") from None
    fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.kind not in "fiu":
        wanted = "x".join("?" if n is None else str(n) for n in shape)
        raise UserError(f"{what} is {array.dtype} of shape {array.shape}, expected numbers of shape {wanted}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{what} holds values that are not finite. Fetch the file again.")
    return array

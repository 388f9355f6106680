"""Model files: what other programs wrote loads, and what is no model file is named."""

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from hmr_skel.body import assets
from hmr_skel.body.assets import load_model_file, load_regressor, load_skel_arrays, load_smpl_arrays, write_whole
from hmr_skel.errors import UserError
from tests.body import stand_in
from tests.body.stand_in import SMALL, write

KINDS = [f"{kind}_{style}" for kind in ("csc", "csr", "coo") for style in ("matrix", "array")]
LOADERS = {"SKEL": load_skel_arrays, "SMPL": load_smpl_arrays, "J19": lambda path: load_regressor(path, 19)}


@pytest.fixture(scope="module")
def smpl() -> dict:
    return stand_in.smpl_arrays() | SMALL


# --- pickles as other programs wrote them, made without those programs ---


@contextmanager
def fake_chumpy() -> Iterator[types.SimpleNamespace]:
    """Classes that pickle as chumpy's do. The modules are gone again afterwards, as they are for any reader."""
    modules = {name: types.ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")}
    made = {}
    for module, name in (("chumpy.ch", "Ch"), ("chumpy.ch", "MatVecMult"), ("chumpy.reordering", "Select")):
        body = {"__module__": module, "__init__": lambda self, **state: self.__dict__.update(state)}
        made[name] = type(name, (), body)
        setattr(modules[module], name, made[name])
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        yield types.SimpleNamespace(**made)


def chumpy_era(arrays: dict, path: Path) -> Path:
    """An SMPL file with chumpy objects where the downloads had them, in Python 2's protocol."""
    old = dict(arrays)
    with fake_chumpy() as chumpy:
        old["v_template"] = chumpy.Ch(x=arrays["v_template"], _dirty_vars=set(), _itr=None)
        old["weights"] = chumpy.Ch(x=chumpy.Ch(x=arrays["weights"]))
        # A reordering of another array's entries, here of the reversed one.
        flat = arrays["shapedirs"].ravel()[::-1].copy()
        order, shape = np.arange(flat.size)[::-1], arrays["shapedirs"].shape
        old["shapedirs"] = chumpy.Select(a=chumpy.Ch(x=flat), idxs=order, preferred_shape=shape)
        old["J"] = chumpy.MatVecMult(mtx=arrays["J_regressor"], v=old["v_template"])  # computed, holds no x
        old["pose_training_info"] = {"mean": [chumpy.Select(a=np.arange(4.0), idxs=np.array([2, 0]))]}
        return write(path, old)


def test_chumpy_files_load_without_chumpy(smpl, tmp_path):
    path = chumpy_era(smpl, tmp_path / "basicModel.pkl")
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(path.read_bytes())
    for key, array in load_smpl_arrays(path).items():
        expected = smpl[key].toarray() if scipy.sparse.issparse(smpl[key]) else smpl[key]
        np.testing.assert_array_equal(array, expected)


def test_a_chumpy_object_without_its_array_is_a_damaged_file(smpl, tmp_path):
    with fake_chumpy() as chumpy:
        path = write(tmp_path / "SMPL_MALE.pkl", smpl | {"weights": chumpy.Ch()})
    with pytest.raises(UserError, match=r"SMPL_MALE\.pkl: 'weights' is damaged"):
        load_smpl_arrays(path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_sparse_kind_loads_and_its_indices_are_checked_before_c_follows_them(kind, smpl, tmp_path):
    matrix = getattr(scipy.sparse, kind)(smpl["J_regressor"], copy=True)
    dense = matrix.toarray()
    for protocol in (2, 5):
        np.testing.assert_array_equal(load_regressor(write(tmp_path / "r.pkl", matrix, protocol), 24), dense)
    (matrix.coords[1] if kind.startswith("coo") else matrix.indices)[0] = 2**31 - 1
    with pytest.raises(UserError, match=r"r\.pkl: the joint regressor is damaged \(ValueError"):
        load_regressor(write(tmp_path / "r.pkl", matrix), 24)


@pytest.mark.filterwarnings("error")
def test_files_of_older_libraries_load_without_a_warning(tmp_path):
    dense = np.zeros((2, 6890))
    dense[0, 5], dense[1, 7] = 2, 3
    coo, csc = scipy.sparse.coo_matrix(dense), scipy.sparse.csc_matrix(dense)
    data = pickle.dumps([csc, np.arange(3.0), np.float64(4), {"a": set("b")}], protocol=2)
    for now, then in ((b"scipy.sparse._csc", b"scipy.sparse.csc"), (b"numpy._core", b"numpy.core")):
        data = data.replace(b"c" + now, b"c" + then)  # names stand in lines of their own
    matrix, array, scalar, rest = load_model_file(write(tmp_path / "old.pkl", data))
    np.testing.assert_array_equal(assets.dense(matrix), dense)
    np.testing.assert_array_equal(array, np.arange(3.0))
    assert (scalar, rest) == (4, {"a": {"b"}})
    # Up to scipy 1.12 a coo matrix held `row` and `col`; a csc matrix of Python 2 had its format among its state.
    old_coo = {"_shape": (2, 6890), "row": coo.row, "col": coo.col, "data": coo.data, "maxprint": 50}
    for kind, state in ((scipy.sparse.coo_matrix, old_coo), (scipy.sparse.csc_matrix, csc.__dict__ | {"format": "c"})):
        reduced = type("Old", (), {"__reduce__": lambda self, k=kind, s=state: (k, ((2, 6890),), s)})()
        np.testing.assert_array_equal(load_regressor(write(tmp_path / "r.pkl", reduced), 2), dense)
    python_2 = b"(dU\x04nameU\x03ab\xe9s."  # protocol 1: a dict of two byte strings
    assert load_model_file(write(tmp_path / "two.pkl", python_2)) == {"name": "abé"}


def test_a_failure_leaves_no_half_file(tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError("full")

    target = write(tmp_path / "file.pkl", b"old")
    monkeypatch.setattr(assets.os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        write_whole(target, b"new" * 1000)
    assert [path.name for path in tmp_path.iterdir()] == ["file.pkl"]
    assert target.read_bytes() == b"old"


# --- what a person can do wrong ---


@pytest.mark.parametrize("name", LOADERS)
def test_what_is_no_pickle_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"gone\.pkl: no such file\. Run `hmr-skel doctor`"):
        LOADERS[name](tmp_path / "gone.pkl")
    with pytest.raises(UserError, match="cannot be read as a model file: Is a directory"):
        LOADERS[name](tmp_path)
    skel = stand_in.skel_arrays()
    whole = pickle.dumps({key: skel[key] for key in ("version", "per_joint_rot", "J_regressor_osim")}, protocol=2)
    for content in (b"", whole[:-1], b"<!DOCTYPE html><p>Sign in"):
        with pytest.raises(UserError, match=r"cut\.pkl: cannot be read as a model file: .* Fetch the file again\."):
            LOADERS[name](write(tmp_path / "cut.pkl", content))
    with pytest.raises(UserError, match=r"holds a list, expected the dict|is float64 of shape"):
        LOADERS[name](write(tmp_path / "list.pkl", []))


@pytest.fixture
def light(monkeypatch):
    """Hands dicts to the loaders without writing megabytes for each."""
    content: dict = {}
    monkeypatch.setattr(assets, "load_model_file", lambda path: dict(content))
    return content


def test_another_version_of_skel_says_which_to_download(light):
    light |= {"skel_weights": 0, "version": "1.0"}
    with pytest.raises(UserError, match=r"found version '1\.0'.*, expected SKEL 1\.1\.1\. Download `skel_models"):
        load_skel_arrays("m.pkl")


@pytest.mark.parametrize(("kind", "key"), [("SKEL", "skel_weights_rigid"), ("SMPL", "weights")])
def test_a_missing_or_misshapen_array_is_named(kind, key, light):
    light |= {"SKEL": stand_in.skel_arrays, "SMPL": stand_in.smpl_arrays}[kind]() | SMALL
    good = light.pop(key)
    with pytest.raises(UserError, match=f"m.pkl: is not a {kind} file, or is damaged: it lacks {key} "):
        LOADERS[kind]("m.pkl")
    array = good.toarray() if scipy.sparse.issparse(good) else good
    for bad, says in (
        (array[:, :-1], r"is \w+ of shape .*, expected numbers of shape [\dx?]+"),
        ("text", r"is <U\d+ of shape"),
        (None, r"is object of shape \(\)"),
        ([[1], [1, 2]], r"is damaged \(ValueError"),
        (np.full(array.shape, np.nan), "contains values that are not finite"),
    ):
        light[key] = bad
        with pytest.raises(UserError, match=f"'{key}' {says}"):
            LOADERS[kind]("m.pkl")


def test_regressors_load_from_npy_and_a_bad_one_says_why(tmp_path):
    path = tmp_path / "r.npy"
    matrix = np.random.default_rng(0).random((17, 6890))
    np.save(path, matrix)
    np.testing.assert_array_equal(load_regressor(path, 17), matrix)
    with pytest.raises(UserError, match=r"is float64 of shape \(17, 6890\), expected numbers of shape 19x6890"):
        load_regressor(path, 19)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    for content in (path.read_bytes(), b"x"):
        with pytest.raises(UserError, match=r"r\.npy: cannot be read as a \.npy array: .* Fetch the file again"):
            load_regressor(write(path, content), 19)
    with pytest.raises(UserError, match="no such file"):
        load_regressor(tmp_path / "gone.npy", 19)

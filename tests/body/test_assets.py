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
from hmr_skel.body.assets import (
    load_model_file,
    load_regressor,
    load_skel_arrays,
    load_smpl_arrays,
    write_plain_smpl,
    write_whole,
)  # fmt: skip
from hmr_skel.errors import UserError
from tests.body import stand_in

KINDS = [f"{kind}_{style}" for kind in ("csc", "csr", "coo") for style in ("matrix", "array")]


# Correctives of one byte per number: the files of this module are 5 MB, not 40.
SMALL = {"posedirs": np.ones((6890, 3, 207), np.int8)}


@pytest.fixture(scope="module")
def smpl() -> dict:
    return stand_in.smpl_arrays() | SMALL


@pytest.fixture(scope="module")
def skel() -> dict:
    return stand_in.skel_arrays() | SMALL


def write(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


# --- pickles as other programs wrote them, made without those programs ---


@contextmanager
def fake_chumpy() -> Iterator[types.SimpleNamespace]:
    """Classes that pickle as chumpy's do. The modules are gone again afterwards, as they are for any reader."""
    modules = {name: types.ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")}

    def cls(module: str, name: str) -> type:
        made = type(name, (), {"__module__": module, "__init__": lambda self, **state: self.__dict__.update(state)})
        setattr(modules[module], name, made)
        return made

    made = types.SimpleNamespace(
        Ch=cls("chumpy.ch", "Ch"), Select=cls("chumpy.reordering", "Select"), MatVecMult=cls("chumpy.ch", "MatVecMult")
    )
    sys.modules |= modules
    try:
        yield made
    finally:
        for name in modules:
            del sys.modules[name]


def chumpy_era(arrays: dict, path: Path) -> Path:
    """An SMPL file with chumpy objects where the downloads had them, in Python 2's protocol."""
    old = dict(arrays)
    with fake_chumpy() as chumpy:
        state = {"_dirty_vars": set(), "_itr": None, "_depends_on_deps": {}}
        old["v_template"] = chumpy.Ch(x=arrays["v_template"], **state)
        old["weights"] = chumpy.Ch(x=chumpy.Ch(x=arrays["weights"]))
        # A reordering of another array's entries, here of the reversed one.
        flat = arrays["shapedirs"].ravel()[::-1].copy()
        old["shapedirs"] = chumpy.Select(
            a=chumpy.Ch(x=flat), idxs=np.arange(flat.size)[::-1], preferred_shape=arrays["shapedirs"].shape
        )
        old["J"] = chumpy.MatVecMult(mtx=arrays["J_regressor"], v=old["v_template"])  # computed, holds no x
        old["pose_training_info"] = {"gender": "x", "mean": [chumpy.Ch(x=np.arange(3.0))]}
        path.write_bytes(pickle.dumps(old, protocol=2))
    return path


def renamed(data: bytes, names: dict[str, str]) -> bytes:
    """A pickle of protocol 2 in which modules are called otherwise (they stand in lines of their own)."""
    for now, then in names.items():
        data = data.replace(b"c" + now.encode() + b"\n", b"c" + then.encode() + b"\n")
    return data


# --- what may be in a model file ---


def test_smpl_arrays_come_back_as_written(smpl, tmp_path):
    found = load_smpl_arrays(write(tmp_path / "SMPL_NEUTRAL.pkl", smpl))
    for key, array in found.items():
        expected = smpl[key].toarray() if scipy.sparse.issparse(smpl[key]) else smpl[key]
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_every_sparse_kind_loads(kind, protocol, smpl, tmp_path):
    dense = smpl["J_regressor"].toarray()
    path = write(tmp_path / "r.pkl", getattr(scipy.sparse, kind)(dense), protocol)
    np.testing.assert_array_equal(load_regressor(path, 24), dense)


@pytest.mark.filterwarnings("error")
def test_names_of_older_libraries_load_without_a_warning(tmp_path):
    dense = np.zeros((2, 6890))
    dense[0, 5], dense[1, 7] = 2, 3
    data = pickle.dumps([scipy.sparse.csc_matrix(dense), np.arange(3.0), np.float64(4), {"a": set("b")}], protocol=2)
    old = {
        "scipy.sparse._csc": "scipy.sparse.csc", "numpy._core.multiarray": "numpy.core.multiarray",
        "__builtin__": "__builtin__",
    }  # fmt: skip
    matrix, array, scalar, rest = load_model_file(write(tmp_path / "old.pkl", renamed(data, old)))
    np.testing.assert_array_equal(assets.dense(matrix), dense)
    np.testing.assert_array_equal(array, np.arange(3.0))
    assert scalar == 4
    assert rest == {"a": {"b"}}
    buffer = pickle.dumps(np.arange(5.0), protocol=5).replace(b"numpy._core.numeric", b"numpy.core.numeric")
    buffer = buffer.replace(b"\x8c\x13numpy.core.numeric", b"\x8c\x12numpy.core.numeric")
    unframed = buffer[:2] + buffer[11:]  # the frame's length no longer fits; frames are optional
    np.testing.assert_array_equal(load_model_file(write(tmp_path / "five.pkl", unframed)), np.arange(5.0))


def test_sparse_matrices_of_older_scipy_load(tmp_path):
    """Up to scipy 1.12 a coo matrix held `row` and `col`; a csc matrix of Python 2 had its format among its state."""
    dense = np.zeros((2, 6890))
    dense[0, 5], dense[1, 7] = 2, 3
    coo = scipy.sparse.coo_matrix(dense)
    state = {"_shape": (2, 6890), "row": coo.row, "col": coo.col, "data": coo.data, "maxprint": 50}
    csc = scipy.sparse.csc_matrix(dense)
    old_csc = dict(csc.__dict__) | {"format": "csc"}
    for kind, content in ((scipy.sparse.coo_matrix, state), (scipy.sparse.csc_matrix, old_csc)):
        reduced = type("Old", (), {"__reduce__": lambda self, k=kind, c=content: (k, ((2, 6890),), c)})()
        np.testing.assert_array_equal(load_regressor(write(tmp_path / "r.pkl", reduced), 2), dense)


def test_strings_of_python_2_load(tmp_path):
    text = b"(dU\x04nameU\x03ab\xe9s."  # protocol 1: a dict of two byte strings
    assert load_model_file(write(tmp_path / "two.pkl", text)) == {"name": "abé"}


def test_chumpy_files_load_without_chumpy(smpl, tmp_path):
    path = chumpy_era(smpl, tmp_path / "basicModel.pkl")
    assert b"chumpy.ch\nCh" in path.read_bytes()
    assert b"chumpy.reordering\nSelect" in path.read_bytes()
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(path.read_bytes())
    found = load_smpl_arrays(path)
    for key in ("v_template", "shapedirs", "weights"):
        np.testing.assert_array_equal(found[key], smpl[key])


def test_select_without_a_shape_is_flat(tmp_path):
    with fake_chumpy() as chumpy:
        content = {"s": chumpy.Select(a=np.arange(6.0).reshape(2, 3), idxs=np.array([5, 0, 1]))}
        path = write(tmp_path / "s.pkl", content)
    np.testing.assert_array_equal(assets.dense(load_model_file(path)["s"]), [5, 0, 1])


@pytest.mark.parametrize("state", [None, {}, {"x": None}, {"x": "text"}, ["x"]], ids=repr)
def test_a_chumpy_object_without_its_array_is_a_damaged_file(state, smpl, tmp_path):
    with fake_chumpy() as chumpy:
        damaged = chumpy.Ch()
        if isinstance(state, dict):
            damaged.__dict__.update(state)
        elif state is not None:
            chumpy.Ch.__getstate__ = lambda self: state
        path = write(tmp_path / "SMPL_MALE.pkl", smpl | {"weights": damaged})
    with pytest.raises(UserError, match=r"SMPL_MALE\.pkl: 'weights' (is damaged|is .* of shape \(\))"):
        load_smpl_arrays(path)


def test_clean_writes_a_file_that_plain_pickle_reads(smpl, tmp_path):
    target = tmp_path / "clean.pkl"
    write_plain_smpl(chumpy_era(smpl, tmp_path / "old.pkl"), target)
    assert b"chumpy" not in target.read_bytes()
    assert b"hmr_skel" not in target.read_bytes()
    plain = pickle.loads(target.read_bytes())
    np.testing.assert_array_equal(plain["shapedirs"], smpl["shapedirs"])
    np.testing.assert_array_equal(plain["pose_training_info"]["mean"][0], np.arange(3.0))
    assert plain["bs_style"] == "lbs"
    assert "J" not in plain, "chumpy would have to compute it"
    assert {path.name for path in tmp_path.iterdir()} == {"old.pkl", "clean.pkl"}
    old = load_smpl_arrays(tmp_path / "old.pkl")
    for key, array in load_smpl_arrays(target).items():
        np.testing.assert_array_equal(array, old[key])


def test_smplx_reads_a_clean_file(smpl, tmp_path):
    import smplx

    write_plain_smpl(chumpy_era(smpl, tmp_path / "old.pkl"), tmp_path / "clean.pkl")
    model = smplx.SMPL(str(tmp_path / "clean.pkl"))
    np.testing.assert_allclose(model.v_template.numpy(), smpl["v_template"], rtol=1e-6)


def test_clean_may_replace_its_source_and_leaves_it_alone_when_it_fails(smpl, tmp_path):
    path = chumpy_era(smpl, tmp_path / "SMPL.pkl")
    write_plain_smpl(path, path)
    pickle.loads(path.read_bytes())
    bad = write(tmp_path / "bad.pkl", {"v_template": np.zeros((6890, 3))})
    with pytest.raises(UserError, match="is no SMPL file"):
        write_plain_smpl(bad, tmp_path / "out.pkl")
    with pytest.raises(UserError, match=r"nowhere/out\.pkl: cannot be written \(No such file or directory\)"):
        write_plain_smpl(path, tmp_path / "nowhere" / "out.pkl")
    assert {p.name for p in tmp_path.iterdir()} == {"SMPL.pkl", "bad.pkl"}


@pytest.mark.parametrize("broken", ["write_bytes", "replace"])
def test_a_failure_leaves_no_half_file(tmp_path, monkeypatch, broken):
    target = write(tmp_path / "file.pkl", b"old")

    def fail(*_args):
        raise OSError("full")

    monkeypatch.setattr(Path if broken == "write_bytes" else assets.os, broken, fail)
    with pytest.raises(OSError, match="full"):
        write_whole(target, b"new" * 1000)
    assert [path.name for path in tmp_path.iterdir()] == ["file.pkl"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_indices_that_point_outside_are_caught_before_c_follows_them(kind, smpl, tmp_path):
    matrix = getattr(scipy.sparse, kind)(smpl["J_regressor"], copy=True)
    indices = matrix.coords[1] if kind.startswith("coo") else matrix.indices
    indices[0] = 2**31 - 1
    with pytest.raises(UserError, match=r"r\.pkl: the joint regressor is damaged \(ValueError"):
        load_regressor(write(tmp_path / "r.pkl", matrix), 24)


# --- what a person can do wrong ---

LOADERS = {"SKEL": load_skel_arrays, "SMPL": load_smpl_arrays, "J19": lambda path: load_regressor(path, 19)}


@pytest.mark.parametrize("name", LOADERS)
def test_a_missing_file_points_to_doctor(name, tmp_path):
    with pytest.raises(UserError, match=r"gone\.pkl: no such file\. Run `hmr-skel doctor`"):
        LOADERS[name](tmp_path / "gone.pkl")


@pytest.mark.parametrize("name", LOADERS)
def test_a_folder_is_no_file(name, tmp_path):
    with pytest.raises(UserError, match="cannot be read as a model file: Is a directory"):
        LOADERS[name](tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
@pytest.mark.parametrize("name", LOADERS)
def test_a_truncated_file_says_to_fetch_it_again(name, keep, skel, tmp_path):
    whole = pickle.dumps({key: skel[key] for key in ("version", "per_joint_rot", "J_regressor_osim")}, protocol=2)
    cut = whole[: int(len(whole) * keep) if isinstance(keep, float) else keep]
    with pytest.raises(UserError, match=r"cut\.pkl: cannot be read as a model file: .* Fetch the file again\."):
        LOADERS[name](write(tmp_path / "cut.pkl", cut))


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><p>Sign in", b"\x89PNG\r\n", b"version https://git-lfs"])
def test_another_kind_of_file_is_refused(content, tmp_path):
    with pytest.raises(UserError, match="cannot be read as a model file"):
        load_model_file(write(tmp_path / "x.pkl", content))


@pytest.mark.parametrize(
    ("version", "found"), [("1.0", "version '1.0'"), (None, "no version"), (1.1, "version 1.1"), ("", "version ''")]
)
def test_another_version_of_skel_says_which_to_download(version, found, skel, tmp_path):
    content = {"skel_weights": skel["skel_weights"]} | ({} if version is None else {"version": version})
    path = write(tmp_path / "skel_male.pkl", content)
    with pytest.raises(UserError, match=rf"found {found}.*, expected SKEL 1\.1\.1\. Download `skel_models_v1\.1`"):
        load_skel_arrays(path)


def test_models_are_not_taken_for_each_other(smpl, skel, tmp_path):
    smpl_file, skel_file = write(tmp_path / "smpl.pkl", smpl), write(tmp_path / "skel.pkl", skel)
    with pytest.raises(UserError, match=r"is no SKEL file, or a damaged one: it lacks .*skel_weights"):
        load_skel_arrays(smpl_file)
    with pytest.raises(UserError, match=r"is no SMPL file, or a damaged one: it lacks .*kintree_table"):
        load_smpl_arrays(skel_file)


@pytest.mark.parametrize("content", [[], "text", 3, np.zeros(3)], ids=["list", "text", "number", "array"])
def test_a_pickle_of_something_else_is_refused(content, tmp_path):
    path = write(tmp_path / "x.pkl", content)
    kind = type(content).__name__
    with pytest.raises(UserError, match=f"holds a {kind}, expected the dict of an official SMPL file"):
        load_smpl_arrays(path)
    with pytest.raises(UserError, match=f"holds a {kind}, expected the dict of an official SKEL file"):
        load_skel_arrays(path)


SKEL_KEYS = (
    "skin_template_v", "skin_template_f", "skel_template_v", "skel_template_f", "shapedirs", "posedirs",
    "J_regressor_osim", "per_joint_rot", "skin_weights", "skel_weights_rigid", "osim_kintree_table",
    "apose_rel_transfo",
)  # fmt: skip
SMPL_KEYS = ("v_template", "f", "shapedirs", "posedirs", "weights", "J_regressor", "kintree_table")


@pytest.fixture
def light(monkeypatch):
    """Hands dicts to the loaders without writing 40 MB for each."""
    content: dict = {}
    monkeypatch.setattr(assets, "load_model_file", lambda path: dict(content))
    return content


@pytest.mark.parametrize(
    ("kind", "key"), [*(("SKEL", key) for key in SKEL_KEYS), *(("SMPL", key) for key in SMPL_KEYS)]
)
def test_a_missing_or_misshapen_key_is_named(kind, key, light, request):
    light |= request.getfixturevalue(kind.lower())
    good = light.pop(key)
    with pytest.raises(UserError, match=f"m.pkl: is no {kind} file, or a damaged one: it lacks {key} "):
        LOADERS[kind]("m.pkl")
    array = good.toarray() if scipy.sparse.issparse(good) else good
    for bad, says in (
        (array[:, :-1], rf"'{key}' is \w+ of shape .*, expected numbers of shape [\dx?]+"),
        (array[None], rf"'{key}' is \w+ of shape .*, expected numbers of shape [\dx?]+"),
        (array.astype("U3") if array.size < 1000 else "text", rf"'{key}' is <U\d+ of shape"),
        (None, rf"'{key}' is object of shape \(\)"),
        ([[1], [1, 2]], rf"'{key}' is damaged \(ValueError"),
        (np.full(array.shape, np.nan), rf"'{key}' holds values that are not finite"),
        (np.full(array.shape, np.inf), rf"'{key}' holds values that are not finite"),
    ):
        light[key] = bad
        with pytest.raises(UserError, match=says):
            LOADERS[kind]("m.pkl")


def test_shape_spaces_of_300_are_fine_and_of_9_are_not(light, smpl):
    light |= smpl
    light["shapedirs"] = np.zeros((6890, 3, 300), np.float32)
    assert load_smpl_arrays("m.pkl")["shapedirs"].shape == (6890, 3, 300)
    light["shapedirs"] = np.zeros((6890, 3, 9), np.float32)
    with pytest.raises(UserError, match="'shapedirs' has 9 columns, expected at least 10"):
        load_smpl_arrays("m.pkl")


def test_bone_weights_must_fit_the_bones(light, skel):
    light |= skel | {"skel_weights": scipy.sparse.coo_matrix(np.eye(499, 24))}
    with pytest.raises(UserError, match="'skel_weights' has 499 rows for 500 bone vertices"):
        load_skel_arrays("m.pkl")


# --- regressors ---


def test_regressors_load_from_npy_and_pickle(tmp_path):
    matrix = np.random.default_rng(0).random((17, 6890))
    np.save(tmp_path / "h36m.npy", matrix)
    np.testing.assert_array_equal(load_regressor(tmp_path / "h36m.npy", 17), matrix)
    np.testing.assert_array_equal(load_regressor(write(tmp_path / "h36m.pkl", matrix), 17), matrix)


def test_a_bad_regressor_says_why(tmp_path):
    path = tmp_path / "r.npy"
    for matrix, says in (
        (np.zeros((3, 6890)), r"is float64 of shape \(3, 6890\), expected numbers of shape 19x6890"),
        (np.full((19, 6890), np.nan), "not finite"),
        (np.zeros((19, 6890), "U1"), "is <U1 of shape"),
    ):
        np.save(path, matrix)
        with pytest.raises(UserError, match=says):
            load_regressor(path, 19)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    for content in (path.read_bytes(), b"", b"x", b"\x93NUMPY\x01\x00"):
        with pytest.raises(UserError, match=r"r\.npy: cannot be read as a \.npy array: .* Fetch the file again"):
            load_regressor(write(path, content), 19)
    with pytest.raises(UserError, match="no such file"):
        load_regressor(tmp_path / "gone.npy", 19)

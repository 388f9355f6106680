import builtins
import codecs
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from hmr_skel.body.assets import (
    load_pickle,
    load_regressor,
    load_skel_arrays,
    load_smpl_arrays,
    write_plain_smpl,
)
from hmr_skel.errors import UserError
from tests.body import stand_in
from tests.body.pickles import Call, chumpy_era, fake_chumpy, renamed

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
    matrix, array, scalar, rest = load_pickle(write(tmp_path / "old.pkl", renamed(data, old)))
    np.testing.assert_array_equal(matrix.toarray(), dense)
    np.testing.assert_array_equal(array, np.arange(3.0))
    assert scalar == 4
    assert rest == {"a": {"b"}}
    buffer = pickle.dumps(np.arange(5.0), protocol=5).replace(b"numpy._core.numeric", b"numpy.core.numeric")
    buffer = buffer.replace(b"\x8c\x13numpy.core.numeric", b"\x8c\x12numpy.core.numeric")
    unframed = buffer[:2] + buffer[11:]  # the frame's length no longer fits; frames are optional
    np.testing.assert_array_equal(load_pickle(write(tmp_path / "five.pkl", unframed)), np.arange(5.0))


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
    assert load_pickle(write(tmp_path / "two.pkl", text)) == {"name": "abé"}


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
    np.testing.assert_array_equal(load_pickle(path)["s"].array(), [5, 0, 1])


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


# --- what may not ---


def named(module: str, name: str, argument: str = "") -> bytes:
    """Protocol 2: call module.name(argument). Dots in names work from protocol 4 on, see `dotted`."""
    text = argument.encode()
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X" + len(text).to_bytes(4, "little") + text + b"\x85R."


def dotted(module: str, name: str, argument: str) -> bytes:
    """Protocol 4: there `name` may be a path of attributes."""
    parts = b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name))
    return b"\x80\x04" + parts + b"\x93\x8c" + bytes([len(argument)]) + argument.encode() + b"\x85R."


@pytest.fixture
def gadgets(tmp_path) -> dict[str, object]:
    """Pickles that run something on loading; each, if it ran, would make the file `ran`."""
    ran = tmp_path / "ran"
    shell, python = f"touch {ran}", f"open({str(ran)!r}, 'w').close()"
    subclasses = b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\ngetattr\n(cnumpy\nndarray\nX\x08\x00\x00\x00__base__tRX"
    subclasses += b"\x0e\x00\x00\x00__subclasses__tR)R."
    return {
        "os.system": Call(os.system, shell),
        "posix.system": named("posix", "system", shell),
        "nt.system": named("nt", "system", shell),
        "builtins.eval": Call(eval, python),
        "builtins.exec": Call(exec, python),
        "Python 2's eval": named("__builtin__", "eval", python),
        "builtins.__import__": Call(builtins.__import__, "antigravity"),
        "builtins.open": Call(open, str(ran), "w"),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", str(ran)]),
        "subprocess.check_output": Call(subprocess.check_output, ["touch", str(ran)]),
        "getattr": named("builtins", "getattr", "x"),
        "nested getattr": subclasses,
        "operator.attrgetter": named("operator", "attrgetter", "system"),
        "functools.partial": named("functools", "partial", "x"),
        "attributes of an allowed module": dotted("numpy", "ndarray.tofile", str(ran)),
        "attributes of an allowed name": dotted("numpy", "load", str(ran)),
        "numpy's exec": named("numpy.testing._private.utils", "runstring", python),
        "numpy.f2py": named("numpy.f2py.crackfortran", "getlincoef", python),
        "numpy.core with an import": named("numpy.core", "os.system", shell),
        "numpy.core.multiarray otherwise": named("numpy.core.multiarray", "fromfile", str(ran)),
        "numpy.core.numeric otherwise": named("numpy.core.numeric", "load", str(ran)),
        "numpy._core.records": named("numpy._core.records", "fromfile", str(ran)),
        "numpy.lib's loader": named("numpy.lib._npyio_impl", "loadtxt", str(ran)),
        "scipy's loader": named("scipy.sparse._matrix_io", "load_npz", str(ran)),
        "a class under scipy.sparse's name": named("scipy.sparse.os", "system", shell),
        "another codec": Call(codecs.encode, "a" * 1000, "zlib"),
        "another codec, of Python 2": Call(codecs.encode, "import os", "rot13"),
        "decoding": named("_codecs", "decode", "x"),
        "pickle in pickle": Call(pickle.loads, pickle.dumps(Call(os.system, shell))),
        "torch storage": named("torch.storage", "_load_from_bytes", "x"),
        "pathlib": Call(Path, str(ran)),
        "our own code": named("hmr_skel.body.assets", "load_pickle", str(ran)),
        "a weird constructor": named("copyreg", "__newobj__", "x"),
        "an extension code": b"\x80\x02\x82\x01.",
        "a persistent id": b"Pos.system\n.",
    }


GADGETS = (
    "os.system", "posix.system", "nt.system", "builtins.eval", "builtins.exec", "Python 2's eval",
    "builtins.__import__", "builtins.open", "subprocess.Popen", "subprocess.check_output", "getattr", "nested getattr",
    "operator.attrgetter", "functools.partial", "attributes of an allowed module", "attributes of an allowed name",
    "numpy's exec", "numpy.f2py", "numpy.core with an import", "numpy.core.multiarray otherwise",
    "numpy.core.numeric otherwise", "numpy._core.records", "numpy.lib's loader", "scipy's loader",
    "a class under scipy.sparse's name", "another codec", "another codec, of Python 2", "decoding", "pickle in pickle",
    "torch storage", "pathlib", "our own code", "a weird constructor", "an extension code", "a persistent id",
)  # fmt: skip


@pytest.mark.parametrize("name", GADGETS)
def test_gadgets_are_refused_and_nothing_runs(name, gadgets, tmp_path):
    for wrapped in (False, True):
        content = gadgets[name]
        if wrapped:
            if isinstance(content, bytes):
                continue
            content = {"version": "1.1.1", "skin_template_v": [content]}
        path = write(tmp_path / "evil.pkl", content)
        with pytest.raises(
            UserError, match=r"(?s)evil\.pkl: cannot be read as a model file: .*nothing else in it is run"
        ):
            load_pickle(path)
        assert not (tmp_path / "ran").exists()


def test_the_gadgets_are_live_ammunition(gadgets, tmp_path):
    """Without the allow-list they do what they say, so the test above tests something."""
    assert set(gadgets) == set(GADGETS)
    for name in ("os.system", "builtins.eval", "pickle in pickle", "posix.system"):
        content = gadgets[name]
        pickle.loads(content if isinstance(content, bytes) else pickle.dumps(content, 2))
        assert (tmp_path / "ran").exists(), name
        (tmp_path / "ran").unlink()


def test_the_refused_class_is_named(tmp_path):
    path = write(tmp_path / "evil.pkl", Call(os.system, "true"))
    with pytest.raises(UserError, match=r"class \w+\.system is not on the allow-list"):
        load_pickle(path)


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
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
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
        load_pickle(write(tmp_path / "x.pkl", content))


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
    from hmr_skel.body import assets

    content: dict = {}
    monkeypatch.setattr(assets, "load_pickle", lambda path: dict(content))
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

"""Pickles, joblib's and torch's files: what writers of arrays write is read; nothing that a file names is run."""

import builtins
import codecs
import contextlib
import functools
import io
import operator
import os
import pickle
import subprocess
import zipfile
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.sparse
import torch
from omegaconf import DictConfig, OmegaConf

from hmr_skel import foreign
from hmr_skel.convert.files import read_contents
from hmr_skel.data.npz import LabelFile
from hmr_skel.errors import UserError
from hmr_skel.foreign import Inert, load_pickle, load_torch
from tests.body.stand_in import write as written

CONTENT = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "turned": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "empty": np.zeros((0, 3)),
    "scalar": np.float32(0.5),
    "word": np.str_("word"),
    "zero_d": np.array(3),
    "objects": np.array(["text", None], object),
    "texts": np.array(["x", "yy"]),
    "nested": [{"b": (1, "two", 3.0, True, None, b"raw", bytearray(b"more"), slice(3), {"key", "s"})}],
    "ordered": OrderedDict(a=1),
    "default": defaultdict(list, {1: [2]}),
    "path": Path("a/b"),
    0.5: 1,
    ("a", "b"): np.int64(3),
}


def assert_equal(found, expected) -> None:
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert str(found) == str(expected) if isinstance(expected, Path) else found == expected


# --- what is read ---


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_read(tmp_path: Path, protocol: int):
    assert_equal(load_pickle(written(tmp_path / "x.pkl", CONTENT, protocol)), CONTENT)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("compress", [0, 3, "gzip", "bz2", "lzma", "xz"])
def test_joblibs_files_are_read(tmp_path: Path, compress, protocol: int):
    level = compress if isinstance(compress, int) else (compress, 3)
    joblib.dump(CONTENT, tmp_path / "x.pkl", compress=level, protocol=protocol)
    assert_equal(load_pickle(tmp_path / "x.pkl"), CONTENT)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_in_pickles_are_read(tmp_path: Path, protocol: int):
    content = {"a": torch.rand(2, 3), "b": torch.arange(3), "c": torch.rand(4, 4).T, "d": torch.rand(6)[2:],
               "e": torch.zeros(0, 3), "f": torch.ones(2, dtype=torch.bfloat16)}  # fmt: skip
    found = load_pickle(written(tmp_path / "x.pkl", content, protocol))
    assert all(found[key].equal(value) for key, value in content.items())


def test_arrays_behave_as_numpys(tmp_path: Path):
    array = load_pickle(written(tmp_path / "x.pkl", np.arange(6.0).reshape(2, 3)))
    for result in (array + 1, array.max(0), np.concatenate([array, array])):
        assert type(result) is np.ndarray
    for result in (array.sum(), array.mean(), np.linalg.norm(array), array[0, 0]):
        assert type(result) is np.float64
    assert torch.from_numpy(array).shape == (2, 3)
    array[:] = 3  # it can be written to
    nested = load_pickle(written(tmp_path / "x.pkl", [array]))
    assert b"hmr_skel" not in pickle.dumps(nested)
    assert type(pickle.loads(pickle.dumps(nested))[0]) is np.ndarray
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = np.arange(3, dtype=">f4")
        np.testing.assert_array_equal(load_pickle(written(tmp_path / "x.pkl", content, protocol)), content)


def saved(path: Path, content: object, **options) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_torchs_files_are_read(tmp_path: Path, legacy: bool):
    shared = torch.arange(12.0).reshape(3, 4)
    content = {"w": torch.nn.Linear(2, 3).state_dict(), "views": [shared[1:], shared.T], "half": torch.ones(2).half(),
               "none": None, "b": b"raw", "s": {1, 2}, "size": torch.Size((1, 2)),
               "parameter": torch.nn.Parameter(torch.ones(2))}  # fmt: skip
    found = load_torch(saved(tmp_path / "x.pt", content, _use_new_zipfile_serialization=not legacy))
    assert all(found["w"][name].equal(tensor) for name, tensor in content["w"].items())
    assert found["views"][1].equal(shared.T)
    assert (found["b"], found["s"], found["half"].dtype) == (b"raw", {1, 2}, torch.float16)


def test_torchs_files_may_hold_what_pickles_may(tmp_path: Path):
    del (content := dict(CONTENT))["texts"]
    assert_equal(read_contents(saved(tmp_path / "x.pt", content)), content)


class ForeignConfig(dict):
    """Pickles as yacs' and Lightning's do: a dict with attributes of its own, and classes named in them."""

    def __init__(self) -> None:
        super().__init__(lr=1e-5, part={"sizes": [1, 2]})
        self.content = {"a": [1, defaultdict(dict, {"b": {}})], "type": ForeignConfig, "namespace": object()}


def omegaconf_config() -> DictConfig:
    """As hydra gives it to a trainer: interpolations, whose results are kept, and the types of its fields."""
    config = OmegaConf.create(
        {"trainer": {"lr": 1e-5, "epochs": 20, "big": 2**70}, "mean": [0.485, 0.456], "shape": None, "missing": "???",
         "out": "${trainer.epochs}/a", "now": "${now:%Y}", "raw": b"x", "typed": OmegaConf.structured(TypedConfig)}
    )  # fmt: skip
    OmegaConf.get_cache(config)["now"]["%Y"] = "2025"
    OmegaConf.set_struct(config, True)
    return config


@dataclass
class TypedConfig:
    """In protocol 2 `int` is named `long`."""

    whole: int = 1
    optional: float | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"a": 1})
    either: int | str = 3
    folder: Path = Path("a/b")


@pytest.mark.parametrize("config", [ForeignConfig(), omegaconf_config()], ids=["a dict", "OmegaConf's"])
def test_foreign_objects_in_torchs_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: object):
    """As in SKEL-CF's checkpoint, whose trainer puts its configuration in."""
    content = {"cfg": config, "w": torch.ones(2), "types": [int, float, dict], "sparse": torch.eye(3).to_sparse()}
    path = saved(tmp_path / "x.pt", content)
    with zipfile.ZipFile(path) as archive:
        names = archive.read("x/data.pkl")
    assert b"__builtin__\nlong\n" in names
    assert b"_rebuild_sparse_tensor\n" in names
    monkeypatch.delattr("tests.test_foreign.ForeignConfig")
    found = load_torch(path, foreign=True)
    assert type(found["cfg"]) is Counter  # not of the foreign class
    assert found["w"].equal(torch.ones(2))
    assert found["sparse"].to_dense().equal(torch.eye(3))
    with pytest.raises(UserError, match=r"'(tests|omegaconf|typing)\.[\w.]+' is not on the allow-list"):
        load_torch(path)


# --- what is not run ---


class Call:
    """Pickles as the call of a function, with a state where one is given."""

    def __init__(self, function, *args, state: object = None) -> None:
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call


def load_objects(path: Path) -> object:
    """The pickle as the content of an array of Python objects in an .npz."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    with zipfile.ZipFile(path.with_suffix(".npz"), "w") as archive:
        archive.writestr("a.npy", file.getvalue() + path.read_bytes())
    return LabelFile(path.with_suffix(".npz"), allow_pickle=True).array("a")


def load_archive(path: Path) -> object:
    """The pickle as torch's, in an archive of torch's, where foreign classes are let be."""
    torch.save({}, path.with_suffix(".pt"))
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(path.with_suffix(".pt")) as source, zipfile.ZipFile(archive, "w") as target:
        for info in source.infolist():
            is_pickle = info.filename.endswith("data.pkl")
            target.writestr(info.filename, path.read_bytes() if is_pickle else source.read(info))
    return load_torch(archive, foreign=True)


def load_legacy(path: Path) -> object:
    """The pickle in place of the content of a file from before torch 1.6."""
    file = io.BytesIO()
    torch.save("content", file, _use_new_zipfile_serialization=False)
    content = pickle.dumps("content", 2)
    assert content in file.getvalue()
    path.with_suffix(".pth").write_bytes(file.getvalue().replace(content, path.read_bytes(), 1))
    return load_torch(path.with_suffix(".pth"), foreign=True)


def named(module: str, name: str, argument: str = "") -> bytes:
    """Protocol 2: call module.name(argument). Dots in names work from protocol 4 on, see `dotted`."""
    text = argument.encode()
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X" + len(text).to_bytes(4, "little") + text + b"\x85R."


def dotted(module: str, name: str, argument: str) -> bytes:
    """Protocol 4: there `name` may be a path of attributes."""
    parts = b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name))
    return b"\x80\x04" + parts + b"\x93\x8c" + bytes([len(argument)]) + argument.encode() + b"\x85R."


SHELL, PYTHON = "touch ran", "open('ran', 'w').close()"
NESTED_GETATTR = b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\ngetattr\n(cnumpy\nndarray\nX\x08\x00\x00\x00__base__tRX"
NESTED_GETATTR += b"\x0e\x00\x00\x00__subclasses__tR)R."
GADGETS: dict[str, tuple[str, object]] = {
    "os.system": ("system", Call(os.system, SHELL)),
    "posix.system": ("system", named("posix", "system", SHELL)),
    "nt.system": ("system", named("nt", "system", SHELL)),
    "eval": ("eval", Call(eval, PYTHON)),
    "exec": ("exec", Call(exec, PYTHON)),
    "Python 2's eval": ("eval", named("__builtin__", "eval", PYTHON)),
    "import": ("__import__", Call(builtins.__import__, "antigravity")),
    "open": ("open", Call(open, "ran", "w")),
    "Popen": ("Popen", Call(subprocess.Popen, ["touch", "ran"])),
    "check_output": ("check_output", Call(subprocess.check_output, ["touch", "ran"])),
    "getattr": ("getattr", named("builtins", "getattr", "x")),
    "nested getattr": ("getattr", NESTED_GETATTR),
    "attrgetter": ("attrgetter", Call(operator.attrgetter, "system")),
    "methodcaller": ("methodcaller", Call(operator.methodcaller, "system", SHELL)),
    "partial": ("partial", Call(functools.partial, os.system, SHELL)),
    "reduce": ("reduce", Call(functools.reduce, os.system, [SHELL])),
    "map": ("map", named("builtins", "map", "x")),
    "a function's code": ("FunctionType", named("types", "FunctionType", "x")),
    "a type": ("type", named("builtins", "type", "x")),
    "attributes of an allowed class": ("tofile", dotted("numpy", "ndarray.tofile", "ran")),
    "a dotted name": ("__call__", dotted("numpy", "dtype.__call__", "f8")),
    "numpy's loader": ("load", named("numpy", "load", "ran")),
    "numpy's exec": ("runstring", named("numpy.testing._private.utils", "runstring", PYTHON)),
    "numpy.f2py": ("getlincoef", named("numpy.f2py.crackfortran", "getlincoef", PYTHON)),
    "numpy.core with an import": ("system", named("numpy.core", "os.system", SHELL)),
    "numpy.core.multiarray otherwise": ("fromfile", named("numpy.core.multiarray", "fromfile", "ran")),
    "numpy.core.numeric otherwise": ("load", named("numpy.core.numeric", "load", "ran")),
    "numpy's records": ("fromfile", named("numpy._core.records", "fromfile", "ran")),
    "numpy's memmap": ("memmap", named("numpy", "memmap", "ran")),
    "scipy's loader": ("load_npz", named("scipy.sparse._matrix_io", "load_npz", "ran")),
    "an import of scipy's": ("system", named("scipy.sparse.os", "system", SHELL)),
    "another codec": ("codec zlib", Call(codecs.encode, "a" * 1000, "zlib")),
    "a codec of Python 2": ("codec rot13", Call(codecs.encode, "import os", "rot13")),
    "decoding": ("decode", named("_codecs", "decode", "x")),
    "a pickle in a pickle": ("loads", Call(pickle.loads, pickle.dumps(Call(os.system, SHELL)))),
    "copyreg's newobj": ("__newobj__", named("copyreg", "__newobj__", "x")),
    "joblib's loader": ("load", Call(joblib.load, "x.pkl")),
    "joblib's memmap": ("_strided_from_memmap", named("joblib._memmapping_reducer", "_strided_from_memmap", "x")),
    "joblib's wrapper of files": ("NDArrayWrapper", named("joblib.numpy_pickle_compat", "NDArrayWrapper", "x")),
    "torch.load": ("load", named("torch.serialization", "load", "x.pkl")),
    "torch's hub": ("load", named("torch.hub", "load", "x")),
    "torch's runner": ("_run_function", named("torch.distributed.rpc.internal", "_run_function", "x")),
    "our own code": ("load_pickle", named("hmr_skel.foreign", "load_pickle", "x.pkl")),
    "a class of instances": ("system", b"(cos\nsystem\nS'touch ran'\no."),
    "an instance": ("system", b"(S'touch ran'\nios\nsystem\n."),
}  # fmt: skip


@pytest.mark.parametrize("name", GADGETS)
def test_gadgets_do_not_run_and_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    refused, content = GADGETS[name]
    files = [written(tmp_path / "a.pkl", content)]
    if not isinstance(content, bytes):
        files.append(written(tmp_path / "b.pkl", {"a": [content]}, 4))
        joblib.dump([np.array([content], object)], tmp_path / "c.pkl")
        files.append(tmp_path / "c.pkl")
    for load, file in [(load_objects, files[0]), *((load_pickle, file) for file in files)]:
        with pytest.raises(UserError, match=rf"^[^\n]*\b{refused}' is not on the allow-list[^\n]*$"):
            load(file)
    for load in (load_legacy, load_archive):
        with contextlib.suppress(UserError):
            assert isinstance(load(files[0]), Counter | str)  # torch's own list has codecs
    assert not (tmp_path / "ran").exists()


def test_the_gadgets_are_live_ammunition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without the allow-list they do what they say, so the test above tests something."""
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "posix.system", "eval", "a pickle in a pickle", "a class of instances", "an instance"):
        content = GADGETS[name][1]
        pickle.loads(content if isinstance(content, bytes) else pickle.dumps(content, 2))
        assert (tmp_path / "ran").exists(), name
        (tmp_path / "ran").unlink()


@pytest.mark.parametrize("content", [b"\x80\x02\x82\x01.", b"Pran\n.", b"\x80\x05\x97.", b"N)\x81."], ids=repr)
def test_steps_that_no_writer_of_arrays_takes(tmp_path: Path, content: bytes):
    """An extension's code, a persistent object, a buffer from elsewhere, an object of nothing."""
    for load in (load_pickle, load_objects):
        with pytest.raises(UserError):
            load(written(tmp_path / "x.pkl", content))


ALLOWED = [*foreign._NAMES, ("scipy.sparse._csc", "csc_matrix"), ("chumpy.ch", "Ch"),
           ("joblib.numpy_pickle", "NumpyArrayWrapper")]  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED, ids=".".join)
def test_a_state_changes_no_class_and_no_function(tmp_path: Path, name: tuple[str, str]):
    """Given to a class or function itself, it would change that for the whole process."""
    originals = [*foreign._NAMES.values(), Inert, foreign._ArrayFollows, scipy.sparse.csc_matrix]

    def attributes() -> list[dict]:
        return [dict(vars(original)) for original in originals if hasattr(original, "__dict__")]

    before = attributes()
    found = "c" + "\n".join(name) + "\n"
    evil = b"X\x0c\x00\x00\x00__setstate__cbuiltins\nlist\nX\x07\x00\x00\x00toarrayK\x01"
    for state in (b"}(" + evil + b"u", b"N}(" + evil + b"u\x86"):
        with pytest.raises(UserError):
            load_pickle(written(tmp_path / "x.pkl", b"\x80\x02" + found.encode() + state + b"b."))
    assert attributes() == before


@pytest.mark.parametrize("module", ["chumpy.ch", "scipy.sparse"])
def test_objects_of_foreign_classes_only_keep_their_state(tmp_path: Path, module: str):
    name = {"chumpy.ch": "Ch", "scipy.sparse": "csc_matrix"}[module]
    state = b"}X\x07\x00\x00\x00toarraycbuiltins\nlist\ns"
    found = load_pickle(
        written(tmp_path / "x.pkl", f"\x80\x02c{module}\n{name}\n)\x81".encode("latin1") + state + b"b.")
    )
    assert isinstance(found, Inert)
    assert vars(found) == {"state": {"toarray": list}}


# --- states that numpy does not write, with which it would read and write outside its arrays ---


def with_states(begun: object, *states: object) -> bytes:
    """A pickle of an object that numpy begins, and that gets these states, one after the other."""
    parts = [pickle.dumps(state, 2)[2:-1] + b"b" for state in states]
    return pickle.dumps(begun, 2)[:-1] + b"".join(parts) + b"."


BEGUN = Call(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b")
EIGHT = (1, (8,), np.dtype("u1"), False, b"12345678")
STATES = {
    "objects of a shape that is not there": with_states(BEGUN, (1, (10**6,), np.dtype(object), False, [1, 2])),
    "bytes of a shape that is not there": with_states(BEGUN, (1, (10**12,), np.dtype("f8"), False, b"12345678")),
    "a negative side": with_states(BEGUN, (1, (-1, -8), np.dtype("u1"), False, b"12345678")),
    "no state": with_states(BEGUN, (1, 2)),
    "a second state": with_states(BEGUN, EIGHT, EIGHT),
    "a dtype's fields": with_states(np.dtype("i8"), (3, "|", None, ("a",), {"a": (np.dtype(object), 0)}, 8, 1, 27)),
    "a dtype of fields": Call(np.dtype, [("a", "O")]),
    "a dtype of bytes": Call(np.dtype, "V8"),
    "a scalar with few bytes": Call(np._core.multiarray.scalar, np.dtype("f8"), b"123"),
    "a scalar of an object": Call(np._core.multiarray.scalar, np.dtype(object), b"12345678"),
    "an array of objects out of bytes": Call(np._core.numeric._frombuffer, b"12345678", np.dtype(object), (1,), "C"),
    "an array without dtype": Call(np._core.numeric._frombuffer, b"12345678", "O", (1,), "C"),
    "a tensor beyond its storage": pickle.dumps(torch.zeros(3), 2).replace(b"K\x03\x85", b"M\xff\xff\x85", 1),
}


@pytest.mark.parametrize("name", STATES)
def test_states_that_nobody_writes(tmp_path: Path, name: str):
    for load in (load_pickle, load_objects):
        with pytest.raises(UserError):
            load(written(tmp_path / "x.pkl", STATES[name]))


def test_arrays_are_as_made_whatever_flags_say(tmp_path: Path):
    """A dtype's state says a width and flags of its own: only the order of bytes is taken."""
    lie = Call(np.dtype, "i8", state=(3, ">", None, None, None, 4096, 1, 63))
    array = load_pickle(written(tmp_path / "x.pkl", with_states(BEGUN, (1, (1,), lie, False, bytes(7) + b"\x01"))))
    assert (array.itemsize, array.tolist()) == (8, [1])
    assert np.dtype("i8").itemsize == 8

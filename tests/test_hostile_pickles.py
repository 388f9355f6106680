"""Pickles that ask for what no writer of arrays asks for, made by hand where pickle would not write them."""

import gzip
import io
import pickle
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.sparse
import torch

from hmr_skel import plain_pickle, torch_files
from hmr_skel.body.assets import load_pickle, load_regressor, load_smpl_arrays
from hmr_skel.convert import pickles
from hmr_skel.convert.files import read_contents
from hmr_skel.convert.pickles import load_results
from hmr_skel.data.npz import LabelFile
from hmr_skel.errors import UserError
from hmr_skel.model.published import read_torch_file
from tests.body.pickles import Call
from tools.drill.hostile_pickles import HOSTILE

HUGE = 2**33


def load_objects(path: Path) -> object:
    """The pickle as the content of an array of Python objects."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    with zipfile.ZipFile(path.with_suffix(".npz"), "w") as archive:
        archive.writestr("a.npy", file.getvalue() + path.read_bytes())
    return LabelFile(path.with_suffix(".npz"), path.parent, allow_pickle=True).array("a")


READERS = pytest.mark.parametrize("load", [load_pickle, load_results, load_objects])


def written(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def with_state(kind: str, state: object, *arguments: object) -> bytes:
    """A pickle of an object that numpy begins, and that gets this state."""
    array = Call(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b")
    begun = array if kind == "array" else Call(np.dtype, *arguments)
    first = pickle.dumps(begun, 2)[:-1]
    second = pickle.dumps(state, 2)[2:-1]
    return first + second + b"b."


GADGETS = {
    "os.system": b"cos\nsystem\n(S'touch ran'\ntR.",
    "subprocess": b"csubprocess\nPopen\n((S'touch'\nS'ran'\nltR.",
    "eval": b'c__builtin__\neval\n(S\'open("ran","w")\'\ntR.',
    "exec": b"\x80\x02cbuiltins\nexec\nX\x11\x00\x00\x00open('ran', 'w+')\x85R.",
    "getattr": b"c__builtin__\ngetattr\n(c__builtin__\ndict\nS'fromkeys'\ntR.",
    "import": b"c__builtin__\n__import__\n(S'os'\ntR.",
    "open": b"c__builtin__\nopen\n(S'ran'\nS'w'\ntR.",
    "codecs.decode": b"c_codecs\ndecode\n(S'x'\nS'zlib'\ntR.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__call__\x93.",
    "module of an allowed class": b"cnumpy\nload\n(S'ran'\ntR.",
    "numpy's runstring": b'cnumpy.testing._private.utils\nrunstring\n(S\'open("ran","w")\'\n(dtR.',
    "scipy's loader": b"cscipy.sparse\nload_npz\n(S'ran'\ntR.",
    "torch.load": b"ctorch.serialization\nload\n(S'ran'\ntR.",
    "class of instances": b"(cos\nsystem\nS'touch ran'\no.",
    "instance": b"(S'touch ran'\nios\nsystem\n.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"Pran\n.",
}


@pytest.mark.parametrize("name", GADGETS)
@READERS
def test_gadgets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, load):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        load(written(tmp_path / "x.pkl", GADGETS[name]))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["str", "list", "tuple", "dict", "int", "float", "bool", "bytes", "set"])
@READERS
def test_built_in_types_are_not_called_with_what_a_file_says(tmp_path: Path, name: str, load):
    listed = b"(" + b"K\x01" * 5 + b"l"
    for argument in (b"(" + listed + b"t", pickle.dumps(((HUGE,),), 2)[2:-1]):
        content = b"\x80\x02c__builtin__\n" + name.encode() + b"\n" + argument + b"R."
        if (name, load) in (("set", load_pickle), ("set", load_results)):
            continue  # its members, of scalars
        with pytest.raises(UserError, match=r"not on the allow-list|not a plain type"):
            load(written(tmp_path / "x.pkl", content))


STATES = {
    "objects of a shape that is not there": with_state("array", (1, (10**6,), np.dtype(object), False, [1, 2])),
    "bytes of a shape that is not there": with_state("array", (1, (10**12,), np.dtype("f8"), False, b"12345678")),
    "texts without width": with_state("array", (1, (10**12,), np.dtype("U0"), False, b"")),
    "a negative side": with_state("array", (1, (-1, -8), np.dtype("u1"), False, b"12345678")),
    "no state": with_state("array", (1, 2)),
    "fields of objects": with_state("dtype", (3, "|", None, ("a",), {"a": (np.dtype(object), 0)}, 8, 1, 27), "i8"),
    "a dtype of any width": Call(np.dtype, "V8000000000"),
    "a dtype of fields": Call(np.dtype, [("a", "O")]),
    "a scalar of any width": Call(np._core.multiarray.scalar, np.dtype("S2000000000")),
    "a scalar with few bytes": Call(np._core.multiarray.scalar, np.dtype("f8"), b"123"),
    "an array of objects out of bytes": Call(np._core.numeric._frombuffer, b"12345678", np.dtype(object), (1,), "C"),
}


@pytest.mark.parametrize("name", STATES)
@READERS
def test_states_that_numpy_does_not_write(tmp_path: Path, name: str, load):
    with pytest.raises(UserError):
        load(written(tmp_path / "x.pkl", STATES[name]))


@READERS
def test_a_dtype_is_what_it_was_made_as(tmp_path: Path, load):
    """Its state says a width and flags of its own: only the order of bytes is taken."""
    lie = with_state("dtype", (3, ">", None, None, None, 4096, 1, 63), "i8")
    if load is load_objects:
        return  # no array
    found = load(written(tmp_path / "x.pkl", lie))
    assert (found, found.itemsize, found.hasobject) == (np.dtype(">i8"), 8, False)
    assert np.dtype("i8").itemsize == 8


@READERS
def test_states_of_classes_and_functions_are_nobodys(tmp_path: Path, load):
    """A state given to a class would change it for the whole process."""
    for module, name in (("scipy.sparse", "csc_matrix"), ("numpy", "dtype"), ("numpy", "ndarray")):
        content = f"\x80\x02c{module}\n{name}\nN}}X\x07\x00\x00\x00toarrayK\x01s\x86b.".encode("latin1")
        with pytest.raises(UserError, match=r"state of a|not a plain type"):
            load(written(tmp_path / "x.pkl", content))
    assert callable(scipy.sparse.csc_matrix.toarray)


@READERS
def test_copies_of_copies_add_up(tmp_path: Path, load):
    """A megabyte, and six bytes for each further copy of it: 100 GB."""
    text = pickle.dumps("x" * 2**20, 2)[2:-1] + b"q\x01"
    call = b"c_codecs\nencode\nq\x02h\x01X\x06\x00\x00\x00latin1\x86q\x03R0"
    content = b"\x80\x02" + text + b"0" + call + b"h\x02h\x03R0" * 100_000 + b"N."
    with pytest.raises(UserError, match="many times more than it holds"):
        load(written(tmp_path / "x.pkl", content))


@READERS
def test_many_small_objects_add_up(tmp_path: Path, load, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plain_pickle, "MAX_MADE_BYTES", 2**20)
    for step in (b"\x8f", b"}", b"]", b"("):  # an empty set has 216 bytes, and one in the file
        with pytest.raises(UserError, match="many times more than it holds"):
            load(written(tmp_path / "x.pkl", b"\x80\x04" + step * 10_000 + b"."))


@pytest.mark.parametrize("name", HOSTILE)
@READERS
def test_small_pickles_take_no_time(tmp_path: Path, name: str, load, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plain_pickle, "MAX_MADE_BYTES", 2**20)
    with pytest.raises(UserError) as refused:
        load(written(tmp_path / "x.pkl", HOSTILE[name]))
    assert len(str(refused.value)) < 1000


def test_steps_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each takes a place in the memo, and compressed next to nothing of the file."""
    content = b"N" + b"\x94" * 50_000 + b"."
    assert load_results(written(tmp_path / "x.pkl", gzip.compress(content))) is None
    monkeypatch.setattr(plain_pickle, "MAX_MADE_BYTES", 2**21)
    assert load_results(written(tmp_path / "x.pkl", content)) is None
    with pytest.raises(UserError, match="many times more than it holds"):
        load_results(written(tmp_path / "x.pkl", gzip.compress(content)))


def test_pickles_in_a_pickle_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """joblib's arrays of objects, each of which is a pickle of its own."""
    monkeypatch.setattr(plain_pickle, "MAX_MADE_BYTES", 2**21)
    joblib.dump([np.array([[None] * 9000, None], object) for _ in range(5)], tmp_path / "x.pkl", compress=3)
    with pytest.raises(UserError, match="many times more than it holds"):
        load_results(tmp_path / "x.pkl")


def test_long_texts_are_no_longer_than_what_may_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One letter that needs four bytes makes each of the others take as many."""
    monkeypatch.setattr(plain_pickle, "MAX_MADE_BYTES", 2**20)
    for content in (pickle.dumps("\U0001f600" + "x" * 2**19, 2), b"V\\U0001f600" + b"x" * 2**19 + b"\n."):
        with pytest.raises(UserError, match="a text is too long"):
            load_results(written(tmp_path / "x.pkl", gzip.compress(content)))


def test_storages_count_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read = []
    monkeypatch.setattr(pickles, "load_torch", lambda file: read.append(file) or torch_files.load_torch(file))
    monkeypatch.setattr(plain_pickle, "MAX_MADE_BYTES", 2**24)
    buffer = io.BytesIO()
    torch.save(torch.zeros(2**18)._typed_storage(), buffer, _use_new_zipfile_serialization=False)
    call = b"\x80\x03ctorch.storage\n_load_from_bytes\nq\x00B" + len(buffer.getvalue()).to_bytes(4, "little")
    again = call + buffer.getvalue() + b"\x85q\x01" + b"h\x00h\x01R0" * 1000 + b"N."
    with pytest.raises(UserError, match="many times more than it holds"):
        load_results(written(tmp_path / "x.pkl", gzip.compress(again)))
    assert 0 < len(read) <= 16


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (lambda file: torch.save(torch.zeros(2), file), "in an archive"),
        (lambda file: torch.save([None] * 9000, file, _use_new_zipfile_serialization=False), "a list in place of"),
    ],
)
def test_storages_are_what_torch_writes(tmp_path: Path, stored, words: str):
    file = io.BytesIO()
    stored(file)
    content = file.getvalue()
    call = b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + len(content).to_bytes(4, "little") + content + b"\x85R."
    with pytest.raises(UserError, match=words):
        load_results(written(tmp_path / "x.pkl", call))


def test_numbers_as_keys(tmp_path: Path):
    keys = [0, -3, 2**60, True, None, 0.5, "x", b"x", ("a", "b"), np.int64(3), np.float32(0.5), np.str_("y")]
    content = dict.fromkeys(keys, 1)
    assert load_results(written(tmp_path / "x.pkl", content, 4)) == content


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_any_order_are_read(tmp_path: Path, protocol: int):
    array = np.arange(24.0).reshape(2, 3, 4)
    content = {"c": array, "f": np.asfortranarray(array), "k": array.transpose(1, 0, 2), "none": np.zeros((0, 3))}
    found = load_results(written(tmp_path / "x.pkl", content, protocol))
    assert all(np.array_equal(found[name], value) for name, value in content.items())


@READERS
def test_keys_of_keys_do_not_take_the_stack(tmp_path: Path, load):
    """The hash of a tuple is that of what it holds, in C, as deep as it goes: the process would end."""
    deep = b")" + b"\x85" * 300_000
    for before, after in ((b"}", b"K\x01s."), (b"\x8f(", b"\x90."), (b"(", b"\x91.")):
        content = b"\x80\x04" + before + deep + after
        with pytest.raises(UserError, match="as a key is not on the allow-list"):
            load(written(tmp_path / "x.pkl", content))


def test_paths_have_an_end(tmp_path: Path):
    path = b"\x80\x02cpathlib\nPosixPath\n(X\x04\x00\x00\x00a/b/q\x01" + b"h\x01" * 2000 + b"tR."
    with pytest.raises(UserError, match="a path of more than 4096 characters"):
        load_results(written(tmp_path / "x.pkl", path))


def test_sparse_matrices_are_no_larger_than_they_are(tmp_path: Path):
    with pytest.raises(UserError, match="csc_matrix with arguments"):
        load_pickle(written(tmp_path / "x.pkl", Call(scipy.sparse.csc_matrix, (10**9, 10**9))))
    large = scipy.sparse.csc_matrix((2, 2))
    large._shape = (10**5, 2)
    large.indices, large.indptr, large.data = np.zeros(0, np.int32), np.zeros(3, np.int32), np.zeros(0)
    large._shape = (10**9, 2)
    with pytest.raises(UserError, match=r"a matrix of shape \(1000000000, 2\)"):
        load_regressor(written(tmp_path / "x.pkl", large, 4), 2)


def test_a_matrix_is_not_asked_what_it_is(tmp_path: Path):
    """Wrong indices in a csc matrix that says that it is a coo one, whose indices are elsewhere."""
    matrix = scipy.sparse.csc_matrix(np.eye(2, 6890))
    matrix.__dict__ |= {"_format": "coo", "format": "coo", "row": np.zeros(0, int), "col": np.zeros(0, int)}
    matrix.indices[:] = 2**30
    with pytest.raises(UserError, match="is damaged"):
        load_regressor(written(tmp_path / "x.pkl", matrix, 4), 2)


def test_lists_of_a_model_file_are_not_written_out(tmp_path: Path):
    nested: list = [0.0] * 10
    for _ in range(9):
        nested = [nested] * 10
    keys = ("v_template", "f", "shapedirs", "posedirs", "weights", "J_regressor", "kintree_table")
    with pytest.raises(UserError, match="lists in lists without end"):
        load_smpl_arrays(written(tmp_path / "x.pkl", dict.fromkeys(keys, nested)))


# --- torch's files ---


def saved(content: object, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def rewritten(data: bytes, change, compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of torch's with members changed: `change` gets a name and a content."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(file, "w", compression) as target:
        for info in source.infolist():
            target.writestr(info.filename, change(info.filename, source.read(info)))
    return file.getvalue()


def with_pickle(content: bytes) -> bytes:
    return rewritten(saved({"a": torch.zeros(2)}), lambda name, old: content if name.endswith("data.pkl") else old)


def claiming(data: bytes, entries: int) -> bytes:
    """A tensor file whose storage of 3 entries claims so many."""
    return rewritten(data, lambda name, old: old.replace(b"K\x03t", b"J" + entries.to_bytes(4, "little") + b"t", 1))


LEGACY = saved({"a": torch.zeros(3)}, _use_new_zipfile_serialization=False)
TORCH = {
    "compressed": rewritten(saved({"a": torch.zeros(2**20)}), lambda name, old: old, zipfile.ZIP_DEFLATED),
    "claims more than it holds": claiming(saved({"a": torch.zeros(3)}), 2**30),
    "bytearray of a number": with_pickle(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x02\x85R."),
    "tensor of a size": with_pickle(b"\x80\x02ctorch\nTensor\nJ\x00\x00\x00\x7f\x85R."),
    "a key of keys": with_pickle(b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s."),
    "no pickle": with_pickle(b""),
    "a storage of nested tuples": with_pickle(
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + b"N" + b"2\x86" * 22 + b"NK\x03tQ."
    ),
    "a storage of a thousand words": with_pickle(b"\x80\x02(" + b"N" * 1000 + b"tQ."),
    "a tensor of nested tuples": with_pickle(
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(X\x07\x00\x00\x00storage"
        b"ctorch\nFloatStorage\nX\x01\x00\x00\x000NK\x02tQK\x00" + b"N" + b"2\x86" * 22 + b"N\x85\x89}tR."
    ),
    "legacy, claims more than it holds": LEGACY.replace(b"K\x03Nt", b"J\x00\x00\x00\x7fNt", 1),
    "legacy, a gadget": LEGACY.replace(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n", 1),
    "a tar file": b"x" * 257 + b"ustar" + bytes(1000),
}


@pytest.mark.parametrize("load", [read_torch_file, read_contents])
@pytest.mark.parametrize("name", TORCH)
def test_torch_files_are_what_they_say(tmp_path: Path, name: str, load):
    if name.startswith(("legacy", "a tar")) and load is read_contents:
        pytest.skip("allowed: the converter reads no such files")
    with pytest.raises(UserError, match="cannot be read"):
        load(written(tmp_path / "x.pt", TORCH[name]))


def test_a_tensor_does_not_reach_beyond_its_storage(tmp_path: Path):
    """torch would make the storage longer, out of memory that it has not cleared."""
    data = rewritten(saved({"a": torch.zeros(3)}), lambda name, old: old.replace(b"K\x03\x85", b"M\xff\xff\x85", 1))
    with pytest.raises(UserError, match=r"a tensor of size \(65535,\) in a storage of 3 entries"):
        read_torch_file(written(tmp_path / "x.pt", data))
    inside = pickle.dumps({"a": torch.zeros(3)}, 2).replace(b"K\x03\x85", b"M\xff\xff\x85", 1)
    with pytest.raises(UserError, match=r"a tensor of size \(65535,\) in a storage of 3 entries"):
        load_results(written(tmp_path / "x.pkl", inside))


def test_what_torch_writes_is_read(tmp_path: Path):
    weights = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    shared = torch.arange(12.0).reshape(3, 4)
    content = {"w": weights, "views": [shared[1:], shared.T], "half": torch.ones(2, dtype=torch.bfloat16), "none": None,
               "parameter": torch.nn.Parameter(torch.ones(2)), "empty": torch.zeros(0, 3), "b": b"raw", "s": {1, 2},
               "size": torch.Size((1, 2)), "foreign": np.float64(3)}  # fmt: skip
    for legacy in (False, True):
        if legacy:
            del content["foreign"]
        data = saved(content, _use_new_zipfile_serialization=not legacy)
        found = read_torch_file(written(tmp_path / "x.pt", data))
        assert all(found["w"][name].equal(tensor) for name, tensor in weights.items())
        assert found["views"][1].equal(shared.T)
        assert (found["b"], found["s"], found["half"].dtype) == (b"raw", {1, 2}, torch.bfloat16)

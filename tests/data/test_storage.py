"""Folders and object stores alike."""

import hashlib
import os
import pickle
import signal
import time
from pathlib import Path

import pytest

from hmr_skel.data.atomic import host
from hmr_skel.data.storage import Place, RemotePath, clock, locate, put_bytes, put_new, sha256_of
from hmr_skel.errors import UserError
from tests.object_store import SECRET, ObjectStore, serving


@pytest.fixture(params=["folder", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, object_store: ObjectStore) -> Place:
    """An empty one, of this machine or of a store."""
    return tmp_path / "folder" if request.param == "folder" else object_store.place(f"test-{tmp_path.name}")


def test_small_files(folder: Place):
    before = time.time()
    if isinstance(folder, Path):  # what a killed process left: `clock` removes it
        folder.mkdir()
        (folder / f".clock.{host()}-{2**22 + 1}-00.tmp").touch()
    assert before - 2 <= clock(folder) <= time.time() + 2
    assert list(folder.iterdir()) == []
    put_bytes(folder / "b", b"second")
    put_bytes(folder / "a", b"")
    put_bytes(folder / "below" / "c", b"third")
    put_bytes(folder / "b", b"2nd")
    assert (put_new(folder / "b", b"third"), put_new(folder / "d", b"4th")) == (False, True)
    (folder / "d").unlink()
    assert (folder / "b").read_bytes() == b"2nd"
    assert ((folder / "b").exists(), (folder / "b").is_file(), folder.is_dir()) == (True, True, True)
    assert ((folder / "z").exists(), (folder / "z").is_file(), (folder / "z").is_dir()) == (False, False, False)
    assert (folder / "b").stat().st_size == 3
    assert sorted(place.name for place in folder.iterdir()) == ["a", "b", "below"]
    assert sha256_of(folder / "b") == hashlib.sha256(b"2nd").hexdigest()
    (folder / "b").unlink()
    (folder / "b").unlink(missing_ok=True)
    assert sorted(place.name for place in folder.iterdir()) == ["a", "below"]
    for missing in (folder / "b").unlink, (folder / "b").read_bytes, (folder / "b").stat:
        with pytest.raises(FileNotFoundError):
            missing()


def test_a_put_that_is_cut_off_leaves_the_object_as_it_was(object_store: ObjectStore):
    place = object_store.place("cut")
    put_bytes(place, b"as it was")
    object_store.refuse = lambda method, path: "partNumber=2" in path
    with pytest.raises(UserError, match=r"cannot write s3://bucket/cut.* ACCESS_DENIED .*AWS_ACCESS_KEY_ID"):
        put_bytes(place, bytes(12 << 20))
    assert place.read_bytes() == b"as it was"


def test_an_interrupted_put_is_whole(object_store: ObjectStore):
    """Ctrl-C while the stream opens: what pyarrow would store now is an empty object."""
    place = object_store.place("interrupted")

    def interrupt(method: str, path: str) -> bool:
        if "/interrupted?uploads" in path:
            os.kill(os.getpid(), signal.SIGINT)
        return False

    object_store.refuse = interrupt
    with pytest.raises(KeyboardInterrupt):
        put_bytes(place, b"whole")
    # The signal may break the connection, too: then nothing is stored.
    assert not place.exists() or place.read_bytes() == b"whole"


@pytest.mark.parametrize(
    ("text", "key", "options"),
    [
        ("s3://bucket/some/prefix", "bucket/some/prefix", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://b/p?scheme=http&endpoint_override=127.0.0.1%3A9", "b/p", "endpoint_override=127.0.0.1:9&scheme=http"),
    ],
)
def test_uris(text: str, key: str, options: str):
    place = locate(text)
    assert place == RemotePath(key, options)
    assert locate(str(place)) == place == pickle.loads(pickle.dumps(place)) == locate(place)
    assert (place / "data" / "a.parquet").parent.parent == place


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"s3://key:{SECRET}@bucket/prefix", "must not contain credentials"),
        (f"s3://key:{SECRET}/with@bucket/prefix", "must not contain credentials"),
        (f"s3://bucket/prefix?endpoint_override=key:{SECRET}@host", "must not contain credentials"),
        (f"s3://bucket/prefix?secret_key={SECRET}", "than endpoint_override, region, scheme"),
        (f"gs://bucket/prefix?token={SECRET}", "gs://bucket/prefix: expected a folder, or s3://"),
        ("s3://", "or s3://bucket/prefix"),
        ("s3://bucket//prefix", "or s3://bucket/prefix"),
        ("s3://bucket/../prefix", "or s3://bucket/prefix"),
        (Path("s3://bucket/prefix"), "as str"),
    ],
)
def test_no_such_uri(text: str | Path, words: str):
    with pytest.raises(UserError, match=words) as caught:
        locate(text)
    assert SECRET not in str(caught.value)


def test_no_bucket(object_store: ObjectStore):
    place = object_store.place("x", bucket="nowhere")
    with pytest.raises(UserError, match=r"cannot write s3://nowhere/x.*Make the bucket 'nowhere' first") as caught:
        put_bytes(place, b"")
    assert isinstance(caught.value.__cause__, FileNotFoundError)  # not worth another try: flows/build.py
    assert not place.exists()
    assert list(place.parent.iterdir()) == []


def test_a_store_that_is_gone(object_store: ObjectStore):
    with serving() as store:
        place = store.place("gone")
        put_bytes(place, b"")
    with pytest.raises(UserError, match=r"cannot write s3://bucket/gone.*AWS_ENDPOINT_URL") as caught:
        put_bytes(place, b"")
    assert isinstance(caught.value.__cause__, OSError)  # worth another try
    assert not isinstance(caught.value.__cause__, PermissionError | FileNotFoundError)

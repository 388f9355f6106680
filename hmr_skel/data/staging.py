"""A shard's files on their way: straight into the dataset's folder, or through one of this machine into a store."""

import contextlib
import shutil
from collections.abc import Generator
from pathlib import Path

from hmr_skel.data.atomic import is_abandoned, temporary_name
from hmr_skel.data.shards import Shard
from hmr_skel.data.storage import Place, local_folder, put


@contextlib.contextmanager
def staged(out: Place, shard: Shard) -> Generator[Path]:
    """Yield the folder to write the shard's three files to; at the end they are in `out`.

    For a store the meta file is put last, and an older one goes first: as on a disk, a shard without is unfinished. The
    files on this machine are removed, and what killed processes have left there.

    Raises `UserError` where the store does not take them.
    """
    if isinstance(out, Path):
        yield out
        return
    folder = temporary_name(local_folder(out) / "staging" / shard.number)
    for old in folder.parent.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # removed by its owner in this moment
            if is_abandoned(old):
                shutil.rmtree(old, ignore_errors=True)
    try:
        yield folder
        shard.meta_file(out).unlink(missing_ok=True)
        for file in (shard.data_file, shard.rejects_file, shard.meta_file):
            put(file(folder), file(out))
    finally:
        shutil.rmtree(folder, ignore_errors=True)

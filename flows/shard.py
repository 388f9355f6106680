"""The one place where data and fit meet: rows of a shard are read, checked, fitted and written. No Prefect here.

`Builder` holds what shards share (label files, body models, fit models), and may build several at once, each in a
thread; `build_shard` is one shard and done.
"""

import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pyarrow as pa
from tqdm import tqdm

from fitting.version import FIT_VERSION
from flows.plan import Plan, default_out
from flows.shard_report import ShardReport
from flows.stages import timed, work_seconds
from hmr_skel.data.atomic import remove_abandoned
from hmr_skel.data.attempts import AtWork, attempting, check_writable, forget, suspects, wait_for_others
from hmr_skel.data.checks import check_rows
from hmr_skel.data.manifest import Manifest
from hmr_skel.data.meta import summarise
from hmr_skel.data.schema import SCHEMA, shard_table, write_meta, write_rejects, write_shard
from hmr_skel.data.shards import Shard, is_complete, pick
from hmr_skel.data.storage import Place, locate
from hmr_skel.device import check_device_name, no_more_after_cuda_errors, resolve_device
from hmr_skel.errors import UserError
from hmr_skel.rows import AnnotationRows, Reject

if TYPE_CHECKING:
    import torch

    from flows.fitter import Fitter


class Builder(Plan):
    """Builds shards of one manifest into one folder. Only when one is to be built, torch and body models are loaded."""

    def __init__(
        self, manifest: Manifest, out: Place, device: str = "auto", *, quiet: bool = False, any_plan: bool = False
    ) -> None:
        """As `Plan`. Raises `UserError` for a device's name that no machine has, too."""
        check_device_name(device)
        super().__init__(manifest, out, quiet=quiet, any_plan=any_plan)
        self._device, self._any_plan = device, any_plan
        self._fitter: Fitter | None = None
        self._preparing, self._fitting = threading.Lock(), threading.Lock()
        self.stopped = threading.Event()
        """Set by who wants the shards at work to end, in other threads: each does so before its next batch of rows."""

    @classmethod
    def open(cls, manifest: str | Path, out: str | Place | None = None, device: str = "auto", **kwargs) -> Self:
        """From a manifest file. `out` is a folder or a URI and defaults to data/<manifest name>."""
        return super().open(manifest, out, device=device, **kwargs)

    @cached_property
    def device(self) -> "torch.device":
        """Raises `UserError` where there is no such device."""
        return resolve_device(self._device)

    @property
    def fitter(self) -> "Fitter":
        """What fits. The first time, all that a build needs is checked: output, device, the bytes of label files.

        Raises `UserError` where something of it cannot be used.
        """
        from flows.fitter import Fitter  # it imports torch

        with self._preparing:
            if self._fitter is None:
                device = self.device
                if not self._any_plan:
                    check_writable(self.out)
                    for folder in (self.local, *(self.local / name for name in ("data", "rejects", "meta"))):
                        remove_abandoned(folder)
                for reader in self.readers.values():
                    reader.open()
                self._fitter = Fitter(self.models, self.config, device)
            return self._fitter

    def load_models(self, indices: Sequence[int], *, rebuild: bool = False) -> None:
        """Load the body models unless these shards are complete: a bad file shows once, and before any work."""
        if self._incomplete(indices, rebuild):
            self.fitter.load()

    def build(self, index: int, *, rebuild: bool = False, progress: bool = True, wait: bool = True) -> ShardReport:
        """Build one shard, or skip it where it is complete and `rebuild` is not set.

        Args:
            index: from 0.
            rebuild: build it although it is complete.
            progress: show a progress bar on a terminal.
            wait: while another process builds it, until it is done or gone.

        Raises:
            AtWork: another process builds it, and `wait` is not set.
            DeviceLost: a CUDA error; no shard can be built in this process any more.
            KeyboardInterrupt: `stopped` was set meanwhile.
            UserError: there is no such shard, a label file cannot be read or has changed, a model file is missing or
                damaged, the output cannot be written, or the shard ended the process that built it too often.
        """
        shard = pick(self.shards, index)
        fingerprint = self.fingerprint(shard)
        if not rebuild and is_complete(self.out, shard, fingerprint):
            with contextlib.suppress(OSError, UserError):  # of a disk that is read-only
                forget(self.out, shard)  # one that was killed after its last file was in place has left its note
            return self._report(shard, skipped=True)
        try:
            with attempting(self.out, shard, fingerprint, anew=rebuild):
                # Another may have completed it between the look and the note.
                done = not rebuild and is_complete(self.out, shard, fingerprint)
                skipped = done or not self._build(shard, fingerprint, rebuild, progress)
        except AtWork as busy:
            if not wait:
                raise
            if progress:
                print(f"{busy} Waiting for it.", file=sys.stderr, flush=True)
            wait_for_others(self.out, [shard], lambda text: None)
            return self.build(index, rebuild=rebuild, progress=progress)
        return self._report(shard, skipped=skipped)

    def wait_for_others(self, indices: Sequence[int], say: Callable[[str], object]) -> list[int]:
        """Those of the shards that nobody builds any more, once there are some. `say` gets what is waited for."""
        shards = [pick(self.shards, index) for index in indices]
        return [shard.index for shard in wait_for_others(self.out, shards, say)]

    def discard(self, indices: Sequence[int]) -> None:
        """Make shards unfinished, and forget their crashes: the next build builds them again.

        Raises `UserError` where a meta file or a note cannot be removed.
        """
        for shard in (pick(self.shards, index) for index in indices):
            meta_file = shard.meta_file(self.out)
            try:
                meta_file.unlink(missing_ok=True)
                forget(self.out, shard)
            except OSError as error:
                raise UserError(
                    f"cannot remove {error.filename or meta_file}: {error.strerror or error}. Choose an output folder "
                    "that is writable (--out, or OUT=)."
                ) from error

    def turns(self, indices: Sequence[int]) -> list[list[int]]:
        """The shards in the order to build them in; those of a turn may be in hand at once.

        One that a process has ended in comes last and alone, so that it takes no other along.
        """
        shards = [pick(self.shards, index) for index in indices]
        alone = [shard.index for shard in suspects(self.out, {shard: self.fingerprint(shard) for shard in shards})]
        together = [index for index in indices if index not in alone]
        return [turn for turn in (together, *([index] for index in alone)) if turn]

    def _build(self, shard: Shard, fingerprint: str, rebuild: bool, progress: bool) -> bool:
        """False where another process has built it meanwhile, and nothing was written."""

        def advance(rows: int) -> None:
            self._check_stopped()
            bar.update(rows)

        self._check_stopped()
        seconds: dict[str, float] = {}
        fitter, self._built = self.fitter, True
        pieces, rejects = self._read(shard, seconds)
        waiting = time.perf_counter()
        # One fit at a time keeps the device busy; meanwhile another thread may read or write its shard.
        with (
            self._fitting,
            tqdm(
                total=sum(map(len, pieces)) * len(self.models.skel_genders),
                unit="row",
                desc=f"shard {shard.index}",
                disable=None if progress else True,
                leave=False,
            ) as bar,
        ):
            seconds["wait"] = time.perf_counter() - waiting
            self._check_stopped()
            loaded = fitter.load_s
            with timed(seconds, "fit"), no_more_after_cuda_errors(fitter.device):
                fitted, not_fitted, batch = fitter.fit(pieces, advance)
            seconds["load"] = fitter.load_s - loaded
            seconds["fit"] -= seconds["load"]
        rejects += not_fitted
        table = pa.concat_tables([SCHEMA.empty_table(), *(shard_table(rows, columns) for rows, columns in fitted)])
        assert table.num_rows + len(rejects) == shard.num_rows, (table.num_rows, len(rejects), shard.num_rows)
        if not rebuild and is_complete(self.out, shard, fingerprint):  # by another, which took this process for gone
            return False
        self.write(shard, table, rejects, seconds, batch)
        if not is_complete(self.out, shard, fingerprint):
            raise UserError(
                f"shard {shard.index}: its files are not those that were written, as another process wrote them in the "
                "same moment. It is unfinished; start again."
            ) from OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))  # worth another try
        # It reads all meta files, which may be thousands. Of a store once at the end: a request for each.
        if isinstance(self.out, Path) and time.monotonic() >= self._card_due:
            self.write_card()
        return True

    def write(
        self, shard: Shard, table: pa.Table, rejects: list[Reject], seconds: dict[str, float], batch: int
    ) -> None:
        """Write the shard's three files; the last of them completes it.

        Args:
            shard: which.
            table: its kept rows, of `SCHEMA`.
            rejects: its other rows.
            seconds: by stage, so far; the time of writing is added.
            batch: the smallest number of rows that were fitted together.
        """
        name, fingerprint = self.manifest.name, self.fingerprint(shard)
        with timed(seconds, "write"):
            write_shard(self.out, shard, table, fingerprint=fingerprint, manifest_name=name, fit_version=FIT_VERSION)
            write_rejects(self.out, shard, rejects)
        total_s = work_seconds(seconds)
        info = summarise(table, rejects) | {
            "manifest_name": name,
            "manifest_file": self.manifest.file,
            "rows_per_s": shard.num_rows / total_s,
            "seconds": seconds | {"total": total_s},
            "device": str(self.device),
            "batch": batch,  # less than the recipe's where memory was short: the result is not equal in every bit
        }
        write_meta(self.out, shard, fingerprint, info, self.ingredients(shard))

    def _check_stopped(self) -> None:
        if self.stopped.is_set():
            raise KeyboardInterrupt

    def _read(self, shard: Shard, seconds: dict[str, float]) -> tuple[list[AnnotationRows], list[Reject]]:
        pieces, rejects = [], []
        for piece in shard.pieces:
            try:
                with timed(seconds, "read"):
                    rows = self.readers[piece.source].read(piece.start, piece.stop)
            except OSError as error:
                file = self.manifest.source(piece.source).file
                raise UserError(
                    f"cannot read {file}: {error.strerror or error}. What is finished is kept; start again."
                ) from error
            with timed(seconds, "check"):
                kept, out = check_rows(rows, self.manifest.source(piece.source).exclude)
            pieces.append(kept)
            rejects += out
        return pieces, rejects


def build_shard(
    manifest: Manifest,
    index: int,
    out: str | Place | None = None,
    *,
    device: str = "auto",
    rebuild: bool = False,
    progress: bool = True,
) -> ShardReport:
    """Build one shard of a manifest; see `Builder`, which this opens for one shard.

    Args:
        manifest: what to build.
        index: from 0.
        out: the dataset's folder, or its URI in a store; default data/<manifest name>.
        device: cpu, cuda, cuda:1 ...; auto takes the first CUDA device, else the CPU.
        rebuild: build it although it is complete.
        progress: say what is made on first use, and show a progress bar on a terminal.

    Raises `UserError` for everything that a user can mend.
    """
    folder = locate(out) if out is not None else default_out(manifest)
    builder = Builder(manifest, folder, device, quiet=not progress)
    if builder.unfinished([index], rebuild=rebuild) and progress:
        for text in builder.outdated([index]):
            print(f"{text} will be built again", file=sys.stderr, flush=True)
    report = builder.build(index, rebuild=rebuild, progress=progress)
    builder.write_card()
    builder.warn_of_mix()
    return report

"""Builds one shard: its rows are read, checked, fitted and written. No Prefect here.

`Builder` holds what shards share: label files, body models, fit models. It may build several shards at once, each in a
thread of its own. `build_shard` builds one.
"""

import errno
import os
import sys
import threading
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self
from uuid import uuid4

import pyarrow as pa
from tqdm import tqdm

from fitting.version import FIT_VERSION
from flows.plan import Plan, default_out
from flows.report import ShardReport, timed, work_seconds
from hmr_skel.data.atomic import remove_abandoned
from hmr_skel.data.checks import check_rows
from hmr_skel.data.lease import Lease, leased
from hmr_skel.data.manifest import Manifest
from hmr_skel.data.meta import summarise
from hmr_skel.data.schema import SCHEMA, shard_table, write_meta, write_rejects, write_shard
from hmr_skel.data.shards import Shard, is_complete, pick
from hmr_skel.data.storage import Place, clock, locate
from hmr_skel.device import check_device_name, no_more_after_cuda_errors, resolve_device
from hmr_skel.errors import UserError
from hmr_skel.rows import AnnotationRows, Reject

if TYPE_CHECKING:
    import torch

    from flows.fitter import Fitter


class Builder(Plan):
    """Builds shards of one manifest into one folder. Loads torch and body models only when one is to be built."""

    def __init__(
        self, manifest: Manifest, out: Place, device: str = "auto", *, quiet: bool = False, any_plan: bool = False
    ) -> None:
        """As `Plan`. Also raises `UserError` for a device's name that no machine has."""
        check_device_name(device)
        super().__init__(manifest, out, quiet=quiet, any_plan=any_plan)
        self._device, self._any_plan = device, any_plan
        self._fitter: Fitter | None = None
        self._preparing, self._fitting = threading.Lock(), threading.Lock()
        self.run = uuid4().hex
        """Names the run that this works for, see `leased`. Workers of one run share the name."""
        self.stopped = threading.Event()
        """When set, the shards at work in other threads end before their next batch of rows."""

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
        """What fits. The first call checks all that a build needs: device, output, the bytes of label files.

        Raises `UserError` where one of them cannot be used.
        """
        from flows.fitter import Fitter  # it imports torch

        with self._preparing:
            if self._fitter is None:
                device = self.device
                self.check_output()
                for reader in self.readers.values():
                    reader.open()
                self._fitter = Fitter(self.models, self.config, device)
            return self._fitter

    def check_output(self) -> None:
        """Raise `UserError` where the output cannot be written. Removes what killed processes have left there."""
        if not self._any_plan:
            clock(self.out / ".leases")
            for folder in (self.local, *(self.local / name for name in ("data", "rejects", "meta"))):
                remove_abandoned(folder)

    def load_models(self, indices: Sequence[int], *, rebuild: bool = False) -> None:
        """Load the body models unless these shards are complete: a bad file shows once, and before any work."""
        if self._incomplete(indices, rebuild):
            self.fitter.load()

    def build(self, index: int, *, rebuild: bool = False, progress: bool = True) -> ShardReport:
        """Build one shard, or skip it where it is complete and `rebuild` is not set.

        Args:
            index: from 0.
            rebuild: build it although it is complete.
            progress: show a progress bar on a terminal.

        Raises:
            InHand: another build has it in hand.
            DeviceLost: a CUDA error; no shard can be built in this process any more.
            KeyboardInterrupt: `stopped` was set meanwhile.
            UserError: there is no such shard, a label file cannot be read or has changed, a model file is missing or
                damaged, or the output cannot be written.
        """
        shard = pick(self.shards, index)
        fingerprint = self.fingerprint(shard)
        if not rebuild and is_complete(self.out, shard, fingerprint):
            return self._report(shard, skipped=True)
        with leased(self.out, shard, self.run) as lease:
            # Another build may have completed it between the look and the lease.
            skipped = not rebuild and is_complete(self.out, shard, fingerprint)
            if lease.broken and not (skipped or self.quiet):
                print(f"shard {index}: the process that was building it has ended; begun anew", file=sys.stderr)
            if not skipped:
                self._build(shard, lease, progress)
        return self._report(shard, skipped=skipped)

    def _build(self, shard: Shard, lease: Lease, progress: bool) -> None:
        def advance(rows: int) -> None:
            self._check_stopped()
            bar.update(rows)

        self._check_stopped()
        seconds: dict[str, float] = {}
        fitter, self._built = self.fitter, True
        pieces, rejects = self._read(shard, seconds)
        waiting = time.perf_counter()
        # One fit at a time keeps the device busy. Meanwhile another thread may read or write its shard.
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
        lease.check()
        self._write(shard, table, rejects, seconds, batch)
        if not is_complete(self.out, shard, self.fingerprint(shard)):
            raise UserError(
                f"shard {shard.index}: its files are not those that were written, as another process wrote them in the "
                "same moment. It is unfinished; start again."
            ) from OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))  # worth another try

    def _write(
        self, shard: Shard, table: pa.Table, rejects: list[Reject], seconds: dict[str, float], batch: int
    ) -> None:
        """Write the shard's three files. The last of them completes it.

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

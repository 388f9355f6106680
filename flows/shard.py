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
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import pyarrow as pa
from tqdm import tqdm

from fitting import recipe
from fitting.version import FIT_VERSION
from flows.report import ShardReport, timed, work_seconds
from flows.sources import ModelFiles, make_missing
from hmr_skel.data.annotations import SourceReader, plan_source
from hmr_skel.data.atomic import remove_abandoned
from hmr_skel.data.card import write_card
from hmr_skel.data.checks import check_rows
from hmr_skel.data.fingerprint import (
    find_outdated,
    fingerprint_of,
    outdated_texts,
    refuse_other_manifest,
    shard_ingredients,
)
from hmr_skel.data.lease import Lease, leased
from hmr_skel.data.manifest import Manifest, load_manifest
from hmr_skel.data.meta import summarise
from hmr_skel.data.schema import SCHEMA, shard_table, write_meta, write_rejects, write_shard
from hmr_skel.data.shards import Shard, cache_dir, check_no_other_plan, is_complete, parse_shards, pick, plan, read_meta
from hmr_skel.data.storage import Place, clock, each, local_folder, locate
from hmr_skel.device import check_device_name, no_more_after_cuda_errors, resolve_device
from hmr_skel.errors import UserError
from hmr_skel.rows import AnnotationRows, Reject

if TYPE_CHECKING:
    import torch

    from flows.fitter import Fitter


class Builder:
    """The shards of one manifest in one folder: which are complete, and those that are not, built.

    Torch and body models are loaded only when a shard is to be built.
    """

    def __init__(
        self, manifest: Manifest, out: Place, device: str = "auto", *, quiet: bool = False, any_plan: bool = False
    ) -> None:
        """Writes nothing but what is made on first use.

        `any_plan` skips the check that `out` was divided into as many shards. Raises `UserError` where
        the recipe, a label file or a body model cannot be used, or no machine has such a device.
        """
        check_device_name(device)
        self.manifest = manifest
        self.out = out
        self.quiet = quiet
        self.config = recipe(manifest.recipe)
        make_missing(manifest, quiet=quiet)
        self.models = ModelFiles.of(manifest)
        cache = cache_dir(self.local)
        self.readers: dict[str, SourceReader] = {s.name: plan_source(s, cache) for s in manifest.sources}
        self.shards = plan(manifest, {name: reader.num_rows for name, reader in self.readers.items()})
        if not any_plan:
            check_no_other_plan(out, len(self.shards))
        self._body_models = self.models.sha256(cache / "body_models")
        self.built = False
        """Whether a shard was, here or by a worker of this run."""
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
        loaded = load_manifest(manifest)
        return cls(loaded, default_out(loaded) if out is None else locate(out), device, **kwargs)

    @property
    def local(self) -> Path:
        """The folder of this machine that goes with `out`: for labels unpacked."""
        return local_folder(self.out)

    def choose(self, shards: str | None) -> list[int]:
        """Numbers of the shards that a text such as `0-3,7` names; all for None."""
        if shards is None:
            return list(range(len(self.shards)))
        return [pick(self.shards, index).index for index in parse_shards(shards)]

    def unfinished(self, indices: Sequence[int], *, rebuild: bool = False) -> list[int]:
        """Those of the shards that are not complete; all with `rebuild`.

        Raises `UserError` where building them would leave shards of two manifests in one folder.
        """
        todo = self._incomplete(indices, rebuild)
        if todo:
            staying = self._outdated([i for i in range(len(self.shards)) if not (rebuild and i in todo)])
            refuse_other_manifest(self.out, self.manifest, staying)
        return todo

    def outdated(self, indices: Sequence[int]) -> list[str]:
        """Which of the shards are there, but of an older version or manifest, as `outdated_texts` says it."""
        return outdated_texts(self._outdated(indices), self.ingredients)

    def warn_of_mix(self) -> None:
        """Say on standard error, even where all else is quiet, which shards are not what the manifest makes now."""
        for text in self.outdated(range(len(self.shards))):
            print(f"{text}; until `hmr-skel dataset` builds them, the dataset is a mix", file=sys.stderr, flush=True)

    def replaced(self, indices: Sequence[int]) -> dict[int, UserError]:
        """Those of the shards, all complete earlier in this build, that no longer are; each with what to do."""
        return {index: self._replaced(index) for index in self._incomplete(indices)}

    def _replaced(self, index: int) -> UserError:
        return UserError(
            f"shard {index} was replaced meanwhile: a build of another manifest, or of another state of this one, "
            f"is at work in {self.out}. Let one of the two end, then start this one again."
        )

    def _incomplete(self, indices: Sequence[int], rebuild: bool = False) -> list[int]:
        shards = [pick(self.shards, index) for index in indices]
        if rebuild:
            return [shard.index for shard in shards]
        complete = each(lambda shard: is_complete(self.out, shard, self.fingerprint(shard)), shards)
        return [shard.index for shard, done in zip(shards, complete, strict=True) if not done]

    def _outdated(self, indices: Sequence[int]) -> dict[Shard, dict[str, Any]]:
        return find_outdated(self.out, [self.shards[index] for index in indices], self.ingredients)

    def fingerprint(self, shard: Shard) -> str:
        """One hash of what the shard's rows depend on."""
        return fingerprint_of(self.ingredients(shard))

    def ingredients(self, shard: Shard) -> dict[str, Any]:
        """What the shard's rows depend on."""
        return shard_ingredients(
            self.manifest,
            shard,
            content={name: reader.content_id for name, reader in self.readers.items()},
            body_models=self._body_models,
            recipe=self.config.as_dict(),
            fit_version=FIT_VERSION,
        )

    def reports(self, indices: Sequence[int]) -> list[ShardReport]:
        """Reports of those of the shards that are complete, as skipped ones. See `replaced` for others."""
        missing = set(self._incomplete(indices))
        metas = each(lambda index: read_meta(self.out, self.shards[index]), [i for i in indices if i not in missing])
        return [self._report(self.shards[meta["shard"]], meta, True) for meta in metas if meta is not None]

    def write_card(self) -> None:
        """Write the dataset's README.md, where it is not what it should be. A killed build leaves an older one.

        Raises `UserError` where it cannot be written, unless nothing was built: then it stays as it is.
        """
        try:
            write_card(self.out, self.manifest, self.shards)
        except UserError as error:
            if self.built:
                raise
            if not self.quiet:
                print(f"{self.out / 'README.md'} is out of date, and stays so: {error}", file=sys.stderr, flush=True)

    def _report(self, shard: Shard, meta: dict[str, Any] | None, skipped: bool) -> ShardReport:
        if meta is None:  # it was complete just now
            raise self._replaced(shard.index)
        return ShardReport.of(meta, str(shard.data_file(self.out)), skipped=skipped)

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
            return self._report(shard, read_meta(self.out, shard), skipped=True)
        with leased(self.out, shard, self.run) as lease:
            # Another build may have completed it between the look and the lease.
            skipped = not rebuild and is_complete(self.out, shard, fingerprint)
            if lease.broken and not (skipped or self.quiet):
                print(f"shard {index}: the process that was building it has ended; begun anew", file=sys.stderr)
            skipped = skipped or not self._build(shard, lease, rebuild, progress)
            return self._report(shard, read_meta(self.out, shard), skipped=skipped)

    def _build(self, shard: Shard, lease: Lease, rebuild: bool, progress: bool) -> bool:
        """Returns whether it was written: not where it is complete by then and not to be built again."""

        def advance(rows: int) -> None:
            self._check_stopped()
            bar.update(rows)

        self._check_stopped()
        seconds: dict[str, float] = {}
        fitter, self.built = self.fitter, True
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
        if not rebuild and is_complete(self.out, shard, self.fingerprint(shard)):
            return False
        self.write(shard, table, rejects, seconds, batch, lease)
        return True

    def write(
        self,
        shard: Shard,
        table: pa.Table,
        rejects: list[Reject],
        seconds: dict[str, float],
        batch: int,
        lease: Lease | None = None,
    ) -> None:
        """Write the shard's three files. The last of them completes it.

        Args:
            shard: which.
            table: its kept rows, of `SCHEMA`.
            rejects: its other rows.
            seconds: by stage, so far; the time of writing is added.
            batch: the smallest number of rows that were fitted together.
            lease: must still be this process's when the last file is written.

        Raises `InHand` or `UserError` where another process has written the same files meanwhile.
        """
        name, fingerprint = self.manifest.name, self.fingerprint(shard)
        with timed(seconds, "write"):
            data = write_shard(
                self.out, shard, table, fingerprint=fingerprint, manifest_name=name, fit_version=FIT_VERSION
            )
            left_out = write_rejects(self.out, shard, rejects)
        total_s = work_seconds(seconds)
        info = summarise(table, rejects) | {
            "manifest_name": name,
            "manifest_file": self.manifest.file,
            "rows_per_s": shard.num_rows / total_s,
            "seconds": seconds | {"total": total_s},
            "device": str(self.device),
            "batch": batch,  # less than the recipe's where memory was short: the result is not equal in every bit
        }
        try:
            if lease is not None:
                lease.check()
            write_meta(self.out, shard, data, left_out, fingerprint, info, self.ingredients(shard))
            if not is_complete(self.out, shard, fingerprint, read=True):
                raise UserError(
                    f"shard {shard.index}: its files are not those that were written, as another process wrote them in "
                    "the same moment. It is unfinished; start again."
                ) from OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))  # worth another try
        except UserError:
            if not is_complete(self.out, shard, fingerprint, read=True):  # nobody may take it for complete
                shard.meta_file(self.out).unlink(missing_ok=True)
            raise

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


def default_out(manifest: Manifest) -> Path:
    """Where a dataset goes that is not told: data/<manifest name>."""
    return Path("data") / manifest.name

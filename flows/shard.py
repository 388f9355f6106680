"""Build one shard: read its rows, check them, fit them and write them, without Prefect.

`Builder` holds the label files and body models that the shards of a manifest share. It may build several shards at
once, each in a thread of its own.
"""

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import pyarrow as pa

from fitting import recipe
from fitting.version import FIT_VERSION
from flows.report import ShardReport
from flows.sources import ModelFiles, make_missing
from hmr_skel.data.annotations import SourceReader, check_rows, plan_source
from hmr_skel.data.card import write_card
from hmr_skel.data.lease import Lease
from hmr_skel.data.manifest import Manifest, load_manifest
from hmr_skel.data.schema import SCHEMA_VERSION, write_shard
from hmr_skel.data.shards import (
    Shard,
    check_no_other_plan,
    find_outdated,
    fingerprint_of,
    outdated_texts,
    parse_shards,
    pick,
    plan,
    refuse_other_manifest,
    shard_state,
)
from hmr_skel.data.storage import Place, clock, each, local_folder, locate
from hmr_skel.device import check_device_name, no_more_after_cuda_errors, resolve_device
from hmr_skel.errors import UserError
from hmr_skel.places import data_folder
from hmr_skel.progress import progress_bar

if TYPE_CHECKING:
    from flows.fitter import Fitter


class Builder:
    """Builds the shards of one manifest in one folder, and says which are complete.

    It loads torch and body models only to build a shard.
    """

    def __init__(
        self, manifest: Manifest, out: str | Place | None = None, device: str = "auto", *, quiet: bool = False
    ) -> None:
        """Open a manifest, and make missing files. `out` is a folder or a URI; default `data_folder()`/NAME.

        Raises `UserError` if the recipe, a label file, a body model or the device cannot be used.
        """
        check_device_name(device)
        self.manifest = manifest
        self.out: Place = data_folder() / manifest.name if out is None else locate(out)
        self.config = recipe(manifest.recipe)
        make_missing(manifest, quiet=quiet)
        self.models = ModelFiles.of(manifest)
        cache = self.local / ".cache"  # of labels unpacked and of hashes; may be deleted between builds
        self.readers: dict[str, SourceReader] = {s.name: plan_source(s, cache) for s in manifest.sources}
        self.shards = plan(manifest, {name: reader.num_rows for name, reader in self.readers.items()})
        self._body_models = self.models.sha256(cache / "body_models")
        self._device, self._fitting = device, threading.Lock()
        self.run = uuid4().hex
        """The name of the run, which its workers share, see `Lease`."""
        self.stopped = threading.Event()
        """When set, builds in other threads end before their next batch of rows."""

    @classmethod
    def open(cls, file: str | Path, *args, shards: str | None = None, **kwargs) -> Self:
        """The builder of a manifest file.

        If some of `shards`, a list such as `0-3,7`, will not be there, that is said before missing files are made.
        """
        manifest = load_manifest(file)
        made = {s.name: s.generate.rows for s in manifest.sources if s.generate and not s.file.exists()}
        if len(made) == len(manifest.sources):
            _choose(plan(manifest, made), shards)
        return cls(manifest, *args, **kwargs)

    @property
    def local(self) -> Path:
        """The local folder that belongs to `out`, for unpacked labels."""
        return local_folder(self.out)

    def choose(self, shards: str | None) -> list[int]:
        """The numbers of the shards in a list such as `0-3,7`; all for None."""
        return _choose(self.shards, shards)

    def unfinished(self, indices: Sequence[int], *, rebuild: bool = False) -> list[int]:
        """The numbers of the shards that are not complete; all with `rebuild`.

        Raises `UserError` if building them would leave shards of two manifests in one folder.
        """
        check_no_other_plan(self.out, len(self.shards))
        shards = [pick(self.shards, index) for index in indices]
        reports = [None for _ in shards] if rebuild else each(self._report, shards)
        todo = [shard for shard, report in zip(shards, reports, strict=True) if report is None]
        if todo:
            staying = [shard for shard in self.shards if not (rebuild and shard in todo)]
            refuse_other_manifest(self.out, self.manifest, find_outdated(self.out, staying, self.ingredients))
        return [shard.index for shard in todo]

    def ingredients(self, shard: Shard) -> dict[str, Any]:
        """Everything that determines the shard's rows, as JSON values: the hash of these is its fingerprint.

        `Manifest.sha256` does not depend on the places of files, and `SourceReader.content_id` stands for the content
        of the shard's own sources. The two versions stand for the code, and are raised by hand.
        """
        content = {name: reader.content_id for name, reader in self.readers.items()}
        parts = {
            "manifest": self.manifest.sha256,
            "shard": [shard.index, shard.count],
            "pieces": [[piece.source, piece.start, piece.stop, content[piece.source]] for piece in shard.pieces],
            "body_models": self._body_models,
            "recipe": self.config.as_dict(),
            "fit_version": FIT_VERSION,
            "schema_version": SCHEMA_VERSION,
        }
        return json.loads(json.dumps(parts, default=str))  # as read from a meta file, with lists instead of tuples

    def reports(self, indices: Sequence[int], built: Collection[int] = ()) -> list[ShardReport]:
        """The reports of the complete shards; those not in `built` are marked as skipped."""
        found = each(lambda index: self._report(self.shards[index], skipped=index not in built), indices)
        return [report for report in found if report is not None]

    def _report(self, shard: Shard, *, skipped: bool = True, read: bool = False) -> ShardReport | None:
        """The report of a shard; None if it is not complete, or with `read` if its files are not those written."""
        state = shard_state(self.out, shard, fingerprint_of(self.ingredients(shard)), read=read)
        if state.kind != "complete" or state.meta is None:
            return None
        figures = {field.name: state.meta[field.name] for field in fields(ShardReport) if field.name in state.meta}
        return ShardReport(**figures, file=str(shard.data_file(self.out)), skipped=skipped)

    def write_card(self) -> None:
        """Write the dataset's README.md if it changes. Raises `UserError` if it cannot be written."""
        write_card(self.out, self.manifest, self.shards)

    @cached_property
    def fitter(self) -> "Fitter":
        """The fitter on its device. Raises `UserError` if there is no such device."""
        from flows.fitter import Fitter  # it imports torch

        return Fitter(self.models, self.config, resolve_device(self._device))

    def prepare(self, *, models: bool = True) -> None:
        """Print on standard error which shards are outdated, and check what a build needs, before any work.

        It checks the output and, with `models`, label files and body models. Raises `UserError` if one cannot be used.
        """
        clock(self.out / ".leases")  # fails if the place is not writable
        for text in outdated_texts(find_outdated(self.out, self.shards, self.ingredients), self.ingredients):
            print(f"outdated: {text}; those that this build does not replace stay", file=sys.stderr, flush=True)
        if models:
            for reader in self.readers.values():
                reader.open()
            self.fitter.load()

    def build(self, index: int, *, rebuild: bool = False, progress: bool = True) -> ShardReport:
        """Build one shard, or skip it if it is complete and `rebuild` is not set.

        Raises `InHand` if another build is working on it, `DeviceLost` if this process can build no more shards,
        `KeyboardInterrupt` if `stopped` was set, and `UserError` if an input or the output cannot be used.
        """
        shard = pick(self.shards, index)
        if not rebuild and (report := self._report(shard)):
            return report
        with Lease(self.out, shard, self.run) as lease:
            # Another build may have completed it before this one got the lease.
            if not rebuild and (report := self._report(shard)):
                return report
            return self._build(shard, lease, progress)

    def _build(self, shard: Shard, lease: Lease, progress: bool) -> ShardReport:
        def show(done: int) -> None:
            if self.stopped.is_set():
                raise KeyboardInterrupt
            # The fit counts each piece from 0, and twice if it tries two genders.
            bar.update(max(min(done, total) - bar.n, 0))

        pieces, rejects, seconds = [], [], {}
        start = time.perf_counter()
        for piece in shard.pieces:
            try:
                rows = self.readers[piece.source].read(piece.start, piece.stop)
            except OSError as error:
                what = f"cannot read rows of {piece.source!r}: {error}. Finished shards are kept; run this again."
                raise UserError(what) from error
            kept, out = check_rows(rows, self.manifest.source(piece.source).exclude)
            pieces.append(kept)
            rejects += out
        seconds["read"] = time.perf_counter() - start
        total = sum(map(len, pieces))
        # One fit at a time keeps the device busy, while another thread may read or write its shard.
        with (
            self._fitting,
            progress_bar(not progress, "row", total, f"shard {shard.index}") as bar,
            no_more_after_cuda_errors(self.fitter.device),
        ):
            start = time.perf_counter()
            fitted = [self.fitter.fit(rows, show) for rows in pieces]
            seconds["fit"] = time.perf_counter() - start
        for _, failed, _ in fitted:
            rejects += failed
        lease.check()
        table, batch = pa.concat_tables([table for table, _, _ in fitted]), min(batch for _, _, batch in fitted)
        info = {
            "manifest_name": self.manifest.name,
            "manifest_file": self.manifest.file,
            "device": str(self.fitter.device),
            "batch": batch,  # smaller than the recipe's if memory ran out, which may change the last bits of rows
        }
        write_shard(self.out, shard, table, rejects, self.ingredients(shard), seconds, info)
        report = self._report(shard, skipped=False, read=True)
        if report is None:
            shard.meta_file(self.out).unlink(missing_ok=True)  # so that nobody takes the shard for complete
            raise UserError(
                f"shard {shard.index}: another process wrote its files at the same time. Run this again."
            ) from OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))  # Prefect then tries again
        return report


def _choose(shards: list[Shard], numbers: str | None) -> list[int]:
    indices = range(len(shards)) if numbers is None else parse_shards(numbers)
    return [pick(shards, index).index for index in indices]

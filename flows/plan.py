"""What a manifest makes in a folder: its shards, and which of them are complete. No torch and no Prefect here."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from fitting import recipe
from fitting.version import FIT_VERSION
from flows.report import ShardReport
from flows.sources import ModelFiles, make_missing
from hmr_skel.data.annotations import SourceReader, plan_source
from hmr_skel.data.card import write_card
from hmr_skel.data.fingerprint import (
    find_outdated,
    fingerprint_of,
    outdated_texts,
    refuse_other_manifest,
    shard_ingredients,
)
from hmr_skel.data.manifest import Manifest, load_manifest
from hmr_skel.data.shards import Shard, cache_dir, check_no_other_plan, is_complete, parse_shards, pick, plan, read_meta
from hmr_skel.data.storage import Place, each, local_folder, locate
from hmr_skel.errors import UserError


class Plan:
    """The shards of one manifest, and what is there of them in one folder."""

    def __init__(self, manifest: Manifest, out: Place, *, quiet: bool = False, any_plan: bool = False) -> None:
        """Writes nothing but what is made on first use.

        `any_plan` leaves it to the caller to look whether `out` holds shards of another number of shards. Raises
        `UserError` where the recipe, a label file or a body model cannot be used.
        """
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
        self._built = False

    @classmethod
    def open(cls, manifest: str | Path, out: str | Place | None = None, **kwargs) -> Self:
        """From a manifest file. `out` is a folder or a URI and defaults to data/<manifest name>."""
        loaded = load_manifest(manifest)
        return cls(loaded, locate(out) if out is not None else default_out(loaded), **kwargs)

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
        """The shards that are not complete any more, of those that this build has seen complete; and what to do."""
        return {
            index: UserError(
                f"shard {index} was replaced meanwhile: a build of another manifest, or of another state of this one, "
                f"is at work in {self.out}. Let one of the two end, then start this one again."
            )
            for index in self._incomplete(indices)
        }

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
        """Reports of those of the shards that are complete, as skipped ones."""
        missing = set(self._incomplete(indices))
        return each(lambda index: self._report(self.shards[index], True), [i for i in indices if i not in missing])

    def write_card(self) -> None:
        """Write the dataset's README.md, where it is not what it should be. A killed build leaves an older one.

        Raises `UserError` where it cannot be written, unless nothing was built: then it stays as it is.
        """
        try:
            write_card(self.out, self.manifest, self.shards)
        except UserError as error:
            if self._built:
                raise
            if not self.quiet:
                print(f"{self.out / 'README.md'} is out of date, and stays so: {error}", file=sys.stderr, flush=True)

    def _report(self, shard: Shard, skipped: bool) -> ShardReport:
        meta = read_meta(self.out, shard)
        assert meta is not None  # it is complete
        return ShardReport.of(meta, str(shard.data_file(self.out)), skipped=skipped)


def default_out(manifest: Manifest) -> Path:
    """Where a dataset goes that is not told: data/<manifest name>."""
    return Path("data") / manifest.name

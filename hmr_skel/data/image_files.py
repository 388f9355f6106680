"""Where the image of a row is: rules per source, as data, and whether the files are there."""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hmr_skel.data.crop import UnreadableImage
from hmr_skel.data.manifest import Manifest
from hmr_skel.data.quality import ChosenRows
from hmr_skel.data.row_cache import RowCache
from hmr_skel.errors import UserError

CHECKED_PER_SOURCE = 64
"""Files looked for when a dataset is opened, spread evenly over a source's rows."""

_log = logging.getLogger(__name__)


class OutsideFolder(UserError, UnreadableImage):
    """A name that leads out of the folder that it is relative to; for those who go on with other images, one of many
    that cannot be read."""


def below(folder: Path, name: str) -> Path:
    """The file of that name below a folder, links in it being the user's own. Raises `OutsideFolder`."""
    path = folder / name
    if "\0" in name or not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
        raise OutsideFolder(
            f"image {name!r} is not below {folder}. Expected a path inside of that folder: change image_root or "
            "image_path in the manifest, or do not use this label file."
        )
    return path


@dataclass(frozen=True)
class ImageRule:
    """From a row's `imgname` to a file."""

    root: Path
    replacements: tuple[tuple[str, str], ...] = ()
    """Pairs (regular expression, replacement), applied to imgname in order: the path below `root`."""

    def file(self, imgname: str) -> Path:
        """The file of a row. Raises `OutsideFolder` where that is not below `root`: label files are other people's."""
        for pattern, replacement in self.replacements:
            imgname = re.sub(pattern, replacement, imgname)
        return below(self.root, imgname)


def image_rules(manifest: Manifest) -> dict[str, ImageRule]:
    """The rule of every source of a manifest that names an image root."""
    return {s.name: ImageRule(s.image_root, s.image_path) for s in manifest.sources if s.image_root is not None}


def check_images(rows: RowCache, chosen: ChosenRows, rules: Mapping[str, ImageRule]) -> None:
    """Look for some image files of every source that is used.

    Raises `UserError` where a source has no rule, no folder, or none of its files is there. Where some are missing a
    warning says how many: those samples will be skipped.
    """
    for code in np.unique(chosen.source).tolist():
        name = chosen.sources[code]
        if name not in rules:
            raise UserError(
                f"source {name!r} has no images: no image_root is named for it, only for {', '.join(rules) or 'none'}. "
                "Choose the dataset's own manifest, add `image_root` (and `image_path`, if names differ from files) to "
                "the source there, or leave the source out."
            )
        rule = rules[name]
        if not rule.root.is_dir():
            raise UserError(
                f"no image folder {rule.root} (source {name!r}). Expected the folder of its images: `hmr-skel images` "
                "(make images) renders those of the default dataset; for others set image_root in the manifest."
            )
        own = chosen.rows[chosen.source == code]
        some = own[np.linspace(0, len(own) - 1, min(CHECKED_PER_SOURCE, len(own))).astype(int)]
        files = [rule.file(rows[row].imgname) for row in some.tolist()]
        missing = [file for file in files if not file.is_file()]
        if len(missing) == len(files):
            names = f"imgname {rows[int(some[0])].imgname!r}"
            raise UserError(
                f"source {name!r}: none of {len(files)} images looked for is there, the first being {files[0]} "
                f"(of {names}). Expected them below image_root {rule.root}, by the rules of image_path "
                f"{[list(pair) for pair in rule.replacements]}. Change these in the manifest, or, for the default "
                "dataset, run `hmr-skel images`."
            )
        if missing:
            _log.warning(
                "source %r: %d of %d images looked for are missing, for instance %s; such samples will be skipped",
                name, len(missing), len(files), missing[0],
            )  # fmt: skip

"""Where the image of a row is: rules per source, as data, and whether the files are there."""

import re
from dataclasses import dataclass
from pathlib import Path

from hmr_skel.data.manifest import Manifest


@dataclass(frozen=True)
class ImageRule:
    """From a row's `imgname` to a file."""

    root: Path
    replacements: tuple[tuple[str, str], ...] = ()
    """Pairs (regular expression, replacement), applied to imgname in order: the path below `root`."""

    def file(self, imgname: str) -> Path:
        for pattern, replacement in self.replacements:
            imgname = re.sub(pattern, replacement, imgname)
        return self.root / imgname


def image_rules(manifest: Manifest) -> dict[str, ImageRule]:
    """The rule of every source of a manifest that names an image root."""
    return {s.name: ImageRule(s.image_root, s.image_path) for s in manifest.sources if s.image_root is not None}

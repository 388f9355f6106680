"""A reader of other people's files, as fuzzing sees it."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Target:
    """One reader."""

    name: str
    suffix: str
    read: Callable[[Path], object]
    """Reads a file as the commands do; it may raise `UserError` and nothing else."""
    seeds: Callable[[], list[bytes]]


def npz(save: Callable, arrays: Mapping[str, Any]) -> bytes:
    """The file that `np.savez` or `np.savez_compressed` makes of arrays."""
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()

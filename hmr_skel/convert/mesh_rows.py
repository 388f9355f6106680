"""Meshes of a clip's rows, which are read or posed when they are asked for: a recording of them is gigabytes."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fitting.mesh import Placed

if TYPE_CHECKING:
    from hmr_skel.convert.fit import Bodies


@runtime_checkable  # for the checks of shapes
class MeshSource(Protocol):
    """Where meshes come from."""

    @property
    def source(self) -> str:
        """The file, for errors."""
        ...

    def read(self, rows: np.ndarray, bodies: "Bodies") -> Tensor:
        """Vertices [B V 3] of these rows, m."""
        ...


@dataclass(frozen=True)
class MeshArray:
    """Vertices [T V 3] of a file."""

    source: str
    vertices: np.ndarray
    scale: np.ndarray  # [3] to metres, x with the other sign where the file is left-handed
    moved: np.ndarray | None = None  # [T 3] what the vertices are moved by before that

    def read(self, rows: np.ndarray, bodies: "Bodies") -> Tensor:
        vertices = np.asarray(self.vertices[rows], np.float32)
        return torch.from_numpy((vertices if self.moved is None else vertices + self.moved[rows, None]) * self.scale)


@dataclass(frozen=True)
class MeshRows:
    """The meshes of a clip's T rows, read or posed when they are asked for."""

    sources: tuple[MeshSource, ...]
    source: np.ndarray  # int64 [T]
    row: np.ndarray  # int64 [T] in its source
    rotmat: np.ndarray | None = None  # float32 [T 3 3] SMPL's root in the frame of the meshes, once it is known
    place: np.ndarray | None = None  # float32 [T 3] of its joint

    @classmethod
    def of(cls, source: MeshSource, count: int) -> "MeshRows":
        return cls((source,), np.zeros(count, np.int64), np.arange(count))

    def __len__(self) -> int:
        return len(self.row)

    def take(self, rows: np.ndarray) -> "MeshRows":
        arrays = {name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays)

    @classmethod
    def joined(cls, parts: "list[MeshRows]") -> "MeshRows":
        first = np.cumsum([0, *(len(part.sources) for part in parts)])
        arrays = {"row": [part.row for part in parts]}
        arrays["source"] = [part.source + start for part, start in zip(parts, first[:-1], strict=True)]
        if all(part.rotmat is not None for part in parts):
            arrays |= {name: [getattr(part, name) for part in parts] for name in ("rotmat", "place")}
        sources = tuple(source for part in parts for source in part.sources)
        return cls(sources, **{name: np.concatenate(values) for name, values in arrays.items()})

    def read(self, bodies: "Bodies") -> Tensor:
        """All of them in SMPL's topology [T 6890 3]."""
        found = torch.empty(len(self), 6890, 3)
        for number in np.unique(self.source):
            rows = np.flatnonzero(self.source == number)
            source = self.sources[number]
            found[rows] = bodies.in_smpl_topology(source.read(self.row[rows], bodies), source.source).cpu()
        return found


@dataclass(frozen=True)
class RootedMeshes:
    """Meshes as the fit wants them: seen from SMPL's root."""

    rows: MeshRows
    bodies: "Bodies"

    def __getitem__(self, part: slice) -> Placed:
        rows = self.rows.take(np.arange(len(self.rows))[part])
        assert rows.rotmat is not None
        assert rows.place is not None
        return Placed(rows.read(self.bodies), torch.from_numpy(rows.rotmat), torch.from_numpy(rows.place))

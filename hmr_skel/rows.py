"""The types of rows, from a label file to a Parquet shard. Metres, radians, pixels, in the frame of the annotation.

Where a comment says `*batch`, any leading batch shape is allowed; columns have one leading axis N.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:  # importing torch takes seconds, and reading shards and checking rows does not need it
    import torch
    from torch import Tensor

_Params = TypeVar("_Params", bound="_Tensors")


class _Tensors:
    """Tensors with the same leading shape, indexed and moved together."""

    def __getitem__(self: _Params, rows) -> _Params:
        return type(self)(**{name: tensor[rows] for name, tensor in vars(self).items()})

    def to(self: _Params, device: "torch.device | str | None" = None, dtype: "torch.dtype | None" = None) -> _Params:
        return type(self)(**{name: tensor.to(device=device, dtype=dtype) for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class SmplParams(_Tensors):
    """Parameters of SMPL, named as in `smplx`."""

    global_orient: "Tensor"  # [*batch 3] axis-angle, rad
    body_pose: "Tensor"  # [*batch 23 3] axis-angle, rad
    betas: "Tensor"  # [*batch 10]
    transl: "Tensor"  # [*batch 3] m


@dataclass(frozen=True)
class SkelParams(_Tensors):
    """Parameters of SKEL. `q[0:3]` is pelvis tilt, list and rotation: three dofs, not an axis-angle."""

    q: "Tensor"  # [*batch 46] rad
    betas: "Tensor"  # [*batch 10]
    transl: "Tensor"  # [*batch 3] m


@dataclass(frozen=True)
class AnnotationRows:
    """Consecutive rows of one source as columns. A column that the source does not annotate is None.

    Float columns are float32. All rows of a source have either SMPL (`smpl_*`, to be fitted) or SKEL (`skel_*`,
    copied).
    """

    source: str  # the source's name in the manifest
    source_row: np.ndarray  # int64 [N] row in the source's file
    imgname: np.ndarray  # object (str) [N]
    center: np.ndarray  # [N 2] centre of the square box, px in the original image
    scale: np.ndarray  # [N 2] width and height of the box / 200 px
    cam_int: np.ndarray | None = None  # [N 3 3] intrinsics, px
    keypoints_2d: np.ndarray | None = None  # [N 44 3] x, y in px, confidence
    keypoints_3d: np.ndarray | None = None  # [N 44 4] x, y, z in m, confidence
    smpl_pose: np.ndarray | None = None  # [N 72] axis-angle, rad; the first three are global_orient
    smpl_betas: np.ndarray | None = None  # [N 10]
    smpl_transl: np.ndarray | None = None  # [N 3] m
    smpl_gender: np.ndarray | None = None  # object (str) [N] neutral, male or female
    skel_q: np.ndarray | None = None  # [N 46] rad
    skel_betas: np.ndarray | None = None  # [N 10]
    skel_transl: np.ndarray | None = None  # [N 3] m
    skel_gender: np.ndarray | None = None  # object (str) [N] male or female
    annotated: np.ndarray | None = None  # bool [N] by the file's has_* flags; None if it has none

    def __len__(self) -> int:
        return len(self.source_row)

    def take(self, rows: np.ndarray) -> "AnnotationRows":
        """The given rows (indices or a boolean mask) in the given order."""
        columns = {name: values for name, values in vars(self).items() if name != "source"}
        return replace(self, **{name: None if values is None else values[rows] for name, values in columns.items()})

    @property
    def row_id(self) -> list[str]:
        """A stable key of each row: the name of its source and its number in the label file."""
        return [f"{self.source}/{row:08d}" for row in self.source_row]

    def smpl_params(self) -> SmplParams:
        """The SMPL annotation as tensors on the CPU. The source must be annotated with SMPL."""
        if self.smpl_pose is None or self.smpl_betas is None or self.smpl_transl is None:
            raise ValueError(f"source {self.source!r} holds no SMPL annotation")
        import torch

        columns = (self.smpl_pose, self.smpl_betas, self.smpl_transl)
        pose, betas, transl = (torch.from_numpy(np.ascontiguousarray(column)) for column in columns)
        pose = pose.reshape(-1, 24, 3)
        return SmplParams(pose[:, 0], pose[:, 1:], betas, transl)


@dataclass(frozen=True)
class Reject:
    """A row that is left out, and why."""

    source: str
    source_row: int
    imgname: str
    reason: str  # a short machine-readable word: non_finite, betas, box, imgname, camera, fit...
    detail: str  # what was found, for a person

    @property
    def row_id(self) -> str:
        return f"{self.source}/{self.source_row:08d}"

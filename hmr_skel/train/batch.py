"""What the loader gives, as the network and its losses take it."""

from torch import Tensor

from hmr_skel.data.samples import Batch
from hmr_skel.model.camera import CropGeometry
from hmr_skel.train.losses import Targets


def geometry_of(batch: Batch) -> CropGeometry:
    return CropGeometry(batch.center, batch.size, batch.intrinsics, batch.affine)


def targets_of(batch: Batch) -> Targets:
    return Targets(batch.keypoints_2d, batch.keypoints_3d, batch.q, batch.betas, batch.has_skel)


def unpack(batch: Batch) -> tuple[Tensor, CropGeometry, Targets]:
    """Crops (bytes), where they are from, and their labels."""
    return batch.image, geometry_of(batch), targets_of(batch)

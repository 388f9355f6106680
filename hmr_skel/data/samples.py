"""A dataset's rows and images as training samples."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from hmr_skel.data import augment
from hmr_skel.data.augment import Augmentation, AugmentConfig
from hmr_skel.data.images import CROP_SIZE, ImageRule, UnreadableImage, after, box_affine, crop_image, decode, transform
from hmr_skel.data.load import load_shards
from hmr_skel.data.row_cache import RowCache, open_rows
from hmr_skel.data.selection import ChosenRows, QualityConfig, choose_rows, make_strata, one_gender
from hmr_skel.data.storage import Place
from hmr_skel.errors import UserError

CHECKED_PER_SOURCE = 64
"""Files looked for when a dataset is opened, spread evenly over a source's rows."""
NOT_THERE = "not there"
"""How the text ends that names a missing image."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """People in images, ready for the network, with what its losses compare against; also one of them (no batch axis).

    The camera's frame is x right, y down, z forward, m. A flip mirrors the camera at its optical axis: "the full image"
    is then what this camera would have taken. `center`, `affine`, keypoints and q belong to it, and the intrinsics stay
    what they were. The crop is always upright in it.
    """

    image: UInt8[Tensor, "*batch 3 256 256"]  # RGB, the crop
    center: Float[Tensor, "*batch 2"]  # of the box, px in the full image
    size: Float[Tensor, "*batch"]  # the box's side, px
    intrinsics: Float[Tensor, "*batch 3 3"]  # px
    affine: Float[Tensor, "*batch 2 3"]  # full image px -> crop px in [0, 256]
    keypoints_2d: Float[Tensor, "*batch 44 3"]  # crop coordinates [-0.5, 0.5], confidence; 0: missing, x and y NaN
    keypoints_3d: Float[Tensor, "*batch 44 4"]  # m, camera frame, confidence; 0: missing, x, y and z NaN
    q: Float[Tensor, "*batch 46"]  # rad; NaN where has_skel is False
    betas: Float[Tensor, "*batch 10"]  # NaN where has_skel is False
    has_skel: Bool[Tensor, "*batch"]
    transl: Float[Tensor, "*batch 3"]  # m; NaN where unknown, and after a flip (it would take a body model)
    row: Int64[Tensor, "*batch"]  # in the dataset's rows, before any filter

    def __len__(self) -> int:
        return len(self.row)

    def each(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with every field changed."""
        return Batch(*(function(getattr(self, f.name)) for f in fields(self)))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return self.each(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The loader calls it."""
        return self.each(Tensor.pin_memory)


def stack(samples: Sequence[Batch]) -> Batch:
    """One batch of several samples, at least one."""
    return Batch(*(torch.stack([getattr(s, f.name) for s in samples]) for f in fields(Batch)))


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What samples are made of and how; part of a training recipe."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    mixture: Mapping[str, float] | None = None
    """Weight of every source in the stream of training samples, to a thousandth of their sum; a source that is not
    named or has weight 0 is left out. None: all rows alike, so that large sources dominate, as in the paper."""
    missing_intrinsics: Literal["drop", "diagonal"] = "drop"
    """Rows whose camera is unknown are left out, or get a focal length of the image's diagonal (CLIFF's guess)."""

    def __post_init__(self) -> None:
        if self.missing_intrinsics not in ("drop", "diagonal"):
            raise ValueError(f"missing_intrinsics is {self.missing_intrinsics!r}, must be drop or diagonal")
        weights = self.mixture.values() if self.mixture is not None else ()
        if not all(0 <= weight < np.inf for weight in weights):
            raise ValueError(f"mixture is {self.mixture}, weights must not be negative or infinite")

    @property
    def sources(self) -> list[str] | None:
        """Names of the sources that are used; None: all."""
        return None if self.mixture is None else [name for name, weight in self.mixture.items() if weight > 0]


class SampleDataset:
    """The rows of a dataset that a recipe trains on (or that are evaluated), as samples. Cheap to send to a process.

    Attributes:
        gender: of the SKEL bodies: `male` or `female`.
        rows: int64 [N] the dataset's rows that are used, in their order.
        mask_skel: bool [N] rows whose SKEL labels are left out.
        strata: what the stream of training samples draws from; one stratum of all without `mixture`.
        dropped: how many rows the recipe left out, by reason.
        labels: all rows of the dataset, as they are unpacked.
    """

    def __init__(
        self,
        path: str | Place,
        images: Mapping[str, ImageRule],
        config: SampleConfig | None = None,
        split: Literal["train", "test"] = "train",
        augment: bool = True,
        quiet: bool = False,
    ) -> None:
        """Open a dataset, and check that its images are there.

        Args:
            path: the dataset's folder (the one with `data/` in it), or its URI.
            images: a rule per source, see `image_rules`.
            config: what is left out, and how samples are changed; the default is `SampleConfig()`.
            split: `train`, or `test` for the held-out shards.
            augment: change samples at random, as training does.
            quiet: no progress bar where rows have to be unpacked first.

        Raises `UserError` for a folder without such shards, sources without images, image files that are nowhere,
        bodies of both genders, an unknown source in the mixture, and where no row is left.
        """
        self.images, self.augment = dict(images), augment
        self.config = config = SampleConfig() if config is None else config
        shards = load_shards(path, split=split)
        self.labels = open_rows(shards, quiet)
        chosen = choose_rows(shards, config.quality, config.missing_intrinsics == "drop", config.sources)
        self.gender: Literal["male", "female"] = one_gender(shards, chosen, path)
        self.strata = make_strata(chosen, config.mixture, path)
        self.rows, self.mask_skel, self.dropped = chosen.rows, chosen.mask_skel, chosen.dropped
        check_images(self.labels, chosen, images)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        left_out = [f"{count:,} left out for {reason}" for reason, count in self.dropped.items()]
        if masked := int(self.mask_skel.sum()):
            left_out.append(f"{masked:,} without their SKEL labels")
        return f"SampleDataset({', '.join([f'{len(self):,} {self.gender} rows', *left_out])})"

    def sample(self, index: int, epoch: int = 0, seed: int = 0) -> Batch | None:
        """A pure function of its arguments. None where the image is missing or corrupt."""
        try:
            return self.read(index, epoch, seed)
        except UnreadableImage:
            return None

    def read(self, index: int, epoch: int, seed: int) -> Batch:
        """The same, but raises `UnreadableImage`."""
        rng = np.random.default_rng((seed, epoch, self.rows[index]))
        return self.augmented(index, augment.draw(self.config.augment, rng) if self.augment else Augmentation())

    def augmented(self, index: int, augmentation: Augmentation) -> Batch:
        """The sample under a given change. Raises `UnreadableImage`, whose text begins with the file."""
        label = self.labels[int(self.rows[index])]
        file = self.images[label.source].file(label.imgname)
        try:
            return self._make(index, label, file.read_bytes(), augmentation)
        except OSError as error:
            why = NOT_THERE if isinstance(error, FileNotFoundError) else error.strerror or error
            raise UnreadableImage(f"{file}: {why}") from error
        except UnreadableImage as error:
            raise UnreadableImage(f"{file}: {error}") from error

    def _make(self, index: int, label: np.record, data: bytes, augmentation: Augmentation) -> Batch:
        keypoints_2d = _annotated(label.keypoints_2d, self.config.quality.min_confidence)
        keypoints_3d = _annotated(label.keypoints_3d, self.config.quality.min_confidence)
        center, side = label.center.astype(float), float(label.side)
        if augmentation.part is not None:
            center, side = augment.part_box(keypoints_2d, augmentation.part) or (center, side)
        center = center + side * np.asarray(augmentation.shift)
        side *= augmentation.scale

        camera_known = bool(np.isfinite(label.cam_int).all())
        image, reduction = decode(data, shrink=side / CROP_SIZE if camera_known else 1.0)
        intrinsics = label.cam_int.astype(float) if camera_known else diagonal_intrinsics(*image.shape[1::-1])
        moved = augment.image_change(augmentation.flip, intrinsics)
        center = transform(moved, center)
        affine = box_affine(center, side)
        crop = crop_image(image, after(affine, moved), reduction)

        keypoints_2d = augment.change_keypoints_2d(keypoints_2d, augmentation.flip, moved)
        keypoints_2d[:, :2] = transform(affine, keypoints_2d[:, :2]) / CROP_SIZE - 0.5
        there = np.isfinite(label.skel_q).all() and np.isfinite(label.skel_betas).all()
        has_skel = bool(there and not self.mask_skel[index])
        known = np.float32(1 if has_skel else np.nan)
        in_place = np.float32(np.nan) if augmentation.flip else known
        floats = {
            "center": center,
            "size": side,
            "intrinsics": intrinsics,
            "affine": affine,
            "keypoints_2d": keypoints_2d,
            "keypoints_3d": augment.change_keypoints_3d(keypoints_3d, augmentation.flip),
            "q": augment.change_q((label.skel_q * known).astype(float), augmentation.flip),
            "betas": label.skel_betas * known,
            "transl": label.skel_transl * in_place,
        }
        return Batch(
            image=torch.from_numpy(_colored(crop, augmentation)),
            has_skel=torch.tensor(has_skel),
            row=torch.tensor(int(self.rows[index])),
            **{name: torch.from_numpy(np.array(array, np.float32)) for name, array in floats.items()},
        )


def check_images(rows: RowCache, chosen: ChosenRows, rules: Mapping[str, ImageRule]) -> None:
    """Look for some image files of every source that is used.

    Raises `UserError` where a source has no rule, or none of its files is there. Where only some are
    missing, their samples will be skipped; one line says how many of those looked for.
    """
    for code in np.unique(chosen.source).tolist():
        name = chosen.sources[code]
        if name not in rules:
            raise UserError(
                f"source {name!r} has no images: image_root is named for {', '.join(rules) or 'no source'} only. "
                "Choose the dataset's own manifest, add image_root to the source there, or leave the source out."
            )
        own = chosen.rows[chosen.source == code]
        some = own[np.linspace(0, len(own) - 1, min(CHECKED_PER_SOURCE, len(own))).astype(int)].tolist()
        files = [rules[name].file(rows[row].imgname) for row in some]
        missing = [file for file in files if not file.is_file()]
        if len(missing) == len(files):
            raise UserError(
                f"source {name!r}: none of {len(files)} images looked for is there, the first being {files[0]} (of "
                f"imgname {str(rows[some[0]].imgname)!r}). Expected them below {rules[name].root}: change image_root "
                "or image_path in the manifest, or, for the default dataset, run `hmr-skel images` (make images)."
            )
        if missing:
            some_missing = f"{len(missing)} of {len(files)} images looked for are {NOT_THERE}, such as {missing[0]}"
            _log.warning("source %r: %s; samples without an image are skipped", name, some_missing)


def diagonal_intrinsics(width: int, height: int) -> Float[np.ndarray, "3 3"]:
    """A guess: a focal length of the image's diagonal (53 degrees along it), principal point in the middle."""
    focal = np.hypot(width, height)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def _annotated(points: np.ndarray, min_confidence: float) -> np.ndarray:
    """float64, with confidence 0 and coordinates NaN wherever a keypoint is not annotated."""
    points = points.astype(float)
    there = np.isfinite(points).all(-1) & (points[:, -1] > 0) & (points[:, -1] >= min_confidence)
    points[~there, :-1], points[~there, -1] = np.nan, 0
    return points


def _colored(crop: UInt8[np.ndarray, "256 256 3"], augmentation: Augmentation) -> UInt8[np.ndarray, "3 256 256"]:
    """BGR to RGB planes, with all that changes colours and sharpness."""
    for group, seed in enumerate(augmentation.degrade):
        if seed is not None:
            crop = augment.degrade(crop, group, seed)
    planes = np.empty((3, *crop.shape[:2]), np.uint8)
    cv2.split(crop, [planes[2], planes[1], planes[0]])
    for plane, gain in zip(planes, augmentation.gains, strict=True):
        if gain != 1:
            cv2.convertScaleAbs(plane, plane, gain)
    return planes

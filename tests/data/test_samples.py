import shutil
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
import torch

from hmr_skel.data.augment import Augmentation, AugmentConfig
from hmr_skel.data.images import ImageRule
from hmr_skel.data.load import load_shards
from hmr_skel.data.samples import Batch, SampleDataset, stack
from hmr_skel.data.selection import QualityConfig, SampleConfig
from hmr_skel.errors import UserError
from hmr_skel.model.camera import CropGeometry, image_to_crop, project
from tests.data.sample_set import HEIGHT, WIDTH

WILD = AugmentConfig(scale=0.3, translation=0.1, flip_probability=0.5, extreme_crop_probability=0.5, color=0.2)


def open_set(sample_set, split="train", augment=False, **config):
    return SampleDataset(sample_set.path, sample_set.images, SampleConfig(**config), split, augment)


def same(first: Batch, second: Batch) -> bool:
    return all(np.array_equal(getattr(first, f.name), getattr(second, f.name), equal_nan=True) for f in fields(Batch))


@pytest.fixture
def own_set(sample_set, tmp_path):
    """A copy of the images that may be damaged; the rows are the common ones."""
    shutil.copytree(sample_set.images["near"].root, tmp_path / "images")
    return replace(
        sample_set, images={name: replace(rule, root=tmp_path / "images") for name, rule in sample_set.images.items()}
    )


def test_a_sample_holds_the_row(sample_set):
    dataset, table = open_set(sample_set), load_shards(sample_set.path)
    assert (len(dataset), dataset.gender) == (20, "male")  # 24 in two shards, of which 4 have no camera
    for i in (0, 7, 19):
        sample, row = dataset.sample(i), table[i]
        assert (sample.row, sample.has_skel) == (i, True)
        np.testing.assert_array_equal(sample.q, row["skel_q"])
        np.testing.assert_array_equal(sample.betas, row["skel_betas"])
        np.testing.assert_array_equal(sample.transl, row["skel_transl"])
        np.testing.assert_array_equal(sample.intrinsics, row["cam_int"])
        np.testing.assert_array_equal(sample.center, row["center"])
        assert sample.size == np.float32(200) * row["scale"].max()
        np.testing.assert_array_equal(sample.keypoints_3d, row["keypoints_3d"])
        image = cv2.imread(str(sample_set.images["near"].file(row["imgname"])))
        naive = cv2.warpAffine(image, sample.affine.numpy(), (256, 256))[..., ::-1]
        assert np.abs(sample.image.permute(1, 2, 0).int().numpy() - naive).mean() < 4


def _wild(sample_set, count=20):
    dataset = SampleDataset(sample_set.path, sample_set.images, SampleConfig(augment=WILD))
    return [dataset.sample(i, epoch) for i in range(count) for epoch in range(3)]


def test_bodies_project_onto_their_keypoints_after_any_change(sample_set):
    samples = _wild(sample_set)
    batch = stack(samples)
    geometry = CropGeometry(batch.center, batch.size, batch.intrinsics, batch.affine)
    projected = image_to_crop(project(batch.keypoints_3d[..., :3], batch.intrinsics), geometry)
    there = batch.keypoints_2d[..., 2] > 0
    assert there.float().mean() > 0.8
    assert (projected - batch.keypoints_2d[..., :2])[there].abs().max() * 256 < 0.02
    assert len({float(size) for size in batch.size}) > 50
    unknown = batch.transl.isnan().all(1)  # after flips and rolls
    assert 0 < unknown.sum() < len(unknown)


def test_the_same_index_gives_the_same_sample(sample_set):
    """Also when the first one was written to: labels are copies."""
    dataset = SampleDataset(sample_set.path, sample_set.images, SampleConfig(augment=WILD))
    first = dataset.sample(4, epoch=2, seed=1)
    kept = first.each(torch.clone)
    for f in fields(Batch):
        getattr(first, f.name)[...] = 0
    assert same(dataset.sample(4, epoch=2, seed=1), kept)
    others = [dataset.sample(4, epoch=3, seed=1), dataset.sample(4, epoch=2, seed=2), dataset.sample(5, 2, 1)]
    assert not any(same(other, kept) for other in others)


def test_missing_labels_are_nan_and_without_confidence(sample_set):
    dataset = open_set(sample_set, missing_intrinsics="diagonal")
    sample = dataset.sample(20)  # "far": the first of its rows has no 2D keypoints
    assert sample.row == 20
    assert not sample.keypoints_2d[:, 2].any()
    assert sample.keypoints_2d[:, :2].isnan().all()
    near = dataset.sample(0)
    gone = near.keypoints_2d[:, 2] == 0
    assert 0 < gone.sum() < 20
    assert near.keypoints_2d[gone, :2].isnan().all()
    assert near.keypoints_2d[~gone].isfinite().all()


def test_an_unknown_camera_is_guessed_when_asked_for(sample_set):
    sample = open_set(sample_set, missing_intrinsics="diagonal").sample(23)
    np.testing.assert_allclose(sample.intrinsics, [[500, 0, WIDTH / 2], [0, 500, HEIGHT / 2], [0, 0, 1]])


def test_quality_rules_reach_the_samples(sample_set):
    quality = QualityConfig(max_v2v_mm=20.0, min_confidence=0.5)
    dataset = open_set(sample_set, quality=quality)
    poor, good = dataset.sample(19), dataset.sample(0)
    assert not poor.has_skel
    assert all(getattr(poor, name).isnan().all() for name in ("q", "betas", "transl"))
    assert good.has_skel
    assert not ((good.keypoints_2d[:, 2] > 0) & (good.keypoints_2d[:, 2] < 0.5)).any()
    assert (good.keypoints_2d[:, 2] == 0).sum() > (open_set(sample_set).sample(0).keypoints_2d[:, 2] == 0).sum()


def test_sources_without_weight_need_no_images(sample_set):
    only_near = replace(sample_set, images={"near": sample_set.images["near"]})
    with pytest.raises(UserError, match="source 'far' has no images: image_root is set only for near"):
        open_set(only_near, missing_intrinsics="diagonal")
    dataset = open_set(only_near, missing_intrinsics="diagonal", mixture={"near": 1.0, "far": 0.0})
    assert str(dataset) == "20 male rows, 4 left out for not being in the mixture"


def test_gains_and_channels(own_set):
    path = own_set.images["near"].root / "000.jpg"
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), (40, 80, 160), np.uint8))  # BGR
    reader = open_set(own_set)
    image = reader.augmented(0, Augmentation(gains=(1.5, 0.5, 2.0))).image
    assert np.abs(image[:, 128, 128].int().numpy() - (240, 40, 80)).max() <= 3
    assert reader.augmented(0, Augmentation(gains=(3.0, 1.0, 1.0))).image[0, 128, 128] == 255


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s, tmp: replace(s, path=tmp / "nowhere"), r"no shards in .*nowhere"),
        (lambda s, tmp: replace(s, images={}), r"source 'near' has no images: image_root"),
        (
            lambda s, tmp: replace(s, images={"near": ImageRule(tmp, (("^", "x/"),))}),
            r"source 'near': none of 20 images looked for is there, the first being .*x/000.jpg .*'000.jpg'",
        ),
    ],
)
def test_what_is_wrong_is_said_at_once(sample_set, tmp_path, change, text):
    with pytest.raises(UserError, match=text):
        open_set(change(sample_set, tmp_path))

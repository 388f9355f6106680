"""Networks on the benchmarks, end to end from rendered images: with bodies that are known, and images as they are."""

from collections.abc import Callable
from dataclasses import replace
from math import atan

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from hmr_skel.body.dofs import HSMR_MEAN_Q
from hmr_skel.data.images import crop_image
from hmr_skel.errors import UserError
from hmr_skel.evaluate.images import CropReader, Intrinsics, whole_pixel_affine
from hmr_skel.evaluate.run import Method, evaluate_methods
from hmr_skel.model.camera import CropGeometry, crop_camera_to_transl, project
from hmr_skel.model.decoder import Estimate
from hmr_skel.model.fov import HumanFov, letterbox
from hmr_skel.model.network import Prediction
from hmr_skel.model.pose_rep import q_to_rep, rep_to_q
from hmr_skel.rows import SkelParams
from tests.evaluate.stand_in import ROWS

DIAGONAL = Intrinsics.choose("diagonal", None, torch.device("cpu"))


class Known:
    """Answers with the same bodies in the order of rows, and notes what it was told. Its first stage is another."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        q = torch.tensor(HSMR_MEAN_Q) + 0.2 * torch.randn(ROWS, 46, generator=generator)
        camera = torch.tensor([0.8, 0.0, 0.0]) + 0.1 * torch.rand(ROWS, 3, generator=generator)
        self.estimate = Estimate(q_to_rep(q), torch.randn(ROWS, 10, generator=generator), camera)
        self.images: list[torch.Tensor] = []
        self.geometry: list[CropGeometry] = []

    def __call__(self, images: torch.Tensor, geometry: CropGeometry) -> Prediction:
        first = sum(map(len, self.images))
        self.images.append(images)
        self.geometry.append(geometry)
        final = Estimate(*(values[first : first + len(images)] for values in vars(self.estimate).values()))
        other = replace(final, betas=final.betas + 1, camera=final.camera + torch.tensor([0.05, 0.3, 0.2]))
        return Prediction((other, other, final), geometry, True)

    @property
    def method(self) -> Method:
        return Method(self, Estimate(*(values[:1] for values in vars(self.estimate).values())))


@pytest.fixture
def run(opened, stand_in, male) -> Callable[..., tuple[dict, np.ndarray, Known]]:
    """All rows of a benchmark, in batches of four."""

    def run_(name: str, intrinsics: Intrinsics = DIAGONAL, legacy: tuple[str, ...] = (), **labels):
        benchmark, rows, truth = opened(name, *legacy)
        rows = replace(rows, **labels)
        reader = CropReader(
            benchmark, stand_in.folder / "images" / benchmark.images, intrinsics.fov is not None, legacy
        )
        reader.check(rows)
        known = Known()
        found, used = evaluate_methods([known.method], rows, reader, truth, male.skel, intrinsics, batch_size=4)
        return found[0], used, known

    return run_


def test_labels_made_of_the_predicted_bodies_leave_no_error(run, male, opened):
    """Human3.6M and COCO with the predicted body's own keypoints as labels, wherever it stands."""
    known = Known()
    keypoints = male.keypoints(params_of(known))
    there = torch.ones(ROWS, 44, 1)
    points = torch.cat((keypoints + torch.tensor([1.0, 2.0, 30.0]), there), -1).numpy()
    found, used, known = run("h36m-p2", keypoints_3d=points)
    np.testing.assert_array_equal(used, np.arange(ROWS))
    assert [len(images) for images in known.images] == [4, 2]
    assert found["final"]["mpjpe_mm"].max() < 0.02
    assert (found["coarse"]["mpjpe_mm"] > 1).all()
    rows = opened("coco")[1]
    geometry = run("coco")[2].geometry
    geometry = CropGeometry(*(torch.cat([getattr(part, name) for part in geometry]) for name in vars(geometry[0])))
    placed = keypoints + crop_camera_to_transl(known.estimate.camera, geometry).unsqueeze(1)
    pixels = torch.cat((project(placed, geometry.intrinsics), there), -1).numpy()
    found, _, _ = run("coco", keypoints_2d=pixels)
    assert found["final"]["found"].all()
    assert not found["coarse"]["found"][:, 0].all()
    assert found["swap_xy_1"]["found"].all()  # the last layer's camera is the final one
    assert found["swap_s_1"]["found"].all()
    assert not found["swap_xy_0"]["found"][:, 0].all()
    moved = pixels.copy()
    moved[..., 0] += 0.07 * rows.side[:, None]  # of the crop's side: found at 0.1, not at 0.05
    found, _, _ = run("coco", keypoints_2d=moved)
    assert not found["final"]["found"][:, 0].any()
    assert found["final"]["found"][:, 1].all()
    moved[:, 3, 2] = 0.5  # not above: does not count
    assert not run("coco", keypoints_2d=moved)[0]["final"]["valid"][:, 3].any()


def params_of(known: Known) -> SkelParams:
    return SkelParams(rep_to_q(known.estimate.rep), known.estimate.betas, torch.zeros(ROWS, 3))


def test_crops_are_rgb_squares_of_the_box(run, stand_in):
    """The middle of the crop is what the image has at the box's centre, channels in order."""
    _, _, known = run("3dpw")
    crops = torch.cat(known.images)
    for i in range(ROWS):
        image = cv2.imread(str(stand_in.folder / "source" / "images" / stand_in.labels["imgname"][i]))[..., ::-1]
        x, y = stand_in.labels["center"][i].round().astype(int)
        around = image[y - 4 : y + 5, x - 4 : x + 5].mean((0, 1))
        middle = crops[i, :, 124:133, 124:133].float().mean((1, 2)).numpy()
        np.testing.assert_allclose(middle, around, atol=25)
    geometry = known.geometry[0]
    corner = geometry.affine @ torch.cat((geometry.center - geometry.size[:, None] / 2, torch.ones(4, 1)), 1)[..., None]
    torch.testing.assert_close(corner.squeeze(-1), torch.zeros(4, 2), atol=1e-3, rtol=0)


def test_an_aliased_crop_is_another_picture(opened, stand_in):
    benchmark, rows, _ = opened("3dpw")
    root = stand_in.folder / "images" / benchmark.images
    rows = replace(rows, side=4 * rows.side)
    smooth, aliased = (CropReader(benchmark, root, False, legacy).read(rows, 0) for legacy in ((), ("aliased-crop",)))
    image = cv2.imread(str(root / rows.imgname[0]))
    scale = 256 / float(rows.side[0])
    affine = np.array([[scale, 0, 128 - scale * rows.center[0][0]], [0, scale, 128 - scale * rows.center[0][1]]])
    plain = cv2.warpAffine(image, affine, (256, 256), flags=cv2.INTER_LINEAR)[..., ::-1].transpose(2, 0, 1)
    assert np.abs(aliased.image.astype(int) - plain).max() <= 1  # rounding
    assert np.abs(smooth.image.astype(int) - plain).max() > 10


def test_the_published_moyo_crop_is_cut_at_whole_pixels():
    """Worked out by hand, and against the cut itself. Corners are (49.8, 30.2), (150.8, 131.2): 101 px both ways."""
    affine = whole_pixel_affine(np.array([100.3, 80.7]), 101.0)
    scale = 256 / 101  # the middle of pixel 49 is that of the crop's first pixel, but for OpenCV's half pixel
    np.testing.assert_allclose(affine, [[scale, 0, -48.5 * scale - 0.5], [0, scale, -29.5 * scale - 0.5]])
    # Beyond the edge corners are rounded towards zero: x from -30.5 to 70.5 becomes 100 px, y 101 px.
    affine = whole_pixel_affine(np.array([20.0, 80.7]), 101.0)
    np.testing.assert_allclose(affine, [[2.56, 0, 30.5 * 2.56 - 0.5], [0, scale, -29.5 * scale - 0.5]])
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (140, 200, 3), np.uint8), (5, 5), 1.0)
    cut = np.zeros((101, 100, 3), np.uint8)
    cut[:, 30:] = image[30:131, :70]
    crop = crop_image(image, affine, smooth=False)
    inside = (slice(2, -2), slice(80, -2))  # at its edge OpenCV repeats the cut's last pixel, here its neighbour counts
    assert np.abs(crop[inside].astype(int) - cv2.resize(cut, (256, 256))[inside]).max() <= 2


def test_moyos_crop_is_shifted_by_its_switch(run):
    ours, legacy = run("moyo")[2], run("moyo", legacy=("moyo-crop",))[2]
    assert not torch.equal(torch.cat(ours.images), torch.cat(legacy.images))
    for name in ("center", "size"):  # what the network is told stays
        assert all(
            getattr(a, name).equal(getattr(b, name)) for a, b in zip(ours.geometry, legacy.geometry, strict=True)
        )


class RedFov(HumanFov):
    """In place of HumanFoV's 65 million weights: the field of view is set by how red the middle of the image is."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.fc1 = nn.Linear(1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0.8 + 0.1 * images[:, 0, 100:156, 100:156].mean((1, 2))


def test_humanfov_sees_the_whole_image_in_rgb_unless_legacy(run, stand_in):
    fov = RedFov()
    intrinsics = Intrinsics("red", fov)
    for legacy in ((), ("bgr-focal",)):
        known = run("moyo", intrinsics, legacy)[2]
        given = torch.cat([geometry.intrinsics for geometry in known.geometry])
        for i in range(ROWS):
            image = cv2.imread(str(stand_in.folder / "source" / "images" / stand_in.labels["imgname"][i]))
            height, width = image.shape[:2]
            small = letterbox(image if legacy else np.ascontiguousarray(image[..., ::-1]))
            red = ((small[100:156, 100:156, 0] / 255 - 0.485) / 0.229).mean()
            focal = given[i, 0, 0].item()
            assert 2 * atan(height / (2 * focal)) == pytest.approx(0.8 + 0.1 * red, abs=1e-4)
            assert given[i, :2, 2].tolist() == [width / 2, height / 2]


def test_the_legacy_box_is_told_and_not_shown(run):
    """MOYO's: the network is told of the box before it was widened; what it sees is the same."""
    ours, legacy = run("moyo")[2], run("moyo", legacy=("moyo-box",))[2]
    assert torch.equal(torch.cat(ours.images), torch.cat(legacy.images))
    ratio = torch.cat([g.size for g in ours.geometry]) / torch.cat([g.size for g in legacy.geometry])
    torch.testing.assert_close(ratio, torch.tensor([1.0, 4 / 3] * 3), rtol=1e-4, atol=0)


def test_other_intrinsics(opened):
    benchmark, rows, _ = opened("3dpw")
    cpu = torch.device("cpu")
    label = Intrinsics.choose("label", None, cpu)
    np.testing.assert_array_equal(label([], rows), rows.cam_int)
    label.check(benchmark, rows)
    with pytest.raises(UserError, match=r"the label file of 3DPW has no cam_int"):
        label.check(benchmark, replace(rows, cam_int=None))
    for wrong in ("-3", "wide"):
        with pytest.raises(UserError, match="expected fov, label, diagonal, or a focal length"):
            Intrinsics.choose(wrong, None, cpu)
    assert Intrinsics.choose("1200", None, cpu).focal == 1200


def test_missing_and_broken_images(opened, stand_in, tmp_path):
    benchmark, rows, _ = opened("coco")
    sound = CropReader(benchmark, stand_in.folder / "images" / benchmark.images, False)
    with pytest.raises(UserError, match=r"\(row 0\): the box is outside of the image's \d+ x \d+ px .* of COCO"):
        sound.read(replace(rows, center=rows.center + np.float32(1e5)), 0)
    reader = CropReader(benchmark, tmp_path, False)
    with pytest.raises(UserError, match=r"6 of 6 images of COCO are missing.*val2017/00\.jpg.*cocodataset\.org"):
        reader.check(rows)
    file = tmp_path / rows.imgname[0]
    file.parent.mkdir()
    file.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"00\.jpg \(row 0\): is not an image, or is damaged"):
        reader.read(rows, 0)

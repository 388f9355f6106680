import numpy as np
import pytest
import torch

from hmr_skel.body.joints import SKEL_JOINTS, SKEL_TO_SMPL, SMPL_JOINTS, SMPL_PARENTS
from hmr_skel.body.lbs import chain
from hmr_skel.body.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from hmr_skel.body.skel import Skel
from hmr_skel.open_data import retarget
from hmr_skel.open_data.motion import FRAMES_PER_SECOND, clip_motion, clip_rng

# Neither half-way joints nor collars: these take the rotation of exactly one bone. The radius is not the hand.
ONE_TO_ONE = [
    j for j, name in enumerate(SKEL_JOINTS) if not name.startswith(("scapula", "ulna", "radius", "talus"))
]  # fmt: skip


@pytest.fixture(scope="module")
def skel(open_body_dir) -> Skel:
    return Skel.load(open_body_dir / "skel_male.pkl")


@pytest.fixture(scope="module")
def motion():
    """q [8 48 46] and noise of eight clips."""
    clips = [clip_motion(clip_rng(1, c), c, retarget.NUM_PERTURBED_AXES) for c in range(8)]
    return tuple(torch.from_numpy(np.stack([getattr(m, name) for m in clips])).float() for name in ("q", "noise"))


@pytest.fixture(scope="module")
def betas(smpl, skel):
    smpl_betas = torch.from_numpy(np.random.default_rng(2).standard_normal((8, 1, 10))).float()
    return smpl_betas, retarget.converted_betas(smpl_betas, smpl, skel)


@pytest.fixture(scope="module")
def local(motion, betas, smpl, skel):
    return retarget.skel_to_smpl(motion[0], betas[1], betas[0], skel, smpl)


def world(local):
    pelvis = torch.eye(3).expand(*local.shape[:-3], 1, 3, 3)
    return chain(torch.cat((pelvis, local), -3), torch.zeros(*local.shape[:-3], 24, 3), SMPL_PARENTS)[0]


def test_bones_keep_their_world_rotation(motion, betas, local, skel):
    q, (_, skel_betas) = motion[0], betas
    shape = skel.prepare_shape(skel_betas)
    bones = skel.pose(q, shape, torch.zeros(3)).joint_frames @ shape.bone_rotmat.mT
    smpl_world = world(local)
    for joint in ONE_TO_ONE:
        between = smpl_world[..., SKEL_TO_SMPL[joint], :, :].mT @ bones[..., joint, :, :]
        assert rotmat_to_rotvec(between).norm(dim=-1).max() < 2e-3, SKEL_JOINTS[joint]


def test_shoulders_land_where_the_scapulae_carry_them(motion, betas, local, smpl, skel):
    """Seen from the thorax, SMPL's shoulder moves as SKEL's does, within a centimetre; a still collar would not."""
    shape = skel.prepare_shape(betas[1])
    posed = skel.pose(motion[0], shape, torch.zeros(3))
    thorax = SKEL_JOINTS.index("thorax")
    frame = posed.joint_frames[..., thorax, :, :] @ shape.bone_rotmat[..., thorax, :, :].mT
    smpl_joints = smpl.shaped(betas[0])[1]
    for side in ("left", "right"):
        humerus = SKEL_JOINTS.index(f"humerus_{side[0]}")
        now = frame.mT @ (posed.joints[..., humerus, :] - posed.joints[..., thorax, :]).unsqueeze(-1)
        carried = now.squeeze(-1) - (shape.joints[..., humerus, :] - shape.joints[..., thorax, :])
        collar, shoulder = (SMPL_JOINTS.index(f"{side}_{name}") for name in ("collar", "shoulder"))
        arm = (smpl_joints[..., shoulder, :] - smpl_joints[..., collar, :]).unsqueeze(-1)
        moved = (local[..., collar - 1, :, :] @ arm - arm).squeeze(-1)
        assert (moved - carried).norm(dim=-1).mean() < 0.01
        assert (moved - carried).norm(dim=-1).mean() < 0.6 * carried.norm(dim=-1).mean()


def test_perturbation_has_five_degrees_on_the_right_axes(smpl, skel):
    """On as many rows as the default manifest has, from the labels' point of view: clean against perturbed."""
    noise = np.stack([clip_motion(clip_rng(0, c), c, retarget.NUM_PERTURBED_AXES).noise for c in range(768)])
    local = rotvec_to_rotmat(0.5 * torch.randn(*noise.shape[:2], 23, 3, generator=torch.Generator().manual_seed(0)))
    added = rotmat_to_rotvec(local.mT @ retarget.perturb(local, torch.from_numpy(noise).float()))
    for joint, name in enumerate(SMPL_JOINTS[1:]):
        axes = retarget.PERTURBED.get(name, ())
        for axis in range(3):
            sd_deg = np.degrees(added[..., joint, axis].std().item())
            assert sd_deg == pytest.approx(5 if axis in axes else 0, abs=0.8 if axis in axes else 0.02), (name, axis)
    rms = np.degrees(np.sqrt((added.numpy() ** 2).sum() / (noise.size)))
    assert rms == pytest.approx(5, abs=0.25)
    speed_deg = np.degrees(np.abs(np.diff(added.numpy(), axis=1)).max()) * FRAMES_PER_SECOND
    assert speed_deg < 75  # smooth in time, as the motion


def test_shape_map_is_a_compromise(betas, smpl, skel):
    """Converted betas fit much better than copied ones and stay small."""

    def t_pose_mm(skel_betas):
        gap = skel.prepare_shape(skel_betas).rest - smpl.shaped(betas[0])[0]
        return 1000 * (gap - gap.mean(-2, keepdim=True)).norm(dim=-1).mean()

    assert t_pose_mm(betas[1]) < 0.5 * t_pose_mm(betas[0])
    assert betas[1].square().mean().sqrt() < 2.5

"""SKEL against an independent implementation, and proof that the comparison notices what could be wrong."""

from collections.abc import Callable

import pytest
import torch

from hmr_skel.body import moving_joints
from hmr_skel.body import skel as skel_module
from hmr_skel.body.skel import Skel
from hmr_skel.body.skel_shape import SkelShape, bone_orientation
from tests.body import oracle
from tests.body.conftest import GENDERS

# float64 against float64: what is left is the oracle's float32 copies of the files and axes.
SAME_MM = 0.002
FLOAT32_MM = 0.01


@pytest.fixture(scope="session", params=GENDERS)
def pair(request, skel_files) -> tuple[Skel, torch.nn.Module]:
    """Our model and the oracle, from one file of random numbers."""
    theirs = oracle.load(skel_files[request.param], request.param)
    return Skel.load(skel_files[request.param], dtype=torch.float64), theirs


@pytest.fixture(scope="session")
def male_pair(skel_files) -> tuple[Skel, torch.nn.Module]:
    return Skel.load(skel_files["male"], dtype=torch.float64), oracle.load(skel_files["male"], "male")


def test_skin_joints_and_rotations_are_the_oracles(pair):
    found = oracle.difference(*pair, oracle.random_params())
    assert found.skin_mm < SAME_MM
    assert found.joints_mm < SAME_MM
    assert found.frames < 2e-6


def test_float32_is_as_good_as_promised(skel_files, male_pair):
    found = oracle.difference(Skel.load(skel_files["male"]), male_pair[1], oracle.random_params(seed=1))
    assert found.skin_mm < FLOAT32_MM
    assert found.joints_mm < FLOAT32_MM


@pytest.mark.parametrize("gender", GENDERS)
def test_the_open_body_is_the_oracles_in_float32(gender, open_body_dir):
    path = open_body_dir / f"skel_{gender}.pkl"
    found = oracle.difference(Skel.load(path), oracle.load(path, gender), oracle.random_params(seed=2))
    assert found.skin_mm < FLOAT32_MM
    assert found.joints_mm < FLOAT32_MM
    assert found.frames < 1e-5


# --- faults: each is what an implementation could plausibly have wrong, and each must show ---

Fault = Callable[[pytest.MonkeyPatch], None]


def _dof_frame(change: Callable[[Skel, SkelShape], torch.Tensor]) -> Fault:
    original = Skel.prepare_shape

    def prepare_shape(self, betas, joint_offset=None):
        shape = original(self, betas, joint_offset)
        return SkelShape(shape.rest, shape.joints, shape.offsets, shape.bone_rotmat, change(self, shape))

    return lambda patch: patch.setattr(Skel, "prepare_shape", prepare_shape)


def _bones(change: Callable[..., torch.Tensor]) -> Fault:
    return lambda patch: patch.setattr(skel_module, "bone_orientation", change)


def _dofs(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    original = Skel.dof_rotmats
    return lambda patch: patch.setattr(Skel, "dof_rotmats", lambda self, q: change(original(self, q)))


def _offsets(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    original = moving_joints.moving_offsets
    return lambda patch: patch.setattr(skel_module, "moving_offsets", lambda q, joints: change(original(q, joints)))


def _correctives(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    original = Skel.correctives
    return lambda patch: patch.setattr(Skel, "correctives", lambda self, local: original(self, change(local)))


def _without_joint(joint: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(offsets: torch.Tensor) -> torch.Tensor:
        keep = torch.ones(24, 1, dtype=offsets.dtype)
        keep[joint] = 0
        return offsets * keep

    return change


def _thorax_by_its_own_bone(offsets, learned, reference):
    swapped = offsets.clone()
    swapped[..., 12, :] = offsets[..., 13, :]  # what bone 11 reads becomes what bone 12 would read by itself
    right, wrong = bone_orientation(offsets, learned, reference), bone_orientation(swapped, learned, reference)
    thorax = (torch.arange(24) == 12)[:, None, None]
    return torch.where(thorax, wrong, right)


def _forearm_by_the_ulna_alone(offsets, learned, reference):
    short = offsets.clone()
    short[..., 18, :] = short[..., 23, :] = 0
    right, wrong = bone_orientation(offsets, learned, reference), bone_orientation(short, learned, reference)
    ulna = ((torch.arange(24) == 16) | (torch.arange(24) == 21))[:, None, None]
    return torch.where(ulna, wrong, right)


def _swap(first: int, second: int) -> Callable[[torch.Tensor], torch.Tensor]:
    order = list(range(24))
    order[first], order[second] = second, first
    return lambda local: local[..., order, :, :]


# Fault, and by how many millimetres of skin it must show: a tenth of what it did on these files, or less.
FAULTS: dict[str, tuple[Fault, float]] = {
    "A left out": (_dof_frame(lambda model, shape: shape.bone_rotmat), 150),
    "A transposed": (_dof_frame(lambda model, shape: shape.bone_rotmat @ model.apose_rotmat), 150),
    "K left out": (_bones(lambda offsets, learned, reference: torch.eye(3).to(learned).expand(*offsets.shape, 3)), 150),
    "K transposed": (_bones(lambda *given: bone_orientation(*given).mT), 150),
    "K not adjusted to the shape": (_bones(lambda offsets, learned, _: learned.expand(*offsets.shape, 3)), 150),
    "thorax aligned by its own bone": (_bones(_thorax_by_its_own_bone), 150),
    "forearm aligned by the ulna alone": (_bones(_forearm_by_the_ulna_alone), 50),
    "P transposed": (_dofs(lambda rotmats: rotmats.flip(-3).mT), 150),
    "last dof first": (_dofs(lambda rotmats: rotmats.flip(-3)), 150),
    "no moving joints": (_offsets(torch.zeros_like), 5),
    "scapula_r does not glide": (_offsets(_without_joint(14)), 5),
    "scapula_l does not glide": (_offsets(_without_joint(19)), 5),
    "lumbar does not bend": (_offsets(_without_joint(11)), 5),
    "thorax does not bend": (_offsets(_without_joint(12)), 5),
    "head does not bend": (_offsets(_without_joint(13)), 5),
    "moving joints reversed": (_offsets(torch.neg), 5),
    "no pose correctives": (_correctives(lambda local: torch.eye(3).to(local).expand_as(local)), 2),
    "talus for calcn in the correctives": (_correctives(_swap(3, 4)), 1),
    "sides swapped in the correctives": (_correctives(_swap(2, 7)), 1),
    "correctives transposed": (_correctives(lambda local: local.mT), 1),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_shows(name, male_pair, monkeypatch):
    fault, at_least_mm = FAULTS[name]
    fault(monkeypatch)
    found = oracle.difference(*male_pair, oracle.random_params())
    assert found.skin_mm > at_least_mm > 100 * SAME_MM


@pytest.mark.parametrize(("dof", "name"), [(7, "ankle"), (8, "subtalar"), (9, "mtp"), (33, "pro_sup"), (43, "pro_sup")])
def test_a_wrong_axis_shows(dof, name, skel_files, male_pair):
    model = Skel.load(skel_files["male"], dtype=torch.float64)
    joint = skel_module.DOFS[dof].joint
    model.axes[joint, 0, 0] *= -1
    assert oracle.difference(model, male_pair[1], oracle.random_params()).skin_mm > 5, name

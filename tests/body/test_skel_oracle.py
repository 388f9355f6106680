"""SKEL against an independent implementation, `body-models` (Apache-2.0), asked in our terms."""

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hmr_skel.body import skel as skel_module
from hmr_skel.body.skel import Skel
from hmr_skel.rows import SkelParams
from tests.body.conftest import GENDERS

# float64 against float64: what is left is the oracle's float32 copies of the files and axes.
SAME_MM = 0.002
FLOAT32_MM = 0.01
# Random poses far beyond what people do, bodies up to five standard deviations from the mean, anywhere in a room.
SPREAD_Q, SPREAD_BETAS, SPREAD_TRANSL = 0.6, 2.0, 3.0


@dataclass(frozen=True)
class Difference:
    """The largest distance between two bodies over all rows."""

    skin_mm: float
    joints_mm: float
    frames: float  # of a matrix entry


def load_oracle(path: Path, gender: str) -> torch.nn.Module:
    """The oracle in float64 (what it stores is rounded to float32). Skips where it is not installed."""
    models = pytest.importorskip("body_models.skel.torch", reason="the oracle, body-models, is not installed")
    return models.SKEL(model_path=path, gender=gender).double()


def random_params(rows: int = 8, seed: int = 0) -> SkelParams:
    generator = torch.Generator().manual_seed(seed)
    normal = [torch.randn(rows, n, dtype=torch.float64, generator=generator) for n in (46, 10, 3)]
    q, betas, transl = (x * spread for x, spread in zip(normal, (SPREAD_Q, SPREAD_BETAS, SPREAD_TRANSL), strict=True))
    betas[0], betas[1, 0], q[2] = 0, 5, 0  # the mean body, a giant, the T-pose
    return SkelParams(q, betas, transl)


@torch.no_grad()
def difference(model: Skel, oracle: torch.nn.Module, params: SkelParams) -> Difference:
    """Ours in its own precision against the oracle in float64."""
    q, betas, transl = params.q, params.betas, params.transl
    asked = {
        "body_pose": torch.cat((q[:, :23], q[:, 26:]), -1),
        "head_pose": q[:, 23:26],
        "shape": betas,
        "global_translation": transl,
    }
    vertices, skeleton = oracle.forward_vertices(**asked), oracle.forward_skeleton(**asked)
    given = [x.to(model.template.dtype) for x in (q, betas, transl)]
    ours = model(*given)
    # The oracle's rotations are R_j; our frames are R_j K_j, the bones' own axes.
    bones = model.prepare_shape(given[1]).bone_rotmat
    return Difference(
        skin_mm=_largest_mm(ours.vertices, vertices),
        joints_mm=_largest_mm(ours.joints, skeleton[..., :3, 3]),
        frames=float((ours.joint_frames @ bones.mT - skeleton[..., :3, :3]).abs().max()),
    )


def _largest_mm(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs).norm(dim=-1).max()) * 1000


@pytest.fixture(scope="session")
def male_pair(skel_files, skel_male64) -> tuple[Skel, torch.nn.Module]:
    """Our model and the oracle, from one file of random numbers."""
    return skel_male64, load_oracle(skel_files["male"], "male")


def test_skin_joints_and_rotations_are_the_oracles(male_pair):
    found = difference(*male_pair, random_params())
    assert found.skin_mm < SAME_MM
    assert found.joints_mm < SAME_MM
    assert found.frames < 2e-6


def test_float32_is_as_good_as_promised(male_pair):
    found = difference(copy.deepcopy(male_pair[0]).float(), male_pair[1], random_params(seed=1))
    assert found.skin_mm < FLOAT32_MM
    assert found.joints_mm < FLOAT32_MM


@pytest.mark.parametrize("gender", GENDERS)
def test_the_open_body_is_the_oracles_in_float32(gender, open_body_dir):
    path = open_body_dir / f"skel_{gender}.pkl"
    found = difference(Skel.load(path), load_oracle(path, gender), random_params(seed=2))
    assert found.skin_mm < FLOAT32_MM
    assert found.joints_mm < FLOAT32_MM
    assert found.frames < 1e-5


@pytest.mark.parametrize("fault", ["moving joints", "correctives", "bone axes", "order of dofs", "one axis"])
def test_a_fault_shows(fault, male_pair, monkeypatch):
    """What an implementation could plausibly have wrong is more than rounding."""
    model = copy.deepcopy(male_pair[0])
    if fault == "moving joints":
        monkeypatch.setattr(skel_module, "moving_offsets", lambda q, joints: torch.zeros_like(joints))
    elif fault == "correctives":
        original = Skel.correctives
        monkeypatch.setattr(Skel, "correctives", lambda self, local: original(self, local.mT))
    elif fault == "bone axes":
        bones = skel_module.bone_orientation
        monkeypatch.setattr(skel_module, "bone_orientation", lambda *given: bones(*given).mT)
    elif fault == "order of dofs":
        rotmats = Skel.dof_rotmats
        monkeypatch.setattr(Skel, "dof_rotmats", lambda self, q: rotmats(self, q).flip(-3))
    else:
        model.axes[model.dof_index[:, 0] == 33, 0, 0] *= -1  # forearms twist about a slanted axis
    assert difference(model, male_pair[1], random_params()).skin_mm > 500 * SAME_MM

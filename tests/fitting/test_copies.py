"""Nothing on the way of a row is made of Python numbers: on a GPU each such tensor or index is a copy that waits."""

import torch
from torch.overrides import TorchFunctionMode

from fitting import FitConfig, Stage, fit_batch
from hmr_skel.body.smpl import keypoints_44

MAKERS = {"tensor", "as_tensor", "new_tensor", "from_numpy"}
INDEXED = {"__getitem__", "__setitem__"}


class Copies(TorchFunctionMode):
    """Notes calls that make a tensor or an index of Python numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in INDEXED:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, (list, tuple)) for part in index):
                self.found.append(f"index {args[1]}")
        elif name in MAKERS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_indices_and_tensors_of_python_numbers_are_found():
    with Copies() as copies:
        values = torch.zeros(3, 4)
        values[:, [1, 2]] = 1
        values[..., (0, 1)] + values[1, 2] + values[:, torch.arange(4)].sum()
        values.new_tensor([1.0])
    assert copies.found == ["index (slice(None, None, None), [1, 2])", "index (Ellipsis, (0, 1))", "new_tensor"]


def test_a_fit_copies_nothing(people, prepared):
    stages = (Stage(part="lower", vertices=100), Stage(part="full", vertices=300, refreshes=2, iterations=1))
    model = prepared(FitConfig(stages=stages, shape="refine", root="refine"), compiled=False)
    with Copies() as copies:
        fit_batch(people, model)
    assert copies.found == []


def test_bodies_are_posed_without_copies(people, smpl, skel):
    with Copies() as copies:
        posed = smpl(people.global_orient, people.body_pose, people.betas, people.transl)
        skel(torch.zeros(4, 46), people.betas, people.transl, skeleton=True)
        keypoints_44(posed.joints, torch.zeros(4, 40, 3))
    assert copies.found == []

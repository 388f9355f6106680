"""The published protocol, short: its own losses fall, each step moves what it may move, and nothing else."""

import pytest
import torch

from bench.baseline import STEPS, num_calls, published_fit
from hmr_skel.rows import SmplParams


@pytest.fixture(scope="module")
def short(smpl, skel, people):
    calls = []
    return published_fit(people, smpl, skel, rounds=2, iterations=4, batch=2, progress=calls.append), calls


def test_every_step_lowers_its_own_loss(short, people):
    result, _ = short
    assert len(result.losses) == 2  # batches
    for batch in result.losses:
        assert len(batch) == len(STEPS) == 4
        assert all(after < before for before, after in batch)


def test_result_is_whole_and_counted(short, people):
    result, calls = short
    count = len(people.betas)
    assert result.skel.q.shape == (count, 46)
    assert torch.equal(result.skel.betas, people.betas)  # copied, as published
    assert result.v2v_mm.shape == (count,)
    assert bool((result.v2v_max_mm >= result.v2v_mm).all())
    assert calls == list(range(1, num_calls(count, rounds=2, batch=2) + 1))
    assert result.evaluations >= len(calls)


def test_the_root_starts_with_the_first_sign_flipped_and_only_the_last_step_frees_it(smpl, skel, people, monkeypatch):
    monkeypatch.setattr("bench.baseline.STEPS", STEPS[1:2])
    result = published_fit(people, smpl, skel, rounds=1, iterations=2)
    flipped = people.global_orient * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.equal(result.skel.q[:, :3], flipped)
    assert torch.equal(result.skel.transl, people.transl)
    assert result.skel.q[:, 19].abs().max() == 0  # the lumbar twist waits for the third step
    assert result.skel.q[:, 20:].abs().max() > 0
    moved = [set(step.dofs) & {0, 1, 2} for step in STEPS]
    assert moved == [{0, 1, 2}, set(), set(), {0, 1, 2}]
    assert [step.moves_transl for step in STEPS] == [True, False, False, False]


def test_the_torso_step_turns_and_shifts_alone(smpl, skel, people, monkeypatch):
    monkeypatch.setattr("bench.baseline.STEPS", STEPS[:1])
    result = published_fit(people, smpl, skel, rounds=2, iterations=5)
    assert result.skel.q[:, 3:].abs().max() == 0
    assert (result.skel.transl - people.transl).abs().max() > 0


def test_a_small_rotation_is_fitted_well(smpl, skel):
    """Near the rest pose the protocol converges quickly, so that a wrong mask or weight shows."""
    still = SmplParams(torch.zeros(2, 3), torch.zeros(2, 23, 3), torch.zeros(2, 10), torch.zeros(2, 3))
    rest = published_fit(still, smpl, skel, rounds=1, iterations=1)
    fitted = published_fit(still, smpl, skel, rounds=3, iterations=10)
    assert fitted.v2v_mm.mean() < rest.v2v_mm.mean()
    assert fitted.skel.q.abs().max() < 1.0

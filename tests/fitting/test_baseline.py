"""The published protocol, short: its own losses fall, each step moves what it may move, and nothing else."""

import torch

from bench.baseline import STEPS, num_calls, published_fit


def test_every_step_lowers_its_own_loss_and_the_result_is_whole(smpl, skel, people):
    calls = []
    result = published_fit(people, smpl, skel, rounds=1, iterations=4, batch=2, progress=calls.append)
    assert [len(batch) for batch in result.losses] == [len(STEPS)] * 2
    assert all(after < before for batch in result.losses for before, after in batch)
    assert torch.equal(result.skel.betas, people.betas)  # copied, as published
    assert bool((result.v2v_max_mm >= result.v2v_mm).all())
    assert calls == list(range(1, num_calls(4, rounds=1, batch=2) + 1))
    assert result.evaluations >= len(calls)


def test_the_root_starts_with_the_first_sign_flipped_and_only_the_first_and_last_step_free_it(
    smpl, skel, people, monkeypatch
):
    moved = [set(step.dofs) & {0, 1, 2} for step in STEPS]
    assert moved == [{0, 1, 2}, set(), set(), {0, 1, 2}]
    assert [step.moves_transl for step in STEPS] == [True, False, False, False]
    monkeypatch.setattr("bench.baseline.STEPS", STEPS[1:2])
    result = published_fit(people, smpl, skel, rounds=1, iterations=2)
    flipped = people.global_orient * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.equal(result.skel.q[:, :3], flipped)
    assert torch.equal(result.skel.transl, people.transl)
    assert result.skel.q[:, 19].abs().max() == 0  # the lumbar twist waits for the third step
    assert result.skel.q[:, 20:].abs().max() > 0

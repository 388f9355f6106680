"""The published protocol, short: its own losses fall, each step moves what it may move, and nothing else."""

import torch

from bench.baseline import STEPS, published_fit


def test_every_step_lowers_its_own_loss_and_the_result_is_whole(smpl, skel, people):
    calls = []
    result = published_fit(people, smpl, skel, rounds=1, iterations=4, batch=2, progress=lambda *n: calls.append(n))
    assert [len(batch) for batch in result.losses] == [len(STEPS)] * 2
    assert all(after < before for batch in result.losses for before, after in batch)
    assert torch.equal(result.skel.betas, people.betas)  # copied, as published
    assert calls == [(done, 8) for done in range(1, 9)]  # four steps of two batches

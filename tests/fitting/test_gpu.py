"""The fit on a CUDA device: the same results as on the CPU, rows left alone, memory that runs out."""

import copy

import pytest
import torch

import fitting
from fitting import fit_many
from hmr_skel.rows import SmplParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="allowed: needs a CUDA device"),
]
ROWS = 96


@pytest.fixture(scope="module")
def crowd() -> SmplParams:
    generator = torch.Generator().manual_seed(12)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(ROWS, *shape, generator=generator)

    return SmplParams(normal(3), 0.25 * normal(23, 3), normal(10), normal(3))


@pytest.fixture(scope="module")
def on_gpu(smpl, skel):
    return fitting.prepare(*copy.deepcopy((smpl, skel)), fitting.recipe("default"), "male", "cuda")


def test_cpu_and_gpu_agree(crowd, model, on_gpu):
    ours, theirs = fit_many(crowd, model), fit_many(crowd, on_gpu)
    torch.testing.assert_close(ours.energy.mean(), theirs.energy.mean(), rtol=1e-3, atol=0)
    apart = (ours.v2v_mm - theirs.v2v_mm).abs()
    assert float(apart.median()) < 0.01
    assert float(apart.mean()) < 0.01
    assert theirs.batch <= on_gpu.config.gpu_batch


def test_rows_leave_each_other_alone_there(crowd, on_gpu):
    together = fit_many(crowd, on_gpu)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(13))
    shuffled = fit_many(crowd[order], on_gpu)
    torch.testing.assert_close(shuffled.skel.q, together.skel.q[order], rtol=0, atol=1e-3)
    torch.testing.assert_close(shuffled.v2v_mm, together.v2v_mm[order], rtol=0, atol=0.005)


def test_memory_that_runs_out_halves_the_batch(crowd, on_gpu, monkeypatch):
    rows, copies = 8192, torch.arange(8192) % ROWS
    monkeypatch.setattr("fitting.many._room_on", lambda device: rows)
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 1.5e9) / total)
    try:
        found = fit_many(crowd[copies], on_gpu)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.batch < rows
    torch.testing.assert_close(found.skel.q, found.skel.q[copies], rtol=0, atol=1e-3)

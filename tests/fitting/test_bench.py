"""The benchmark: its keys, its counting of arithmetic, its judge."""

import json

import numpy as np
import pytest
import torch

import fitting
from bench.quality import quality_tables, without_limits
from fitting import FitConfig, Stage
from hmr_skel.bench.fit import BenchOptions, bench_fit, subset
from hmr_skel.bench.flops import FlopCounter, gemm_flops_per_s
from hmr_skel.bench.judge import Judge
from hmr_skel.errors import UserError

STATISTICS = {"mean", "median", "p95", "p99", "max"}


def test_subset_spreads_over_the_file_and_is_always_the_same():
    rows = subset(1000, 64)
    assert len(rows) == len(set(rows)) == 64
    assert rows[0] == 0
    assert set(np.diff(rows)) <= {15, 16}
    assert list(subset(5, 64)) == [0, 1, 2, 3, 4]
    assert list(subset(1000, 64)) == list(rows)


def test_flops_of_known_arithmetic():
    a, b = torch.ones(3, 5, 7), torch.ones(3, 7, 11)
    with FlopCounter() as counter:
        product = a @ b
    assert (counter.matrix, counter.other) == (2 * 3 * 5 * 7 * 11, 0)
    with FlopCounter() as counter:
        product.sin() + 1  # two passes
        product.transpose(1, 2).reshape(3, -1)  # moves only
    assert (counter.matrix, counter.other) == (0, 2 * product.numel())
    with FlopCounter() as counter:
        torch.linalg.cholesky_ex(torch.eye(30).expand(4, 30, 30).contiguous())
    assert counter.other == 4 * 30**3 // 3


def test_the_peak_is_positive():
    assert gemm_flops_per_s(torch.device("cpu"), seconds=0.1) > 1e8


def test_judge_poses_what_is_stored(people, smpl, skel, model):
    """The judge's world-frame distances are the fit's own: root and translation are right."""
    result = fitting.fit_batch(people, model)
    judge = Judge(people, smpl, skel)
    torch.testing.assert_close(judge.distances_mm(result.skel).mean(1).float(), result.v2v_mm, rtol=0, atol=5e-3)
    report = judge.report(result.skel)
    assert set(report["v2v_mm"]) == STATISTICS
    assert report["v2v_mm"]["mean"] == pytest.approx(float(result.v2v_mm.mean()), abs=5e-3)
    shifted = type(result.skel)(result.skel.q, result.skel.betas, result.skel.transl + torch.tensor([0.1, 0.0, 0.0]))
    assert judge.report(shifted)["v2v_mm"]["mean"] > 90


def test_no_floor_for_a_root_that_moves(people, smpl, skel):
    with pytest.raises(UserError, match="--no-floor"):
        bench_fit(
            people, people, smpl, skel, fitting.recipe("refine_root"), torch.device("cpu"), BenchOptions(),
        )  # fmt: skip


def test_quality_tables(people, smpl, skel, monkeypatch):
    monkeypatch.setattr("bench.quality.TILE", 0)  # no rows before those that are timed
    config = FitConfig(stages=(Stage(part="full", vertices=300, refreshes=1, iterations=2),))
    tables = quality_tables(people[:2], smpl, {"male": skel}, "male", config, torch.device("cpu"))
    assert set(tables) == {"shape", "root", "limits", "gender", "part"}
    limits = {row["limits"]: row for row in tables["limits"]}
    assert limits["none"]["cost_mm"] == 0
    assert [row["shape"] for row in tables["shape"]] == ["convert", "copy", "refine"]
    assert [row["root"] for row in tables["root"]] == ["frozen", "refine", "refine, shape too"]
    assert all(row["rows/s"] > 0 for table in ("shape", "root", "limits", "gender") for row in tables[table])
    assert set(tables["part"][0]) >= {"part", "shape convert", "shape copy", "shape refine", "root refine"}
    json.dumps(tables, allow_nan=False)


def test_without_limits_nothing_binds(people, model):
    free = without_limits(model)
    assert bool((free.low[3:] < -torch.pi).all())
    assert bool((free.stages[-1].limits.high > torch.pi).all())
    assert bool((model.high[3:] <= torch.pi).all())  # the model itself is as it was
    bound, unbound = fitting.fit_batch(people, model), fitting.fit_batch(people, free)
    assert bool((bound.energy >= unbound.energy * (1 - 1e-6)).all())
    q = unbound.skel.q.double()
    assert bool(((q < model.low) | (q > model.high)).any())

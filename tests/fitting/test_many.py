"""Batches: none, many, too large for the memory; and the better of two genders."""

import copy
import threading
import weakref
from dataclasses import fields, replace

import pytest
import torch

import fitting
import fitting.many
import hmr_skel
from fitting import fit_batch, fit_best, fit_many
from fitting.config import FitConfig, Stage
from fitting.distances import mesh_distances_mm
from hmr_skel.body.skel import Skel
from hmr_skel.errors import UserError
from hmr_skel.rows import SkelParams, SmplParams
from tests.conftest import torch_threads


@pytest.fixture(scope="module")
def crowd(people):
    """Twenty people: the four, over and over."""
    return people[torch.arange(20) % 4]


# One short stage: these tests are about batches.
SHORT = FitConfig(stages=(Stage(part="full", vertices=500, refreshes=1, iterations=1),), retry_v2v_mm=1e9, batch=8)


@pytest.fixture(scope="module")
def quick(prepared):
    return prepared(SHORT)


def test_distances_of_any_parameters_are_those_of_the_bodies(people, smpl, skel, quick):
    """Not of fits: another root, another shape, another pose; in float64."""
    fitted = SkelParams(0.5 * torch.randn(4, 46), torch.randn(4, 10), people.transl + 0.1)
    annotated, skin = copy.deepcopy(smpl).double(), copy.deepcopy(skel).double()
    double = [[getattr(params, f.name).double() for f in fields(params)] for params in (people, fitted)]
    expected = (annotated(*double[0]).vertices - skin(*double[1]).vertices).norm(dim=-1).float() * 1000
    mean, largest = mesh_distances_mm(people, fitted, quick)
    torch.testing.assert_close(mean, expected.mean(1), rtol=0, atol=2e-3)
    torch.testing.assert_close(largest, expected.amax(1), rtol=0, atol=1e-2)
    assert mesh_distances_mm(people[:0], fitted[:0], quick)[0].shape == (0,)


def test_one_call_is_the_fit_in_steps(people, smpl, skel, model):
    whole, steps = hmr_skel.fit(people, smpl, skel), fit_many(people, model)
    torch.testing.assert_close(whole.skel.q, steps.skel.q, rtol=0, atol=1e-6)
    assert whole.skel_gender == ["male"] * 4
    with pytest.raises(UserError, match="unknown fit recipe 'none'"):
        hmr_skel.fit(people, smpl, skel, recipe_name="none")


def test_no_rows(people, prepared, quick):
    for model in (quick, prepared(replace(SHORT, shape="refine", root="refine"))):
        result = fit_many(people[:0], model, torch.zeros(3, 6890))
        assert result.skel.q.shape == (0, 46)
        assert result.target_points.shape == (0, 3, 3)
        assert result.skel_gender == []
        assert fit_best(people[:0], [model, model]).v2v_mm.shape == (0,)


def test_threads_share_the_rows_and_join_them_in_order(people, quick):
    crowd = people[torch.arange(300) % 4]
    calls = []
    with torch_threads(2):
        result = fit_many(crowd, replace(quick, config=replace(quick.config, batch=128)), None, calls.append)
        assert torch.get_num_threads() == 2
    assert calls == [128, 256, 300]
    assert result.batch == 128
    assert result.skel_gender == ["male"] * 300
    alone = fit_batch(crowd[:4], quick)
    torch.testing.assert_close(result.skel.q, alone.skel.q.repeat(75, 1), rtol=0, atol=1e-6)


def test_memory_does_not_grow_with_the_rows(people, quick, monkeypatch):
    """A few batches are begun at once; what is kept of one are the meshes of rows that go on, here none."""
    begun, kept, together = [], [], []

    def watched(*rows):
        begun.append(len(begun))
        kept.append(fitting.fit.begin(*rows))
        return kept[-1]

    def counted(model, batches):
        together.append(len(batches))
        return fitting.fit.finish(model, batches)

    ahead = []
    monkeypatch.setattr(fitting.many, "begin", watched)
    monkeypatch.setattr(fitting.many, "finish", counted)
    with torch_threads(2):
        one_tile = replace(quick, config=replace(quick.config, batch=64))
        fit_many(people[torch.arange(1280) % 4], one_tile, None, lambda done: ahead.append(len(begun) - done // 64))
    assert len(begun) == 20
    assert max(ahead) <= 3
    assert together == [8, 8, 4]
    meshes = [batch.with_meshes.target.vertices.chunks for batch in kept if not len(batch.few)]
    assert meshes
    assert not any(mesh.untyped_storage().nbytes() for mesh in meshes)


def test_a_row_is_the_same_to_the_bit_with_any_number_of_threads(people, model):
    """Products that are shared out among threads add up in another order."""
    found = []
    for count in (1, 2, 3):
        with torch_threads(count):
            with fitting.many.one_thread_each() as (pool, threads):
                assert threads == count
                assert set(pool.map(lambda _: torch.get_num_threads(), range(8))) == {1}
            found.append(fit_many(people, model).skel.q)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_two_calls_at_once_leave_torch_at_its_threads(people, quick):
    """The second begins while the first is at work, and ends after it."""
    second_works, first_is_done = threading.Event(), threading.Event()
    found = []

    def wait_for_first(done):
        found.append(torch.get_num_threads())
        second_works.set()
        assert first_is_done.wait(600)

    second = threading.Thread(target=fit_many, args=(people, quick, None, wait_for_first))

    def start_second(done):
        second.start()
        assert second_works.wait(600)

    with torch_threads(2):
        fit_many(people, quick, None, start_second)
        first_is_done.set()
        second.join()
        later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert [*found, torch.get_num_threads()] == [2, 2, 2]


def test_out_of_memory_halves_the_batch_for_good(crowd, quick, monkeypatch):
    """Down to the 64 rows that any batch is filled up to; before it tries again, the memory of the last is free."""
    tried, most, held = [], 64, []

    class Memory:
        pass

    def cramped(params, model, points=None, mesh=None):
        tried.append(len(params.betas))
        batch = Memory()
        held.append(weakref.ref(batch))
        if tried[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fit_batch(params, model, points)

    def emptied():
        assert held[-1]() is None

    monkeypatch.setattr(fitting.many, "fit_batch", cramped)
    monkeypatch.setattr(torch.cuda, "empty_cache", emptied)
    monkeypatch.setattr(fitting.many, "_side_by_side", fitting.many._in_turn)  # as a GPU does,
    monkeypatch.setattr(fitting.many, "_room_on", lambda device: 192)  # which has memory for so many
    calls = []
    many = crowd[torch.arange(140) % 4]
    result = fit_many(many, replace(quick, config=replace(quick.config, batch=192)), progress=calls.append)
    assert tried == [140, 64, 64, 12]
    assert calls == [64, 128, 140]
    assert result.batch == 64
    assert result.skel.q.shape == (140, 46)
    most = 0
    with pytest.raises(UserError, match="out of memory at 64 rows"):
        fit_many(crowd[:2], quick)


def test_the_better_gender_row_by_row(people, smpl, quick, open_body_dir):
    model, female = quick, fitting.prepare(smpl, Skel.load(open_body_dir / "skel_female.pkl"), SHORT)
    spoiled = SmplParams(people.global_orient, people.body_pose, people.betas.clone(), people.transl)
    spoiled.betas[2] = torch.nan
    runs = [fit_many(spoiled, m) for m in (model, female)]
    best = fit_best(spoiled, [model, female])
    sound = torch.tensor([0, 1, 3])
    torch.testing.assert_close(best.v2v_mm[sound], torch.minimum(*(run.v2v_mm for run in runs))[sound], rtol=0, atol=0)
    assert bool(best.v2v_mm[2].isnan())
    assert best.skel_gender[2] == "male"
    for row in sound.tolist():
        run = runs[["male", "female"].index(best.skel_gender[row])]
        assert torch.equal(best.skel.q[row], run.skel.q[row])
        assert int(best.status[row]) == int(run.status[row])

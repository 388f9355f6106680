"""The fit on a GPU, as far as a machine without one can tell: on a pretended GPU, in a simulator, and compiled."""

import copy
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

import fitting
from fitting.gpu import device
from fitting.kinematics import Skeleton
from fitting.lanes.cpu import Cpu
from fitting.lanes.state import BEST, DESK, LANES
from fitting.mesh import Placed, unstacked
from fitting.stack import Records
from fitting.starts import initial_q
from hmr_skel.body.rotations import rotvec_to_rotmat
from hmr_skel.errors import UserError
from hmr_skel.rows import SmplParams
from tests.fitting.gpu.pretended import GPU, pretended
from tests.fitting.gpu.simulated import THREADS

ROWS = 80  # a chunk and a part of one
COLUMNS = {"energy": (2e-4, 0), "v2v_mm": (0, 0.02), "status": (0, 0), "starts": (0, 0)}  # rtol, atol of CPU and GPU

with_numba_cuda = pytest.mark.extra  # and with NVIDIA's compiler


@dataclass(repr=False)
class Run:
    """A fit on the pretended GPU."""

    found: dict[str, torch.Tensor]
    q: torch.Tensor
    placed: torch.Tensor  # [C V 3 L] meshes seen from their roots
    counted: Counter
    types: dict[str, set]  # of the arguments of each launch
    calls: list[tuple[str, tuple[int, ...], list[Any]]]  # one of each launch, with its arguments before it


def on_cpu(function: str, grid: Any, arguments: list[Any]) -> None:
    """A launch by the kernels that are compiled for the CPU."""
    if function == "regroup":  # has none: Python would take long
        source, rows, parts, out = arguments
        for numbers, chunk in zip(rows, out, strict=True) if grid[1] == parts else ():
            chunk[:] = source[numbers // LANES, :, numbers % LANES].T
    else:
        Cpu().launch(function, grid if len(grid) == 2 else grid[0], *arguments)


def seen(argument: Any) -> Any:
    """As a launch sees it, in the memory of the pretended GPU."""
    if isinstance(argument, Records):
        records = argument.memory.held.numpy().view(argument.layout)[:, 0]
        if "three" in (argument.layout.names or ()):
            records["three"], records["four"] = 3, 4
        return records
    return argument.held.numpy() if isinstance(argument, torch.Tensor) else argument


def launch_on_cpu(function: str, grid: int | tuple[int, int], *arguments: Any) -> None:
    on_cpu(function, tuple(np.atleast_1d(grid).tolist()), [seen(argument) for argument in arguments])


@pytest.fixture(scope="module")
def crowd() -> SmplParams:
    """The last row is the first one again."""
    generator = torch.Generator().manual_seed(12)
    values = [torch.randn(ROWS, *shape, generator=generator) for shape in ((3,), (23, 3), (10,), (3,))]
    for value in values:
        value[-1] = value[0]
    return SmplParams(values[0], 0.25 * values[1], values[2], values[3])


@pytest.fixture(scope="module")
def on_gpu(smpl, skel, model) -> Generator[fitting.FitModel]:
    """`model` has the kernels compiled that are run in its stead."""
    small = {"_PRODUCTS": 2, "_SCRATCH": 2, "_WORTH": 1.0}  # rows regroup whenever some are done
    with patch.multiple(device, **small):
        with pretended(), patch.multiple(device, check=lambda _: None, try_out=lambda _: None):
            there = fitting.prepare(*copy.deepcopy((smpl, skel)), fitting.recipe("default"), "male", GPU)
        yield there


@pytest.fixture(scope="module")
def given() -> tuple[Placed, torch.Tensor, torch.Tensor]:
    """What `Mesher.given` takes: meshes, pelvis and offset."""
    generator = torch.Generator().manual_seed(3)
    mesh, *columns = (torch.randn(70, *shape, generator=generator) for shape in ((6890, 3), *[(3,)] * 4))
    turn, place, pelvis, offset = columns
    return Placed(mesh, rotvec_to_rotmat(turn), place), pelvis, offset


@pytest.fixture(scope="module")
def run(crowd, given, on_gpu) -> Run:
    from numba import typeof

    types: dict[str, set] = {}
    calls: dict[str, Any] = {}

    def launch(function: str, grid: int | tuple[int, int], *arguments: Any) -> None:
        blocks, found = tuple(np.atleast_1d(grid).tolist()), [seen(argument) for argument in arguments]
        types.setdefault(function, set()).add(tuple(map(typeof, found)))
        if function not in calls or (function == "measure" and not calls["measure"][2][7]):
            calls[function] = (function, blocks if function == "regroup" else (1,) * len(blocks), copy.deepcopy(found))
        counted[f"launch {function}"] += 1
        on_cpu(function, blocks, found)

    with patch.object(device, "launch", launch), pretended() as counted:
        placed = on_gpu.targets.mesher.given(*(values.to(GPU) for values in given), None)[0].chunks.held
        counted.clear()
        result = fitting.fit_batch(crowd, on_gpu)
        counts = Counter(counted)
        columns = {name: getattr(result, name).cpu() for name in COLUMNS}
    return Run(columns, result.skel.q.held, placed, counts, types, list(calls.values()))


def test_rows_come_out_as_on_the_cpu(run, crowd, model):
    expected = fitting.fit_batch(crowd, model)
    for name, (rtol, atol) in COLUMNS.items():
        torch.testing.assert_close(run.found[name], getattr(expected, name), rtol=rtol, atol=atol)


def test_a_row_comes_out_alike_in_another_chunk(run):
    apart = (run.q[0] - run.q[-1]).abs()
    assert float(apart[:3].max()) < 1e-7  # the root comes from torch, in float32
    assert float(apart[3:].max()) < 1e-8


def test_before_the_solver_rows_come_out_alike_in_any_batch(crowd, on_gpu):
    """Targets, meshes, skeletons and starts of 64 rows, and of the same among others in another order."""

    def made(rows: torch.Tensor) -> list[torch.Tensor]:
        params = crowd[rows].to(GPU)
        betas = on_gpu.shape(params.betas)
        target, skeleton = on_gpu.targets(params, betas), Skeleton.of(on_gpu.skel, betas)
        q = initial_q(on_gpu, target.rotmat, skeleton)
        columns = [
            unstacked(target.vertices.chunks, len(rows)),
            target.anatomical_joints,
            target.joints_world,
            target.offset,
        ]
        return [values.cpu() for values in (*columns, betas, *vars(skeleton).values(), q)]

    order = torch.arange(ROWS - 1, -1, -1)
    with patch.object(device, "launch", launch_on_cpu), pretended():
        for alone, among in zip(made(order[:LANES]), made(torch.cat((order, order))), strict=True):
            assert torch.equal(alone, among[:LANES])
            assert torch.equal(alone, among[ROWS : ROWS + LANES])


def test_the_host_seldom_waits_and_launches_are_few(run):
    """Waits of a batch, whatever its size. Launches of a batch of 32,768 rows, which is 32 times as many products and 8
    times as many groups of chunks whose vertices are in memory at once as here; most are small ones of torch."""
    assert sum(count for spot, count in run.counted.items() if spot.startswith("wait")) <= 60, run.counted
    launches = Counter({name: n for name, n in run.counted.items() if name.startswith("launch ")})
    groups = launches["launch look"] + launches["launch pose_mesh"]
    assert launches.total() + 31 * launches["launch bmm_out"] + 7 * 10 * groups <= 10_000, launches


def test_given_meshes_are_seen_from_their_root_as_on_the_cpu(run, given, model):
    (mesh, pelvis, offset), found = given, run.placed
    here = unstacked(model.targets.mesher.given(*given, None)[0].chunks, len(offset))
    torch.testing.assert_close(unstacked(found, len(offset)), here, rtol=0, atol=1e-6)
    expected = (mesh.vertices - mesh.place[:, None]) @ mesh.rotmat + (pelvis - offset)[:, None]
    torch.testing.assert_close(here, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("package", "precision", "said"),
    [
        (None, "highest", "meta: fits there need numba-cuda, which is not installed. `make setup CUDA=1`"),
        ("there", "high", "meta: matrix products are set to TF32"),
    ],
)
def test_what_is_missing_is_one_clear_error(monkeypatch, package: str | None, precision: str, said: str):
    monkeypatch.setattr(device, "find_spec", lambda name: package)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    with pytest.raises(UserError, match=re.escape(said)):
        device.check(GPU)


@pytest.mark.parametrize(
    ("broken", "said"), [("descend", "no kernel runs there: no such driver."), ("look", "gave wrong numbers")]
)
def test_a_kernel_that_fails_is_one_clear_error_before_the_first_fit(on_gpu, broken: str, said: str):
    """Of each kernel: one that raises, and one that does nothing."""

    def launch(function: str, grid: int | tuple[int, int], *arguments: Any) -> None:
        if function != broken:
            launch_on_cpu(function, grid, *arguments)
        elif broken == "descend":
            raise OSError("no such driver\nand much more")

    with patch.object(device, "launch", launch), pretended(), pytest.raises(UserError, match=said):
        device.try_out(on_gpu)


def test_tf32_is_found_by_torchs_newer_name_too(monkeypatch):
    """Once that is set, torch refuses to answer to the older names."""

    def refuses():
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(device, "find_spec", lambda name: "there")
    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuses)
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(fp32_precision="tf32"))
    with pytest.raises(UserError, match="TF32, which is too coarse"):
        device.check(GPU)


@with_numba_cuda
def test_launches_in_the_simulator_do_what_the_cpu_does(run, tmp_path):
    file = tmp_path / "calls"
    file.write_bytes(pickle.dumps(run.calls))
    script = Path(__file__).parent / "simulated.py"
    subprocess.run(
        [sys.executable, script, file], check=True, timeout=600, env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    )
    names = {function for function, *_ in run.calls}
    assert names == {"pose_mesh", "points", "arrive", "look", "settle", "measure", "descend", "regroup", "see"}
    for (function, grid, before), (*_, found) in zip(run.calls, pickle.loads(file.read_bytes()), strict=True):
        expected = copy.deepcopy(before)
        on_cpu(function, grid, expected)
        changed = 0
        for arrays in zip(before, expected, found, strict=True):
            # A thread whose row is done is gone; on a CPU the row goes on, on the desk only, with its chunk.
            if isinstance(arrays[0], np.ndarray) and not (function == "measure" and arrays[0].dtype == DESK):
                for name in arrays[0].dtype.names or (...,):
                    ran, others = np.s_[..., :THREADS], np.s_[..., THREADS:]
                    if arrays[0].dtype == BEST:  # one for each row
                        ran = before[18][0, :THREADS]
                        others = np.setdiff1d(np.arange(len(arrays[0])), ran)
                    old, ours, theirs = (array[name][ran] for array in arrays)
                    # Steps are as far apart as sums in float32, in another order, make them.
                    share = 1e-2 if function in ("measure", "descend") else 1e-6
                    off = share * abs(np.nan_to_num(ours)).max(initial=1e-6)
                    np.testing.assert_allclose(theirs, ours, rtol=0, atol=off, err_msg=f"{function} {name}")
                    changed += not np.array_equal(old, theirs)
                    np.testing.assert_array_equal(arrays[0][name][others], arrays[2][name][others])
        assert changed, function


@with_numba_cuda
def test_launches_compile_without_spills(run, tmp_path, monkeypatch):
    import numba.cuda.compiler
    import numba.cuda.dispatcher
    from numba import types

    from fitting.gpu.kernels import on_threads

    class Gpu:
        compute_capability = (8, 6)

    for module in (numba.cuda.compiler, numba.cuda.dispatcher):
        monkeypatch.setattr(module, "get_current_device", lambda: Gpu)
    folders = [Path(folder) for folder in find_spec("nvidia").submodule_search_locations]
    ptxas = next(path for folder in folders for path in folder.glob("*/bin/ptxas"))

    def assembled(job: tuple[Path, int]) -> str:
        command = [ptxas, "-v", f"-arch=sm_{job[1]}", job[0], "-o", job[0].with_suffix(f".{job[1]}")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr

    jobs = []
    for function, kinds in run.types.items():
        for number, kind in enumerate(kinds):
            code, _ = numba.cuda.compile(
                getattr(on_threads(), function).py_func, types.none(*kind), device=False, abi="numba", cc=(8, 6)
            )
            path = tmp_path / f"{function}_{number}.ptx"
            path.write_text(code)
            jobs += [(path, 86), (path, 90)]
    with ThreadPoolExecutor(2) as pool:
        for job, said in zip(jobs, pool.map(assembled, jobs), strict=True):
            spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
            assert spills, said
            assert set(spills) == {("0", "0")}, f"{job}: {said}"

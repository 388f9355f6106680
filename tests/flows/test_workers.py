"""Several processes build one dataset: each shard once, and all of it whoever is killed."""

import _thread
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from bench.workers import main as bench_workers
from bench.workers import workers_text
from flows import dask_runner
from flows.shard import Builder
from flows.share import build_shared
from flows.workers import environments, run_workers
from hmr_skel.data import attempts
from hmr_skel.data.attempts import AtWork
from hmr_skel.data.patience import may_pass
from hmr_skel.data.schema import write_meta
from hmr_skel.errors import UserError
from tests.flows.conftest import ROWS, ROWS_PER_SHARD
from tests.flows.processes import TIMEOUT_S, hmr_skel, processes_with, run, running, wait_until
from tests.flows.served import Served

linux = pytest.mark.skipif(sys.platform != "linux", reason="allowed: looks for processes in /proc")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHARDS = ROWS // ROWS_PER_SHARD


def test_cores_are_divided(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert [place["OMP_NUM_THREADS"] for place in environments(2, CPU)] == ["3", "2"]
    assert [place["OMP_NUM_THREADS"] for place in environments(8, CPU)] == ["1"] * 8
    assert all("CUDA_VISIBLE_DEVICES" not in place for place in environments(2, CPU))


@pytest.mark.parametrize(("visible", "own"), [(None, "0120"), ("", "0120"), ("4, 6", "4646")])
def test_each_worker_has_a_gpu_of_those_that_are_visible(monkeypatch: pytest.MonkeyPatch, visible, own):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in environments(4, CUDA)] == list(own)
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=1"):
        environments(2, torch.device("cuda:1"))


def test_one_that_is_killed_is_named_and_the_others_finish():
    code = "import os, signal, sys; n = os.environ['N']; print('n', n, file=sys.stderr, flush=True); "
    code += "os.kill(os.getpid(), signal.SIGKILL) if n == '1' else print('not JSON')"
    said: list[str] = []
    ended = run_workers([sys.executable, "-c", code], [{"N": str(i)} for i in range(3)], said.append)
    assert [(worker.status, worker.summary) for worker in ended] == [(0, None), (-signal.SIGKILL, None), (0, None)]
    assert {"worker 0: n 0", "worker 1: n 1", "worker 2: n 2"} < set(said)
    assert any(text.startswith("worker 1 (process ") and "was ended by SIGKILL" in text for text in said)


def test_an_interrupt_ends_all():
    code = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(100)"
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        run_workers([sys.executable, "-c", code], [{}, {}], say)
    for text in said[:2]:
        with pytest.raises(ProcessLookupError):
            os.kill(int(text.split()[-1]), 0)


def test_those_who_are_asked_to_end_are_asked_once():
    """A second signal would break off what the first began: taking back the notes of shards."""
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "try: print('ready', file=sys.stderr, flush=True); time.sleep(100)\n"
        "except KeyboardInterrupt: time.sleep(0.5); print('ended well', file=sys.stderr, flush=True)"
    )
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        run_workers([sys.executable, "-c", code], [{}, {}], say)
    assert sorted(said) == [f"worker {i}: {text}" for i in (0, 1) for text in ("ended well", "ready")]


def dataset(manifest: Path, *more: str) -> list[str]:
    out = manifest.parent / "out"
    return hmr_skel("dataset", "--manifest", str(manifest), "--out", str(out), "--device", "cpu", "--json", *more)


@linux
@pytest.mark.slow
def test_one_of_two_is_killed_and_the_other_finishes(served: Served, small: Path, tmp_path: Path):
    """By their own account, each shard is built once but for what the killed one had in hand."""
    log = tmp_path / "log"
    with running(dataset(small, "--workers", "2", "--server", served.url), tmp_path, log, served.folder) as process:
        wait_until(lambda: len(builders_of(process.pid)) == 2, process, log)  # later, the other may have built all
        os.kill(builders_of(process.pid)[0], signal.SIGKILL)
        assert process.wait(timeout=TIMEOUT_S) == 0, log.read_text()
    text = log.read_text()
    assert "worker 0 (process" in text
    assert "was ended by SIGKILL; others go on" in text
    summary = json.loads(text.splitlines()[-1])
    assert (summary["failed"], len(summary["reports"]), summary["rows"]) == ({}, SHARDS, ROWS)
    lines = Counter(
        line.split(" of ")[0].split(": ")[1] for line in text.splitlines() if " rows/s" in line and ": shard" in line
    )
    assert set(lines) <= {f"shard {i}" for i in range(SHARDS)}
    assert max(lines.values()) == 1
    assert not (tmp_path / "out" / ".attempts").exists()
    assert processes_with(tmp_path) == []


def builders_of(pid: int) -> list[int]:
    """The workers among a process's children, in the order of their start."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return sorted(child for child in children if b"--server" in Path(f"/proc/{child}/cmdline").read_bytes())


def test_a_claimed_shard_is_waited_for(small: Path, tmp_path: Path, monkeypatch, capsys):
    builder = Builder.open(small, tmp_path / "out", "cpu", quiet=True)
    note = tmp_path / "out" / ".attempts" / f".{builder.shards[0].number}-f.elsewhere-7-0123abcd.tmp"
    note.parent.mkdir(parents=True)
    note.touch()
    with pytest.raises(AtWork, match="shard 0 is being built by process 7 on elsewhere"):
        builder.build(0, progress=False, wait=False)
    monkeypatch.setattr(attempts.time, "sleep", lambda seconds: note.unlink())
    assert not builder.build(0).skipped
    assert "shard 0 is being built by process 7 on elsewhere. Waiting for it." in capsys.readouterr().err
    assert builder.build(0, progress=False).skipped
    builder.discard([0])
    assert builder.report(0, skipped=True) is None
    assert not builder.build(0, progress=False).skipped


def test_a_freed_shard_that_ended_a_process_is_built_alone(small: Path, tmp_path: Path, monkeypatch):
    """What the killed one had in hand is freed all at once; the others' beside it would end with it again."""
    builder = Builder.open(small, tmp_path / "out", "cpu", quiet=True)
    folder, fingerprint = tmp_path / "out" / ".attempts", builder.fingerprint(builder.shards[3])
    living = [folder / f".{builder.shards[i].number}-f.elsewhere-7-0123abcd.tmp" for i in (0, 1)]
    dead = folder / f".{builder.shards[3].number}-{fingerprint[:12]}.elsewhere-7-0123abcd.tmp"
    folder.mkdir(parents=True)
    for note in (*living, dead):
        note.touch()

    def sleep(seconds: float) -> None:
        os.utime(dead, (0, 0))
        for note in living:
            note.unlink(missing_ok=True)

    built, turns, of = [], [], builder.turns
    monkeypatch.setattr(builder, "turns", lambda indices: turns.append(of(indices)) or turns[-1])
    monkeypatch.setattr(attempts.time, "sleep", sleep)
    build_shared(builder, range(4), lambda index, report: built.append(index), at_once=2)
    assert turns == [[[0, 1, 2, 3]], [[0, 1], [3]]]
    assert (built, folder.exists()) == ([2, 0, 1, 3], False)


def test_one_that_was_taken_for_gone_leaves_the_others_files(small: Path, tmp_path: Path, monkeypatch):
    """It was suspended for so long that another has built its shard meanwhile."""
    builder, other = (Builder.open(small, tmp_path / "out", "cpu", quiet=True) for _ in range(2))
    fit = builder.fitter.fit

    def suspended(*args):
        with monkeypatch.context() as patch:
            patch.setattr(attempts, "SILENT_S", -1.0)
            assert not other.build(0, progress=False).skipped
        os.utime(data, (1, 1))
        return fit(*args)

    data = builder.shards[0].data_file(tmp_path / "out")
    monkeypatch.setattr(builder.fitter, "fit", suspended)
    assert builder.build(0, progress=False).skipped
    assert data.stat().st_mtime == 1


def test_two_that_write_at_once_are_told(small: Path, tmp_path: Path, monkeypatch):
    builder = Builder.open(small, tmp_path / "out", "cpu", quiet=True)

    def write_and_overwrite(*args) -> None:
        write_meta(*args)
        builder.shards[0].data_file(tmp_path / "out").write_bytes(b"of another length")

    monkeypatch.setattr("flows.shard.write_meta", write_and_overwrite)
    with pytest.raises(UserError, match="another process wrote them in the same moment") as caught:
        builder.build(0, progress=False)
    assert may_pass(caught.value)  # flows/build.py tries again
    monkeypatch.undo()
    assert not builder.build(0, progress=False).skipped


def test_what_cannot_be_discarded(small: Path, tmp_path: Path):
    builder = Builder.open(small, tmp_path / "out", "cpu", quiet=True)
    builder.shards[2].meta_file(tmp_path / "out").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot remove .*shard-00002-of-00004.json"):
        builder.discard([2])


@linux
@pytest.mark.slow
@pytest.mark.extra
def test_on_dask(served: Served, small: Path, tmp_path: Path):
    pytest.importorskip("prefect_dask", reason="pip install 'hmr-skel[dask]'")
    command = dataset(small, "--runner", "dask", "--workers", "2", "--server", served.url)
    done = run(command, tmp_path, cwd=served.folder)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["built"], summary["rows"]) == (list(range(SHARDS)), ROWS)
    assert processes_with(tmp_path) == []


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    with pytest.raises(UserError, match="EXTRAS=dask"):
        dask_runner.dask_runner()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workers", "0"], "--workers 0: expected a whole number from 1"),
        (["--dask-address", "tcp://x:1"], "--dask-address goes with --runner dask"),
        (["--runner", "dask", "--workers", "2", "--dask-address", "tcp://x:1"], "without --workers"),
    ],
)
def test_options_that_contradict(options, words, capsys):
    from hmr_skel.cli import main

    assert main(["dataset", *options]) == 2
    assert words in capsys.readouterr().err


def test_the_benchs_table():
    run = {"workers": 1, "threads_per_worker": 1, "rows_per_s": 10.0}
    report = {"one": run, "all": run | {"workers": 2, "rows_per_s": 19.0}, "rows": 64, "shards": 4, "device": "cpu"}
    assert workers_text(report).splitlines()[2].split() == ["2", "1", "19.0", "1.90"]


@pytest.mark.extra
def test_the_bench(small: Path):
    assert bench_workers(["--manifest", str(small), "--rows", "16", "--device", "cpu", "-q"]) == 0

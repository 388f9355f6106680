"""Run the flow's tasks on threads of this process, or on Dask workers.

Dask's scheduler has no password and runs any code that it is sent. So this one listens only on this machine, serves no
web page, and accepts only processes with the key of this build. docs/machines.md explains clusters of several machines.
"""

import importlib.util
import logging
import os
from typing import Any

from hmr_skel.errors import UserError

THREADS = 2
"""Shards at once in one process: one fit keeps a GPU or all cores busy while another shard is read or written."""
DEATHS = 3
"""A shard is not tried again after more than this number of its workers have died."""


def check_dask() -> None:
    """Raise `UserError` if the extra `dask` is not installed."""
    # Importing it would import Prefect, which reads its settings at import.
    if missing := [name for name in ("distributed", "prefect_dask") if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"{missing[0]} is not installed. It is in the extra dask: make setup EXTRAS=dask, or pip install "
            "'hmr-skel[dask]'."
        )


def is_cluster(workers: int | None, address: str | None) -> bool:
    """Whether worker processes build the shards. Raises `UserError` for fewer than one worker."""
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}. Expected a whole number from 1.")
    return address is not None or workers not in (None, 1)


def task_runner(workers: int | None, address: str | None, device: str) -> Any:
    """Prefect's task runner, not started yet: the running Dask cluster whose scheduler `address` names, or `workers`
    processes of this machine, each with a GPU or a share of the cores.

    Raises `UserError` if Dask is not installed.
    """
    if not is_cluster(workers, address):
        from prefect.task_runners import ThreadPoolTaskRunner

        return ThreadPoolTaskRunner(max_workers=THREADS)
    check_dask()
    from prefect_dask import DaskTaskRunner

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # Prefect would show its messages
    if address is not None:
        return DaskTaskRunner(address=address)
    assert workers is not None
    places = environments(workers, device)
    return DaskTaskRunner(cluster_class=lambda: local_cluster(places))


def num_workers(runner: Any) -> int:
    """The number of shards that can be built at once now; 0 if all workers of a cluster are gone."""
    return sum(runner.client.nthreads().values()) if hasattr(type(runner), "client") else THREADS


def environments(workers: int, device: str) -> list[dict[str, str]]:
    """The environment of each worker, which gives it one of the visible GPUs, in turn, or a share of the cores.

    Raises `UserError` for a numbered GPU such as cuda:1, since each worker sees only its own GPU, as cuda:0.
    """
    import torch

    from hmr_skel.device import resolve_device

    found, threads = resolve_device(device), torch.get_num_threads()
    shares = [max(threads // workers + (i < threads % workers), 1) for i in range(workers)]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    places = [dict.fromkeys(names, str(share)) for share in shares]
    if found.type == "cuda":
        if found.index is not None:
            raise UserError(
                f"--device {found} with --workers: each worker gets a GPU of its own. Expected --device cuda; "
                f"CUDA_VISIBLE_DEVICES chooses among the GPUs, e.g. CUDA_VISIBLE_DEVICES={found.index}."
            )
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
        for i, place in enumerate(places):
            place["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)].strip()
    return places


def local_cluster(places: list[dict[str, str]]) -> Any:
    """A Dask cluster on this machine, with a process of one thread per environment. It replaces dead processes."""
    import dask
    from distributed import Nanny, Scheduler, Security, SpecCluster

    # Dask gives up a worker that takes longer to connect; its default of 30 s is too short on a busy machine.
    dask.config.set({"distributed.scheduler.allowed-failures": DEATHS - 1, "distributed.comm.timeouts.connect": "300s"})
    security = Security.temporary()  # a key for these processes only, so that others are refused
    local: dict[str, Any] = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard": False}
    local["dashboard_address"] = "127.0.0.1:0"  # without the dashboard, this serves only health and counters
    options = local | {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL}
    # A worker imports Prefect in its event loop, in which Prefect's plugins (flows/plugin.py) cannot start.
    env = {"PREFECT_PLUGINS_ENABLED": "0"}
    workers = {i: {"cls": Nanny, "options": options | {"env": env | place}} for i, place in enumerate(places)}
    return SpecCluster(workers, {"cls": Scheduler, "options": local | {"port": 0}}, security=security)

"""What runs the flow's tasks: threads of this process, or workers on Dask.

Dask's scheduler has no password and runs what it is sent. So here it listens on this machine only, without its web
page, and takes only who has the key of this build. docs/machines.md says how several machines share one.
"""

import importlib.util
import logging
import os
from typing import Any

from hmr_skel.errors import UserError

THREADS = 2
"""Of one process: one shard's fit keeps a GPU, or every core, busy, while another is read or written."""
DEATHS = 3
"""A shard that was in hand when so many workers died is not tried again."""


def check_dask() -> None:
    """Raise `UserError` where the extra `dask` is not installed."""
    # Not by importing it: it imports Prefect, which reads its settings then.
    if missing := [name for name in ("distributed", "prefect_dask") if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"{missing[0]} is not installed. It is in the extra dask: make setup EXTRAS=dask, or pip install "
            "'hmr-skel[dask]'."
        )


def is_cluster(workers: int | None, address: str | None) -> bool:
    """Whether the shards are for workers, which are other processes. Raises `UserError` for fewer than one."""
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}. Expected a whole number from 1.")
    return address is not None or workers not in (None, 1)


def task_runner(workers: int | None, address: str | None, device: str) -> Any:
    """Prefect's task runner, not started yet: on a Dask cluster that runs where `address` names its scheduler, else on
    so many processes of this machine, each with a GPU of its own or its share of the cores.

    Raises `UserError` where Dask is not installed.
    """
    if not is_cluster(workers, address):
        from prefect.task_runners import ThreadPoolTaskRunner

        return ThreadPoolTaskRunner(max_workers=THREADS)
    check_dask()
    from prefect_dask import DaskTaskRunner

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # Prefect shows all that the level lets through
    if address is not None:
        return DaskTaskRunner(address=address)
    assert workers is not None
    places = environments(workers, device)
    return DaskTaskRunner(cluster_class=lambda: local_cluster(places))


def num_workers(runner: Any) -> int:
    """How many shards can be built at once now. 0 where all workers of a cluster are gone."""
    return sum(runner.client.nthreads().values()) if hasattr(type(runner), "client") else THREADS


def environments(workers: int, device: str) -> list[dict[str, str]]:
    """The environment variables of each worker: a GPU of those that are visible, in turn, and its share of the cores.

    Raises `UserError` for a numbered GPU, cuda:1: each worker sees a single one, as cuda:0.
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
    """A Dask cluster on this machine, with a process of one thread for each environment. It starts dead ones again."""
    import dask
    from distributed import Nanny, Scheduler, Security, SpecCluster

    # A worker whose connecting takes longer is given up for good. On a busy machine the 30 s of Dask are too few.
    dask.config.set({"distributed.scheduler.allowed-failures": DEATHS - 1, "distributed.comm.timeouts.connect": "300s"})
    security = Security.temporary()  # a key that only these processes have: others on this machine are refused
    local: dict[str, Any] = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard": False}
    local["dashboard_address"] = "127.0.0.1:0"  # what answers there without the dashboard: is it alive, its counters
    options = local | {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL}
    # A worker imports Prefect in its event loop, where Prefect's plugins (flows/plugin.py) cannot start.
    env = {"PREFECT_PLUGINS_ENABLED": "0"}
    workers = {i: {"cls": Nanny, "options": options | {"env": env | place}} for i, place in enumerate(places)}
    return SpecCluster(workers, {"cls": Scheduler, "options": local | {"port": 0}}, security=security)

"""The flow's tasks on a Dask cluster: one that is there, or one of processes of this machine for as long as it runs."""

from typing import Any

from hmr_skel.errors import UserError


def dask_runner(address: str | None = None, workers: int | None = None) -> Any:
    """Prefect's task runner for Dask.

    Args:
        address: of a cluster's scheduler, tcp://host:8786; without, a cluster is started here.
        workers: processes of that cluster, one thread each, as many as there are cores if not given.

    Raises `UserError` where the extra `dask` is not installed, or nobody answers at the address.
    """
    try:
        from distributed import Client
        from prefect_dask import DaskTaskRunner
    except ImportError as error:
        raise UserError(f"Dask is not installed ({error}): make setup EXTRAS=dask") from error
    if address is None:
        # Dask tells each process to compute with one thread (OMP_NUM_THREADS), so processes are what fills the cores.
        return DaskTaskRunner(cluster_kwargs={"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None})
    try:
        Client(address, timeout="10s").close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Dask scheduler answers at {address}: {error}. Expected tcp://host:8786 or the like; `dask scheduler` "
            "prints its own."
        ) from error
    return DaskTaskRunner(address=address)

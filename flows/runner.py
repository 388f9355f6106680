"""`python -m flows.runner [POOL]`: registers the deployment with the server of `make serve`.

Starts the runs that are asked for here, or leaves them to the workers of a work pool.
"""

import asyncio
import contextlib
import os
import sys
import threading

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.flows import EntrypointType
from prefect.runner import Runner
from prefect.workers.process import ProcessWorker

from flows.address import address_file
from flows.build import NAME, build_hmr_skel


class _Runner(Runner):
    """Prefect's, but for its end: at SIGTERM that calls a coroutine which it does not await, and Python warns of it."""

    def handle_sigterm(self, *args, **kwargs) -> None:
        sys.exit(0)  # runs at work are told to end by flows/serve.py, being of the same process group


def main(pool: str | None = None) -> None:
    """Serve the deployment until told to end. PREFECT_API_URL names the server."""
    # By module path, so that the folder that it runs in need not be the repository's.
    if pool is not None:
        _offer(pool)
        _say_ready(f"start workers, prefect worker start --pool {pool} --limit 1; then")
        threading.Event().wait()
    runner = _Runner(name=NAME, pause_on_shutdown=False)
    runner.add_flow(build_hmr_skel, name=NAME, entrypoint_type=EntrypointType.MODULE_PATH)
    _say_ready("in another terminal, from this folder,")
    asyncio.run(runner.start())


def _offer(pool: str) -> None:
    """Make the pool if there is none, and register the deployment in it: runs start in the folder that this runs in."""
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=pool, type=ProcessWorker.type, base_job_template=template))
    deployment = build_hmr_skel.to_deployment(
        NAME,
        work_pool_name=pool,
        job_variables={"working_dir": os.getcwd()},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.apply()


def _say_ready(how: str) -> None:
    # Only now can `prefect deployment run` in another terminal find it.
    path = address_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(os.environ["PREFECT_API_URL"])
    print(f"ready: {how} prefect deployment run {NAME}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""`python -m flows.runner`: registers the deployment with the server of `make serve` and starts the runs asked for."""

import asyncio
import os

from prefect.flows import EntrypointType
from prefect.runner import Runner

from flows.address import address_file
from flows.build import NAME, build_hmr_skel


def main() -> None:
    """Serve the deployment until told to end. PREFECT_API_URL names the server."""
    runner = Runner(name=NAME, pause_on_shutdown=False)
    # By module path, so that the folder that it runs in need not be the repository's.
    runner.add_flow(build_hmr_skel, name=NAME, entrypoint_type=EntrypointType.MODULE_PATH)
    # Only now can `prefect deployment run` in another terminal find it.
    path = address_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(os.environ["PREFECT_API_URL"])
    print(f"ready: in another terminal, from this folder, prefect deployment run {NAME}", flush=True)
    asyncio.run(runner.start())


if __name__ == "__main__":
    main()

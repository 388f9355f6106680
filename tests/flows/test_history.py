"""Prefect's database keeps the latest runs of our flow, and all that is not ours."""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.flows.processes import TIMEOUT_S
from tests.flows.served import Served

OWNERS = {"flow_run": "id", "task_run": "flow_run_id", "log": "flow_run_id", "artifact": "flow_run_id"}
"""Tables, and the column that says which flow run a row belongs to."""


def names_of(database: Path) -> dict[str, str]:
    """Names of the flow runs by their number."""
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute("select id, name from flow_run"))


def count(database: Path, names: dict[str, str]) -> dict[str, Counter]:
    """Rows of each table, by the name of the flow run that they belong to; of those runs alone."""
    with closing(sqlite3.connect(database)) as connection:
        return {
            table: Counter(names[run] for (run,) in connection.execute(f"select {owner} from {table}") if run in names)
            for table, owner in OWNERS.items()
        }


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("client")
def test_old_runs_go_and_nothing_else(served: Served):
    from prefect import flow, get_client, get_run_logger, task
    from prefect.artifacts import create_markdown_artifact
    from prefect.client.schemas.objects import State, StateType

    from flows.build import forget_old_runs

    @task
    def work():
        get_run_logger().info("done")

    @flow(name="soaked", flow_run_name="{name}")
    def ours(name: str, fails: bool = False):
        work()
        create_markdown_artifact("text", key="soaked")
        assert not fails

    @flow(name="somebody-elses", flow_run_name="{name}")
    def other(name: str):
        work()
        create_markdown_artifact("text", key="other")

    @flow(name="a-parent", flow_run_name="parent")
    def parent():
        ours("child")

    database = served.database
    other("theirs")
    parent()
    for number in range(3):
        ours(f"ours-{number}", fails=number == 1, return_state=True)
    with get_client(sync_client=True) as client:
        killed = client.create_flow_run(
            ours, parameters={"name": "killed"}, name="killed", state=State(type=StateType.RUNNING)
        )
    assert killed.state_type == StateType.RUNNING
    kept = dict.fromkeys(("theirs", "child", "ours-2"), 1)
    logged = {*kept, *(f"ours-{number}" for number in range(3))}
    wanted = {"parent", "killed", *logged}
    names = {run: name for run, name in names_of(database).items() if name in wanted}
    assert set(names.values()) == wanted
    wait_for(lambda: logged <= count(database, names)["log"].keys())  # they are sent a little later
    assert forget_old_runs("soaked", keep=1) == 2
    assert forget_old_runs("soaked", keep=1) == 0
    wait_for(lambda: "ours-0" not in count(database, names)["log"])  # removed a little later, too
    found = count(database, names)
    for table in OWNERS:
        assert {name for name in found[table] if name in logged} == kept.keys(), table
    assert found["artifact"] >= Counter(kept)
    assert found["flow_run"] >= Counter([*kept, "parent", "killed"])

"""Prefect's database keeps the latest runs of our flow, and all that is not ours."""

import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest

from flows.server import running_server
from tests.flows.processes import prefect_home

TABLES = ("flow_run", "task_run", "log", "artifact")


def count(database: Path) -> dict[str, Counter]:
    """Rows of each table by the name of the flow run that they belong to."""
    with sqlite3.connect(database) as connection:
        names = dict(connection.execute("select id, name from flow_run"))
        owners = {name: "id" if name == "flow_run" else "flow_run_id" for name in TABLES}
        return {
            table: Counter(names.get(run, "nobody") for (run,) in connection.execute(f"select {owner} from {table}"))
            for table, owner in owners.items()
        }


@pytest.mark.slow
def test_old_runs_go_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from prefect import flow, get_client, get_run_logger, task
    from prefect.artifacts import create_markdown_artifact
    from prefect.client.schemas.objects import State, StateType
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.history import forget_old_runs

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

    monkeypatch.setenv("PREFECT_HOME", str(prefect_home(tmp_path)))
    with running_server(ui=False) as (_, url), temporary_settings({PREFECT_API_URL: url}):
        other("theirs")
        parent()
        for number in range(5):
            ours(f"ours-{number}", fails=number == 1, return_state=True)
        with get_client(sync_client=True) as client:
            killed = client.create_flow_run(
                ours, parameters={"name": "killed"}, name="killed", state=State(type=StateType.RUNNING)
            )
        assert killed.state_type == StateType.RUNNING
        assert forget_old_runs("soaked", keep=2) == 3
        assert forget_old_runs("soaked", keep=2) == 0
        database = prefect_home(tmp_path) / "prefect.db"
        kept = dict.fromkeys(("theirs", "child", "ours-3", "ours-4"), 1)
        deadline = time.monotonic() + 60
        while count(database)["log"]["nobody"] and time.monotonic() < deadline:
            time.sleep(0.2)  # the server removes logs a little later
        found = count(database)
    for table in TABLES:
        names = {name: number for name, number in found[table].items() if name in kept or name.startswith("ours")}
        assert names.keys() == kept.keys(), table
        assert "nobody" not in found[table], table
    assert found["artifact"] >= Counter(kept)
    assert found["flow_run"] >= Counter([*kept, "parent", "killed"])

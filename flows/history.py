"""Old runs of this flow, taken out of Prefect's database, which would grow for ever otherwise.

Prefect itself removes events after a week (PREFECT_SERVER_EVENTS_RETENTION_PERIOD), and nothing else. What a dataset is
made of is in its own meta files; nothing here ever reads a run.
"""

import contextlib

from prefect import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

KEPT_RUNS = 50
"""Finished runs that stay, the latest."""
_MOST_AT_ONCE = 100  # a second or so, and no more, before a build starts


def forget_old_runs(flow: str, keep: int = KEPT_RUNS) -> int:
    """Remove finished runs of a flow, with their tasks, logs and artifacts, but for the latest; returns how many.

    Runs of other flows stay, and those that another flow started, whose own record they are part of. So do runs that
    were killed: Prefect takes them to be running.
    """
    finished = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=sorted(TERMINAL_STATES))),
        parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
    )
    with get_client(sync_client=True) as client:
        old = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
            flow_run_filter=finished,
            sort=FlowRunSort.END_TIME_DESC,
            offset=keep,
            limit=_MOST_AT_ONCE,
        )
        for run in old:
            with contextlib.suppress(ObjectNotFound):  # another run that starts now has removed it
                # Prefect removes tasks and logs with their run, but not these; first, so that none is left behind.
                of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
                for artifact in client.read_artifacts(artifact_filter=of_run):
                    client.delete_artifact(artifact.id)
                client.delete_flow_run(run.id)
    return len(old)

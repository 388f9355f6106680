"""Shards of a dataset that other processes build too, in this one, without Prefect: for benchmarks and drills."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from flows.shard import Builder
from flows.shard_report import ShardReport
from hmr_skel.data.attempts import AtWork
from hmr_skel.errors import UserError


def build_shared(
    builder: Builder,
    indices: Sequence[int],
    report: Callable[[int, ShardReport | UserError], object],
    *,
    at_once: int = 1,
) -> None:
    """Build the shards that nobody else does; then wait for the others', and build what they left.

    Args:
        builder: with its models loaded.
        indices: numbers of the shards.
        report: gets each shard and what came of it. One that fails does not stop the others.
        at_once: how many to have in hand: with 2, one is fitted while another is read or written.
    """

    def build(index: int) -> ShardReport | UserError:
        try:
            return builder.build(index, progress=False, wait=False)
        except UserError as error:
            return error

    turns, claimed = deque(builder.turns(indices)), []
    with ThreadPoolExecutor(at_once) as pool:
        run = pool.map if at_once > 1 else map  # in this thread, where signals arrive
        while turns or claimed:
            if not turns:
                free = builder.wait_for_others(claimed, lambda text: None)
                claimed = [index for index in claimed if index not in free]
                turns.extend(builder.turns(free))
            turn = turns.popleft()
            for index, result in zip(turn, run(build, turn), strict=True):
                if isinstance(result, AtWork):
                    claimed.append(index)
                else:
                    report(index, result)

"""Full disks, unreadable and changing sources, a device without memory: said clearly, and nothing is lost."""

from pathlib import Path

import pytest

from flows.shard import Builder
from hmr_skel.data.shards import shard_state
from hmr_skel.errors import UserError
from tests.flows.conftest import build_all
from tools.drill.faults import Cost, cost
from tools.drill.injection import Injection, injected
from tools.drill.small import SHARDS, make_small

NOTHING_LOST = Cost(lost=0, duplicated=0, half_files=0, equal=True)


def errors_of(builder: Builder) -> list[str]:
    """Errors of shards; the others are built."""
    errors = []
    for index in range(SHARDS):
        try:
            builder.build(index, progress=False)
        except UserError as error:
            errors.append(str(error))
    return errors


@pytest.mark.parametrize(
    ("injection", "words"),
    [
        (Injection(full_at_write=4), "No space left on device"),
        (Injection(full_at_flush=3), "No space left on device"),
        (Injection(largest_file=9000), "File too large"),
        (Injection(unreadable_at=2), "Input/output error. Finished shards are kept"),
    ],
)
def test_one_error_and_nothing_lost(elsewhere: tuple[Builder, Path], injection: Injection, words: str):
    builder, undisturbed = elsewhere
    with injected(injection):
        errors = errors_of(builder)
    assert len(errors) == (SHARDS if injection.largest_file else 1)
    assert all(words in error for error in errors)
    assert not list(builder.out.rglob("*.tmp"))
    assert errors_of(builder) == []
    builder.write_card()
    assert cost(builder.out, undisturbed) == NOTHING_LOST


@pytest.mark.slow
def test_a_batch_that_is_too_large_halves_and_the_meta_file_says_so(open_body_dir: Path, tmp_path: Path):
    manifest = make_small(tmp_path, open_body_dir, shards=2, rows_per_shard=70)
    outs = []
    for rows in (10**6, 64):
        builder = Builder.open(manifest, tmp_path / str(rows), "cpu", quiet=True)
        with injected(Injection(memory_rows=rows)):
            build_all(builder)
        outs.append(builder.out)
        meta = shard_state(builder.out, builder.shards[1]).meta or {}
        assert meta["batch"] == (64 if rows == 64 else 2048)
    assert cost(outs[1], outs[0], rounding=True) == NOTHING_LOST

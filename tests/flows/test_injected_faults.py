"""Full disks, unreadable and changing sources, a device without memory: said clearly, and nothing is lost."""

import os
from pathlib import Path

import pytest

from flows.shard import Builder
from hmr_skel.errors import UserError
from tools.drill.damage import Cost, cost
from tools.drill.injection import Injection, injected
from tools.drill.small import SHARDS, make_small

NOTHING_LOST = Cost(lost=0, duplicated=0, half_files=0, equal=True)


@pytest.fixture(scope="module")
def builder(open_body_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    folder = tmp_path_factory.mktemp("faults")
    builder = Builder.open(make_small(folder, open_body_dir), folder / "undisturbed", "cpu", quiet=True)
    build_all(builder)
    return builder


@pytest.fixture
def elsewhere(builder: Builder, tmp_path: Path):
    """The builder, at work on another folder."""
    before = builder.out
    builder.out = tmp_path / "out"
    yield builder, before
    builder.out = before


def build_all(builder: Builder) -> list[str]:
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
        *((Injection(full_at_write=n), "No space left on device") for n in (1, 4)),
        *((Injection(full_at_flush=n), "No space left on device") for n in (2, 3)),
        (Injection(largest_file=9000), "File too large"),
        (Injection(unreadable_at=2), "labels.npz: Input/output error. What is finished is kept"),
    ],
)
def test_one_error_and_nothing_lost(elsewhere: tuple[Builder, Path], injection: Injection, words: str):
    builder, undisturbed = elsewhere
    with injected(injection):
        errors = build_all(builder)
    assert len(errors) == (SHARDS if injection.largest_file else 1)
    assert all(words in error for error in errors)
    assert not list(builder.out.rglob("*.tmp"))
    assert build_all(builder) == []
    builder.write_card()
    assert cost(builder.out, undisturbed) == NOTHING_LOST


@pytest.mark.slow
def test_a_batch_that_is_too_large_halves_and_says_so_once(open_body_dir: Path, tmp_path: Path, capsys):
    manifest = make_small(tmp_path, open_body_dir, shards=2, rows_per_shard=4)  # the plain solver is slow
    outs = []
    for rows in (10**6, 3):
        builder = Builder.open(manifest, tmp_path / str(rows), "cpu", quiet=True)
        with injected(Injection(memory_rows=rows)):
            for index in range(2):
                builder.build(index, progress=False)
        outs.append(builder.out)
        err = capsys.readouterr().err
        assert err.count("cpu: out of memory at a batch of 512 rows, going on with 2 where needed") == (rows == 3)
    assert cost(outs[1], outs[0], rounding=True) == NOTHING_LOST


def test_a_label_file_that_changes_after_it_was_opened_harms_nothing(
    open_body_dir: Path, builder: Builder, tmp_path: Path
):
    manifest = make_small(tmp_path, open_body_dir)
    here = Builder.open(manifest, tmp_path / "out", "cpu", quiet=True)
    here.build(0, progress=False)
    os.truncate(tmp_path / "labels.npz", 1000)
    assert build_all(here) == []
    assert cost(here.out, builder.out) == NOTHING_LOST

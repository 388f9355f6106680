"""What is answered from files alone loads neither torch nor numba nor Prefect, and writes nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.shard import Builder
from hmr_skel.cli import main
from tests.flows.conftest import ROWS, ROWS_PER_SHARD, write_small

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numba", "prefect")

HELP = """
import argparse
from hmr_skel.cli import build_parser

def leaves(parser, words=()):
    yield words
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from leaves(inner, (*words, name))

for words in leaves(build_parser()):
    try:
        build_parser().parse_args([*words, "--help"])
    except SystemExit as stopped:
        assert stopped.code == 0
"""
MAIN = "from hmr_skel.cli import main; assert main({!r}) == {}"


@pytest.fixture(scope="module")
def complete(open_body_dir: Path, small_labels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a dataset of which all shards are built; read only."""
    manifest = write_small(tmp_path_factory.mktemp("complete"), open_body_dir, small_labels)
    builder = Builder.open(manifest, manifest.parent / "out", "cpu", quiet=True)
    for index in range(ROWS // ROWS_PER_SHARD):
        builder.build(index, progress=False)
    builder.write_card()
    return manifest


def arguments(command: str, manifest: Path) -> list[str]:
    out = manifest.parent / "out"
    return command.format(manifest=f"--manifest {manifest}", out=out).split()


COMMANDS = [
    "fit --shard 01 {manifest} --out {out}",
    "dataset {manifest} --out {out}",
    "verify {out} --files-only",
    "verify {out} {manifest} --sample 0",
    "schema",
]
WRONG = ["render {out} 999 -o x.png", "predict nowhere.jpg --whole-image"]


def test_what_needs_no_torch_loads_none(complete: Path):
    code = "\n".join(
        MAIN.format(arguments(command, complete), 2 * (command in WRONG)) for command in (*COMMANDS, *WRONG)
    )
    read = f"from hmr_skel import load_shards; assert load_shards({str(complete.parent / 'out')!r})['skel_q'].any()"
    assert loaded_by(f"{code}\n{read}") == []


def test_help_of_every_command_needs_no_torch():
    assert loaded_by(HELP) == []


def loaded_by(code: str) -> list[str]:
    """Which of the heavy modules a program of its own has loaded at its end."""
    end = f"import sys; print(); print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{end}"], capture_output=True, text=True, timeout=300, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1].replace("'", '"'))


@pytest.mark.parametrize(
    "command", ["fit --shard 2 {manifest} --out {out} --json", "dataset {manifest} --out {out} --json"]
)
def test_a_complete_dataset_is_answered_without_writing(complete: Path, command: str, capsys):
    before = states(complete.parent)
    assert main(arguments(f"{command} {{manifest}} --out {{out}} --json", complete)) == 0
    assert states(complete.parent) == before
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["skipped"] in (True, [0, 1, 2, 3])


def states(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Of all files and folders; a folder's times change with what is made or removed in it."""
    found = {path: path.stat() for path in (folder, *folder.rglob("*"))}
    return {path: (state.st_ino, state.st_mtime_ns, state.st_ctime_ns) for path, state in found.items()}

"""The command line, as a new user meets it: help, and one clear message for everything that can be wrong."""

import argparse
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hmr_skel.body.assets import SKEL_FILES, SMPL_FILES
from hmr_skel.cli import build_parser, main
from tests.conftest import torch_threads
from tests.data.conftest import label_arrays
from tests.flows.conftest import MANIFEST, models_once
from tests.flows.processes import hmr_skel, run

pytestmark = pytest.mark.usefixtures("without_shape_checks")  # as users run the commands
ROWS = 12


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Six rows are too few to share out."""
    with torch_threads(1):
        yield


_models_once = pytest.fixture(models_once, scope="module", autouse=True, name="_models_once")


@pytest.fixture
def small(tmp_path: Path, open_body_dir: Path) -> Path:
    """A manifest of two shards, in a folder of its own, with links to model files: what a case spoils is its own."""
    np.savez(tmp_path / "labels.npz", **label_arrays(ROWS))
    bodies = tmp_path / "bodies"
    bodies.mkdir()
    for file in open_body_dir.iterdir():
        (bodies / file.name).symlink_to(file)
    text = MANIFEST.format(name="small", rows_per_shard=6, body_models=bodies, labels=tmp_path / "labels.npz")
    manifest = tmp_path / "small.toml"
    manifest.write_text(text)
    return manifest


def fit(manifest: Path, *more: str, shard: str = "0") -> list[str]:
    return ["fit", "--manifest", str(manifest), "--out", str(manifest.parent / "out"), "--shard", shard, *more]


Change = Callable[[Path], object]
"""Spoils something of the manifest's folder."""


def edited(old: str, new: str) -> Change:
    def change(manifest: Path) -> None:
        text = manifest.read_text()
        assert old in text
        manifest.write_text(text.replace(old, new))

    return change


def without(name: str) -> Change:
    return lambda manifest: (manifest.parent / name).unlink()


SPOILED: dict[str, tuple[Change, str]] = {
    "unknown recipe": (edited("rows_per_shard", 'recipe = "best"\nrows_per_shard'), r"recipe 'best'\. Expected one"),
    "no labels": (without("labels.npz"), r"no label file .*labels\.npz"),
    "no SKEL": (without("bodies/skel_male.pkl"), r"no body model .*skel_male\.pkl.*Expected the official file"),
    "no regressor": (without("bodies/SMPL_to_J19.pkl"), r"no body model .*SMPL_to_J19\.pkl"),
    "no models": (
        lambda manifest: shutil.rmtree(manifest.parent / "bodies"), r"no body model .*does not exist or is empty"
    ),
    "output is a file": (
        lambda manifest: (manifest.parent / "out").write_text("a file"), r"cannot write .*out.*[Nn]ot a directory"
    ),
}  # fmt: skip
"""Each reader's own messages are tested with it; here each kind of file is one line and no traceback."""
ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "no such shard": (["fit", "--shard", "99"], r"no shard 99: .* 2 shards, 0 to 1"),
    "no such device": (["fit", "--shard", "0", "--device", "cuda:63"], r"no device 'cuda:63'.*--device cpu"),
    "unknown device": (["fit", "--shard", "0", "--device", "gpu"], r"unknown device 'gpu'.*cpu, cuda"),
    "body into a file": (["body", "export", "small.toml"], r"small\.toml"),
    "port out of range": (["serve", "--port", "99999"], r"port 99999: expected a whole number from 1 to 65,535"),
    "no such folder": (["verify", "data/nope"], r"no folder data/nope\. Expected .*data/open"),
    "no such folder of a manifest": (["verify", "nope", "--manifest", "small.toml"], "no folder nope"),
    "no such command": (["ft"], r"invalid choice: 'ft' .* \(did you mean fit\?\)\. `hmr-skel --help` says more"),
    "no such option": (["fit", "--shrad=7"], r"no option --shrad \(did you mean --shard\?\)\. `hmr-skel fit --help`"),
    "no number": (["fit", "--shard", "big"], r"--shard big: expected a whole number from 0"),
}


def check_message(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, one line that matches, no traceback."""
    assert main(arguments) == 2
    err = capsys.readouterr().err.strip()
    assert "Traceback" not in err
    assert re.search("^error: .*" + expected, err.splitlines()[-1]), err


@pytest.mark.parametrize(("change", "expected"), SPOILED.values(), ids=SPOILED.keys())
def test_one_clear_message_for_each_spoiled_input(change: Change, expected: str, small: Path, capsys, monkeypatch):
    monkeypatch.chdir(small.parent)
    change(small)
    check_message(fit(small), expected, capsys)
    assert not [file for file in small.parent.glob("out/data/*.parquet") if file.stat().st_size]


@pytest.mark.parametrize(("arguments", "expected"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_one_clear_message_for_wrong_arguments(arguments: list[str], expected: str, small: Path, capsys, monkeypatch):
    monkeypatch.chdir(small.parent)
    manifest = ["--manifest", "small.toml", "--out", "out"] if arguments[0] == "fit" else []
    check_message([*arguments, *manifest], expected, capsys)
    assert not list(small.parent.glob("out/data/*.parquet"))


def test_fit_prints_its_report_and_json(small: Path, capsys):
    assert main(fit(small, "--json", shard="01")) == 0
    *text, last = capsys.readouterr().out.strip().splitlines()
    report = json.loads(last)
    keys = {"shard", "shards", "rows", "kept", "rejected", "rows_per_s", "v2v_mm", "limit_violations", "file"}
    assert keys <= set(report)
    assert set(report["v2v_mm"]) == {"mean", "median", "p95", "p99", "max"}
    assert (report["shard"], report["shards"]) == (1, 2)
    report_text = "\n".join(text)
    words = ("kept", "rejected", "rows/s", "mean", "p99", "worst row", "worst vertex", "limit violations")
    for word in (*words, report["file"]):
        assert word in report_text
    assert main(fit(small, "-q", shard="01")) == 0
    assert capsys.readouterr().out == ""


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_an_interrupted_command_says_what_is_left(small: Path, capsys, monkeypatch):
    monkeypatch.setattr("fitting.fit_many", interrupt)
    assert main(fit(small)) == 130
    assert capsys.readouterr().err.endswith(
        "interrupted. Finished files are kept. Start the same command again to continue.\n"
    )
    assert not list(small.parent.rglob("*.tmp"))


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO])
def test_an_error_of_reading_asks_for_no_folder_to_write_to(capsys, monkeypatch, number: int):
    def unreadable(*args, **kwargs):
        raise OSError(number, os.strerror(number), "picture.jpg")

    monkeypatch.setattr("hmr_skel.commands.report.schema_page", unreadable)
    assert main(["schema"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: picture.jpg: {os.strerror(number)}. Check that it exists")


def test_a_bug_keeps_its_traceback(small: Path, monkeypatch):
    def bug(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("fitting.fit_many", bug)
    with pytest.raises(ZeroDivisionError):
        main(fit(small))


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Of all commands."""
    yield parser
    for action in parser._actions:
        for command in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from parsers(command)


def test_help_explains_every_option():
    for parser in parsers(build_parser()):
        assert max(map(len, parser.format_help().splitlines())) <= 120
        for action in parser._actions:
            assert isinstance(action, argparse._SubParsersAction) or action.help, (parser.prog, action.dest)


def test_hmr_skel_alone_says_what_to_type_first(capsys):
    """And what it says can be typed."""
    assert main([]) == 0
    typed = re.findall(r"^  hmr-skel (.*?)(?:  |$)", capsys.readouterr().out, re.MULTILINE)
    assert len(typed) == 4
    for command in typed:
        build_parser().parse_args(command.split())


def test_two_exports_of_the_open_body_are_equal_and_complete(open_body_dir: Path, tmp_path: Path, capsys):
    assert main(["body", "export", str(tmp_path)]) == 0
    assert set(capsys.readouterr().out.splitlines()) == set(map(str, tmp_path.iterdir()))
    assert {*SMPL_FILES.values(), *SKEL_FILES.values(), "NOTICE"} <= {path.name for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (open_body_dir / path.name).read_bytes(), path.name


def test_started_as_a_program(tmp_path: Path):
    done = run(hmr_skel("fit", "--manifest", "nowhere.toml", "--shard", "7"), tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no manifest nowhere.toml")
    command = f"{sys.executable} -m hmr_skel.cli --help | head -n 1"
    piped = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=True)
    assert piped.stdout.startswith("usage: hmr-skel")
    assert piped.stderr == ""


@pytest.mark.parametrize("arguments", [["fit", "--shard", "99"], ["dataset", "--shards", "0,99"]])
def test_a_shard_that_will_not_be_there_is_refused_before_files_are_made(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HMR_SKEL_DATA", str(tmp_path))
    check_message(arguments, "no shard 99: this manifest makes 12 shards, 0 to 11", capsys)
    assert not list(tmp_path.iterdir())

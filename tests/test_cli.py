"""The command line, as a new user meets it: help, and one clear message for everything that can be wrong."""

import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hmr_skel.cli import build_parser, main
from tests.flows.conftest import MANIFEST
from tests.flows.processes import hmr_skel, run

ROWS = 12


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Six rows are too few to share out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small(tmp_path: Path, open_body_dir: Path) -> Path:
    """A manifest of two shards, in a folder of its own, with links to model files: what a case spoils is its own."""
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "labels.npz",
        imgname=np.array([f"a/{i}.jpg" for i in range(ROWS)]),
        center=np.full((ROWS, 2), 300, np.float32),
        scale=np.ones(ROWS, np.float32),
        pose_cam=(0.1 * rng.normal(size=(ROWS, 72))).astype(np.float32),
        shape=rng.normal(size=(ROWS, 10)).astype(np.float32),
        trans_cam=np.tile(np.array([0, 0, 5], np.float32), (ROWS, 1)),
        cam_int=np.tile(np.array([[1000, 0, 300], [0, 1000, 300], [0, 0, 1]], np.float32), (ROWS, 1, 1)),
    )
    bodies = tmp_path / "bodies"
    bodies.mkdir()
    for file in open_body_dir.iterdir():
        (bodies / file.name).symlink_to(file)
    text = MANIFEST.format(rows_per_shard=6, body_models=bodies, labels=tmp_path / "labels.npz")
    manifest = tmp_path / "small.toml"
    manifest.write_text(text)
    return manifest


def fit(manifest: Path, *more: str, shard: str = "0") -> list[str]:
    return ["fit", "--manifest", str(manifest), "--out", str(manifest.parent / "out"), "--shard", shard, *more]


def edited(manifest: Path, old: str, new: str) -> Path:
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new))
    return manifest


def with_labels(manifest: Path, change: Callable[[dict], object]) -> Path:
    path = manifest.parent / "labels.npz"
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)
    return manifest


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def replaced(path: Path, content: object) -> None:
    path.unlink()
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))


def case_no_such_shard(manifest):
    return fit(manifest, shard="99"), r"no shard 99: .* 2 shards, 0 to 1"


def case_shard_is_no_number(manifest):
    return fit(manifest, shard="seven"), r"'seven' names no shards.* such as 7, 07"


def case_several_shards(manifest):
    return fit(manifest, shard="0-1"), r"names 2 shards; `hmr-skel dataset --shards`"


def case_no_manifest(manifest):
    return fit(manifest.parent / "nowhere.toml"), r"no manifest .*nowhere\.toml.*manifests/open\.toml"


def case_manifest_is_no_toml(manifest):
    manifest.write_text("name = [")
    return fit(manifest), r"small\.toml is not valid TOML"


def case_manifest_lacks_a_key(manifest):
    return fit(edited(manifest, 'skel_gender = "male"', "")), r"skel_gender"


def case_manifest_has_an_unknown_key(manifest):
    return fit(edited(manifest, "skel_gender", "skel_gendre")), r"skel_gend"


def case_unknown_recipe(manifest):
    return fit(edited(manifest, 'name = "small"', 'name = "small"\nrecipe = "best"')), r"recipe 'best'; known: default"


def case_labels_missing(manifest):
    (manifest.parent / "labels.npz").unlink()
    return fit(manifest), r"no label file .*labels\.npz"


def case_labels_truncated(manifest):
    truncated(manifest.parent / "labels.npz")
    return fit(manifest), r"labels\.npz .*not a complete \.npz.*fetch it again"


def case_labels_lack_a_key(manifest):
    return fit(with_labels(manifest, lambda arrays: arrays.pop("shape"))), r"no key 'shape' .*It has: .*center"


def case_labels_have_a_misshapen_key(manifest):
    def cut(arrays):
        arrays["pose_cam"] = arrays["pose_cam"][:, :69]

    return fit(with_labels(manifest, cut)), r"pose_cam.*69"


def case_labels_of_unequal_length(manifest):
    def cut(arrays):
        arrays["center"] = arrays["center"][:-1]

    return fit(with_labels(manifest, cut)), r"center.*11"


def case_model_missing(manifest):
    (manifest.parent / "bodies" / "skel_male.pkl").unlink()
    return fit(manifest), r"no body model .*skel_male\.pkl.*Expected the official file"


def case_model_folder_missing(manifest):
    shutil.rmtree(manifest.parent / "bodies")
    return fit(manifest), r"no body model .*does not exist or is empty"


def case_model_of_another_version(manifest):
    path = manifest.parent / "bodies" / "skel_male.pkl"
    content = pickle.loads(path.read_bytes()) | {"version": "1.0"}
    replaced(path, content)
    return fit(manifest), r"skel_male\.pkl: found .*1\.0.*expected SKEL 1\.1\.1"


def case_model_is_another(manifest):
    replaced(manifest.parent / "bodies" / "SMPL_NEUTRAL.pkl", {"a": np.zeros(3)})
    return fit(manifest), r"SMPL_NEUTRAL\.pkl.*SMPL"


def case_model_truncated(manifest):
    path = manifest.parent / "bodies" / "SMPL_NEUTRAL.pkl"
    replaced(path, path.read_bytes()[:5000])
    return fit(manifest), r"SMPL_NEUTRAL\.pkl.*[Ff]etch the file again"


def case_keypoint_regressor_missing(manifest):
    (manifest.parent / "bodies" / "SMPL_to_J19.pkl").unlink()
    return fit(manifest), r"no body model .*SMPL_to_J19\.pkl"


def case_output_not_writable(manifest):
    (manifest.parent / "out").write_text("a file")
    return fit(manifest), r"cannot write .*out.*[Nn]ot a directory"


def case_output_is_another_dataset(manifest):
    (manifest.parent / "out" / "data").mkdir(parents=True)
    (manifest.parent / "out" / "data" / "train-00000-of-00007.parquet").touch()
    return fit(manifest), r"another number of shards than the 2"


def case_no_such_device(manifest):
    return fit(manifest, "--device", "cuda:63"), r"no device 'cuda:63'.*--device cpu"


def case_unknown_device(manifest):
    return fit(manifest, "--device", "gpu"), r"unknown device 'gpu'.*cpu, cuda"


def case_open_body_into_a_file(manifest):
    return ["body", "export", str(manifest)], r"small\.toml"


def case_clean_what_is_not_there(manifest):
    return ["body", "clean", str(manifest.parent / "none.pkl")], r"none\.pkl: no such file"


def case_clean_what_is_no_model(manifest):
    return ["body", "clean", str(manifest)], r"small\.toml.*cannot be read as a model file"


def case_port_out_of_range(manifest):
    return ["serve", "--port", "99999"], r"port 99999: expected 1 to 65535"


CASES = {name.removeprefix("case_"): value for name, value in list(globals().items()) if name.startswith("case_")}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_one_clear_message(case, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.chdir(small.parent)
    arguments, expected = case(small)
    assert main(arguments) == 2
    err = capsys.readouterr().err.strip()
    message = err.splitlines()[-1]
    assert message.startswith("error: ")
    assert "Traceback" not in err

    assert re.search(expected, message), message
    assert not list(small.parent.glob("out/data/*.parquet")) or "another_dataset" in case.__name__


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else False, reason="allowed: root may write everywhere")
def test_a_folder_without_write_permission(small: Path, capsys):
    out = small.parent / "out"
    out.mkdir(mode=0o500)
    assert main(fit(small)) == 2
    assert "ermission denied" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="allowed: needs /dev/full")
def test_a_full_disk(small: Path, capsys, monkeypatch):
    monkeypatch.chdir(small.parent)

    def full(*args, **kwargs):
        with open("/dev/full", "w") as file:
            file.write("x")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    assert main(fit(small)) == 2
    assert "No space left" in capsys.readouterr().err


def test_fit_prints_its_report_and_json(small: Path, capsys):
    assert main(fit(small, "--json", shard="01")) == 0
    *text, last = capsys.readouterr().out.strip().splitlines()
    report = json.loads(last)
    assert {"shard", "shards", "rows", "kept", "rejected", "rows_per_s", "v2v_mm", "limit_violations", "file"} <= set(
        report
    )
    assert set(report["v2v_mm"]) == {"mean", "median", "p95", "p99", "max"}
    assert (report["shard"], report["shards"]) == (1, 2)
    report_text = "\n".join(text)
    for word in ("kept", "rejected", "rows/s", "mean", "p99", "max", " mm", "limit violations", report["file"]):
        assert word in report_text
    assert main(fit(small, "-q", shard="01")) == 0
    assert capsys.readouterr().out == ""


def test_interrupted(small: Path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("fitting.fit_many", interrupt)
    assert main(fit(small)) == 130
    assert "interrupted: the shard is unfinished; the same command begins it anew" in capsys.readouterr().err
    assert not list(small.parent.rglob("*.tmp"))


def test_interrupted_commands_promise_only_what_is_so(small: Path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("hmr_skel.convert.formats.read_clips", interrupt)
    labels, out = str(small.parent / "labels.npz"), str(small.parent / "x.npz")
    assert main(["convert", labels, "-o", out]) == 130
    assert "interrupted: written files are whole; the same command converts all again" in capsys.readouterr().err
    monkeypatch.setattr("hmr_skel.commands.report.schema_page", interrupt)
    assert main(["schema"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO])
def test_an_error_of_reading_asks_for_no_folder_to_write_to(small: Path, capsys, monkeypatch, number: int):
    def unreadable(*args, **kwargs):
        raise OSError(number, os.strerror(number), "picture.jpg")

    monkeypatch.setattr("hmr_skel.commands.report.schema_page", unreadable)
    assert main(["schema"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: picture.jpg: {os.strerror(number)}. Check that it is there")
    assert "writable" not in said


def test_a_bug_keeps_its_traceback(small: Path, monkeypatch):
    def bug(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("fitting.fit_many", bug)
    with pytest.raises(ZeroDivisionError):
        main(fit(small))


COMMANDS = [
    *([], ["fit"], ["dataset"], ["serve"], ["body"], ["body", "export"], ["body", "clean"], ["doctor"]),
    *(["evaluate"], ["moyo-hard"], ["bench", "fit"], ["bench", "train"], ["bench", "predict"]),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args([*command, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) > 5
    assert max(map(len, out.splitlines())) <= 120


def test_help_answers_at_once():
    """Nothing heavy is loaded before the command is known: a bound that holds on a busy machine too."""
    code = "import sys, hmr_skel.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_doctor_names_what_is_missing(small: Path, capsys):
    assert main(["doctor", "--manifest", str(small)]) == 0
    assert "nothing that is needed is missing" in capsys.readouterr().out
    (small.parent / "bodies" / "skel_male.pkl").unlink()
    (small.parent / "labels.npz").unlink()
    assert main(["doctor", "--manifest", str(small)]) == 1
    out = capsys.readouterr().out
    assert "missing  skel_male.pkl" in out
    assert "missing  labels walk" in out
    assert "2 missing" in out


def test_doctor_of_an_unset_manifest(capsys, monkeypatch):
    monkeypatch.delenv("HMR_SKEL_BODY_MODELS", raising=False)
    monkeypatch.chdir(Path(__file__).parents[1])
    assert main(["doctor"]) == 0
    assert "set HMR_SKEL_BODY_MODELS to use it" in capsys.readouterr().out
    assert main(["doctor", "--manifest", "manifests/hmr-skel.toml"]) == 1


def test_doctor_knows_published_weights(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HMR_SKEL_BODY_MODELS", str(tmp_path))
    (tmp_path / "cam_model_cleaned.ckpt").touch()
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "ok       cam_model_cleaned.ckpt" in out
    assert "--       vitpose_backbone.pth" in out


def test_doctor_knows_the_benchmarks_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HMR_SKEL_DATA", str(tmp_path))
    labels = tmp_path / "evaluation" / "labels"
    labels.mkdir(parents=True)
    for name in ("3dpw_test.npz", "moyo_v2.npz"):
        (labels / name).touch()
    (tmp_path / "evaluation" / "images" / "3dpw").mkdir(parents=True)
    assert main(["doctor"]) == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if len(line.split()) > 2}
    assert lines["3DPW"].split()[0] == "ok"
    assert lines["MOYO"].split()[0] == "--"
    assert "Images: " in lines["MOYO"]
    assert "no label file" in lines["EMDB"]
    assert "CameraHMR's test-labels.zip" in lines["EMDB"]


def test_body_export_and_clean(tmp_path: Path, capsys):
    assert main(["body", "export", str(tmp_path / "bodies")]) == 0
    assert str(tmp_path / "bodies" / "skel_male.pkl") in capsys.readouterr().out.splitlines()
    assert main(["body", "clean", str(tmp_path / "bodies" / "SMPL_MALE.pkl")]) == 0
    cleaned = Path(capsys.readouterr().out.strip())
    assert cleaned == tmp_path / "bodies" / "SMPL_MALE_clean.pkl"
    assert "v_template" in pickle.loads(cleaned.read_bytes())


def test_verify(small: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert main(["fit", "--manifest", str(small), "--shard", "0", "--out", str(out), "-q"]) == 0
    assert main(["verify", str(out), "--files-only", "--partial"]) == 0
    assert "1 of 2 shards sound, 0 problems (the files alone)" in capsys.readouterr().out
    data = next((out / "data").glob("*.parquet"))
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    data.write_bytes(damaged)
    assert main(["verify", str(out), "--files-only", "--partial"]) == 1
    assert "not the bytes that were written" in capsys.readouterr().out


def test_started_as_a_program(tmp_path: Path):
    done = run(hmr_skel("fit", "--manifest", "nowhere.toml", "--shard", "7"), tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no manifest nowhere.toml")
    piped = subprocess.run(
        f"{sys.executable} -m hmr_skel.cli --help | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert piped.stdout.startswith("usage: hmr-skel")
    assert piped.stderr == ""

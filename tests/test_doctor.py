"""`hmr-skel doctor`: what is there, what is missing, and what each broken file is told to be."""

import os
import pickle
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from hmr_skel.cli import main
from hmr_skel.commands.deep import source_findings
from hmr_skel.data.manifest import load_manifest
from tests.test_cli import _models_once, _one_thread, small

__all__ = ["_models_once", "_one_thread", "small"]  # fixtures
pytestmark = pytest.mark.usefixtures("without_shape_checks")  # as users run the commands


def test_doctor_names_what_is_missing(small: Path, capsys):
    assert main(["doctor", "--manifest", str(small)]) == 0
    assert "what it needs is there, or is made on first use" in capsys.readouterr().out
    (small.parent / "bodies" / "skel_male.pkl").unlink()
    (small.parent / "labels.npz").unlink()
    assert main(["doctor", "--manifest", str(small)]) == 1
    out = capsys.readouterr().out
    assert "missing  skel_male.pkl" in out
    assert "missing  labels small" in out
    assert "2 missing" in out


def test_doctor_looks_into_files(small: Path, tmp_path: Path, monkeypatch, capsys):
    """Whole ones have sizes, versions, hashes and fits; each kind of wrong one has its line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HMR_SKEL_BODY_MODELS", str(tmp_path / "weights"))
    assert main(["doctor", "--deep", "--manifest", str(small)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"ok +SMPL_NEUTRAL\.pkl +10 shape components \(as SMPL 1\.0\), .*sha256 [0-9a-f]{16}\n", out)
    assert re.search(r"ok +labels small +12 rows; first and last 50: 12 can be used; 12 fitted to [\d.]+ mm", out)
    assert Path("doctor.txt").read_text() in out

    bodies, weights = tmp_path / "bodies", tmp_path / "weights"
    model = pickle.loads((bodies / "skel_female.pkl").read_bytes())
    cut = (bodies / "SMPL_MALE.pkl").read_bytes()[:9999]
    wrong = {
        "SMPL_MALE.pkl": cut, "SMPL_FEMALE.pkl": pickle.dumps({"v_template": np.zeros((10475, 3))}),
        "skel_female.pkl": pickle.dumps({k: v for k, v in model.items() if k != "version"}),
    }  # fmt: skip
    for name, content in wrong.items():
        (bodies / name).unlink()
        (bodies / name).write_bytes(content)
    weights.mkdir()
    (weights / "cam_model_cleaned.ckpt").write_bytes(b"PK\3\4 cut short")
    torch.save({"state_dict": {"pos_embed": torch.zeros(1, 193, 16)}}, weights / "vitpose_backbone.pth")
    torch.save({"state_dict": {}}, weights / "best.pth")
    with np.load("labels.npz") as file:
        arrays = dict(file)
    arrays["pose_cam"][3] = np.nan
    np.savez("labels.npz", **arrays)
    assert main(["doctor", "--deep", "--manifest", str(small)]) == 1
    out = capsys.readouterr().out
    assert "6 missing or broken" in out
    for name, message in {
        "SMPL_MALE.pkl": "cannot be read as a model file", "SMPL_FEMALE.pkl": "this is SMPL-X, expected SMPL",
        "skel_female.pkl": "a file from before 1.1", "cam_model_cleaned.ckpt": "cannot be read as a PyTorch file",
        "vitpose_backbone.pth": "does not hold ViTPose's encoder", "best.pth": "not a SKEL-CF checkpoint",
    }.items():  # fmt: skip
        assert re.search(rf"broken +{name} +{name}: .*{message}", out), name
    assert "11 can be used, 1 rejected for non_finite; 11 fitted" in out


def test_doctor_tells_labels_that_were_not_corrected_yet_by_their_date(small: Path):
    manifest = load_manifest(small)
    file = manifest.sources[0].file.rename(small.parent / "coco-release.npz")
    manifest = replace(manifest, sources=(replace(manifest.sources[0], file=file),))
    found = []
    for date in (datetime(2025, 5, 16, tzinfo=UTC), datetime(2025, 6, 4, tzinfo=UTC)):
        os.utime(file, (date.timestamp(), date.timestamp()))
        found += source_findings(manifest)
    (old, what, told), (new, _, untold) = found
    assert (old, what, new) == ("broken", "labels small", "ok")
    assert re.match(r"coco-release\.npz: last changed on 2025-05-16, expected .*Fetch it again", told)
    assert "12 can be used; nothing in the file tells whether it is the corrected one of June 2025; 12 fitted" in untold


def test_doctors_report_outlives_what_nobody_thought_of(small: Path, tmp_path: Path, monkeypatch, capsys):
    """Any fault in a file, rows of which none is fitted, and a stop in the middle."""

    def odd(*_):
        raise ValueError("odd")

    def stopped():
        raise KeyboardInterrupt
        yield

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hmr_skel.commands.deep._skel", odd)
    nothing = pa.table({"v2v_mm": pa.array([], pa.float32())})
    monkeypatch.setattr("flows.fitter.Fitter.fit", lambda self, rows: (nothing, [None] * len(rows), None))
    monkeypatch.setattr("hmr_skel.commands.deep.weight_findings", stopped)
    main(["doctor", "--deep", "--manifest", str(small)])
    report = Path("doctor.txt").read_text()
    assert re.search(r"broken +skel_male\.pkl +ValueError: odd\n", report)
    assert "12 can be used; 0 fitted, 12 without a fit" in report


def test_doctor_of_an_unset_manifest(capsys, monkeypatch):
    monkeypatch.delenv("HMR_SKEL_BODY_MODELS", raising=False)
    monkeypatch.chdir(Path(__file__).parents[1])
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "set HMR_SKEL_BODY_MODELS to use it" in out
    assert out.endswith(
        "\nmanifests/open.toml: what it needs is there, or is made on first use\n"
    )  # and not for the other
    assert main(["doctor", "--manifest", "manifests/hmr-skel.toml"]) == 1


def test_doctor_knows_published_weights_and_the_benchmarks_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HMR_SKEL_BODY_MODELS", str(tmp_path))
    monkeypatch.setenv("HMR_SKEL_DATA", str(tmp_path))
    (tmp_path / "cam_model_cleaned.ckpt").touch()
    (tmp_path / "evaluation" / "labels").mkdir(parents=True)
    (tmp_path / "evaluation" / "images" / "3dpw").mkdir(parents=True)
    for name in ("3dpw_test.npz", "moyo_v2.npz"):
        (tmp_path / "evaluation" / "labels" / name).touch()
    assert main(["doctor"]) == 1  # body models are not there
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if len(line.split()) > 2}
    states = {"cam_model_cleaned.ckpt": "ok", "vitpose_backbone.pth": "--", "3DPW": "ok", "MOYO": "--"}
    assert {name: lines[name].split()[0] for name in states} == states
    assert "Images: " in lines["MOYO"]
    assert "no label file" in lines["EMDB"]
    assert "CameraHMR's test-labels.zip" in lines["EMDB"]

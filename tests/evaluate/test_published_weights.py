"""SKEL-CF's `best.pth` at its real sizes, as its trainer writes it, through the commands that people type."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from hmr_skel.body.dofs import HSMR_MEAN_Q
from hmr_skel.cli import main
from hmr_skel.commands.deep import weight_findings
from hmr_skel.model.pose_rep import q_to_rep
from tests.model.test_published import skel_cf_shapes, write_skel_cf

pytestmark = pytest.mark.usefixtures("without_shape_checks")  # as users run the commands


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """679 million weights: a number per tensor, which is stored once, so that the file is small."""
    shapes = skel_cf_shapes(width=1280, depth=32, layers=6, inner=512, hidden=1024, head=256)
    state = {name: torch.full((1,), 1 / shape[-1]).expand(shape) for name, shape in shapes.items()}
    mean = {"poses": q_to_rep(torch.tensor(HSMR_MEAN_Q)), "betas": torch.zeros(10), "cam": torch.tensor([0.9, 0, 0])}
    state |= {f"decoder.mean_{name}": value.reshape(1, -1) for name, value in mean.items()}
    return write_skel_cf(tmp_path_factory.mktemp("published") / "best.pth", state, sparse=True)


@pytest.mark.extra
def test_predict_evaluate_and_doctor(best, stand_in, open_body_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HMR_SKEL_BODY_MODELS", str(open_body_dir))
    monkeypatch.chdir(tmp_path)
    image = next((stand_in.folder / "images" / "3dpw").rglob("*.jpg"))
    words = ["--network", str(best), "--whole-image", "--vfov", "50", "--no-overlays", "-o", "out", "--device", "cpu"]
    assert main(["predict", str(image), *words]) == 0
    assert "published SKEL-CF; in out" in capsys.readouterr().out
    assert np.isfinite(np.load("out/predictions.npz")["skel_q"]).all()

    Path("one/labels").mkdir(parents=True)
    Path("one/images").symlink_to(stand_in.folder / "images")
    labels = np.load(stand_in.folder / "labels" / "3dpw_test.npz")
    np.savez("one/labels/3dpw_test.npz", **{key: labels[key][:1] for key in labels})
    words = ["--benchmark", "3dpw", "--benchmark-data", "one", "--intrinsics", "diagonal"]
    assert main(["evaluate", str(best), *words, "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["benchmarks"]["3dpw"]
    assert np.isfinite(found["final"]["mpjpe_mm"])
    assert found["networks"][0]["recipe"] == "published SKEL-CF"

    monkeypatch.setenv("HMR_SKEL_BODY_MODELS", str(best.parent))
    ((state, name, text),) = weight_findings()
    assert (state, name) == ("ok", "best.pth")
    assert re.match(r"published SKEL-CF; a grey picture's body is \d+\.\d\d m away; sha256 ", text)

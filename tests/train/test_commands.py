"""`train`, `evaluate`, `bench train` and `bench predict` as users type them."""

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from PIL import Image

from hmr_skel.cli import build_parser, main
from hmr_skel.train.field_help import recipe_fields
from hmr_skel.train.recipes import flat, load_recipe, recipe_dict
from tests.conftest import no_shape_checks
from tests.data.sample_set import SampleSet
from tests.train.small_run import CHANGES, command

pytestmark = pytest.mark.usefixtures("without_shape_checks")


@pytest.fixture(scope="module")
def run(samples, open_body_dir, tmp_path_factory) -> Path:
    """A trained run's folder, and `tiny.txt` beside it: what was printed."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    with no_shape_checks(), redirect_stdout(io.StringIO()) as printed:
        assert main(command(samples, open_body_dir, out, "--set", "epochs=1", "--json")) == 0
    out.with_suffix(".txt").write_text(printed.getvalue())
    return out


def evaluate(samples: SampleSet, run: Path, *more: str) -> list[str]:
    where = ["--manifest", str(run.with_suffix(".toml")), "--data", str(samples.path), "--device", "cpu"]
    return ["evaluate", *where, *more]


def test_train_leaves_its_files_and_says_what_it_did(samples, open_body_dir, run, capsys):
    *text, last = run.with_suffix(".txt").read_text().strip().splitlines()
    report = json.loads(last)
    assert report["steps"] == 3
    assert report["skipped_steps"] == report["skipped_samples"] == 0
    assert report["network"] == str(run / "network.safetensors")
    assert {"loss", "final/keypoints_3d", "coarse/body", "refine"} <= set(report["losses"])
    assert re.search(r"step 3 of 3: loss .*MFU .* images/s, 00:00 left", "\n".join(text))
    assert re.search(
        r"3D keypoints .*: coarse [\d.]+, after the decoder [\d.]+, final [\d.]+ \([+-][\d.]+%\)", "\n".join(text)
    )
    assert {"network.safetensors", "network.json", "state.pt", "log.jsonl", "curves.png", "tensorboard"} == {
        path.name for path in run.iterdir()
    }
    assert list((run / "tensorboard").glob("events*"))
    with Image.open(run / "curves.png") as picture:
        assert picture.width > 500
    before = (run / "network.safetensors").stat()
    assert main(command(samples, open_body_dir, run, "--set", "epochs=1")) == 0  # has nothing to do
    assert "3 steps in" in capsys.readouterr().out
    assert (run / "network.safetensors").stat() == before


def test_a_recipe_can_be_looked_at(capsys):
    assert main(["train", "--recipe", "vit_h", "--set", "epochs=3", "--show"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"epochs +3\.0", out)
    assert re.search(r"network\.vit\.depth +32", out)


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["train", "--help"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    assert {item.name for item in recipe_fields()} == set(flat(recipe_dict(load_recipe("tiny"))))
    for item in recipe_fields():
        assert f"  {item.name}" in out
        assert len(item.text) > 10, item.name


def no_images(samples, bodies, out, run):
    line = command(samples, bodies, out)
    manifest = out.with_suffix(".toml")
    manifest.write_text(manifest.read_text().replace(str(samples.images["near"].root), "/nowhere"))
    return line


def out_is_a_file(samples, bodies, out, run):
    out.write_text("")
    return command(samples, bodies, out)


def no_body_for_bench(samples, bodies, out, run):
    command(samples, out.parent / "none", out)
    return ["bench", "train", "--recipe", "tiny", "--manifest", str(out.with_suffix(".toml"))]


CASES = {
    "no dataset": (lambda s, b, out, r: command(s, b, out, "--data", "nowhere"), r"no shards in nowhere"),
    "no images": (no_images, r"images looked for is there, the first being /nowhere"),
    "no bodies": (lambda s, b, out, r: command(s, out.parent / "none", out), r"none/skel_male\.pkl"),
    "out is a file": (out_is_a_file, r"cannot write .*tiny"),
    "no network named": (lambda s, b, o, run: evaluate(s, run), r"no trained network .*hmr-skel train"),
    "no body for bench": (no_body_for_bench, r"none/skel_male\.pkl"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_one_clear_message(case, samples, open_body_dir, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed, expected = case
    assert main(typed(samples, open_body_dir, tmp_path / "tiny", run)) == 2
    err = capsys.readouterr().err.strip()
    assert err.splitlines()[-1].startswith("error: ")
    assert re.search(expected, err.splitlines()[-1]), err


def test_bench_train(samples, open_body_dir, tmp_path, capsys):
    command(samples, open_body_dir, tmp_path / "tiny")
    changes = [word for change in CHANGES for word in ("--set", change)]
    line = ["bench", "train", "--recipe", "tiny", "--steps", "2", "--device", "cpu", "--json", *changes]
    assert main([*line, "--manifest", str(tmp_path / "tiny.toml")]) == 0
    text, last = capsys.readouterr().out.strip().splitlines()
    report = json.loads(last)
    assert report["batch"] == 4
    assert report["memory_mb"] > 10
    assert all(report[name] > 0 for name in ("images_per_s", "mfu", "gflop_per_image"))
    assert "images/s" in text


def test_bench_predict(samples, open_body_dir, run, capsys, monkeypatch):
    """Without the layers of HumanFoV, which has one size, a large one."""
    monkeypatch.setattr("hmr_skel.model.fov.HumanFov.forward", lambda self, images: torch.full((len(images),), 0.9))
    where = ["--device", "cpu", "--json", "--manifest", str(run.with_suffix(".toml"))]
    assert main(["bench", "predict", "--recipe", "tiny", "--repeats", "1", *where]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert set(report["parts_ms"]) == {"decode", "field_of_view", "crop", "network", "body"}
    assert report["image_ms"] == pytest.approx(sum(report["parts_ms"].values()), rel=0.01)

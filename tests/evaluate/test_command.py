"""`hmr-skel evaluate` and its bench as people type them."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bench import conversion
from hmr_skel.body.assets import SKEL_FILES
from hmr_skel.cli import build_parser, main
from hmr_skel.commands.evaluations import OpenBenchmarks
from hmr_skel.evaluate.benchmarks import BENCHMARKS
from hmr_skel.model.checkpoint import NetworkInfo, save_network
from hmr_skel.model.network import Network
from tests.train.small_run import small_recipe
from tools.drill.small import MANIFEST

pytestmark = pytest.mark.usefixtures("without_shape_checks")  # as users run the commands


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A network that has learnt nothing, in a run's folder."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    made = Network(small_recipe().network)
    save_network(folder / "network.safetensors", made, NetworkInfo(skel_gender="male", recipe="tiny"))
    return folder


@pytest.fixture
def command(network, stand_in, open_body_dir, monkeypatch) -> list[str]:
    """On a machine of one thread, with nothing in the environment."""
    for name in ("HMR_SKEL_DATA", "HMR_SKEL_BODY_MODELS"):
        monkeypatch.delenv(name, raising=False)
    where = ["--benchmark-data", str(stand_in.folder), "--body-models", str(open_body_dir)]
    return ["evaluate", str(network), *where, "--intrinsics", "diagonal", "--device", "cpu"]


def test_all_benchmarks(command, network, tmp_path, capsys):
    """Every benchmark at once, to the terminal, Markdown, JSON and Parquet."""
    assert main([*command, "--benchmark", "all", "--legacy", "all", "--out", str(tmp_path / "out"), "--json"]) == 0
    *lines, last = capsys.readouterr().out.strip().splitlines()
    report, text = json.loads(last), "\n".join(lines)
    assert list(report["benchmarks"]) == list(BENCHMARKS)
    page = (tmp_path / "out" / "tables.md").read_text()
    for name, found in report["benchmarks"].items():
        benchmark = BENCHMARKS[name]
        assert (found["rows"], found["left_out"], found["label_rows"]) == (6, 0, 6)
        for stage in ("mean_pose", "coarse", "final"):
            assert found[stage]["joint_set"] == found["joint_set"]
            for metric in benchmark.metrics:
                low, high = found[stage]["ci95"][metric]
                assert low <= found[stage][metric] <= high
        for shown in (text, page):
            assert f"{benchmark.title}: 6 rows" in shown
    legacy = ["bgr-focal", "moyo-box", "moyo-crop", "aliased-crop"]
    assert report["benchmarks"]["moyo"]["legacy"] == legacy
    assert report["benchmarks"]["spec-syn"]["legacy"] == ["spec-root", "neutral-female", "aliased-crop"]
    assert [table["table"] for table in report["tables"]] == ["1", "2", "3", "S2"]
    assert all(f"**Table {table}: " in page and f"Table {table}: " in text for table in ("1", "2", "3", "S2"))
    assert "(the open body: the licensed models give other figures)" in text
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    rows = pq.read_table(tmp_path / "out" / "rows.parquet").to_pandas()
    assert len(rows) == 7 * 3 * 6
    final = rows[(rows.benchmark == "emdb") & (rows.stage == "final")]
    assert final.mpjpe_mm.mean() == pytest.approx(report["benchmarks"]["emdb"]["final"]["mpjpe_mm"], rel=1e-5)
    assert final.sequence.tolist() == ["P0/00_outdoor"] * 2 + ["P0/01_outdoor"] * 2 + ["P0/02_outdoor"] * 2
    assert rows[rows.benchmark == "h36m-p2"].pve_mm.isna().all()


@pytest.mark.parametrize("name", ["3dpw", "emdb", "moyo", "coco"])  # a regressor each
def test_the_listed_files_are_enough(command, open_body_dir, tmp_path, name):
    """A folder of body models that holds what the help lists, less what it says is not always needed."""
    listed = set(BENCHMARKS[name].model_files)
    assert listed >= set(SKEL_FILES.values())
    neutral = {"SMPL_NEUTRAL.pkl"} if name in ("3dpw", "spec-syn") else set()  # every row says a gender
    for file in listed - {"skel_female.pkl"} - neutral:
        (tmp_path / file).symlink_to(open_body_dir / file)
    args = build_parser().parse_args([*without(command, "--body-models"), "--body-models", str(tmp_path), "-q"])
    opened = OpenBenchmarks(name, args, torch.device("cpu"), "male")  # after it, no file of a body is read
    assert list(opened.jobs) == [name]


def test_two_stage(command, stand_in, tmp_path, capsys):
    """Predictions that are the truth but for one joint, before and after conversion, with what the conversion costs."""
    labels = dict(np.load(stand_in.folder / "labels" / "3dpw_test.npz"))
    pose = labels["pose_cam"].copy()
    pose[:, 3 * 16 + 1] += 0.8  # a shoulder
    gender = np.where(np.isin(labels["gender"], ["m", "male"]), "male", "female")
    np.savez(tmp_path / "p.npz", pose=pose, betas=labels["shape"], gender=gender)
    command = [command[0], *command[2:]]  # no network
    assert main([*command, "--predictions", f"3dpw={tmp_path / 'p.npz'}", "--method", "shoulders", "--json"]) == 0
    *lines, last = capsys.readouterr().out.strip().splitlines()
    text, found = "\n".join(lines), json.loads(last)["benchmarks"]["3dpw"]["predictions"]
    before, after = found["smpl"], found["skel"]
    assert 10 < before["mpjpe_mm"] < 60
    assert found["cost"]["mpjpe_mm"] == pytest.approx(after["mpjpe_mm"] - before["mpjpe_mm"], abs=1e-3)
    assert set(found["moved_mm"]) >= {"left knee", "head", "thorax"}
    assert found["v2v_mm"] > 0
    cost = f"{found['cost']['mpjpe_mm']:+.1f}"
    assert re.search(rf"ours: shoulders \+ SKEL fit +{after['mpjpe_mm']:.1f}/.* {re.escape(cost)}$", text, re.M)
    assert re.search(rf"ours: shoulders \(SMPL\) +{before['mpjpe_mm']:.1f}/", text)


def without(command: list[str], option: str) -> list[str]:
    i = command.index(option)
    return command[:i] + command[i + 2 :]


@pytest.mark.parametrize(
    ("dropped", "words", "message"),
    [
        ("--benchmark-data", "--benchmark emdb", r"--benchmark-data DIR.*emdb"),
        ("--body-models", "--benchmark 3dpw", r"--body-models DIR or HMR"),
        ("--body-models", "--benchmark 3dpw --body-models part", r"no body model .*h36m.* Get it from CameraHMR's"),
        ("--intrinsics", "--benchmark 3dpw", r"--fov FILE, cam_model_cleaned\.ckpt, CameraHMR's HumanFoV weights"),
        (None, "--predictions coco=p.npz", r"COCO compares in the image"),
        (None, "--benchmark moyo --predictions emdb=a", r"that benchmark is not among --benchmark moyo"),
    ],
)
def test_one_clear_message(command, dropped, words, message, tmp_path, open_body_dir, capsys, monkeypatch):
    """Of options that are left out, and others that are added."""
    monkeypatch.chdir(tmp_path)
    Path("part").mkdir()
    for name in ("skel_male.pkl", "SMPL_to_J19.pkl", "J_regressor_SKEL_mix_MALE.pkl", "SMPL_NEUTRAL.pkl"):
        (tmp_path / "part" / name).symlink_to(open_body_dir / name)
    shorter = without(command, dropped) if dropped else command
    assert main([*shorter, *words.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(f"^error: .*{message}", error), error


def test_of_several_networks_the_mean_is_printed(command, capsys):
    assert main([*command[:2], *command[1:], "--benchmark", "3dpw", "--json"]) == 0
    *lines, last = capsys.readouterr().out.strip().splitlines()
    found = json.loads(last)["benchmarks"]["3dpw"]
    assert found["final"]["mpjpe_mm"] == pytest.approx(found["networks"][0]["final"]["mpjpe_mm"])
    after = "\n".join(lines).partition("mean of 2 networks")[2]
    assert re.search(rf"^ *final +{found['final']['mpjpe_mm']:.1f}", after, re.M)


def test_the_bench(open_body_dir, stand_in, tmp_path, capsys):
    manifest, labels = tmp_path / "m.toml", stand_in.folder / "source" / "labels.npz"
    manifest.write_text(MANIFEST.format(name="m", rows_per_shard=6, body_models=open_body_dir, labels=labels))
    where = ["--manifest", str(manifest), "--device", "cpu", "--json"]
    assert conversion.main(["-q", *where]) == 0  # of all rows
    assert json.loads(capsys.readouterr().out)["rows"] == 6
    assert conversion.main(["--rows", "5", *where]) == 0
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    assert (report["rows"], set(report["kinds"])) == (5, {"noise", "other pose"})
    for words in ("joints of", "MPJPE before", "cost", "noise: skin moved by", "left knee", "moved against root"):
        assert words in out
    assert conversion.main(["--off", "-1", *where]) == 2

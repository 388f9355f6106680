"""`hmr-skel doctor`: say what is installed, what is missing, and what to do."""

import argparse
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from hmr_skel.commands.arguments import add, new_command
from hmr_skel.errors import UserError
from hmr_skel.places import DATA_VARIABLE, MANIFESTS, manifest_file

DOCTOR = """\
Check the installation, the devices, the body models and label files of manifests, published weights and the files of
benchmarks, and say what is missing. It changes nothing. It exits with status 1 if something needed is missing.
Example: hmr-skel doctor --manifest manifests/hmr-skel.toml
With --deep it also opens every file: it reads and checks model files and weights, reads and fits a hundred rows of each
label file, and runs the networks on a grey picture. It writes the result to doctor.txt as well, which you can attach to
a bug report: it contains only names, sizes and hashes of licensed files."""

BODY_FILES = {
    **dict.fromkeys(
        ("SMPL_NEUTRAL.pkl", "SMPL_MALE.pkl", "SMPL_FEMALE.pkl"), "SMPL, for label rows of that gender; fit"
    ),
    **dict.fromkeys(("skel_male.pkl", "skel_female.pkl"), "SKEL 1.1.1; fit, train, evaluate, predict"),
    "SMPL_to_J19.pkl": "keypoints; fit, train",
    "J_regressor_h36m.npy": "joints of Human3.6M; evaluate",
    "J_regressor_SKEL_mix_MALE.pkl": "SMPL-like joints of SKEL; train, evaluate",
    "J_regressor_SMPL_MALE.pkl": "joints of SMPL; evaluate",
    "SKEL_mean.npz": "mean pose; train",
}
OTHER_BODIES = {
    "SMPLX_NEUTRAL.npz": "SMPL-X; convert, for files of SMPL-X",
    "smplx2smpl_deftrafo_setup.pkl": "from SMPL-X's vertices to SMPL's; convert",
    "STAR_NEUTRAL.npz": "STAR; convert --model star",
}
WEIGHTS = {
    "cam_model_cleaned.ckpt": "HumanFoV; predict, if the camera is not known",
    "vitpose_backbone.pth": "ViTPose's encoder; train --vitpose, from any folder",
    "best.pth": "published SKEL-CF; predict --network, from any folder",
}
PACKAGES = {
    "onnxruntime": "predict --detector",
    "viser": "view",
    "distributed": "dataset --workers",
    "matplotlib": "curves of train, plots of make bench, notebooks",
    "tensorboard": "TensorBoard's files of train",
    "datasets": "reading shards with it",
}
"""The files and packages that only some commands need, and their purpose."""

Finding = tuple[str, str, str]
"""State (ok; --, which means missing but not needed; missing; broken), name, detail."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    summary = "say what is installed, which files are there, and what is missing"
    doctor = new_command(commands, "doctor", summary, DOCTOR, run_doctor)
    text = "check this manifest (default: every manifests/*.toml, and those of the package)"
    add(doctor, "manifest", default=None, help=text)
    doctor.add_argument("--deep", action="store_true", help="open the files, see above; writes doctor.txt")


def run_doctor(args: argparse.Namespace) -> int:
    """Print one line for each finding."""
    known = {f"manifests/{path.name}" for folder in (MANIFESTS, Path("manifests")) for path in folder.glob("*.toml")}
    manifests = [manifest_file(name) for name in ([args.manifest] if args.manifest else sorted(known))]
    sections = {"installation": _installation(), "devices": _devices()}
    sections |= {f"manifest {path}": _manifest(path, args.manifest is not None) for path in manifests}
    sections |= {"weights": _weights(), "benchmarks": _benchmarks()}
    if args.deep:
        sections |= _contents(manifests)
    missing, lines, unused = 0, [], set()
    try:
        for title, findings in sections.items():
            lines.append(title)
            print(title)
            for state, what, detail in findings:
                missing += state in ("missing", "broken")
                unused |= {what} if state == "--" else set()
                lines.append(f"  {state:<8} {what:<32} {detail}")
                print(lines[-1], flush=True)
    finally:  # also after an interrupt
        if args.deep:
            from hmr_skel.body.assets import write_whole

            write_whole(Path("doctor.txt"), "\n".join([*lines, ""]).encode())
    lacking = "missing or broken" if args.deep else "missing"
    ready = ", ".join(str(path) for path in manifests if str(path) not in unused)
    print(f"\n{missing} {lacking}" if missing else f"\n{ready}: what it needs is there, or is made on first use")
    return 1 if missing else 0


def _contents(manifests: list[Path]) -> dict[str, Iterator[Finding]]:
    from hmr_skel.commands.deep import body_findings, source_findings, weight_findings
    from hmr_skel.data.manifest import load_manifest

    found = {}
    for path in manifests:
        try:
            manifest = load_manifest(path)
        except UserError:  # reported without --deep
            continue
        found[f"contents of {path}: body models"] = body_findings(manifest.body_models.path)
        found[f"contents of {path}: labels"] = source_findings(manifest)
    return found | {"contents of weights": weight_findings()}


def _finding(there: bool, what: str, detail: str, lacking: str, *, needed: bool = False) -> Finding:
    return ("ok", what, detail) if there else ("missing" if needed else "--", what, lacking)


def _installation() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    yield "ok", "python", platform.python_version()
    needed = [Requirement(text) for text in importlib.metadata.requires("hmr-skel") or ()]
    for one in (one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})):
        version = _version(one.name)
        fits = version is not None and one.specifier.contains(version, prereleases=True)
        lacking = f"{version or 'not installed'}, expected {one.specifier}: make setup"
        yield _finding(fits, one.name, version or "", lacking, needed=True)
    for name, purpose in PACKAGES.items():
        version = _version(name)
        yield _finding(version is not None, name, version or "", f"{purpose}; pip install {name}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    import torch

    yield "ok", "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch"
    if not torch.cuda.is_available():
        yield "--", "cuda", f"torch {torch.__version__} finds no device: fits run on the CPU (make setup CUDA=1)"
    for i in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(i)
        yield "ok", f"cuda:{i}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB"


def _weights() -> Iterator[Finding]:
    folder = os.environ.get("HMR_SKEL_BODY_MODELS")
    for name, purpose in WEIGHTS.items():
        there = folder is not None and (Path(folder) / name).is_file()
        yield _finding(there, name, purpose, f"{purpose}. Not in $HMR_SKEL_BODY_MODELS, {folder or 'which is not set'}")


def _benchmarks() -> Iterator[Finding]:
    from hmr_skel.evaluate.benchmarks import BENCHMARKS, BenchmarkFiles

    data = os.environ.get(DATA_VARIABLE)
    if not data:
        yield "--", "not set up", f"set {DATA_VARIABLE} to use them: its evaluation/labels and evaluation/images"
        return
    for benchmark in BENCHMARKS.values():
        try:
            files = BenchmarkFiles.find(benchmark, Path(data) / "evaluation")
        except UserError as error:
            yield "--", benchmark.title, str(error)
            continue
        lacking = f"no {files.images}. Images: {benchmark.images_from}"
        yield _finding(files.images.is_dir(), benchmark.title, str(files.labels), lacking)


def _manifest(path: Path, required: bool) -> Iterator[Finding]:
    from hmr_skel.data.manifest import load_manifest

    try:
        manifest = load_manifest(path)
    except UserError as error:
        # The paper's manifest needs folders that new users do not have, which is not an error of the installation.
        unset = re.search(r"environment variable (\w+) is not set", str(error))
        there = f"set {unset[1]} to use it" if unset else str(error)
        yield "--" if unset and not required else "missing", str(path), there
        return
    folder, made, is_open = manifest.body_models.path, "made on first use", manifest.body_models.kind == "open"
    genders = ("male", "female") if manifest.skel_gender == "best" else (manifest.skel_gender,)
    needed = {f"SMPL_{(source.smpl_gender or 'neutral').upper()}.pkl" for source in manifest.sources}
    needed |= {"SMPL_to_J19.pkl"} | {f"skel_{gender}.pkl" for gender in genders}
    for name, purpose in (BODY_FILES if is_open else BODY_FILES | OTHER_BODIES).items():
        lacking = made if is_open else f"{purpose}. {'Put it into' if name in needed else 'Not in'} {folder}"
        yield _finding((folder / name).is_file(), name, purpose, lacking, needed=name in needed and not is_open)
    for source in manifest.sources:
        file, is_made = source.file, source.generate is not None
        lacking = f"{made}: {file}" if is_made else f"no {file}. Put it there, or leave the source out"
        yield _finding(file.is_file(), f"labels {source.name}", str(file), lacking, needed=not is_made)
        if source.image_root is not None and not source.image_root.is_dir():
            yield "--", f"images {source.name}", f"no {source.image_root}; needed for training only"

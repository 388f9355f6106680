"""The wheel has all that the package needs. Installed by the Dockerfile's steps, it works from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Collection
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TOPS = ("fitting", "flows", "hmr_skel")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `COPY . /src` copies."""
    lines = (ROOT / ".dockerignore").read_text().split()
    at_root = {*lines, *(path.name for path in ROOT.glob(".*_cache")), "shared"}
    anywhere = {line.removeprefix("**/") for line in lines if line.startswith("**/")}

    def left_out(folder: str, names: list[str]) -> set[str]:
        return set(names) & (anywhere | at_root if Path(folder) == ROOT else anywhere)

    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("docker") / "src", ignore=left_out, symlinks=True))


def test_the_wheel_has_every_file_of_the_packages_and_no_other(source: Path, tmp_path: Path):
    command = [sys.executable, "-c", "import setuptools.build_meta as b, sys; b.build_wheel(sys.argv[1])", tmp_path]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("hmr_skel-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    there = [path for top in TOPS for path in (source / top).rglob("*") if path.is_file()]
    assert packed == {path.relative_to(source).as_posix() for path in there}


def lend(requirements: list[str], site: Path, extras: Collection[str] = ()) -> None:
    """Link installed packages that meet some requirements, and what these require, into an environment."""
    for requirement in map(Requirement, requirements):
        if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in ("", *extras)):
            continue
        package = distribution(requirement.name)
        tops = {path.parts[0] for path in package.files or []} - {"..", "__pycache__"}
        new = [top for top in tops if not (site / top).exists()]
        for top in new:
            (site / top).symlink_to(package.locate_file(top))
        if new or requirement.extras:
            lend(package.requires or [], site, requirement.extras)


@pytest.mark.extra
def test_the_five_minute_path_by_the_dockerfiles_steps(source: Path, tmp_path: Path):
    """In an environment that has what our package says that it needs, and no other package of this one."""
    venv.create(tmp_path / "env", with_pip=True)
    bin_folder = tmp_path / "env" / "bin"
    (site,) = (tmp_path / "env" / "lib").glob("python3*/site-packages")
    for own in site.glob("setuptools*"):  # of Python 3.11, too old
        shutil.rmtree(own)
    lend(["setuptools>=77"], site)
    lend(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"], site)
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    environment = {
        "PATH": f"{bin_folder}:/usr/bin:/bin", "HOME": str(home), "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "2",
        "NUMBA_CACHE_DIR": os.environ["NUMBA_CACHE_DIR"],
    }  # fmt: skip

    def run(command: str | list[str], folder: Path) -> str:
        done = subprocess.run(
            command, shell=isinstance(command, str), cwd=folder, env=environment, capture_output=True, text=True,
            timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    folder = work
    for keyword, _, rest in (line.partition(" ") for line in (ROOT / "Dockerfile").read_text().splitlines()):
        if keyword == "WORKDIR":
            folder = source if rest == "/src" else work
        elif keyword == "RUN":
            run(rest, folder)
        elif keyword == "ENTRYPOINT":
            (program,) = json.loads(rest)
    shutil.rmtree(source)  # nothing of it is used from here on
    data = home / ".local/share/hmr-skel" if sys.platform == "linux" else home / "Library/Application Support/hmr-skel"
    assert f"{data}/open/data/train-00011-of-00012.parquet" in run([program, "fit", "--shard", "11"], work)
    rows = "from hmr_skel import load_shards; print(load_shards(columns=['skel_q'])['skel_q'].shape)"
    assert run([str(bin_folder / "python"), "-c", rows], work) == "(512, 46)\n"
    assert "0 problems" in run([program, "verify", f"{data}/open", "--sample", "4"], work)
    assert "what it needs is there, or is made on first use" in run([program, "doctor"], work)
    assert list(work.iterdir()) == []

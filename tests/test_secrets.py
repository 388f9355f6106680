"""What is secret in the environment is printed by no command and gets into no file."""

import json
from pathlib import Path

import pytest

from hmr_skel.cli import main
from hmr_skel.data.manifest import parse_manifest

SECRET = "hunter2"
VARIABLES = {
    "PREFECT_API_KEY": SECRET, "PREFECT_API_AUTH_STRING": f"admin:{SECRET}",
    "PREFECT_SERVER_API_AUTH_STRING": f"admin:{SECRET}", "PREFECT_API_URL": f"https://admin:{SECRET}@localhost:1/api",
    "AWS_SECRET_ACCESS_KEY": SECRET, "HF_TOKEN": SECRET,
}  # fmt: skip


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize("command", [["doctor"], ["serve", "--port", "0"]])
def test_no_command_prints_them(command: list[str], capsys: pytest.CaptureFixture[str]):
    main(command)
    printed = capsys.readouterr()
    assert printed.out + printed.err
    assert SECRET not in printed.out + printed.err


@pytest.mark.usefixtures("secrets")
def test_no_manifest_asks_for_them(tmp_path: Path):
    """A description is written into the dataset's card."""
    content = {
        "name": "x", "skel_gender": "male", "rows_per_shard": 8, "description": "made with ${HF_TOKEN}",
        "body_models": {"kind": "files", "path": "x"},
        "sources": [{"name": "a", "format": "camerahmr", "file": "a.npz", "description": "${AWS_SECRET_ACCESS_KEY}"}],
    }  # fmt: skip
    manifest = parse_manifest(content, "x")
    assert manifest.description == "made with ${HF_TOKEN}"
    assert SECRET not in json.dumps(content | {"found": repr(manifest)})

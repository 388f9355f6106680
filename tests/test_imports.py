"""The house's one-way import table, and that the solver path stays light."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ALL = {
    "bench", "body", "convert", "data", "device", "errors", "evaluate", "fitting", "flows", "foreign", "model",
    "open_data", "opensim", "places", "predict", "progress", "render", "report", "rows", "shapes", "train", "two_stage",
    "view",
}  # fmt: skip
ALLOWED = {
    "root": {"body", "convert", "data", "fitting", "predict"},  # the public names, on first use
    "errors": set(),
    "places": set(),
    "progress": set(),
    "device": {"errors"},
    "rows": set(),
    "shapes": set(),
    "foreign": {"errors"},
    "body": {"errors", "rows", "shapes", "foreign", "places"},  # places: of the open body
    "data": {"errors", "places", "progress", "rows", "foreign", "body.joints", "body.dofs"},
    "render": {"errors", "rows", "body"},
    "open_data": {"errors", "rows", "body", "data", "render"},
    "opensim": {"errors", "rows", "body", "data"},
    "fitting": {"errors", "rows", "shapes", "body"},
    "convert": {"errors", "progress", "rows", "foreign", "device", "body", "data", "render", "fitting", "opensim"},
    "report": {"errors", "rows", "body", "data", "render", "fitting", "convert"},
    "view": {"errors", "rows", "body", "data", "render", "convert", "report"},  # report: bones with fewer vertices
    "model": {"errors", "rows", "foreign", "body"},
    "evaluate": {"errors", "places", "rows", "body", "data", "model"},
    "two_stage": {"errors", "rows", "body", "convert", "evaluate"},  # where the converter and the evaluator meet
    "predict": {"errors", "rows", "device", "body", "data", "model", "render", "convert"},  # convert: its mesh files
    "train": ALL - {"train", "bench", "fitting", "flows", "report", "two_stage", "view"},
    "flows": ALL - {"flows", "bench", "view"},
    "bench": {"errors", "rows", "shapes", "device", "body", "data", "model", "train", "fitting", "flows"},
    "cli": ALL,
}
"""Unit -> what it may import of ours, besides itself. `body.joints` is that module and no other of the unit."""

PREFECT = {"flows/build.py", "flows/cluster.py", "flows/plugin.py"}


def unit(module: str) -> str | None:
    """The unit that a module of ours belongs to; None for foreign ones."""
    top, _, rest = module.partition(".")
    if top in ("fitting", "flows"):
        return top
    if top in ("tools", "bench"):
        return "tools"  # for maintainers, not installed: no unit may import it
    if top != "hmr_skel":
        return None
    name = rest.partition(".")[0]
    if name in ("cli", "commands"):
        return "cli"
    return name if name in ALLOWED else "root"


@cache
def statements(path: Path) -> list[ast.stmt]:
    """The imports and the class definitions of a module, wherever they stand."""
    tree = ast.parse(path.read_text(), str(path))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef)]


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, module or module.name) of every import statement, wherever it stands."""
    found = []
    for node in statements(path):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def violations(module: str, imported: str) -> bool:
    """Whether `module` must not import `imported`."""
    own, other = unit(module), unit(imported)
    if other in (None, own, "root") or own is None:
        return False
    allowed = ALLOWED[own]
    narrow = {name for name in allowed if name.startswith(f"{other}.")}
    return other not in allowed and not any(imported.startswith(f"hmr_skel.{name}") for name in narrow)


def sources() -> list[Path]:
    return sorted(path for top in ("hmr_skel", "fitting", "flows") for path in (ROOT / top).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_go_one_way():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {imported}"
        for path in sources()
        for line, imported in imports(path)
        if violations(module_of(path), imported)
    ]
    assert not wrong, "\n".join(wrong)


def test_prefect_is_imported_in_three_modules_only():
    found = {
        path.relative_to(ROOT).as_posix()
        for path in sources()
        for _, imported in imports(path)
        if imported.partition(".")[0] == "prefect"
    }
    assert found == PREFECT


def test_the_table_is_able_to_fail():
    assert violations("hmr_skel.data.annotations", "hmr_skel.body.skel.Skel")
    assert not violations("hmr_skel.data.annotations", "hmr_skel.body.dofs.DOFS")
    assert violations("hmr_skel.train.loop", "fitting.fit_batch")
    assert violations("hmr_skel.commands.bench", "bench.loader.main")
    assert not violations("hmr_skel.commands.build", "flows.shard.Builder")


HEAVY_AFTER = """import sys; {statement}; found = [name for name in {heavy!r} if name in sys.modules]
assert not found, found"""


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import fitting, hmr_skel.body, hmr_skel.convert, hmr_skel.device, hmr_skel.rows", ("torch", "pyarrow")),
        (
            "import flows.cluster, flows.report, flows.shard, flows.verify",
            ("torch", "prefect", "pyarrow.dataset", "scipy", "smplx"),
        ),
        ("from hmr_skel import convert, predict; import hmr_skel.cli", ("torch", "numpy", "pyarrow", "prefect")),
    ],
)
def test_light_imports(statement, heavy):
    run(HEAVY_AFTER.format(statement=statement, heavy=heavy))


def test_light_imports_of_what_needs_torch():
    """Torch is imported once, and each check is made in a fork of that process.

    The last check hides whatever else we depend on, as if only torch and numpy were installed; shapes in signatures
    are then plain types.
    """
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in listed}
    hidden = sorted((names | {"cv2"}) - {"torch", "numpy"})
    assert {"jaxtyping", "scipy", "smplx", "pyarrow"} <= set(hidden)
    fit = "import fitting, hmr_skel.body.skel, hmr_skel.rows"
    call = "from torch import zeros; from hmr_skel.body.lbs import chain; chain(zeros(1, 3, 3), zeros(1, 3), (-1,))"
    checks = [
        HEAVY_AFTER.format(statement=fit, heavy=("pyarrow", "prefect", "scipy", "smplx")),
        HEAVY_AFTER.format(statement=call, heavy=("sympy",)),
        f"""
import sys
sys.modules |= {{name: None for name in [*{hidden!r}, *sys.modules] if name.partition(".")[0] in {hidden!r}}}
import fitting, hmr_skel.body.skel, hmr_skel.body.smpl, hmr_skel.rows
from hmr_skel.body.rotations import skew
import torch
assert skew.__annotations__["v"] is torch.Tensor
assert skew(torch.ones(3)).shape == (3, 3)
""",
    ]
    run(f"""
import os
import torch
for check in {checks!r}:
    pid = os.fork()
    if not pid:
        exec(check)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, check
""")


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_no_class_name_is_there_twice():
    """Not even once with an underscore: what people say has one meaning."""
    places: dict[str, list[str]] = {}
    for path in sources():
        for node in statements(path):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name.lstrip("_"), []).append(path.relative_to(ROOT).as_posix())
    assert not {name: where for name, where in places.items() if len(where) > 1}

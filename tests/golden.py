"""Golden rows: what fits, labels, bodies and tables came to at their present versions, in tests/golden.npz.

    python -m tests.golden

writes the file anew. The rule: whoever changes what a row, a label or a body comes to raises the version that stands
for it, by hand, and then writes the file anew. Datasets of another version are made again, which takes days where there
are three million rows: a version is not raised for a changed comment, or for more speed. The command refuses to store
other values under the same version. What it prints about the rows that moved belongs in the commit.

| version | what it stands for |
|---|---|
| `fitting.version.FIT_VERSION` | q, betas, transl and errors of a fit |
| `hmr_skel.data.schema.SCHEMA_VERSION` | columns, how label files are read, which rows are rejected and why |
| `hmr_skel.open_data.LABELS_VERSION` | the labels of the default dataset |
| `hmr_skel.body.open_body.export.EXPORT_VERSION` | the open body's model files |

Rows of ../shared (motion capture) are stored as results only, without what was fitted; where that folder is absent
their tests are skipped and the command ends with an error.
"""

import hashlib
import pickle
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

import fitting
from bench.hard import HARD, IMPOSSIBLE, hard_rows
from bench.objective import Objective
from fitting.config import RECIPES
from fitting.version import FIT_VERSION
from hmr_skel.body.assets import SKEL_FILES, SMPL_FILES
from hmr_skel.body.open_body.export import EXPORT_VERSION, export_body
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.convert.call import smpl_to_skel
from hmr_skel.data.annotations import check_rows, plan_source
from hmr_skel.data.atomic import replacing
from hmr_skel.data.manifest import parse_manifest
from hmr_skel.data.schema import FIT_COLUMNS, SCHEMA, SCHEMA_VERSION, column_shape, rejects_table, shard_table
from hmr_skel.open_data import LABELS_VERSION
from hmr_skel.open_data.labels import make_labels
from hmr_skel.rows import SmplParams

FILE = Path(__file__).with_name("golden.npz")
SHARED = Path(__file__).parents[2] / "shared"
MOTION = SHARED / "data" / "cmu_mocap" / "cmu-labels.npz"
VERSIONS = {"fit": FIT_VERSION, "schema": SCHEMA_VERSION, "labels": LABELS_VERSION, "export": EXPORT_VERSION}
ROWS = 30

Arrays = dict[str, np.ndarray]
Tolerances = Mapping[str, tuple[float, float]]
"""Name of an array -> how far a value may be off: absolute, and relative to the stored one."""

FIT = {"q": (5e-3, 0), "betas": (1e-4, 0), "transl": (1e-5, 0), "v2v_mm": (1e-3, 0), "energy": (0, 1e-5)}
REFINED = FIT | {"betas": (5e-3, 0), "transl": (1e-4, 0)}
LABELS = {
    "pose_cam": (1e-4, 0), "shape": (1e-6, 0), "trans_cam": (1e-4, 0), "cam_int": (1e-3, 0), "center": (0.01, 0),
    "scale": (1e-4, 0), "gtkps": (0.05, 0),
}  # fmt: skip
EXACT = (1e-9, 1e-9)
"""Sums in float64, and what is the same on every machine."""
UNSTEADY = {
    "motion": [4, 5, 23, 26],
    "hard": [3, 4, 10, 13, 16, 29, 34],
    "SMPL male": [2, 23],
    "SMPL female": [2],
    "published_shape": [16, 17, 22],
}
"""Rows left out. With noise of 2e-7 on their input, a last bit or two, they end elsewhere by more than half of `FIT`:
a basin apart, or further along a flat valley. Of all other rows that noise moves q by 2e-3 rad at most, v2v by 5e-4 mm
and E by 5e-6: `FIT` allows what another CPU's order of adding up may do, and little more. Converted betas and the
frozen root's transl are closed forms; refined ones have valleys of their own."""

_LABEL_KEYS = {"pose": "pose_cam", "betas": "shape", "transl": "trans_cam"}


@dataclass(frozen=True)
class Part:
    """One kind of golden values."""

    version: str | None
    """Which of `VERSIONS` has to be raised where they change; None: no dataset is made of them."""
    compute: Callable[[Arrays, Path], Arrays]
    """From the stored people and the folder of body models."""
    tolerances: Tolerances
    needs: Path | None = None
    """What has to be there in ../shared."""


@lru_cache
def _model(models: Path, smpl: str, skel: str, recipe: str) -> tuple[Smpl, fitting.FitModel]:
    bodies = Smpl.load(models / SMPL_FILES[smpl]), Skel.load(models / SKEL_FILES[skel])
    return bodies[0], fitting.prepare(*bodies, fitting.recipe(recipe), skel)


def first_people(models: Path) -> Arrays:
    """Rows of the default dataset. They are stored: labels of another version leave the rows of the fit alone."""
    with tempfile.TemporaryDirectory() as folder:
        make_labels(Path(folder) / "labels.npz", 192, 0, models)
        with np.load(Path(folder) / "labels.npz") as file:
            rows = np.linspace(0, 191, ROWS).astype(int)
            return {name: file[key][rows] for name, key in _LABEL_KEYS.items()}


def _people(stored: Arrays) -> SmplParams:
    pose = torch.from_numpy(stored["pose"]).unflatten(1, (24, 3))
    return SmplParams(pose[:, 0], pose[:, 1:], torch.from_numpy(stored["betas"]), torch.from_numpy(stored["transl"]))


def _motion(stored: Arrays) -> SmplParams:
    """Real motion, evenly over all recordings."""
    with np.load(MOTION) as file:
        rows = np.linspace(0, len(file["shape"]) - 1, ROWS).astype(int)
        return _people({name: file[key][rows] for name, key in _LABEL_KEYS.items()})


def _hard(stored: Arrays) -> SmplParams:
    """Poses of yoga and gymnastics, and such as only a bad fit says."""
    params = hard_rows(HARD | IMPOSSIBLE, 1)
    return replace(params, betas=torch.zeros_like(params.betas))


_Kind = tuple[Callable[[Arrays], SmplParams], str, str, str]
"""Rows, gender of SMPL, gender of SKEL, recipe."""


def _fit(name: str, kind: _Kind, stored: Arrays, models: Path) -> Arrays:
    rows, smpl, skel, recipe = kind
    params = rows(stored)
    kept = np.delete(np.arange(len(params.betas)), UNSTEADY.get(name.partition(",")[0], []))
    params = params[torch.from_numpy(kept)]
    body, model = _model(models, smpl, skel, recipe)
    result = fitting.fit_many(params, model)
    found = {name: getattr(result.skel, name).numpy() for name in ("q", "betas", "transl")}
    if model.config.root == "frozen":
        energy = Objective.of(params, result.skel.betas, body, model).energy(result.skel.q[:, 3:].double())
    else:  # the objective knows no other root than the annotated one
        energy = result.energy
    return found | {"v2v_mm": result.v2v_mm.numpy(), "energy": energy.double().numpy()}


def _converted(stored: Arrays, models: Path) -> Arrays:
    """A person who goes from one stored pose to another and back, a little unsteadily, through the converter."""
    time = np.linspace(0, 2 * np.pi, 24)[:, None]
    share = 0.5 - 0.5 * np.cos(time) + 0.03 * np.sin(9 * time + np.arange(72))
    pose = (1 - share) * stored["pose"][0] + share * stored["pose"][1]
    clip = smpl_to_skel(
        pose, stored["betas"][0], smpl_gender="neutral", skel_gender="best", body_models=models, frame_rate=30,
        smooth_hz=6, device="cpu",
    )  # fmt: skip
    return {name: getattr(clip, name) for name in ("q", "betas", "transl", "v2v_mm")}


def _labels(stored: Arrays, models: Path) -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        make_labels(Path(folder) / "labels.npz", 192, 0, models)
        with np.load(Path(folder) / "labels.npz") as file:
            return {name: file[name][[0, 1, 77, 130, 191]] for name in file.files}


def _bodies(stored: Arrays, models: Path) -> Arrays:
    """Two sums of each array of each model file: a plain one, and one weighted by a wave, so that order counts."""
    sums = {}
    for path in sorted(models.glob("*.pkl")):
        content = pickle.loads(path.read_bytes())
        for name, value in (content if isinstance(content, dict) else {"": content}).items():
            value = value.toarray() if hasattr(value, "toarray") else np.asarray(value)
            if value.dtype.kind in "fiu":
                flat = value.astype(np.float64).ravel()
                sums[f"{path.stem}.{name}"] = np.array([flat.sum(), flat @ np.cos(np.arange(len(flat)))])
    return sums


def _table(stored: Arrays, models: Path) -> Arrays:
    """What a label file of sound and of bad rows becomes: sha256 of columns, with their meaning, and of rejects."""
    number = np.arange(ROWS, dtype=np.float32)
    points = np.broadcast_arrays(number[:, None], np.arange(44, dtype=np.float32), np.float32(0.5))
    arrays = {
        "imgname": np.array([f"{i}.jpg" for i in range(ROWS)]),
        "center": np.stack((300 + number, 200 - number), 1),
        "scale": 0.5 + number / 7,
        "cam_int": np.tile(np.array([[1000, 0, 300], [0, 1000, 200], [0, 0, 1]], np.float32), (ROWS, 1, 1)),
        "cam_ext": np.eye(4, dtype=np.float32) + number[:, None, None] / 100,
        "pose_cam": stored["pose"].copy(),
        "shape": np.tile(stored["betas"], 2)[:, :11],
        "trans_cam": stored["transl"].copy(),
        "gtkps": np.stack(points, -1),
    }
    arrays["gtkps"][3], arrays["gtkps"][4, 5] = np.nan, (np.nan, 3, 0.5)
    arrays["imgname"][5], arrays["scale"][6], arrays["shape"][7, 2], arrays["pose_cam"][8, 4] = " ", 1e-4, 11, np.inf
    arrays["cam_int"][9, 0, 0], arrays["trans_cam"][10, 2], arrays["pose_cam"][11, 7] = -1, 1e4, 20
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.npz"
        np.savez(file, **arrays)
        source = {"name": "g", "format": "camerahmr", "file": str(file), "num_betas": 11}
        content = {"name": "g", "skel_gender": "male", "rows_per_shard": ROWS, "sources": [source]}
        manifest = parse_manifest(content | {"body_models": {"kind": "files", "path": folder}}, "golden")
        kept, rejects = check_rows(plan_source(manifest.sources[0], Path(folder)).open().read(0, ROWS), ("12",))
    fit = {name: _constant(SCHEMA.field(name), len(kept)) for name in FIT_COLUMNS}
    return {"columns": _sha256(shard_table(kept, fit)), "rejects": _sha256(rejects_table(rejects))}


def _constant(column: pa.Field, count: int) -> np.ndarray:
    if column.type == pa.string():
        return np.full(count, "male", object)
    return np.full((count, *column_shape(column)), 3, np.int32 if column.type == pa.int32() else np.float32)


def _sha256(table: pa.Table) -> np.ndarray:
    text = f"{table.schema.to_string(truncate_metadata=False)}\n{table.to_pylist()}"  # floats in full
    return np.array(hashlib.sha256(text.encode()).hexdigest())


def _fits() -> dict[str, Part]:
    kinds = {
        f"{rows}, {skel}": (of, "neutral", skel, "default")
        for rows, of in (("people", _people), ("motion", _motion), ("hard", _hard))
        for skel in SKEL_FILES
    }
    kinds |= {f"SMPL {gender}": (_people, gender, gender, "default") for gender in SKEL_FILES}
    kinds |= {name: (_people, "neutral", "male", name) for name in RECIPES if name != "default"}
    needs = {_motion: MOTION}
    return {
        name: Part("fit", partial(_fit, name, kind), REFINED if name.startswith("refine") else FIT, needs.get(kind[0]))
        for name, kind in kinds.items()
    }


PARTS = {
    **_fits(),
    "converted": Part(None, _converted, FIT),
    "labels": Part("labels", _labels, LABELS),
    "bodies": Part("export", _bodies, {}),
    "table": Part("schema", _table, {}),
}


def load() -> dict[str, Arrays]:
    """The stored arrays by part; `people`, what most fits are of, and `versions` are parts too."""
    found: dict[str, Arrays] = {}
    with np.load(FILE, allow_pickle=False) as file:
        for key in file.files:
            part, _, name = key.partition(": ")
            found.setdefault(part, {})[name] = file[key]
    return found


def differences(was: Arrays, now: Arrays, tolerances: Tolerances) -> list[str]:
    """What has changed by more than is tolerated, a text for each array."""
    texts = [f"{name}: {'gone' if name in was else 'new'}" for name in sorted(was.keys() ^ now.keys())]
    for name in sorted(was.keys() & now.keys()):
        one, other = was[name], now[name]
        if one.shape != other.shape or one.dtype.kind != other.dtype.kind:
            texts.append(f"{name}: {one.dtype}{one.shape}, now {other.dtype}{other.shape}")
        elif one.dtype.kind == "U":
            texts += [f"{name}: other text"] if (one != other).any() else []
        else:
            absolute, relative = tolerances.get(name, EXACT)
            apart = np.abs(other.astype(np.float64) - one)
            if name == "q":  # a pelvis upside down is at -180 degrees as well as at 180
                apart = np.minimum(apart, np.abs(apart - 2 * np.pi))
            beyond = ~(apart <= absolute + relative * np.abs(one))
            rows = np.unique(np.nonzero(beyond)[0])
            if len(rows):
                texts.append(f"{name}: {len(rows)} of {len(one)} rows by up to {apart.max():.2g}")
    return texts


def main() -> int:
    """Write the file anew. Values that have not changed stay as they are stored, to the bit."""
    stored = load() if FILE.is_file() else {}
    before = {name: int(version) for name, version in stored.get("versions", {}).items()}
    missing = [str(part.needs) for part in PARTS.values() if part.needs is not None and not part.needs.is_file()]
    if missing:
        print(f"error: no {' and no '.join(sorted(set(missing)))}: golden rows are of them too")
        return 2
    now: dict[str, Arrays] = {}
    refused = False
    with tempfile.TemporaryDirectory() as folder:
        export_body(Path(folder))
        people = stored.get("people") or first_people(Path(folder))
        for name, part in PARTS.items():
            now[name] = part.compute(people, Path(folder))
            changed = differences(stored[name], now[name], part.tolerances) if name in stored else []
            print("\n".join(f"{name}: {text}" for text in changed or ["as it was" if name in stored else "new"]))
            if name in stored and not changed:
                now[name] = stored[name]
            refused |= bool(changed) and part.version is not None and before[part.version] == VERSIONS[part.version]
    if refused:
        print(f"error: not written. Values changed under the same version: raise it first ({__file__} says which)")
        return 1
    now |= {"people": people, "versions": {name: np.array(version) for name, version in VERSIONS.items()}}
    with replacing(FILE) as temporary, temporary.open("wb") as file:
        flat = {f"{part}: {name}": value for part, arrays in now.items() for name, value in arrays.items()}
        np.savez_compressed(file, **flat)
    print(f"{FILE}: {FILE.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

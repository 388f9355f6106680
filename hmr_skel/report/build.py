"""From a dataset's folder to a page: gathers, measures, draws, and writes one file."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmr_skel.body.dofs import DOF_NAMES, NUM_DOFS
from hmr_skel.body.skel import Skel
from hmr_skel.convert.fit import Bodies
from hmr_skel.data.atomic import replacing
from hmr_skel.data.images import image_rules
from hmr_skel.data.manifest import Manifest
from hmr_skel.report.bodies import Posed, measure, pose_row
from hmr_skel.report.charts import nice_step
from hmr_skel.report.figures import fit_figures, surface_figures
from hmr_skel.report.gather import ERRORS, Dataset
from hmr_skel.report.page import STATUSES, Pictures, ShownFit, render_page
from hmr_skel.report.picks import choose_picks, choose_sample
from hmr_skel.report.thinning import thin_bones
from hmr_skel.report.viewer import pack_faces, pack_scene, three_js

AGREES_MM = 0.01
"""Errors measured here and errors in the dataset may differ by this much: float32 on another machine."""


@dataclass(frozen=True)
class ReportSummary:
    """What was written."""

    file: str
    bytes: int
    rows: int
    rejected: int
    v2v_mm: dict[str, float] | None
    pictured: list[str]
    """row_id of the rows that are shown."""
    measured: int
    """Rows whose errors were measured anew."""
    disagreement_mm: float | None
    """Largest difference between an error measured anew and the dataset's; None where none was measured."""
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def write_report(
    dataset: Dataset,
    manifest: Manifest | None,
    out: Path,
    progress: Callable[[int], object] = lambda rows: None,
) -> ReportSummary:
    """Write the page of a gathered dataset.

    Args:
        dataset: by `gather`.
        manifest: names the body models and where images are; None for a page without pictures.
        out: the file; it appears by rename.
        progress: called with the number of rows just measured, of `len(choose_sample(dataset))` in all.

    Raises:
        UserError: a body model is missing or damaged, or the file cannot be written.
    """
    from hmr_skel.report.tables import totals

    pictures, warnings = None, []
    if manifest is not None:
        pictures = draw_pictures(dataset, manifest, progress)
        if (apart := _disagreement(dataset, pictures)) is not None and apart > AGREES_MM:
            warnings.append(
                f"Errors measured with the body models in {manifest.body_models.path} differ from the dataset's by up "
                f"to {apart:.2f} mm: it was made with other models, and the pictures show something else than its rows."
            )
        if pictures.three_js is None:
            warnings.append(
                "The page has no 3D viewer: the installed trimesh does not hold three.js where this hmr-skel looks for "
                "it. Install the release of trimesh that its constraints.txt names."
            )
    built = len(dataset.metas)
    if built < dataset.metas[0]["shards"]:
        warnings.append(f"Not finished: {built} of {dataset.metas[0]['shards']} shards are there.")
    page = render_page(dataset, pictures, out, description=manifest.description if manifest else "", warnings=warnings)
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    total = totals(dataset)
    return ReportSummary(
        file=str(out),
        bytes=out.stat().st_size,
        rows=total["kept"],
        rejected=total["rejected"],
        v2v_mm=total["v2v_mm"],
        pictured=[] if pictures is None else [dataset.rows[pick.row]["row_id"] for pick in choose_picks(dataset)],
        measured=0 if pictures is None or pictures.measured is None else len(pictures.measured.rows),
        disagreement_mm=None if pictures is None else _disagreement(dataset, pictures),
        warnings=warnings,
    )


def draw_pictures(
    dataset: Dataset, manifest: Manifest, progress: Callable[[int], object] = lambda rows: None
) -> Pictures:
    """Everything that needs body models. Raises `UserError` where one is missing or damaged."""
    bodies = Bodies(manifest.body_models.path)
    rules = image_rules(manifest)
    picks = choose_picks(dataset)
    posed = [pose_row(dataset.rows, pick.row, bodies) for pick in picks]  # a missing model shows here, at once
    sample = choose_sample(dataset)
    measured = measure(dataset.rows, sample, bodies, progress) if len(sample) else None
    high = 1.0 if measured is None else _scale_end(measured.high_mm)
    genders = dict.fromkeys(one.row["skel_gender"] for one in posed)
    bones = {gender: thin_bones(bodies.skel(gender)) for gender in genders}
    fits = [
        ShownFit(
            title=pick.title,
            line=_line(one),
            figures=fit_figures(one, bodies.skel(one.row["skel_gender"]), rules, high),
            scene=_scene(pick.title, one, bones[one.row["skel_gender"]][0]),
        )
        for pick, one in zip(picks, posed, strict=True)
    ]
    surface, surface_high = [], 0.0
    if measured is not None:
        surface_high = _scale_end(float(np.quantile(measured.by_vertex_mm, 0.99)))
        skel = bodies.skel(next(iter(genders)))
        surface = surface_figures(_standing(skel), skel.faces, measured.by_vertex_mm, surface_high)
    return Pictures(
        fits=fits,
        faces={gender: pack_faces(bodies.skel(gender), faces) for gender, (_, faces) in bones.items()},
        measured=measured,
        surface=surface,
        surface_high_mm=surface_high,
        high_mm=high,
        three_js=three_js(),
    )


def _scene(title: str, posed: Posed, bones: np.ndarray) -> dict[str, Any]:
    return pack_scene(title, posed, bones, _facts(posed)) | {"gender": posed.row["skel_gender"]}


def _scale_end(value: float) -> float:
    """A round number a little above a value, for the end of a scale."""
    step = nice_step(value, 10)
    return float(np.ceil(value / step) * step)


def _line(posed: Posed) -> str:
    """One line about a row."""
    (_, name), *errors, (_, status) = _facts(posed)
    return " · ".join([name, *(f"{term} {text}" for term, text in errors), status])


def _facts(posed: Posed) -> list[tuple[str, str]]:
    row = posed.row
    errors = {"v2v_mm": "v2v", "v2v_max_mm": "worst vertex", "joint_mm": "joints"}
    assert set(errors) == set(ERRORS)
    found = [(errors[name], f"{row[name]:.2f} mm") for name in ERRORS if row[name] is not None]
    return [("row", row["row_id"]), *found, ("status", STATUSES.get(row["status"], row["status"]))]


@torch.no_grad()
def _standing(skel: Skel) -> np.ndarray:
    """The mean body, arms lowered from the T-pose, y up, facing +z."""
    q, betas, transl = (torch.zeros(n).to(skel.template) for n in (NUM_DOFS, 10, 3))
    for side, lowered in (("r", 0.9), ("l", -0.9)):
        q[DOF_NAMES.index(f"shoulder_{side}_x")] = lowered
    return skel(q, betas, transl).vertices.numpy()


def _disagreement(dataset: Dataset, pictures: Pictures) -> float | None:
    if (measured := pictures.measured) is None:
        return None
    return float(np.abs(measured.v2v_mm - dataset.errors["v2v_mm"][measured.rows]).max())

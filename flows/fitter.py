"""Annotation rows in, fit columns out: picks the body models and the device, and calls the fit. No files but models."""

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

import fitting
from flows.sources import J19_FILE, ModelFiles
from hmr_skel.body.assets import SKEL_FILES, SMPL_FILES, model_path
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl, keypoints_44, load_points_matrix
from hmr_skel.data.schema import FIT_COLUMNS
from hmr_skel.rows import AnnotationRows, Reject, SmplParams

Columns = dict[str, np.ndarray]
"""By column name, as `hmr_skel.data.schema.shard_table` takes them."""


class Fitter:
    """Fits rows to the SKEL body that a manifest asks for. Models are loaded when a row first needs them."""

    def __init__(self, models: ModelFiles, config: fitting.FitConfig, device: torch.device) -> None:
        self.models = models
        self.config = config
        self.device = device
        self._prepared: dict[tuple[str, str], fitting.FitModel] = {}
        self._points: torch.Tensor | None = None
        self._said_smaller = False
        self.load_s = 0.0
        """Seconds that models took to load, so far."""

    def load(self) -> None:
        """Load the models that are needed for sure. Raises `UserError` where one is damaged or of another version."""
        for smpl_gender in self.models.smpl_genders:
            for skel_gender in self.models.skel_genders:
                self._model(smpl_gender, skel_gender)
            self._points_matrix()

    def fit(
        self, pieces: Sequence[AnnotationRows], progress: Callable[[int], None] | None = None
    ) -> tuple[list[tuple[AnnotationRows, Columns | None]], list[Reject], int]:
        """Fit the rows that hold SMPL.

        Returns:
            Per piece its rows and their columns (None for a piece that holds SKEL already), without the rows that no
            fit was found for; those, as rejects with reason `fit`; and the smallest batch that was used.
        """
        columns: dict[int, Columns] = {}  # by number of the piece
        batch = self.config.batch_on(self.device.type)
        to_fit = [i for i, rows in enumerate(pieces) if rows.skel_q is None and len(rows)]
        for gender in SMPL_FILES:
            members = {i: np.flatnonzero(pieces[i].smpl_gender == gender) for i in to_fit}
            members = {i: rows for i, rows in members.items() if len(rows)}
            if not members:
                continue
            params = _concatenate([pieces[i].take(rows).smpl_params() for i, rows in members.items()])
            found, used = self._fit(gender, params, None if progress is None else _by_increments(progress))
            batch = min(batch, used)
            start = 0
            for i, rows in members.items():
                for name, values in found.items():
                    column = columns.setdefault(i, {}).setdefault(
                        name, np.empty((len(pieces[i]), *values.shape[1:]), values.dtype)
                    )
                    column[rows] = values[start : start + len(rows)]
                start += len(rows)
        fitted, rejects = [], []
        for i, rows in enumerate(pieces):
            if i in columns:
                kept, out = _without_failed(rows, columns[i])
                fitted.append(kept)
                rejects += out
            elif len(rows):
                fitted.append((rows, None))
        return fitted, rejects, batch

    def _fit(self, smpl_gender: str, params: SmplParams, progress: Callable[[int], None] | None) -> tuple[Columns, int]:
        points = self._points_matrix()
        models = [self._model(smpl_gender, skel_gender) for skel_gender in self.models.skel_genders]
        if len(models) == 1:
            result = fitting.fit_many(params, models[0], points, progress)
        else:
            result = fitting.fit_best(params, models, points, progress)
        asked = self.config.batch_on(self.device.type)
        if not models[0].compiled and result.batch < asked and not self._said_smaller:
            self._said_smaller = True
            print(
                f"{self.device}: out of memory at a batch of {asked} rows, going on with {result.batch} where needed",
                file=sys.stderr,
                flush=True,
            )
        return _columns(result), result.batch

    def _model(self, smpl_gender: str, skel_gender: str) -> fitting.FitModel:
        key = (smpl_gender, skel_gender)
        if key not in self._prepared:
            start = time.perf_counter()
            smpl = Smpl.load(model_path(self.models.folder, SMPL_FILES[smpl_gender]))
            skel = Skel.load(model_path(self.models.folder, SKEL_FILES[skel_gender]))
            self._prepared[key] = fitting.prepare(smpl, skel, self.config, skel_gender, self.device)
            self.load_s += time.perf_counter() - start
        return self._prepared[key]

    def _points_matrix(self) -> torch.Tensor:
        if self._points is None:
            self._points = load_points_matrix(model_path(self.models.folder, J19_FILE))
        return self._points


def _columns(result: fitting.FitResult) -> Columns:
    assert result.target_points is not None  # asked for
    points = keypoints_44(result.target_joints, result.target_points).float()
    keypoints_3d = torch.cat((points, torch.ones(len(points), 44, 1)), -1)
    columns = {
        "skel_q": result.skel.q,
        "skel_betas": result.skel.betas,
        "skel_transl": result.skel.transl,
        "skel_gender": np.asarray(result.skel_gender, object),
        "status": np.array([fitting.Status(int(code)).name for code in result.status], object),
        "keypoints_3d": keypoints_3d,
    }
    for name in FIT_COLUMNS:
        columns.setdefault(name, getattr(result, name, None))
    return {name: v.cpu().numpy() if isinstance(v, torch.Tensor) else np.asarray(v) for name, v in columns.items()}


def _without_failed(rows: AnnotationRows, columns: Columns) -> tuple[tuple[AnnotationRows, Columns], list[Reject]]:
    bad = columns["status"] == fitting.Status.rejected.name
    rejects = [
        Reject(
            source=rows.source,
            source_row=int(rows.source_row[i]),
            imgname=str(rows.imgname[i]),
            reason="fit",
            detail=f"no fit was found: v2v {columns['v2v_mm'][i]:.1f} mm after {columns['starts'][i]} starts",
        )
        for i in np.flatnonzero(bad).tolist()
    ]
    if not rejects:
        return (rows, columns), []
    return (rows.take(~bad), {name: values[~bad] for name, values in columns.items()}), rejects


def _by_increments(progress: Callable[[int], None]) -> Callable[[int], None]:
    """From rows done so far, as the fit tells them (from the start again for the second gender), to rows just done."""
    last = 0

    def step(done: int) -> None:
        nonlocal last
        progress(done - last if done > last else done)
        last = done

    return step


def _concatenate(params: Sequence[SmplParams]) -> SmplParams:
    return SmplParams(
        **{
            name: torch.cat([getattr(p, name) for p in params])
            for name in ("global_orient", "body_pose", "betas", "transl")
        }
    )

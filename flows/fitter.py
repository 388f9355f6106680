"""Load the body models, and turn annotation rows into fitted rows of a shard's table."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch

import fitting
from flows.sources import J19_FILE, ModelFiles
from hmr_skel.body.assets import SKEL_FILES, SMPL_FILES, model_path
from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl, keypoints_44, load_points_matrix
from hmr_skel.data.schema import FIT_COLUMNS, SCHEMA, shard_table
from hmr_skel.rows import AnnotationRows, Reject, SmplParams

Columns = dict[str, np.ndarray]
"""Columns by name, for `hmr_skel.data.schema.shard_table`."""
Progress = Callable[[int], None]
"""Called as by `fitting.fit_many`, separately for each SMPL gender of the rows."""


class Fitter:
    """Fits the SKEL body of a manifest to rows. It loads a model when a row first needs it."""

    def __init__(self, models: ModelFiles, config: fitting.FitConfig, device: torch.device) -> None:
        self.models = models
        self.config = config
        self.device = device
        self._prepared: dict[tuple[str, str], fitting.FitModel] = {}

    def load(self) -> None:
        """Load the models that are always needed. Raises `UserError` if one is damaged or of another version."""
        for smpl_gender in self.models.smpl_genders:
            for skel_gender in self.models.skel_genders:
                self._model(smpl_gender, skel_gender)
            _ = self._points

    def fit(self, rows: AnnotationRows, progress: Progress | None = None) -> tuple[pa.Table, list[Reject], int]:
        """Fit SKEL to the rows of one source; rows that are annotated with SKEL stay as they are.

        Returns fitted rows as a table of `SCHEMA`; rows without a fit, as rejects (reason `fit`); the smallest batch.
        """
        batch = self.config.batch_on(self.device.type)
        if not len(rows):
            return SCHEMA.empty_table(), [], batch
        if rows.skel_q is not None:
            return shard_table(rows, None), [], batch
        columns: Columns = {}
        for gender in SMPL_FILES:
            members = np.flatnonzero(rows.smpl_gender == gender)
            if not len(members):
                continue
            found, used = self._fit(gender, rows.take(members).smpl_params(), progress)
            batch = min(batch, used)
            for name, values in found.items():
                column = np.empty((len(rows), *values.shape[1:]), values.dtype)
                columns.setdefault(name, column)[members] = values
        good = columns["status"] != fitting.Status.rejected.name
        rejects = [
            Reject(
                rows.source, int(rows.source_row[i]), str(rows.imgname[i]), "fit", f"no fit was found: v2v {v2v:.1f} mm"
            )
            for i, v2v in enumerate(columns["v2v_mm"].tolist())
            if not good[i]
        ]
        return shard_table(rows.take(good), {name: values[good] for name, values in columns.items()}), rejects, batch

    def _fit(self, smpl_gender: str, params: SmplParams, progress: Progress | None) -> tuple[Columns, int]:
        models = [self._model(smpl_gender, skel_gender) for skel_gender in self.models.skel_genders]
        if len(models) == 1:
            result = fitting.fit_many(params, models[0], self._points, progress)
        else:
            result = fitting.fit_best(params, models, self._points, progress)
        return _columns(result), result.batch

    def _model(self, smpl_gender: str, skel_gender: str) -> fitting.FitModel:
        key = (smpl_gender, skel_gender)
        if key not in self._prepared:
            smpl = Smpl.load(model_path(self.models.folder, SMPL_FILES[smpl_gender]))
            skel = Skel.load(model_path(self.models.folder, SKEL_FILES[skel_gender]))
            self._prepared[key] = fitting.prepare(smpl, skel, self.config, skel_gender, self.device)
        return self._prepared[key]

    @cached_property
    def _points(self) -> torch.Tensor:
        return load_points_matrix(model_path(self.models.folder, J19_FILE))


def _columns(result: fitting.FitResult) -> Columns:
    assert result.target_points is not None  # requested above
    points = keypoints_44(result.target_joints, result.target_points).float()
    columns = {
        "skel_q": result.skel.q,
        "skel_betas": result.skel.betas,
        "skel_transl": result.skel.transl,
        "skel_gender": np.asarray(result.skel_gender, object),
        "status": np.array([fitting.Status(int(code)).name for code in result.status], object),
        "push_dof": np.array([None if dof < 0 else DOF_NAMES[dof] for dof in result.push_dof.tolist()], object),
        "keypoints_3d": torch.cat((points, torch.ones(len(points), 44, 1)), -1),
    }
    for name in FIT_COLUMNS:
        columns.setdefault(name, getattr(result, name, None))
    return {name: v.cpu().numpy() if isinstance(v, torch.Tensor) else np.asarray(v) for name, v in columns.items()}

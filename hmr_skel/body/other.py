"""Read SMPL-X and STAR from their files, and maps from the vertices of a body to SMPL's topology.

Sources: the official files' keys and shapes; Pavlakos et al. 2019 (SMPL-X), Osman et al. 2020 (STAR: correctives are
linear in quaternions and the second beta); `transfer_model` of the smplx project for the maps.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hmr_skel.body.assets import dense, load_model_file, sparse
from hmr_skel.body.lbs import bone_transforms, chain, relative, skin
from hmr_skel.body.rotations import rotvec_to_rotmat
from hmr_skel.errors import UserError
from hmr_skel.foreign import load_torch

OTHER_FILES = {"smplx": "SMPLX", "star": "STAR"}
"""The file name of a body before _NEUTRAL, _MALE or _FEMALE and .npz or .pkl."""
NAMES = {"smplx": "SMPL-X", "star": "STAR"}
MAP_FILE = "smplx2smpl_deftrafo_setup.pkl"
WHERE = {"smplx": "smpl-x.is.tue.mpg.de (downloads: SMPL-X)", "star": "star.is.tue.mpg.de"}
MAP_FROM = "smpl-x.is.tue.mpg.de (the transfer data of the smplx project's transfer_model)"
MHR_FILES = "mhr2smpl_mapping.npz with mhr_face_mask.ply, from tools/mhr_smpl_conversion/assets of MHR's repository"
_VERTICES = 6890
_JOINTS = {"smplx": 55, "star": 24}
_SHAPES = 300  # shape columns of SMPL-X before those of the expression; 10 in files of 20 columns
_HAND = 45


@dataclass(frozen=True)
class OtherBody:
    """The content of a model file with J joints and V vertices, float32."""

    model: str  # a key of OTHER_FILES
    template: Tensor  # [V 3]
    shapedirs: Tensor  # [S 3V]
    expressions: Tensor  # [E 3V]
    posedirs: Tensor  # [P 3V]
    regressor: Tensor  # [J V]
    weights: Tensor  # [V J]
    parents: tuple[int, ...]
    hands: tuple[np.ndarray, np.ndarray] | None  # mean [2 45] and components [2 45 45], left and right

    @classmethod
    def load(cls, path: Path, model: str, device: torch.device | str = "cpu") -> "OtherBody":
        """Read `SMPLX_NEUTRAL.npz` or the like.

        Raises:
            UserError: the file is missing, damaged, or that of another body.
        """
        raw = _contents(path)
        joints = _JOINTS[model]
        needed = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
        if lacking := [key for key in needed if key not in raw]:
            raise UserError(f"{path}: lacks {', '.join(lacking)}. Expected the official {model} model file.")
        arrays = {key: np.asarray(dense(raw[key])) for key in needed}
        count = len(arrays["v_template"])
        shapes: dict[str, tuple[int, ...]] = {
            "v_template": (count, 3),
            "J_regressor": (joints, count),
            "weights": (count, joints),
        }
        shapes |= {"shapedirs": (count, 3, arrays["shapedirs"].shape[-1]), "kintree_table": (2, joints)}
        shapes |= {"posedirs": (count, 3, 93 if model == "star" else 9 * (joints - 1))}
        for key, shape in shapes.items():
            if arrays[key].shape != shape:
                raise UserError(f"{path}: {key!r} has shape {arrays[key].shape}, expected {shape} of {model}.")

        def flat(columns: np.ndarray) -> Tensor:  # [V 3 C] to [C 3V]
            return tensor(columns.reshape(3 * count, columns.shape[2]).T)

        def tensor(array: np.ndarray) -> Tensor:
            return torch.tensor(array, dtype=torch.float32, device=device)

        directions, own = arrays["shapedirs"], arrays["shapedirs"].shape[-1]
        if model == "smplx":
            own = _SHAPES if own > _SHAPES else own // 2
        hands = None
        if all(f"hands_{name}" in raw for name in ("meanl", "meanr", "componentsl", "componentsr")):
            mean, components = (
                np.stack([np.asarray(dense(raw[f"hands_{name}{side}"]), np.float32) for side in "lr"])
                for name in ("mean", "components")
            )
            hands = mean, components
        return cls(
            model=model,
            template=tensor(arrays["v_template"]),
            shapedirs=flat(directions[..., :own]),
            expressions=flat(directions[..., own:]),
            posedirs=flat(arrays["posedirs"]),
            regressor=tensor(arrays["J_regressor"]),
            weights=tensor(arrays["weights"]),
            parents=(-1, *(int(parent) for parent in arrays["kintree_table"][0, 1:])),
            hands=hands,
        )

    def __call__(self, pose: Tensor, betas: Tensor, expression: Tensor, transl: Tensor) -> Tensor:
        """Vertices [B V 3], m, from pose [B J 3] (axis-angle), betas [B n], expression [B n] (any n), transl [B 3]."""
        local = rotvec_to_rotmat(pose)
        count = min(betas.shape[1], len(self.shapedirs)), min(expression.shape[1], len(self.expressions))
        numbers = torch.cat((betas[:, : count[0]], expression[:, : count[1]]), 1)
        shaped = self.template + (
            numbers @ torch.cat((self.shapedirs[: count[0]], self.expressions[: count[1]]))
        ).unflatten(1, (-1, 3))
        joints = self.regressor @ shaped
        rest = shaped + (self._feature(pose, local, betas) @ self.posedirs).unflatten(1, (-1, 3))
        rotmat, position = chain(local, relative(joints, self.parents), self.parents)
        return skin(self.weights, bone_transforms(rotmat, position, joints), rest) + transl[:, None]

    def _feature(self, pose: Tensor, local: Tensor, betas: Tensor) -> Tensor:
        """The features [B P] that the pose correctives are linear in."""
        if self.model != "star":
            return (local[:, 1:] - torch.eye(3, dtype=local.dtype, device=local.device)).flatten(1)
        half = pose[:, 1:].norm(dim=-1, keepdim=True) / 2
        vector = pose[:, 1:] * torch.sinc(half / torch.pi) / 2
        return torch.cat((torch.cat((vector, half.cos() - 1), -1).flatten(1), betas[:, 1:2]), 1)

    def hand_pose(self, numbers: np.ndarray | None, side: int, count: int) -> np.ndarray:
        """A hand's axis-angles [T 45]: as given, from principal components [T n], or the file's mean hand."""
        if numbers is not None and numbers.shape[1] == _HAND:
            return numbers
        if self.hands is None:
            return np.zeros((count, _HAND), np.float32)
        mean, components = self.hands
        if numbers is None:
            return np.broadcast_to(mean[side], (count, _HAND))
        return mean[side] + numbers @ components[side, : numbers.shape[1]]


def find_other(folder: Path, model: str, gender: str, source: str) -> Path:
    """The model file for that body and gender in the folder. Raises `UserError` if there is none; `source` holds it."""
    name = f"{OTHER_FILES[model]}_{gender.upper()}"
    for ending in (".npz", ".pkl"):
        if (folder / f"{name}{ending}").is_file():
            return folder / f"{name}{ending}"
    needed = f"{name}.npz (or .pkl), from {WHERE[model]}"
    needed += f", and {MAP_FILE}, from {MAP_FROM}" if model == "smplx" else ""
    raise UserError(
        f"{source} holds {NAMES[model]}, another body than SMPL, whose own files are needed: {needed}. Put them into "
        f"the folder of body models, {folder}, which has no {name}.npz."
    )


def find_map(folder: Path, count: int, source: str) -> Tensor:
    """The map [6890 V] from the V = `count` vertices that `source` has.

    It is in a file *2smpl*.pkl, .npz, .npy or .pt in the folder. The matrix `mtx` of the published files has V more
    columns for normals, which are not used. MHR's file has a triangle and barycentric coordinates for each vertex, and
    the triangles are in a .ply beside it. Raises `UserError` if there is none, or if a file is damaged or has no map to
    6890 vertices.
    """
    files = sorted(p for p in folder.glob("*2smpl[_.-]*") if p.suffix in (".pkl", ".npz", ".pt", ".npy"))
    for path in files:
        matrix = _matrix(path)
        if matrix.shape[1] not in (count, 2 * count):
            continue
        matrix = matrix.tocsr()[:, :count].astype(np.float32)
        sums = np.asarray(matrix.sum(1))
        if not np.abs(sums - 1).max() < 0.05:
            raise UserError(f"{path}: weights of a vertex sum to {sums.min():.2f} to {sums.max():.2f}. Expected 1.")
        entries = matrix.tocoo()
        places = torch.from_numpy(np.stack((entries.row, entries.col)).astype(np.int64))
        found = torch.sparse_coo_tensor(places, torch.from_numpy(entries.data), matrix.shape, check_invariants=True)
        return found.coalesce()
    names = ", ".join(path.name for path in files)
    looked = f"has only {names}, for other numbers of vertices" if files else "has none"
    known = {10475: f"For SMPL-X it is {MAP_FILE}, from {MAP_FROM}", 18439: f"For MHR it is {MHR_FILES}"}
    raise UserError(
        f"{source}: meshes of {count:,} vertices need a map to SMPL's 6,890, a file *2smpl*.pkl, .npz, .npy or .pt in "
        f"the folder of body models, {folder}, which {looked}. {known.get(count, 'It is a matrix [6890 V]')}."
    )


def _matrix(path: Path) -> Any:
    """The matrix [6890 n] in a file, as a scipy matrix."""
    import scipy.sparse

    raw = _contents(path)
    if isinstance(raw, dict) and {"triangle_ids", "baryc_coords"} <= set(raw):
        raw = _barycentric(raw, path)
    if isinstance(raw, dict):
        raw = next((raw[key] for key in ("mtx", "matrix") if key in raw), next(iter(raw.values()), None))
    if isinstance(raw, Tensor):
        if raw.is_sparse or raw.is_sparse_csr:
            raw = raw.to_sparse_coo().coalesce()
            rows, columns = raw.indices().numpy()
            raw = scipy.sparse.csr_matrix((raw.values().numpy(), (rows, columns)), shape=tuple(raw.shape))
        else:
            raw = raw.numpy()
    try:
        found = sparse(raw)
        found = scipy.sparse.csr_matrix(np.asarray(raw, np.float32)) if found is None else found
    except Exception as error:  # a damaged matrix can raise any exception
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}). Fetch the file again.") from None
    if found.shape[0] != _VERTICES:
        raise UserError(f"{path}: found a matrix of shape {found.shape}. Expected a map of vertices, ({_VERTICES}, V).")
    return found


def _barycentric(raw: dict[str, Any], path: Path) -> Any:
    """The matrix for vertices that lie in triangles of a mesh, whose .ply is beside the map: mhr*.ply for mhr2smpl*."""
    import scipy.sparse
    import trimesh

    body = path.name.partition("2smpl")[0]
    mesh = next(iter(sorted(path.parent.glob(f"{body}*.ply"))), None)
    if mesh is None:
        raise UserError(
            f"{path} needs the triangles of its body. Put {body}_face_mask.ply, from where it is, beside it."
        )
    try:
        loaded: Any = trimesh.load(mesh, process=False)
        corners = np.asarray(loaded.faces)[np.asarray(raw["triangle_ids"], np.int64)]
        rows = np.repeat(np.arange(len(corners)), 3)
        weights = np.asarray(raw["baryc_coords"], np.float32).ravel()
        return scipy.sparse.csr_matrix((weights, (rows, corners.ravel())), shape=(len(corners), len(loaded.vertices)))
    except Exception as error:  # a damaged file can raise any exception
        raise UserError(f"{path} does not fit {mesh.name} ({error}). Fetch both files again.") from None


def _contents(path: Path) -> Any:
    if path.suffix == ".pt":
        return load_torch(path)
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix != ".npz":
        return load_model_file(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {key: archive[key] for key in archive.files if key not in ("joint2num", "part2num")}
    except Exception as error:  # a damaged file can raise any exception
        raise UserError(f"{path}: cannot be read as an .npz: {error}. Fetch the file again.") from None
    if {"data", "indices", "indptr", "shape"} <= set(content):  # scipy.sparse.save_npz
        import scipy.sparse

        by_columns = "csc" in str(content.get("format", ""))
        kind = scipy.sparse.csc_matrix if by_columns else scipy.sparse.csr_matrix
        matrix = kind((content["data"], content["indices"], content["indptr"]), shape=tuple(content["shape"]))
        matrix.check_format(full_check=True)
        return {"mtx": matrix}
    return content

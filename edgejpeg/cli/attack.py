"""Attack a network, and the network behind JPEG, with FGSM, PGD and attacks that know of the JPEG.

Three systems, as far as they are given: the network alone; the network behind the JPEG layer of a training RUN; and the
network behind real files, with a profile's tables or the RUN's hardened ones. fgsm and pgd follow the system's own
gradient. Files have none (their pixels are a staircase), which hides the network without making it safe; so bpda takes
JPEG's derivative as 1, soft goes through the soft quantizer Q_d, and transfer attacks the network without JPEG. "worst"
counts an image when the clean one and all attacks on it are answered rightly.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejpeg.cli.arguments import (
    add_data_arguments,
    add_model_arguments,
    model_from,
    positive_float,
    positive_int,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgejpeg.evaluate.robustness import Robustness
    from edgejpeg.learn.data import Batches, ImageData
    from edgejpeg.learn.layer import JpegLayer
    from edgejpeg.models import LoadedModel
    from edgejpeg.profile import Profile

HELP = "accuracy under FGSM, PGD and adaptive attacks: a network alone, and behind JPEG"

_ATTACKS = ("fgsm", "pgd", "bpda", "soft", "transfer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model_arguments(parser, required=False)
    tables = parser.add_argument_group("JPEG").add_mutually_exclusive_group()
    tables.add_argument("--run", type=Path, dest="run_folder", metavar="RUN", help="of edgejpeg train; has the network")
    tables.add_argument("-p", "--profile", help="a shipped profile or a .toml file: the network behind its files")
    add_data_arguments(parser)
    parser.add_argument("--images", type=positive_int, default=500, help="drawn with --seed (default: %(default)s)")
    attack = parser.add_argument_group("attack")
    attack.add_argument(
        "--eps", type=positive_float, nargs="+", default=[1.0, 2.0, 3.0, 4.0], help="of 255 (default: 1 2 3 4)"
    )
    attack.add_argument(
        "--attack", choices=_ATTACKS, nargs="+", metavar="ATTACK", help=f"{', '.join(_ATTACKS)} (default: all)"
    )
    attack.add_argument("--steps", type=positive_int, default=5, help="of 2.5 eps / steps (default: %(default)s)")
    attack.add_argument("--random-start", action="store_true", help="begin at a random place in the ball")
    attack.add_argument(
        "--hardness",
        type=positive_float,
        default=5.0,
        metavar="H",
        help="of the Q_d that soft goes through, without a RUN (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=positive_int, default=32, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of images and random starts (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU when there is one)")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object, and nothing else")


def run(args: argparse.Namespace) -> int:
    """Attack, and print the table."""
    from edgejpeg._optional import require
    from edgejpeg.errors import InvalidInputError

    for module in ("torch", "PIL", "tqdm"):
        require(module, extra="train", purpose="edgejpeg attack")
    if (args.model is None) == (args.run_folder is None):
        raise InvalidInputError("give --model NAME, or --run RUN, which has its own network")
    own = [name for name in ("num_classes", "mean", "std") if getattr(args, name) is not None]
    if args.run_folder is not None and (own or args.weights != "auto"):
        raise InvalidInputError("a RUN has its network with weights; leave out --weights, --num-classes, --mean, --std")
    if args.seed < 0:
        raise InvalidInputError(f"--seed is at least 0; got {args.seed}")

    from edgejpeg.learn.data import open_data
    from edgejpeg.learn.distributed import World, device_for
    from edgejpeg.learn.frozen import frozen

    place = device_for(World(), args.device)
    model, layer, profile = _network(args)
    if model.notice:
        print(f"edgejpeg attack: {model.notice}", file=sys.stderr)
    data = open_data(args.data)
    _check_data(data, model)
    model.module.to(place)
    if layer is not None:
        layer.to(place)
    batches = data.batches(
        args.batch_size,
        size=model.input_size,
        resize=model.resize,
        interpolation=model.interpolation,
        seed=args.seed,
        on_error=args.on_error,
    )
    attacks = args.attack or [one for one in _ATTACKS if profile is not None or one in ("fgsm", "pgd")]
    with frozen(model.module):
        result = _measure(args, model, layer, profile, batches, attacks, str(place))
    for _, reason in batches.skipped:
        print(f"edgejpeg attack: skipped: {reason}", file=sys.stderr)
    document = _document(args, model, profile, result, len(batches.skipped))
    print(json.dumps(document, indent=1) if args.json else "\n".join(_table(document)))
    return 0


def _network(args: argparse.Namespace) -> tuple[LoadedModel, JpegLayer | None, Profile | None]:
    from edgejpeg.profile import load_profile

    if args.run_folder is None:
        return model_from(args), None, None if args.profile is None else load_profile(args.profile)
    from edgejpeg.learn.training_run import load_run

    trained = load_run(args.run_folder)
    layer = trained.layer
    if layer is None:
        return trained.model, None, None
    if layer.rounds > 1:
        print(
            f"edgejpeg attack: no file holds the layer's {layer.rounds} rounds of tables; files are left out",
            file=sys.stderr,
        )
        return trained.model, layer.eval().requires_grad_(False), None
    profile = layer.profile(args.run_folder.resolve().name)
    return trained.model, layer.eval().requires_grad_(False), profile


def _check_data(data: ImageData, model: LoadedModel) -> None:
    from edgejpeg.errors import DataError

    if data.labels is None:
        raise DataError(f"{str(data.root)!r} has no labels; attacks need a folder for each class, or labels.csv")
    if data.class_names is not None and len(data.class_names) != model.num_classes:
        raise DataError(
            f"{str(data.root)!r} has {len(data.class_names)} class folders, {model.name} {model.num_classes} classes; "
            "give the images of the network's classes"
        )
    data.check_labels(model.num_classes)


def _measure(
    args: argparse.Namespace,
    model: LoadedModel,
    layer: JpegLayer | None,
    profile: Profile | None,
    batches: Batches,
    attacks: Sequence[str],
    device: str,
) -> Robustness:
    from tqdm import tqdm

    from edgejpeg.errors import InvalidInputError
    from edgejpeg.evaluate.robustness import Files, measure_robustness, systems_of
    from edgejpeg.learn.training_run import JpegNetwork

    files = None
    if profile is not None:
        from edgejpeg.cli.adapt import codec

        encode, decode = codec()
        chosen = profile
        files = Files(lambda image: encode(image, chosen), decode)
        if profile.subsampling == "gray" and "soft" in attacks:
            if args.attack is not None:
                raise InvalidInputError("the attack soft goes through a colour layer, and this profile is gray")
            attacks = [attack for attack in attacks if attack != "soft"]
    systems = systems_of(
        JpegNetwork(model, None).to(device).eval(),
        layer=layer,
        files=files,
        subsampling="420" if profile is None or profile.subsampling == "gray" else profile.subsampling,
        hardness=args.hardness,
    )
    total = min(args.images, len(batches.data))
    with tqdm(total=total, unit="image", desc="attack", disable=None) as bar:
        return measure_robustness(
            systems,
            batches,
            eps=list(dict.fromkeys(args.eps)),
            attacks=list(dict.fromkeys(attacks)),
            steps=args.steps,
            start_seed=args.seed if args.random_start else None,
            max_images=args.images,
            device=device,
            progress=lambda images: bar.update(images - bar.n),
        )


def _document(
    args: argparse.Namespace, model: LoadedModel, profile: Profile | None, result: Robustness, skipped: int
) -> dict[str, Any]:
    from edgejpeg._version import __version__

    systems = {
        name: {
            "clean": figures["clean"].to_dict(),
            "attacks": {
                attack: {f"{eps:g}": interval.to_dict() for eps, interval in by_eps.items()}
                for attack, by_eps in figures["attacks"].items()
            },
        }
        for name, figures in result.figures(seed=args.seed).items()
    }
    return {
        "model": model.name,
        "weights": model.weights,
        "weights_sha256": model.weights_sha256,
        "run": None if args.run_folder is None else str(args.run_folder),
        "profile": None if profile is None else profile.name,
        "profile_id": None if profile is None else profile.profile_id,
        "data": args.data.resolve().name,
        "images": len(result.labels),
        "skipped": skipped,
        "seed": args.seed,
        "steps": args.steps,
        "random_start": args.random_start,
        "hardness": None if args.run_folder is not None or profile is None else args.hardness,
        "systems": systems,
        "tool": f"edgejpeg {__version__}",
    }


_NAMES = {"network": "network alone", "layer": "behind the layer", "files": "behind files"}


def _table(document: dict[str, Any]) -> list[str]:
    first = next(iter(document["systems"].values()))
    eps = list(next(iter(first["attacks"].values())))
    start = ", random start" if document["random_start"] else ""
    lines = [
        f"{document['images']} images of {document['data']}, {document['model']}, {document['steps']} steps{start}; "
        "top-1 with 95 % intervals",
        f"{'':<18}{'attack':<10}" + "".join(f"{f'eps {value}/255':>22}" for value in eps),
    ]
    for name, figures in document["systems"].items():
        lines.append(f"{_NAMES[name]:<18}{'none':<10}{_cell(figures['clean'])}")
        for attack, by_eps in figures["attacks"].items():
            lines.append(f"{'':<18}{attack:<10}" + "".join(_cell(interval) for interval in by_eps.values()))
    return lines


def _cell(interval: dict[str, float]) -> str:
    value, low, high = (100 * interval[key] for key in ("value", "low", "high"))
    return f"{f'{value:.1f} ({low:.1f} to {high:.1f})':>22}"

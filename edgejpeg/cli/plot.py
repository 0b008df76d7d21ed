"""Pictures of what is inside: the soft quantizer, tables before and after, sensitivities, a network's layers.

The figures are those of the second paper (JPEG-DL), of your own networks and tables: quantizer draws figures 2, 7, 8
and 9, tables 4 and 11, sensitivity 10, features 5 and 12, gradcam 6. The output is .png, .svg or .pdf by its ending.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejpeg.cli.arguments import add_model_arguments, model_from, positive_float, positive_int

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from edgejpeg.evaluate.figures import TablePair
    from edgejpeg.models import LoadedModel
    from edgejpeg.profile import Profile

    Pixels = NDArray[np.uint8]

HELP = "pictures: the soft quantizer, tables, sensitivities, feature maps, Grad-CAM++"

_HARDNESS = [1.0, 2.5, 5.0, 20.0]
_TABLES = "a RUN of edgejpeg train, a fixed profile or ladder (shipped or .toml), or ijg:QUALITY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the figures, each with arguments of its own."""
    figures = parser.add_subparsers(dest="figure", metavar="FIGURE", required=True)
    quantizer = _figure(figures, "quantizer", _quantizer, "Q_d beside Q_u, and its derivatives in z, q and alpha")
    curves = quantizer.add_mutually_exclusive_group()
    curves.add_argument("--hardness", type=positive_float, nargs="+", metavar="H", help="(default: 1 2.5 5 20)")
    curves.add_argument("--alpha", type=positive_float, nargs="+", metavar="A", help="instead: h = alpha q^2")
    quantizer.add_argument("--q", type=positive_float, default=1.0, help="the step (default: %(default)s)")
    quantizer.add_argument("--bits", type=positive_int, default=8, help="of the alphabet (default: %(default)s)")
    quantizer.add_argument("--window", choices=("exact", "5"), default="exact", help="5: the authors' truncated sum")
    quantizer.add_argument(
        "--reach", type=positive_float, default=3.5, help="from -REACH q to REACH q (default: %(default)s)"
    )
    quantizer.add_argument(
        "--panels", choices=("shape", "z", "q", "alpha"), nargs="+", default=["shape", "z", "q", "alpha"]
    )
    tables = _figure(figures, "tables", _tables, "two pairs of tables, and what one became in the other")
    tables.add_argument("before", help=_TABLES)
    tables.add_argument("after", help="likewise")
    sensitivity = _figure(
        figures, "sensitivity", _sensitivity, "sensitivities over the frequencies, of 1 to 4 networks"
    )
    sensitivity.add_argument("profiles", nargs="+", metavar="PROFILE", help="adaptive, shipped or a .toml file")
    for name, draw, text in (
        ("features", _features, "what a layer answers to an image before and after JPEG"),
        ("gradcam", _gradcam, "where a network finds a class, before and after JPEG, by Grad-CAM++"),
    ):
        inside = _figure(figures, name, draw, text)
        inside.add_argument("image", type=Path, metavar="IMAGE")
        add_model_arguments(inside, required=False)
        jpeg = inside.add_argument_group("JPEG").add_mutually_exclusive_group(required=True)
        jpeg.add_argument("--run", type=Path, dest="run_folder", metavar="RUN", help="has the network and its tables")
        jpeg.add_argument("-p", "--profile", help="a shipped profile or a .toml file")
        jpeg.add_argument("--quality", type=positive_int, help="the IJG's tables, 4:2:0")
        default = "the first convolution" if name == "features" else "the last with maps of more than a pixel"
        inside.add_argument("--layer", metavar="NAME", help=f"as in named_modules() (default: {default})")
        if name == "features":
            inside.add_argument("--channels", type=positive_int, default=6, help="those that change most (default: 6)")
        else:
            inside.add_argument("--class", type=int, dest="target", metavar="N", help="(default: the most likely)")


def _figure(figures: Any, name: str, draw: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = figures.add_parser(name, help=text, description=text)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help=".png, .svg or .pdf")
    parser.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.set_defaults(draw=draw)
    return parser


def run(args: argparse.Namespace) -> int:
    """Draw."""
    from edgejpeg._optional import require
    from edgejpeg.evaluate.canvas import check_picture

    require("matplotlib", extra="plot", purpose="edgejpeg plot")
    check_picture(args.output)
    if args.figure not in ("sensitivity", "tables"):
        require("torch", extra="train", purpose=f"edgejpeg plot {args.figure}")
    for line in args.draw(args):
        print(line)
    print(f"wrote {args.output}")
    return 0


def _quantizer(args: argparse.Namespace) -> list[str]:
    from edgejpeg.evaluate.figures import draw_quantizer
    from edgejpeg.evaluate.quantizer_curves import quantizer_curves

    alphas = args.alpha or [hardness / args.q**2 for hardness in args.hardness or _HARDNESS]
    window: Any = 5 if args.window == "5" else "exact"
    curves = quantizer_curves(alphas, q=args.q, bits=args.bits, window=window, reach=args.reach)
    draw_quantizer(curves, args.output, tuple(dict.fromkeys(args.panels)))
    return []


def _tables(args: argparse.Namespace) -> list[str]:
    from edgejpeg.evaluate.figures import draw_tables

    before, after = _steps_of(args.before), _steps_of(args.after)
    change = draw_tables(before, after, args.output)
    return [
        f"{name}: {int((part > 0).sum())} of 64 steps coarser, {int((part < 0).sum())} finer, "
        f"from {2 ** part.min():.3g} to {2 ** part.max():.3g} times"
        for name, part in zip(("luma", "chroma"), change, strict=True)
    ]


def _steps_of(source: str) -> TablePair:
    """The tables that ``source`` names."""
    import numpy as np

    from edgejpeg._optional import require
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.evaluate.figures import TablePair
    from edgejpeg.jpeg.tables import ijg_tables
    from edgejpeg.profile import load_profile

    if source.startswith("ijg:"):
        quality = source.removeprefix("ijg:")
        if not quality.isdigit():
            raise InvalidInputError(f"the IJG's tables are ijg:1 to ijg:100; got {source!r}")
        luma, chroma = ijg_tables(int(quality))
        return TablePair(f"IJG {quality}", np.stack([luma.array, chroma.array]).astype(np.float64))
    if Path(source).is_dir():
        require("torch", extra="train", purpose="reading a run")
        from edgejpeg.learn.training_run import load_run

        layer = load_run(source).layer
        if layer is None:
            raise InvalidInputError(f"the run {source!r} has no JPEG layer, so no tables; it is the baseline arm")
        steps = [values.detach().double().numpy() for values in layer.steps()]
        return TablePair(Path(source).resolve().name, np.stack(steps))
    profile = load_profile(source)
    if profile.level is not None:
        profile = profile.at_level(profile.level)
    if profile.luma is None or profile.chroma is None:
        raise InvalidInputError(
            f"profile {profile.name!r} is {profile.kind}, {profile.subsampling}: it has no pair of tables of its own"
        )
    return TablePair(profile.name, np.stack([profile.luma.array, profile.chroma.array]).astype(np.float64))


def _sensitivity(args: argparse.Namespace) -> list[str]:
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.evaluate.figures import CHANNELS, draw_sensitivities
    from edgejpeg.profile import load_profile

    profiles = []
    for name in args.profiles:
        profile = load_profile(name)
        if profile.sensitivity is None:
            raise InvalidInputError(f"profile {name!r} is {profile.kind}: only adaptive ones have sensitivities")
        profiles.append((profile.name, profile.sensitivity, profile.standard_error))
    drawn = draw_sensitivities(profiles, args.output)
    return [
        f"{name}: " + ", ".join(f"{c} peaks at zigzag {v.argmax()}" for c, v in zip(CHANNELS, values, strict=True))
        for name, values in drawn
    ]


def _features(args: argparse.Namespace) -> list[str]:
    from edgejpeg.evaluate.figures import draw_feature_maps
    from edgejpeg.evaluate.inside import activations, first_convolution

    model, pixels, inputs = _before_and_after(args)
    layer = args.layer or first_convolution(model.module, inputs[0])
    before, after = (activations(model.module, x, layer)[0].double().numpy() for x in inputs)
    chosen = draw_feature_maps(pixels, (before, after), args.output, layer=layer, channels=args.channels)
    return [f"layer {layer}, {len(before)} channels; drawn: {', '.join(map(str, chosen))}"]


def _gradcam(args: argparse.Namespace) -> list[str]:
    from edgejpeg.evaluate.figures import Explained, draw_class_maps
    from edgejpeg.evaluate.inside import grad_cam_plus_plus, last_maps

    model, pixels, inputs = _before_and_after(args)
    layer = args.layer or last_maps(model.module, inputs[0])
    columns, lines = [], []
    target = args.target
    for name, picture, x in zip(("before", "after JPEG"), pixels, inputs, strict=True):
        found = grad_cam_plus_plus(model.module, x, layer, target)
        target = found.target  # the same class after JPEG
        columns.append(Explained(f"{name}: p = {found.probability:.3f}", picture, found.map.double().numpy()))
        top = "" if found.top1 == found.target else f"; most likely is {_class_name(model, found.top1)}"
        lines.append(f"{name}: {_class_name(model, found.target)}, probability {found.probability:.4f}{top}")
    draw_class_maps(columns, args.output, title=f"{_class_name(model, target)}, layer {layer}")
    return lines


def _class_name(model: LoadedModel, number: int) -> str:
    return f"class {number}" if model.class_names is None else f"{model.class_names[number]} ({number})"


def _before_and_after(
    args: argparse.Namespace,
) -> tuple[LoadedModel, tuple[Pixels, Pixels], tuple[torch.Tensor, torch.Tensor]]:
    """The network, the image in its size and what a file makes of it, both as pixels and as inputs."""
    import sys

    import numpy as np
    import torch

    from edgejpeg.cli.adapt import codec
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.learn.data import read_image

    if (args.model is None) == (args.run_folder is None):
        raise InvalidInputError("give --model NAME, or --run RUN, which has its own network")
    model, profile = _network(args)
    if model.notice:
        print(f"edgejpeg plot: {model.notice}", file=sys.stderr)
    planes = read_image(args.image, size=model.input_size, resize=model.resize, interpolation=model.interpolation)
    before = np.ascontiguousarray(planes.transpose(1, 2, 0))
    encode, decode = codec()
    after = decode(encode(before, profile))
    inputs = [model.normalise(torch.from_numpy(image).permute(2, 0, 1)[None]) for image in (before, after)]
    return model, (before, after), (inputs[0], inputs[1])


def _network(args: argparse.Namespace) -> tuple[LoadedModel, Profile]:
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.jpeg.tables import ijg_tables
    from edgejpeg.profile import Profile, load_profile

    if args.run_folder is not None:
        from edgejpeg.learn.training_run import load_run

        trained = load_run(args.run_folder)
        if trained.layer is None:
            raise InvalidInputError(
                f"the run {str(args.run_folder)!r} has no JPEG layer; give --model, its --weights, and -p or --quality"
            )
        return trained.model, trained.layer.profile(args.run_folder.resolve().name)
    if args.profile is not None:
        return model_from(args), load_profile(args.profile)
    luma, chroma = ijg_tables(args.quality)
    profile = Profile.fixed(name=f"ijg{args.quality}", luma=luma, chroma=chroma, subsampling="420")
    return model_from(args), profile

"""Serve an ONNX classifier over HTTP: Open Inference Protocol v2, JPEG files in, classes out.

  edgejpeg serve --model resnet18.onnx
  curl --data-binary @frame.jpg http://127.0.0.1:8000/v2/models/resnet18/infer

A file made by `edgejpeg export` says itself how it wants its input; a foreign one must be described with --resize,
--range, --mean and --std. Any address but loopback needs --token-file, --tls-cert and --tls-key.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from edgejpeg.cli.arguments import positive_float, positive_int

HELP = "serve an ONNX classifier over HTTP"

_UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "kb": 1000, "mb": 1000**2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("--model", required=True, type=Path, metavar="FILE", help="the .onnx file")
    parser.add_argument("--name", help="the model's name in addresses (default: the file's name without .onnx)")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line, instead of the model's")
    parser.add_argument("--topk", type=positive_int, default=5, help="classes in an answer (default: %(default)s)")
    address = parser.add_argument_group("address")
    address.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    address.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    address.add_argument("--token-file", type=Path, metavar="FILE", help="clients must send this as a bearer token")
    address.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate, with --tls-key")
    address.add_argument("--tls-key", type=Path, metavar="PEM", help="the certificate's key, without a passphrase")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--threads", type=positive_int, help="requests worked on at once (default: one per core)")
    limits.add_argument("--queue", type=int, default=16, help="requests that may wait beside (default: %(default)s)")
    limits.add_argument("--max-body", type=_size, default=8 << 20, metavar="SIZE", help="of a request (default: 8MiB)")
    limits.add_argument(
        "--max-pixels", type=positive_int, default=16_000_000, help="of a request's images (default: %(default)s)"
    )
    limits.add_argument("--max-images", type=positive_int, default=32, help="in a request (default: %(default)s)")
    limits.add_argument(
        "--body-timeout", type=positive_float, default=10.0, metavar="S", help="seconds (default: %(default)s)"
    )
    foreign = parser.add_argument_group("input of a model that edgejpeg did not export")
    foreign.add_argument("--size", type=_shape, metavar="S|H,W", help="pixels, when the graph leaves them open")
    foreign.add_argument("--resize", type=positive_int, metavar="S", help="short side before the centre crop")
    foreign.add_argument("--range", type=_numbers(2), metavar="LOW,HIGH", help="what pixels 0 and 255 become: 0,1")
    foreign.add_argument("--mean", type=_numbers(3), metavar="R,G,B", help="subtracted then; 0,0,0 for none")
    foreign.add_argument("--std", type=_numbers(3), metavar="R,G,B", help="divided by then; 1,1,1 for none")
    foreign.add_argument("--interpolation", choices=("bilinear", "bicubic"), help="of the resize (default: bilinear)")
    foreign.add_argument(
        "--scores",
        choices=("logits", "probabilities"),
        default="logits",
        help="what the output holds; probabilities: the graph ends in a softmax (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from edgejpeg.runtime.server.model import ForeignInput, load_model, read_labels
    from edgejpeg.runtime.server.serve import read_token, run_server
    from edgejpeg.runtime.server.service import InferenceService, Limits

    limits = Limits(args.max_body, args.max_pixels, args.max_images, args.queue, args.body_timeout)
    token = None if args.token_file is None else read_token(args.token_file)
    model = load_model(
        args.model,
        name=args.name,
        labels=None if args.labels is None else read_labels(args.labels),
        foreign=ForeignInput(args.size, args.resize, args.range, args.mean, args.std, args.interpolation),
        scores=args.scores,
    )

    def announce(url: str) -> None:
        spec = model.spec
        print(
            f"serving {model.name} ({spec.height} x {spec.width}, {model.num_classes} classes, "
            f"{', '.join(model.engine.providers)}, {service.threads} threads) at {url}"
        )
        if model.description:
            print(f"weights: {model.description}")
        token_part = "" if token is None else ' -H "Authorization: Bearer $(cat TOKEN_FILE)"'
        print(f"try: curl{token_part} --data-binary @frame.jpg {url}/v2/models/{model.name}/infer", flush=True)

    with InferenceService(model, limits=limits, topk=args.topk, threads=args.threads) as service:
        run_server(
            service,
            host=args.host,
            port=args.port,
            token=token,
            tls_cert=args.tls_cert,
            tls_key=args.tls_key,
            on_ready=announce,
        )
    print("edgejpeg serve: stopped", flush=True)
    return 0


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d{1,12})\s*([A-Za-z]*)", text.strip())
    if not found or found[2].lower() not in _UNITS or int(found[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write bytes, or 500KB, 8MiB")
    return int(found[1]) * _UNITS[found[2].lower()]


def _shape(text: str) -> tuple[int, int]:
    sides = [positive_int(part) for part in text.split(",")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} has more than two sides")
    return sides[0], sides[-1]


class _numbers:  # noqa: N801  (a type for argparse, which shows its name in messages)
    """``count`` numbers with commas between."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __call__(self, text: str) -> tuple[float, ...]:
        values = tuple(float(part) for part in text.split(","))
        if len(values) != self._count:
            raise argparse.ArgumentTypeError(f"{text!r} must be {self._count} numbers with commas between")
        return values

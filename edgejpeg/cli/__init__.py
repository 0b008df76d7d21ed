"""The ``edgejpeg`` command: one file a verb, heavy imports inside the verb that needs them."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Sequence

from edgejpeg._version import __version__
from edgejpeg.errors import EdgeJpegError, InvalidInputError

VERBS = (
    "demo", "calibrate", "learn-tables", "adapt", "train", "harden", "attack", "plot",
    "encode", "bench", "info", "export", "serve", "send",
)  # fmt: skip

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

_DESCRIPTION = "JPEG for machines: quantization tables made for the neural network at the other end of the uplink."


def build_parser() -> argparse.ArgumentParser:
    """The parser with all verbs; importing it loads no optional package."""
    parser = argparse.ArgumentParser(prog="edgejpeg", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"edgejpeg {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        module = importlib.import_module(f"edgejpeg.cli.{name.replace('-', '_')}")
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        verb.add_argument("-v", "--verbose", action="store_true", help="more output, and the traceback of an error")
        verb.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for a failure, 2 for wrong usage, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    args.command = shlex.join(["edgejpeg", *(sys.argv[1:] if argv is None else argv)])
    try:
        return int(args.run(args))
    except EdgeJpegError as error:
        if args.verbose:
            traceback.print_exc()
        message = " ".join(str(error).split())
        print(f"edgejpeg {args.verb}: error: {message}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, InvalidInputError) else EXIT_FAILED
    except KeyboardInterrupt:
        print(f"edgejpeg {args.verb}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe, such as head, has gone: nothing more to say, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED

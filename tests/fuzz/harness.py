"""What the Python fuzzers share: atheris where it is installed, else a seeded loop of mutations of our own.

A fuzzer is a function of bytes that raises for a defect. Its module ends with ``sys.exit(harness.main(target, ...))``
and is run as a program:

    python tests/fuzz/fuzz_markers.py [--engine auto|atheris|mutation] [--runs N] [--seconds S] [--seed N] [FILE ...]

Files alone are run once each. An input that raises is written to ``--keep`` and named.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import random
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"

OneInput = Callable[[bytes], None]

# What a text format would call a value: a number, a name, a quoted text.
_WORD = re.compile(rb'"[^"\n]*"|[\w.+-]+')
_LONGEST_WORD = 64  # of a dictionary of libFuzzer


def main(target: Callable[[], OneInput], corpus: str, dictionary: Sequence[bytes], argv: Sequence[str] | None = None):
    """Run a fuzzer's command line; returns the exit code.

    Args:
        target: makes the function of one input; it imports what is tested.
        corpus: the folder of seeds below ``tests/fuzz/corpus``.
        dictionary: pieces that mutations put into inputs.
    """
    parser = argparse.ArgumentParser(description="Fuzz until --runs or --seconds are over.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="run these inputs, and nothing else")
    parser.add_argument("--engine", choices=("auto", "atheris", "mutation"), default="auto")
    parser.add_argument("--runs", type=int, help="inputs in all")
    parser.add_argument("--seconds", type=int, help="seconds in all (default: 60 without --runs)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path(), help="folder for inputs that fail (default: this one)")
    args = parser.parse_args(argv)
    if args.files:
        return _run_inputs(target(), [path.read_bytes() for path in args.files], args.keep)
    if args.runs is None and args.seconds is None:
        args.seconds = 60
    if args.engine == "atheris" or (args.engine == "auto" and importlib.util.find_spec("atheris")):
        return _run_atheris(target, CORPUS / corpus, dictionary, args)
    return _run_mutations(target(), seeds(corpus), dictionary, args)


def seeds(corpus: str) -> list[bytes]:
    """The seeds of a fuzzer, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / corpus).iterdir()) if path.is_file()]


def mutated(inputs: Sequence[bytes], dictionary: Sequence[bytes], rng: random.Random) -> bytes:
    """One of the inputs, changed in one to six places."""
    data = bytearray(rng.choice(inputs))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        length = rng.randint(1, 16)
        kind = rng.randrange(10)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length] * rng.choice((1, 2, 300))
        elif kind == 4:
            data[at : at + rng.choice((0, length))] = rng.choice(dictionary)
        elif kind == 5:
            other = rng.choice(inputs)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        elif kind == 6:
            start = rng.randrange(len(data) + 1)
            data[at:at] = data[start : start + rng.choice((length, 200))]
        elif kind == 7:
            del data[at:]
        else:
            words = list(_WORD.finditer(data))
            if words:
                word = rng.choice(words)
                data[word.start() : word.end()] = rng.choice(dictionary)
    return bytes(data)


def _run_mutations(one_input: OneInput, inputs: list[bytes], dictionary: Sequence[bytes], args) -> int:
    rng = random.Random(args.seed)
    end = None if args.seconds is None else time.monotonic() + args.seconds
    failed = _run_inputs(one_input, inputs, args.keep, say=False)
    runs = len(inputs)
    while (args.runs is None or runs < args.runs) and (end is None or time.monotonic() < end):
        failed |= _run_inputs(one_input, [mutated(inputs, dictionary, rng)], args.keep, say=False)
        runs += 1
    print(f"Done {runs} runs")
    return failed


def _run_inputs(one_input: OneInput, inputs: Sequence[bytes], keep: Path, say: bool = True) -> int:
    failed = 0
    for data in inputs:
        try:
            one_input(data)
        except Exception:
            path = keep / f"crash-{hashlib.sha256(data).hexdigest()[:16]}"
            path.write_bytes(data)
            traceback.print_exc()
            print(f"input of {len(data)} bytes kept as {path}", file=sys.stderr)
            failed = 1
    if say:
        print(f"Done {len(inputs)} runs")
    return failed


def _run_atheris(target: Callable[[], OneInput], corpus: Path, dictionary: Sequence[bytes], args) -> int:
    import atheris

    one_input = target()
    atheris.instrument_all()  # not its import hook, which does not see into editable installations
    options = [f"-seed={args.seed}", f"-artifact_prefix={args.keep}/", "-max_len=8192"]
    options += [] if args.runs is None else [f"-runs={args.runs}"]
    options += [] if args.seconds is None else [f"-max_total_time={args.seconds}"]
    # The first folder is where libFuzzer writes what it finds: not the seeds.
    grown = args.keep / "grown"
    grown.mkdir(parents=True, exist_ok=True)
    words = ["".join(f"\\x{byte:02x}" for byte in word) for word in dictionary if len(word) <= _LONGEST_WORD]
    (args.keep / "dictionary").write_text("".join(f'"{word}"\n' for word in words))
    options.append(f"-dict={args.keep / 'dictionary'}")
    atheris.Setup([sys.argv[0], *options, str(grown), str(corpus)], one_input)
    atheris.Fuzz()
    return 0

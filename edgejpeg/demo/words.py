"""What the results say, in words and in the terminal's table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgejpeg.demo.results import OURS, REFERENCE


def headline(results: Mapping[str, Any]) -> str:
    """The one sentence: who needs fewer bytes at equal KL, or that this sample cannot tell."""
    delta = results["comparison"]["delta_rate"]
    if delta is None:
        return "No overall figure: " + results["comparison"]["reason"]
    level = f"{delta['level']:.0%}".replace("%", " %")
    span = f"{level} interval {percent(delta['low'])} to {percent(delta['high'])}"
    size = f"{percent(abs(delta['value']), sign=False)} {'larger' if delta['value'] > 0 else 'smaller'}"
    if delta["low"] > 0:
        return f"Ordinary JPEG wins here: at equal KL edgejpeg's files are {size} ({span})."
    if delta["high"] < 0:
        return f"edgejpeg wins here: at equal KL its files are {size} than ordinary JPEG's ({span})."
    return (
        f"No clear winner: at equal KL edgejpeg's files are {size} than ordinary JPEG's, and the {span} includes zero."
    )


def details(results: Mapping[str, Any]) -> list[str]:
    """Where each of the two is the smaller one, by ordinary JPEG's settings, and the range compared."""
    reference = results["methods"][REFERENCE]
    smaller: dict[str, list[str]] = {"ours": [], "theirs": [], "open": [], "beyond": []}
    for point in reference["points"]:
        change = point["edgejpeg_change"]
        if change is None:
            verdict = "beyond"
        else:
            verdict = "theirs" if change["low"] > 0 else "ours" if change["high"] < 0 else "open"
        smaller[verdict].append(f"{point['setting']:g}")
    name = reference["parameter"]
    sentences = []
    if smaller["theirs"]:
        sentences.append(f"Ordinary JPEG is the smaller at equal KL at {name} {_listed(smaller['theirs'])}.")
    if smaller["ours"]:
        sentences.append(f"edgejpeg is the smaller at equal KL at ordinary JPEG's {name} {_listed(smaller['ours'])}.")
    if smaller["open"]:
        sentences.append(f"No clear difference at {name} {_listed(smaller['open'])}.")
    if smaller["beyond"]:
        sentences.append(f"edgejpeg's curve does not reach {name} {_listed(smaller['beyond'])}.")
    if results["quick"]:
        sentences.append("This was a quick run: so few frames and settings decide little.")
    comparison = results["comparison"]
    if comparison["delta_rate"] is not None:
        sentences.append(f"Compared over a mean KL of {comparison['kl_low']:.2g} to {comparison['kl_high']:.2g} nats.")
    return sentences


def rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of all points, ordinary JPEG first."""
    heads = [
        "method",
        "setting",
        "bytes",
        "bpp",
        "mean KL (nats)",
        "agreement",
        "encode",
        "round trip",
        "edgejpeg at equal KL",
    ]
    body = []
    for key in (REFERENCE, OURS):
        method = results["methods"][key]
        for point in method["points"]:
            kl, agreement = point["kl"], point["agreement"]
            row = [
                method["label"],
                f"{method['parameter']} {point['setting']:g}",
                f"{point['bytes']:.0f}",
                f"{point['bpp']:.2f}",
                f"{kl['value']:.3f} [{kl['low']:.3f}, {kl['high']:.3f}]",
                f"{agreement['value'] * 100:.1f} %",
                f"{point['encode_ms']:.2f} ms",
                f"{point['round_trip_ms']:.1f} ms",
                _change(point) if key == REFERENCE else "",
            ]
            body.append(row)
    return heads, body


def terminal_table(heads: list[str], body: list[list[str]]) -> str:
    """The table in plain text, a rule under the heads and between methods (the first column)."""
    widths = [max(len(cell) for cell in column) for column in zip(heads, *body, strict=True)]

    def line(cells: Iterable[str]) -> str:
        aligned = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(aligned).rstrip()

    rule = "  ".join("-" * width for width in widths)
    lines = [line(heads), rule]
    for i, row in enumerate(body):
        if i and row[0] != body[i - 1][0]:
            lines.append(rule)
        lines.append(line(row))
    return "\n".join(lines)


def percent(value: float, *, sign: bool = True) -> str:
    """A relative change as people read it: ``+4.2 %``, ``-12 %``."""
    number = value * 100
    digits = 0 if abs(number) >= 99.5 else 1
    text = f"{number:+.{digits}f}" if sign else f"{number:.{digits}f}"
    return f"{text} %"


def _change(point: Mapping[str, Any]) -> str:
    change = point["edgejpeg_change"]
    if change is None:
        return "beyond its curve"
    low, high = (percent(change[end]).removesuffix(" %") for end in ("low", "high"))
    return f"{percent(change['value'])} [{low}, {high}]"


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"

"""The demo's page and picture, from ``results.json`` and the files beside it: nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgejpeg.demo import page, words
from edgejpeg.demo.results import OURS, REFERENCE, interval_of, load_results
from edgejpeg.errors import DataError
from edgejpeg.evaluate.metrics import Interval
from edgejpeg.evaluate.plots import Series, plot_rate_curves

_KINDS = {"clean": "without compression", REFERENCE: "ordinary JPEG", OURS: "edgejpeg"}


def write_report(results: str | Path, *, page_path: str | Path | None = None) -> Path:
    """Draw ``rate.png`` and write ``report.html``, one file with everything inside.

    Args:
        results: ``results.json`` of a run; the frames' files lie beside it.
        page_path: where the page goes, ``report.html`` beside the results by default; the picture goes with it.

    Returns:
        Path of the page.

    Raises:
        DataError: results or frames cannot be read, or the page cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    results = Path(results)
    document = load_results(results)
    target = results.with_name("report.html") if page_path is None else Path(page_path)
    picture = target.with_name("rate.png")
    plot_rate_curves(_series(document), picture, changes=_changes(document), note=_note(document))
    body = [
        *_opening(document, picture),
        *_table(document),
        *_strip(document, results.parent),
        *_exports(document),
        *_method(document),
    ]
    try:
        target.write_text(page.document("edgejpeg demo", body), encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"the page cannot be written to {target}: {error.strerror or error}; check the folder"
        ) from error
    return target


def _series(document: Mapping[str, Any]) -> list[Series]:
    series = []
    for key in (OURS, REFERENCE):
        points = document["methods"][key]["points"]
        series.append(
            Series(
                label=document["methods"][key]["label"],
                bpp=[point["bpp"] for point in points],
                kl=[interval_of(point["kl"]) for point in points],
                agreement=[interval_of(point["agreement"]) for point in points],
            )
        )
    return series


def _changes(document: Mapping[str, Any]) -> list[tuple[float, Interval]]:
    points = document["methods"][REFERENCE]["points"]
    return [(point["bpp"], interval_of(point["edgejpeg_change"])) for point in points if point["edgejpeg_change"]]


def _note(document: Mapping[str, Any]) -> str:
    bootstrap = document["bootstrap"]
    return (
        f"{document['model']['name']}, {bootstrap['frames']} frames; bands: {bootstrap['level']:.0%} bootstrap "
        f"intervals of each mean ({bootstrap['groups']} groups: {bootstrap['unit']})"
    )


def _opening(document: Mapping[str, Any], picture: Path) -> list[str]:
    footage, model = document["footage"], document["model"]
    kinds = [source["kind"] for source in footage["sources"]]
    height, width = footage["frame_size"]
    return [
        page.paragraph(f"edgejpeg {document['tool']['version']} demo, {document['date']}", "eyebrow"),
        "<h1>What the uplink carries, and what the network at its end notices</h1>",
        page.paragraph(
            "edgejpeg makes a JPEG encoder's quantization tables for the network that will look at the pictures, frame "
            "by frame; every file stays a plain baseline JPEG. Here frames of clips and photos go through it, over "
            "HTTP, into a server that classifies them, and the same frames go the same way as ordinary JPEG."
        ),
        page.paragraph(words.headline(document), "lead"),
        page.paragraph(" ".join(words.details(document))),
        page.facts(
            [
                (f"frames of {width}x{height}", str(document["bootstrap"]["frames"])),
                ("clips and photos", f"{kinds.count('clip')} and {kinds.count('photo')}"),
                ("network", model["name"]),
                ("profile", document["profile"]["name"]),
                ("files sent", str(document["timing"]["requests"])),
            ]
        ),
        f"<figure>{page.image(picture, 'KL and agreement over bits per pixel', 'chart')}"
        "<figcaption>Left: how far the network's output moves, as the mean KL divergence from its output on the clean "
        "frame. Right: how often its top class stays the same. Below: the paired comparison. The bands are intervals "
        "of each mean alone; both methods see the same frames, so their difference is better known than the bands "
        "suggest.</figcaption></figure>",
    ]


def _table(document: Mapping[str, Any]) -> list[str]:
    heads, rows = words.rows(document)
    label = document["methods"][OURS]["label"]
    body = []
    for i, row in enumerate(rows):
        css = ["ours"] if row[0] == label else []
        if i and row[0] != rows[i - 1][0]:
            css.append("first")
        body.append((" ".join(css), row))
    return [
        page.heading("Every point"),
        page.paragraph(
            "Bytes, bits per pixel and KL are means over the frames, times are medians. The last column is how many "
            "more or fewer bytes edgejpeg needs for the KL that ordinary JPEG has in that row, read from edgejpeg's "
            "curve, with its paired interval.",
            "soft",
        ),
        page.table(heads, body),
    ]


def _strip(document: Mapping[str, Any], folder: Path) -> list[str]:
    cells = [f'<p class="head">{page.escape(_KINDS[kind])}</p>' for kind in ("clean", REFERENCE, OURS)]
    for entry in document["strip"]:
        for shown in entry["images"]:
            alt = f"{entry['frame']}, {_KINDS[shown['kind']]}"
            picture = page.image(folder / shown["file"], alt)
            cells.append(f"<figure>{picture}<figcaption>{_caption(entry, shown)}</figcaption></figure>")
    return [
        page.heading("Frames at nearly the same bytes"),
        page.paragraph(document["strip_rule"], "soft"),
        f'<div class="strip">{"".join(cells)}</div>',
    ]


def _caption(entry: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    top = page.escape(f"{shown['class_name']} ({shown['probability'] * 100:.0f} %)")
    if shown["kind"] == "clean":
        return f"{page.escape(entry['frame'])}<br>{top}"
    verdict = top if shown["agrees"] else f'<b class="changed">{top}</b>'
    setting = page.escape(f"{shown['parameter']} {shown['setting']:g}")
    return (
        f"{shown['bytes']:,} bytes, {shown['bpp']:.2f} bpp<br>{verdict}<br><span>KL {shown['kl']:.3f}, {setting}</span>"
    )


def _exports(document: Mapping[str, Any]) -> list[str]:
    return [
        page.heading("The network as ONNX"),
        page.paragraph(
            "Each export was run in ONNX Runtime beside PyTorch, and would have been refused had they differed. The "
            "first is what the server ran; the second has the JPEG layer in front, as the local function "
            "edgejpeg::JpegLayer."
        ),
        *(
            page.definitions([("file", export["file"]), ("size", f"{export['bytes'] / 1e6:.1f} MB"), *_flat(export)])
            for export in document["exports"]
        ),
    ]


def _flat(export: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in export["figures"].items()]


def _method(document: Mapping[str, Any]) -> list[str]:
    model, profile, footage = document["model"], document["profile"], document["footage"]
    sources = "; ".join(
        f"{source['name']} ({source['kind']} of {source['package']}, {source['frames']} "
        f"frame{'s' if source['frames'] != 1 else ''})"
        for source in footage["sources"]
    )
    machine = document["machine"]
    return [
        page.heading("How it was measured"),
        page.bullets(document["method"]),
        page.definitions(
            [
                ("footage", sources),
                ("network", f"{model['name']}, weights: {model['weights']}"),
                ("weights sha256", str(model["weights_sha256"])),
                ("profile", f"{profile['name']}, id {profile['profile_id']}, {profile['subsampling']}"),
                ("machine", f"{machine['processor']}, {machine['cores']} cores, {machine['platform']}"),
                ("versions", ", ".join(f"{name} {version}" for name, version in document["versions"].items())),
                ("seed", str(document["seed"])),
                ("duration", f"{document['timing']['total_s']:.0f} s"),
            ]
        ),
        f"<p>Run it again: <code>{page.escape(document['command'])}</code>. All figures, frame by frame, are in "
        "<code>results.json</code>.</p>",
    ]

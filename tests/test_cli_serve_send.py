"""``edgejpeg serve`` and ``edgejpeg send`` as processes: the whole way, and the ways it can fail."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.profile import Level, Profile
from edgejpeg.runtime.encoder import Encoder

for needed in ("onnxruntime", "uvicorn", "starlette", "httpx", "PIL"):
    pytest.importorskip(needed)
onnx = pytest.importorskip("onnx")
cv2 = pytest.importorskip("cv2")

TOKEN = "a-token-of-enough-characters"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mean.onnx, foreign.onnx, profile.toml, frames/ (7 images), broken/ (2 images, 1 cut), token."""
    folder = tmp_path_factory.mktemp("home")
    image = onnx.helper.make_tensor_value_info("image", 1, ["N", 3, 32, 32])
    logits = onnx.helper.make_tensor_value_info("logits", 1, ["N", 3])
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    graph = onnx.helper.make_graph(nodes, "mean", [image], [logits])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "foreign.onnx")
    document = {
        "format": 1,
        "weights": "none (means)",
        "class_names": ["red", "green", "blue"],
        "input": {"size": [32, 32], "resize": 36, "interpolation": "bicubic", "dtype": "float32", "range": [0, 1]},
    }
    onnx.helper.set_model_props(model, {"edgejpeg": json.dumps(document)})
    onnx.save(model, folder / "mean.onnx")
    luma, chroma = ijg_tables(80)
    Profile.fixed(name="ijg80", luma=luma, chroma=chroma, subsampling="420").save(folder / "profile.toml")
    (folder / "frames").mkdir()
    for index in range(7):
        frame = np.zeros((60, 80, 3), np.uint8)
        frame[:, :, 2 - index % 3] = 250  # BGR: red, green, blue, red, ...
        cv2.imwrite(str(folder / "frames" / f"{index}.png"), frame)
    (folder / "broken").mkdir()
    whole = (folder / "frames" / "0.png").read_bytes()
    (folder / "broken" / "a.png").write_bytes(whole[: len(whole) // 2])
    (folder / "broken" / "b.png").write_bytes(whole)
    (folder / "token").write_text(TOKEN + "\n")
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgejpeg", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, cwd="/")


@contextlib.contextmanager
def serving(*arguments: object, stop: int = signal.SIGTERM) -> Iterator[tuple[str, list[str]]]:
    """A server process; yields its URL and the lines it prints. It must end with 0 and an empty stderr."""
    process = subprocess.Popen(
        command("serve", "--port", 0, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    )
    watchdog = threading.Timer(90, process.kill)
    watchdog.start()
    try:
        lines = []
        while not lines or not lines[-1].startswith("try: "):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            lines.append(line.strip())
        yield lines[0].split()[-1], lines
        process.send_signal(stop)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "edgejpeg serve: stopped\n", "")
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[str]:
    with serving("--model", home / "mean.onnx") as (url, lines):
        assert lines[0].startswith("serving mean (32 x 32, 3 classes, CPUExecutionProvider,")
        assert lines[1] == "weights: none (means)"
        yield url


def one_line_error(done: subprocess.CompletedProcess[str], verb: str, text: str, code: int | None = None) -> None:
    assert done.returncode != 0 if code is None else done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("edgejpeg")]
    assert len(lines) == 1 and lines[0].startswith(f"edgejpeg {verb}: error: ") and text in lines[0], done.stderr


def test_send_a_folder(home, server, tmp_path):
    report = tmp_path / "report.json"
    done = run(
        "send", home / "frames", "--to", server, "-p", home / "profile.toml", "--json", report, "--size", 48, "-v"
    )
    assert done.returncode == 0, done.stderr
    assert "7 frames to mean at" in done.stdout and "7 delivered, 0 failed, 0 skipped" in done.stdout
    facts = json.loads(report.read_text())
    assert [result["name"] for result in facts["results"]] == [f"{index}.png" for index in range(7)]
    assert [result["classes"][0][2] for result in facts["results"]] == ["red", "green", "blue"] * 2 + ["red"]
    assert facts["top_classes"][0] == {"index": 0, "name": "red", "frames": 3}
    assert (facts["frames"], facts["delivered"], facts["failed"], facts["skipped"]) == (7, 7, 0, 0)
    sizes = [result["bytes"] for result in facts["results"]]
    assert facts["bytes"] == sum(sizes)
    assert facts["bits_per_pixel"] == pytest.approx(8 * sum(sizes) / (7 * 48 * 48), abs=1e-3)
    latencies = sorted(result["latency_ms"] for result in facts["results"])
    assert facts["latency_ms"]["p50"] == pytest.approx(latencies[3], abs=0.01)
    assert facts["latency_ms"]["p95"] == pytest.approx(latencies[6], abs=0.01)
    assert facts["latency_ms"]["mean"] == pytest.approx(np.mean(latencies), abs=0.01)
    assert sum("0.png" in line and "red" in line for line in done.stdout.splitlines()) == 1


def test_send_a_video(home, server, tmp_path):
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    noise = np.random.default_rng(1).integers(0, 60, (20, 48, 64, 3), dtype=np.uint8)
    for frame in noise:
        frame[:, :, 1] += 180
        writer.write(frame)
    writer.release()
    options = ("--to", server, "-p", home / "profile.toml", "--model", "mean", "--device-id", "cam-7")
    done = run("send", clip, *options, "--every", 2, "--limit", 6)
    assert done.returncode == 0 and "6 frames to mean" in done.stdout and "6 x green" in done.stdout, done.stderr
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    skipping = run("send", clip, *options, "--on-error", "skip")
    assert skipping.returncode == 1 and "of the 20 frames that its header promises" in skipping.stderr
    one_line_error(run("send", clip, *options, "--on-error", "fail"), "send", "of the 20 frames", 1)


def test_broken_images_are_skipped_and_named_or_fatal(home, server):
    options = ("send", home / "broken", "--to", server, "-p", home / "profile.toml")
    skipping = run(*options, "--on-error", "skip")
    assert skipping.returncode == 1 and "1 delivered, 0 failed, 1 skipped" in skipping.stdout
    assert "skipped: " in skipping.stderr and "a.png" in skipping.stderr and "Traceback" not in skipping.stderr
    one_line_error(run(*options, "--on-error", "fail"), "send", "a.png", 1)


def test_budgets_and_levels(home, server, tmp_path):
    rng = np.random.default_rng(3)
    (tmp_path / "mixed").mkdir()
    for name, contrast in (("a", 20), ("b", 60), ("c", 127)):
        picture = cv2.resize(rng.integers(128 - contrast, 128 + contrast, (24, 32, 3), dtype=np.uint8), (128, 96))
        cv2.imwrite(str(tmp_path / "mixed" / f"{name}.png"), picture)
    tables = [ijg_tables(quality) for quality in (10, 40, 80)]
    levels = [Level(rate, *pair) for rate, pair in zip((0.3, 0.8, 1.6), tables, strict=True)]
    Profile.ladder(name="steps", levels=levels, level=1).save(tmp_path / "steps.toml")
    report = tmp_path / "report.json"

    def send(*options: object, code: int = 0) -> list[dict]:
        done = run("send", tmp_path / "mixed", "--to", server, "--json", report, *options)
        assert done.returncode == code, done.stderr
        return json.loads(report.read_text())["results"]

    ladder = ("-p", tmp_path / "steps.toml")
    assert [result["level"] for result in send(*ladder)] == [1, 1, 1]
    assert [result["level"] for result in send(*ladder, "--level", 2, "--logits")] == [2, 2, 2]
    assert [len(result["logits"]) for result in json.loads(report.read_text())["results"]] == [3, 3, 3]
    fitted = send(*ladder, "--target-bpp", 1.2)
    assert all(result["bytes"] <= 1.2 * 96 * 128 / 8 for result in fitted)
    assert len({result["level"] for result in fitted}) > 1
    for result in send("-p", home / "profile.toml", "--max-bytes", 1500):
        assert 1300 < result["bytes"] <= 1500
        assert result["scale"] > 0
    # A frame that no table brings below the budget is skipped and named, or ends it all.
    impossible = ("-p", home / "profile.toml", "--max-bytes", 10)
    assert send(*impossible, code=1) == []
    document = json.loads(report.read_text())
    assert document["skipped"] == 3
    assert "a.png: " in document["problems"][0]
    done = run("send", tmp_path / "mixed", "--to", server, *impossible, "--on-error", "fail")
    one_line_error(done, "send", "smallest file of this frame")


def test_raw_video_is_encoded_as_it_is(home, server, tmp_path):
    rng = np.random.default_rng(4)
    clip = tmp_path / "clip.yuv"
    frames = np.clip(rng.normal(120, 20, (4, 72, 64)), 0, 255).astype(np.uint8)
    clip.write_bytes(frames.tobytes())
    report = tmp_path / "report.json"
    options = ("--raw", "64x48", "--color", "nv12", "--to", server, "-p", home / "profile.toml", "--json", report)
    done = run("send", clip, *options, "--every", 2)
    assert done.returncode == 0, done.stderr
    document = json.loads(report.read_text())
    encoder = Encoder(home / "profile.toml", color="nv12")
    sizes = [len(encoder.encode(frame)) for frame in frames[::2]]
    assert [result["bytes"] for result in document["results"]] == sizes
    assert [result["name"] for result in document["results"]] == ["clip.yuv#0", "clip.yuv#2"]
    assert document["bits_per_pixel"] == pytest.approx(8 * sum(sizes) / (2 * 64 * 48), abs=1e-3)
    with clip.open("rb") as stream:
        piped = subprocess.run(command("send", "-", *options), stdin=stream, capture_output=True, text=True, timeout=60)
    assert piped.returncode == 0, piped.stderr
    assert "4 delivered" in piped.stdout


def test_curl(home, server, tmp_path):
    cv2.imwrite(str(tmp_path / "frame.jpg"), np.full((50, 70, 3), (250, 5, 5), np.uint8))
    data = (tmp_path / "frame.jpg").read_bytes()
    request = urllib.request.Request(f"{server}/v2/models/mean/infer", data=data)  # as curl --data-binary does
    assert request.get_method() == "POST"
    with urllib.request.urlopen(request, timeout=30) as reply:
        answer = json.load(reply)
    assert request.get_header("Content-type") == "application/x-www-form-urlencoded"
    assert answer["outputs"][0]["data"][0].endswith(":2:blue")


def test_server_that_is_down(home):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        done = run("send", home / "frames", "--to", url, "-p", home / "profile.toml")
    one_line_error(done, "send", f"no server answers at {url}", 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--model", "typo"), "unknown model 'typo'"),
        (("--resize", "10"), "resize"),
        (("--json", "/no/such/folder/x.json"), "no folder"),
        (("--token-file", "/no/such/file"), "no token"),
        (("--retries", "-1"), "retries"),
        (("--logits",), "--logits are written into --json"),
        (("--level", "1"), "has no levels"),
        (("--color", "nv12"), "--color is that of raw video"),
        (("--raw", "8x8", "--size", "8"), "raw video is not scaled"),
        (("--raw", "9x8", "--color", "nv12"), "even with nv12"),
    ],
)
def test_send_refuses(home, server, options, text):
    one_line_error(run("send", home / "frames", "--to", server, "-p", home / "profile.toml", *options), "send", text)


def test_send_refuses_sources_and_profiles(home, server):
    one_line_error(run("send", home / "nowhere", "--to", server, "-p", home / "profile.toml"), "send", "no source")
    one_line_error(run("send", home / "frames", "--to", server, "-p", "no-such-profile"), "send", "no-such-profile")


def test_occupied_port(home):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = run("serve", "--model", home / "mean.onnx", "--port", port)
    one_line_error(done, "serve", f"cannot listen on 127.0.0.1:{port}", 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--model", "absent.onnx"), "no ONNX file"),
        (("--model", "foreign.onnx"), "--resize, --range, --mean, --std missing"),
        (("--model", "mean.onnx", "--resize", "40"), "--resize cannot be given"),
        (("--model", "mean.onnx", "--host", "0.0.0.0"), "can be reached from outside"),
        (("--model", "mean.onnx", "--host", "0.0.0.0", "--token-file", "token"), "can be reached from outside"),
        (("--model", "mean.onnx", "--tls-cert", "token"), "both a certificate and its key"),
        (("--model", "mean.onnx", "--tls-cert", "token", "--tls-key", "token"), "TLS cannot use"),
        (("--model", "mean.onnx", "--token-file", "absent"), "no token"),
        (("--model", "mean.onnx", "--labels", "token"), "3 classes, but 1 class names"),
        (("--model", "mean.onnx", "--port", "70000"), "65535"),
        (("--model", "mean.onnx", "--queue", "-1"), "queue"),
    ],
)
def test_serve_refuses(home, options, text):
    known = {"absent.onnx", "foreign.onnx", "mean.onnx", "token", "absent"}
    one_line_error(run("serve", *(home / option if option in known else option for option in options)), "serve", text)


def test_usage_errors_are_code_2(home):
    for options in (
        ("serve",),
        ("serve", "--model", "x", "--max-body", "much"),
        ("serve", "--model", "x", "--mean", "1,2"),
        ("serve", "--model", "x", "--size", "1,2,3"),
        ("send", "x"),
        ("send", "x", "--to", "http://x", "-p", "y", "--every", "0"),
    ):
        assert run(*options).returncode == 2


def test_foreign_model_token_limits_and_interrupt(home, tmp_path):
    """Another model, described by flags, behind a token, with small limits; SIGINT ends it as SIGTERM does."""
    (tmp_path / "labels.txt").write_text("rot\ngruen\nblau\n", encoding="utf-8")
    foreign = ("--resize", 32, "--range", "0,1", "--mean", "0,0,0", "--std", "1,1,1", "--name", "mine")
    options = (*foreign, "--labels", tmp_path / "labels.txt", "--token-file", home / "token", "--max-body", "2KB")
    with serving("--model", home / "foreign.onnx", *options, "--topk", 1, stop=signal.SIGINT) as (url, _):
        send = ("send", home / "frames", "--to", url, "-p", home / "profile.toml", "--limit", 2)
        one_line_error(run(*send), "send", "401", 1)
        done = run(*send, "--token-file", home / "token", "--size", 32)
        assert done.returncode == 0 and "to mine at" in done.stdout and "1 x rot" in done.stdout, done.stderr
        noise = np.random.default_rng(1).integers(0, 256, (100, 100, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "large.png"), noise)
        large = run("send", tmp_path / "large.png", *send[2:], "--token-file", home / "token")
        assert large.returncode == 1 and "0 delivered, 1 failed" in large.stdout and "413" in large.stdout


def test_tls_on_every_address(home, tmp_path):
    """Token and TLS together open the other addresses; the sender checks the certificate."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    try:
        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days",
             "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
            capture_output=True,
            env={**os.environ, "OPENSSL_CONF": os.environ.get("OPENSSL_CONF", "/etc/ssl/openssl.cnf")},
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("needs the openssl command to make a certificate")
    assert made.returncode == 0, made.stderr
    options = ("--host", "0.0.0.0", "--token-file", home / "token", "--tls-cert", certificate, "--tls-key", key)
    with serving("--model", home / "mean.onnx", *options) as (url, _):
        assert url.startswith("https://0.0.0.0:")
        target = f"https://127.0.0.1:{url.rpartition(':')[2]}"
        send = ("send", home / "frames", "--to", target, "-p", home / "profile.toml", "--token-file", home / "token")
        one_line_error(run(*send), "send", "certificate", 1)
        done = run(*send, "--ca-file", certificate)
        assert done.returncode == 0 and "7 delivered" in done.stdout, done.stderr

"""Power and clocks while something is measured, where the board tells: NVML on desktop GPUs, tegrastats on Jetson."""

from __future__ import annotations

import importlib
import re
import shutil
import statistics
import subprocess
import threading
import time
from types import TracebackType
from typing import Any

INTERVAL_S = 0.1

_RAILS = ("VDD_IN", "POM_5V_IN", "VDD_GPU_SOC", "VIN_SYS_5V0", "VIN")
"""Of tegrastats, the first that is there: those of the whole module before parts of it."""


class BoardMonitor:
    """Reads the board every tenth of a second while it is entered.

    Args:
        gpu: number of the GPU; None when the measurement runs on the CPU, for which there is no reading here.
    """

    def __init__(self, gpu: int | None) -> None:
        self._gpu = gpu
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._tegra: subprocess.Popen[str] | None = None
        self._samples: list[dict[str, float]] = []
        self._source, self._why = "", "measured on the CPU" if gpu is None else ""
        self._mode: str | None = None
        self._began = self._seconds = 0.0

    def __enter__(self) -> BoardMonitor:
        if self._gpu is not None and not self._start_tegrastats():
            self._start_nvml(self._gpu)
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seconds = time.perf_counter() - self._began
        self._stop.set()
        if self._tegra is not None:
            self._tegra.terminate()
            self._tegra.wait()
        if self._thread is not None:
            self._thread.join()
        if self._tegra is not None and self._tegra.stdout is not None:
            self._tegra.stdout.close()

    def _start_tegrastats(self) -> bool:
        program = shutil.which("tegrastats")
        if program is None:
            return False
        self._source, self._mode = "tegrastats", _power_mode()
        command = [program, "--interval", str(int(1000 * INTERVAL_S))]
        self._tegra = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._thread = threading.Thread(target=self._read_tegrastats, daemon=True)
        self._thread.start()
        return True

    def _read_tegrastats(self) -> None:
        assert self._tegra is not None and self._tegra.stdout is not None
        for line in self._tegra.stdout:
            sample = parse_tegrastats(line)
            if sample:
                self._samples.append(sample)

    def _start_nvml(self, gpu: int) -> None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            self._why = "neither tegrastats nor NVML's bindings are here; install them with: pip install nvidia-ml-py"
            return
        try:
            nvml.nvmlInit()
            handle = nvml.nvmlDeviceGetHandleByIndex(gpu)
            self._sample_nvml(nvml, handle)
        except nvml.NVMLError as error:
            self._why = f"NVML: {error}"
            return
        self._source = "nvml"

        def work() -> None:
            while not self._stop.wait(INTERVAL_S):
                self._sample_nvml(nvml, handle)
            nvml.nvmlShutdown()

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def _sample_nvml(self, nvml: Any, handle: Any) -> None:
        sample = {}
        for name, read in (
            ("power_w", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
            ("gpu_clock_mhz", lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            ("memory_clock_mhz", lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))),
            ("temperature_c", lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
        ):
            try:
                sample[name] = read()
            except nvml.NVMLError:
                continue  # boards leave out what they do not measure
        self._samples.append(sample)

    def report(self, queries: int | None = None) -> dict[str, Any]:
        """What was read, for JSON.

        Args:
            queries: run meanwhile, warm-up included, for the energy of one.

        Returns:
            ``available`` and ``why`` where nothing was read; else ``source``, ``samples``, means of ``power_w``,
            ``gpu_clock_mhz``, ``memory_clock_mhz`` and ``temperature_c`` as far as the board has them, ``power_mode``
            of a Jetson, and with power ``joules_per_query``.
        """
        if not self._samples:
            return {"available": False, "why": self._why or f"{self._source} gave no reading; measure for longer"}
        means: dict[str, Any] = {}
        for key in sorted({name for sample in self._samples for name in sample}):
            means[key] = statistics.fmean(sample[key] for sample in self._samples if key in sample)
        if queries and "power_w" in means:
            means["joules_per_query"] = means["power_w"] * self._seconds / queries
        mode = {"power_mode": self._mode} if self._source == "tegrastats" else {}
        return {"available": True, "source": self._source, "samples": len(self._samples), **means, **mode}


def parse_tegrastats(line: str) -> dict[str, float]:
    """Power, GPU clock and temperature of one line of tegrastats; empty where it has none of them."""
    sample = {}
    for rail in _RAILS:
        match = re.search(rf"\b{rail} (\d+)(?:mW)?/", line)
        if match:
            sample["power_w"] = int(match[1]) / 1e3
            break
    match = re.search(r"\bGR3D_FREQ \d+%@\[?(\d+)", line)
    if match:
        sample["gpu_clock_mhz"] = float(match[1])
    match = re.search(r"\b(?:GPU|gpu)@([\d.]+)C", line)
    if match:
        sample["temperature_c"] = float(match[1])
    return sample


def _power_mode() -> str | None:
    program = shutil.which("nvpmodel")
    if program is None:
        return None
    try:
        done = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"NV Power Mode: *(\S+)", done.stdout)
    return match[1] if match else None

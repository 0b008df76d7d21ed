"""Trains the stored Huffman tables of effort 0, and says what they save: method and results in README.md.

    python benchmarks/huffman_sets.py --train FOLDER --test FOLDER ... [--write]

The symbols of many images at many tables, of rounded levels and of those that the trellis weighs, are clustered, each
cluster with the optimal table of its symbols; Annex K's tables stay as one more choice. --write puts the tables into
runtime/native/huffman_sets.cpp and edgejpeg/jpeg/huffman_sets.py; needs cmake, clang-format and ruff.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgejpeg.design.opts import design_tables, raw_water_level
from edgejpeg.design.statistics import image_statistics
from edgejpeg.jpeg import huffman
from edgejpeg.jpeg.huffman import HuffmanTable
from edgejpeg.jpeg.reference import component_blocks, quantize
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.jpeg.trellis import code_lengths
from edgejpeg.jpeg.zigzag import ZIGZAG, from_zigzag, to_zigzag
from edgejpeg.profile import load_profile

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "runtime" / "native" / "huffman_sets.cpp"
PYTHON_TARGET = HERE.parent / "edgejpeg" / "jpeg" / "huffman_sets.py"
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".ppm", ".bmp"}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov"}
PROFILES = {"420": "efficientnet_lite0", "444": "efficientnet_lite0-444"}
QUALITIES = (10, 20, 35, 50, 65, 75, 85, 92)
FLAT_STEPS = (12, 24, 48)
WATER_LEVELS = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.7, 3.0, 6.0)

FAMILIES = ("DC luma", "AC luma", "DC chroma", "AC chroma")
STANDARD = (
    huffman.STANDARD_DC_LUMA,
    huffman.STANDARD_AC_LUMA,
    huffman.STANDARD_DC_CHROMA,
    huffman.STANDARD_AC_CHROMA,
)
TRAINED = (3, 11, 3, 11)
"""Tables of each family besides Annex K's: kDcChoices - 1 and kAcChoices - 1 of huffman_sets.h."""

TRELLIS_WEIGHT = 1.5
"""The encoder's default: error per bit, in units of the water level or of q^2 / 12."""

Tables = tuple[QuantTable, QuantTable]

STARTS = 6
"""Clusterings to choose the best of: Lloyd's algorithm finds a local optimum."""


@dataclass
class Frame:
    """The symbols of one image with one pair of tables: (4, 256) counts by family, and the bits behind the codes."""

    counts: NDArray[np.int64]
    value_bits: int
    pixels: int


# --- symbols ---


def read_images(folders: list[Path], step: int) -> Iterator[NDArray[np.uint8]]:
    """RGB images, sides cut to multiples of 16; four frames of every clip."""
    paths = sorted(p for folder in folders for p in folder.rglob("*"))
    for path in [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES][::step]:
        yield crop(cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION))
    for path in [p for p in paths if p.suffix.lower() in VIDEO_SUFFIXES]:
        clip = cv2.VideoCapture(str(path))
        for position in np.linspace(0.1, 0.9, 4) * clip.get(cv2.CAP_PROP_FRAME_COUNT):
            clip.set(cv2.CAP_PROP_POS_FRAMES, int(position))
            ok, picture = clip.read()
            if ok:
                yield crop(picture)


def crop(bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = (side // 16 * 16 for side in bgr.shape[:2])
    return np.ascontiguousarray(bgr[:height, :width, ::-1])


def tables_for(image: NDArray[np.uint8], subsampling: str) -> list[tuple[Tables, NDArray[np.float64], float]]:
    """The tables that the symbols are counted with: the IJG's, flat ones, and OptS's for this image.

    Each with the trellis' weights (3, 8, 8) and the error that stands for a bit, as the encoder has them.
    """
    tables: list[Tables] = [ijg_tables(quality) for quality in QUALITIES]
    tables += [(QuantTable(np.full((8, 8), step)), QuantTable(np.full((8, 8), step))) for step in FLAT_STEPS]
    found = [
        (pair, 1.0 / np.stack([pair[0].array, pair[1].array, pair[1].array]).astype(np.float64) ** 2, 1 / 12)
        for pair in tables
    ]
    profile = load_profile(PROFILES[subsampling])
    assert profile.sensitivity is not None
    statistics = image_statistics(image, subsampling, center=False)
    for level in WATER_LEVELS:
        designed = design_tables(profile.sensitivity, statistics, level, profile.q_max)
        found.append((designed, profile.sensitivity, raw_water_level(level, profile.sensitivity)))
    return found


def sizes(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of bits of each magnitude."""
    return np.frexp(np.abs(values).astype(np.float64))[1].astype(np.int64)


def count_component(levels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """DC counts, AC counts and value bits of (blocks, 64) levels in scan and zigzag order."""
    dc = sizes(np.diff(levels[:, 0], prepend=0))
    block, position = np.nonzero(levels[:, 1:])
    same = np.concatenate([[False], block[1:] == block[:-1]])
    previous = np.where(same, np.concatenate([[0], position[:-1]]), -1)
    run = position - previous - 1
    size = sizes(levels[:, 1:][block, position])
    ac = np.bincount((run % 16) << 4 | size, minlength=256)
    ac[0xF0] += int((run // 16).sum())
    ac[0x00] += int((levels[:, 63] == 0).sum())
    return np.bincount(dc, minlength=256), ac, int(dc.sum() + size.sum())


def scan_order(blocks: NDArray[np.int32], subsampled: bool) -> NDArray[np.int64]:
    """(rows, columns, 8, 8) levels as (blocks, 64), in zigzag order and the order of a 2x2 or 1x1 MCU."""
    levels = to_zigzag(blocks).astype(np.int64)
    if not subsampled:
        return levels.reshape(-1, 64)
    rows, columns = levels.shape[:2]
    return levels.reshape(rows // 2, 2, columns // 2, 2, 64).transpose(0, 2, 1, 3, 4).reshape(-1, 64)


def count_levels(components: Sequence[NDArray[np.integer]], is_420: bool) -> tuple[NDArray[np.int64], int]:
    """(4, 256) counts by family, and the value bits, of the levels of all components, (rows, columns, 8, 8) each."""
    counts = np.zeros((4, 256), np.int64)
    value_bits = 0
    for index, levels in enumerate(components):
        slot = min(index, 1)
        dc, ac, bits = count_component(scan_order(levels, index == 0 and is_420))
        counts[2 * slot] += dc
        counts[2 * slot + 1] += ac
        value_bits += bits
    return counts, value_bits


def weigh(
    blocks: NDArray[np.float64],
    levels: NDArray[np.integer],
    table: QuantTable,
    weights: NDArray[np.float64],
    lagrangian: float,
    counts: NDArray[np.int64],
) -> NDArray[np.int16]:
    """The levels that the trellis makes of rounded ones, by the compiled trellis and the optimal table of `counts`."""
    weighed = np.ascontiguousarray(to_zigzag(levels).reshape(-1, 64), dtype=np.int16)
    coefficients = np.ascontiguousarray(blocks, dtype=np.float32)
    hooks().hook_trellis(
        coefficients.ctypes.data,
        1,
        len(weighed),
        table.array.astype(np.float64),
        np.ascontiguousarray(weights, dtype=np.float64),
        ZIGZAG.astype(np.uint8),
        code_lengths(huffman.optimal_table(counts)),
        lagrangian,
        0,
        weighed,
    )
    return from_zigzag(weighed).reshape(levels.shape)


@functools.cache
def hooks() -> ctypes.CDLL:
    """The test hooks, which have the compiled trellis."""
    spec = importlib.util.spec_from_file_location("hooks", HERE.parent / "runtime" / "native" / "testing" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    library: ctypes.CDLL = module.load_hooks(HERE.parent / "build" / "native-hooks")
    return library


def count_symbols(image: NDArray[np.uint8], subsampling: str) -> list[Frame]:
    """Frames of rounded levels and of weighed ones, by turns."""
    components = component_blocks(image, subsampling)
    pixels = image.shape[0] * image.shape[1]
    frames = []
    for tables, weights, lagrangian in tables_for(image, subsampling):
        rounded = [quantize(blocks, tables[min(index, 1)]) for index, blocks in enumerate(components)]
        counts, value_bits = count_levels(rounded, subsampling == "420")
        frames.append(Frame(counts, value_bits, pixels))
        weighed = [
            weigh(blocks, levels, tables[min(i, 1)], weights[i], TRELLIS_WEIGHT * lagrangian, counts[2 * min(i, 1) + 1])
            for i, (blocks, levels) in enumerate(zip(components, rounded, strict=True))
        ]
        frames.append(Frame(*count_levels(weighed, subsampling == "420"), pixels))
    return frames


def count_all(folders: list[Path], step: int) -> list[Frame]:
    frames = []
    for image in read_images(folders, step):
        for subsampling in PROFILES:
            frames += count_symbols(image, subsampling)
    if not frames:
        sys.exit(f"no images or clips in {[str(folder) for folder in folders]}")
    return frames


# --- tables ---


def lengths(table: HuffmanTable) -> NDArray[np.int64]:
    """(256,) code lengths; 0 for symbols without a code."""
    found = np.zeros(256, np.int64)
    for symbol, (_, length) in table.codes().items():
        found[symbol] = length
    return found


def covering_table(counts: NDArray[np.float64], standard: HuffmanTable) -> HuffmanTable:
    """The optimal table for relative counts, with a code for every symbol that ``standard`` has one for.

    Symbols of equal length are in the order of their value bits: those of levels that a frame's steps rule out stand
    at the end, where the encoder leaves them out.
    """
    scaled = np.round(counts / max(counts.sum(), 1e-300) * 1e6).astype(np.int64)
    scaled[list(standard.symbols)] += 1
    table = huffman.optimal_table(scaled)
    by_length = lengths(table)
    return HuffmanTable(table.counts, tuple(sorted(table.symbols, key=lambda s: (by_length[s], s % 16, s // 16))))


def optimal_bits(frame: Frame) -> NDArray[np.int64]:
    """The bits of the codes of each family with tables made for the frame alone."""
    return np.array([row @ lengths(huffman.optimal_table(row)) if row.any() else 0 for row in frame.counts])


def cluster(
    counts: NDArray[np.int64], excess_of: NDArray[np.int64], weights: NDArray[np.float64], family: int
) -> list[HuffmanTable]:
    """Lloyd's algorithm: frames to the table that codes them shortest, tables to the symbols of their frames.

    Args:
        counts: (frames, 256).
        excess_of: (frames,) the bits with a frame's own tables, over which those of a choice are in excess.
        weights: (frames,) which make all frames count the same: one over the bits of its file.
        family: an index of FAMILIES; its standard table is a further choice, which is not changed.
    """
    standard, trained = STANDARD[family], TRAINED[family]
    relative = counts * weights[:, None]
    by_rate = np.argsort(counts.sum(axis=1) * weights)
    rng = np.random.default_rng(family)
    best, found = np.inf, []
    for start in range(STARTS):
        choice = np.empty(len(counts), np.int64)
        if start == 0:
            choice[by_rate] = np.arange(len(counts)) * trained // len(counts) + 1
        else:
            seeds = [covering_table(relative[i], standard) for i in rng.choice(len(counts), trained, replace=False)]
            choice = (relative @ np.stack([lengths(table) for table in seeds], axis=1)).argmin(axis=1) + 1
        for _ in range(40):
            members = [relative[choice == index + 1].sum(axis=0) for index in range(trained)]
            tables = [covering_table(member, standard) for member in members]
            bits = relative @ np.stack([lengths(table) for table in [standard, *tables]], axis=1)
            chosen = bits.argmin(axis=1)
            # Tables that no frame chose start again from those that are coded worst.
            worst = np.argsort(excess_of * weights - bits.min(axis=1))
            share = max(1, len(counts) // (4 * trained))
            for place, index in enumerate(sorted(set(range(1, trained + 1)) - set(chosen.tolist()))):
                chosen[worst[place * share : (place + 1) * share]] = index
            if (chosen == choice).all():
                break
            choice = chosen
        if bits.min(axis=1).sum() < best:
            best, found = (
                bits.min(axis=1).sum(),
                [(counts[choice == i + 1].sum(axis=1).mean(), tables[i]) for i in range(trained)],
            )
    return [table for _, table in sorted(found, key=lambda entry: entry[0])]


def train(frames: list[Frame]) -> list[list[HuffmanTable]]:
    """The choices of every family, Annex K's first."""
    counts = np.stack([frame.counts for frame in frames])
    least = np.stack([optimal_bits(frame) for frame in frames])
    weights = 1 / (np.array([frame.value_bits for frame in frames]) + least.sum(axis=1))
    return [[STANDARD[i], *cluster(counts[:, i], least[:, i], weights, i)] for i in range(len(FAMILIES))]


# --- results ---


def evaluate(frames: list[Frame], choices: list[list[HuffmanTable]]) -> list[dict[str, float]]:
    """Entropy-coded bits against those with Annex K's tables, by the rate with these."""
    rows = []
    chosen, standard, optimal = [], [], []
    for frame in frames:
        per_family = [
            frame.counts[i] @ np.stack([lengths(table) for table in choices[i]], axis=1) for i in range(len(FAMILIES))
        ]
        chosen.append(frame.value_bits + sum(int(bits.min()) for bits in per_family))
        standard.append(frame.value_bits + sum(int(bits[0]) for bits in per_family))
        optimal.append(frame.value_bits + int(optimal_bits(frame).sum()))
    rates = np.array(standard) / np.array([frame.pixels for frame in frames])
    for low, high in ((0, 0.3), (0.3, 0.5), (0.5, 1), (1, 2), (2, 4), (4, 99)):
        inside = (rates >= low) & (rates < high)
        if inside.any():
            base = np.array(standard)[inside]
            rows.append(
                {
                    "from_bpp": low,
                    "to_bpp": high,
                    "files": int(inside.sum()),
                    "stored": float(np.mean(np.array(chosen)[inside] / base)),
                    "optimal": float(np.mean(np.array(optimal)[inside] / base)),
                }
            )
    return rows


def source(choices: list[list[HuffmanTable]]) -> str:
    """huffman_sets.cpp."""

    def array(slot_families: tuple[int, int], name: str, size: str) -> str:
        slots = []
        for family in slot_families:
            entries = []
            for table in choices[family][1:]:
                counts = ", ".join(map(str, table.counts))
                symbols = ", ".join(f"0x{symbol:02x}" for symbol in table.symbols)
                entries.append(f"{{{{{counts}}}, {{{symbols}}}, {len(table.symbols)}}}")
            slots.append("{" + ", ".join(entries) + "}")
        return f"const HuffmanTable {name}[2][{size} - 1] = {{{', '.join(slots)}}};\n"

    text = "// Written by benchmarks/huffman_sets.py.\n"
    text += '#include "huffman_sets.h"\n\nnamespace edgejpeg {\n\n'
    text += array((0, 2), "kTrainedDc", "kDcChoices") + "\n" + array((1, 3), "kTrainedAc", "kAcChoices")
    return text + "\n}  // namespace edgejpeg\n"


def python_source(choices: Mapping[tuple[int, int], Sequence[HuffmanTable]]) -> str:
    """edgejpeg/jpeg/huffman_sets.py: the same tables, by (class, slot), Annex K's left out."""
    text = PYTHON_HEAD
    for (kind, slot), tables in choices.items():
        text += f"    ({kind}, {slot}): (\n"
        for table in tables:
            digits = bytes(table.counts).hex() + bytes(table.symbols).hex()
            text += "        (\n"
            text += "".join(f'            "{digits[at : at + 100]}"\n' for at in range(0, len(digits), 100))
            text += "        ),\n"
        text += "    ),\n"
    return text + PYTHON_TAIL


PYTHON_HEAD = '''"""Huffman tables trained on natural images, among which the encoder chooses at effort 0.

Written by benchmarks/huffman_sets.py, as is runtime/native/huffman_sets.cpp.
"""

from __future__ import annotations

from edgejpeg.jpeg.huffman import STANDARD_TABLES, HuffmanTable

_TRAINED: dict[tuple[int, int], tuple[str, ...]] = {
'''

PYTHON_TAIL = '''}
"""By (class, slot): each table's 16 counts and its symbols, in hexadecimal."""


def _tables(kind: int, slot: int) -> tuple[HuffmanTable, ...]:
    """Annex K's table and the trained ones, in the order of rising rates."""
    trained = [bytes.fromhex(digits) for digits in _TRAINED[kind, slot]]
    return STANDARD_TABLES[kind, slot], *(HuffmanTable(tuple(data[:16]), tuple(data[16:])) for data in trained)


STORED_TABLES = {key: _tables(*key) for key in _TRAINED}
"""By (class, slot): class 0 for DC and 1 for AC, slot 0 for luma and 1 for chroma."""
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, action="append", required=True, help="a folder of images; repeatable")
    parser.add_argument("--test", type=Path, action="append", required=True, help="images or clips; repeatable")
    parser.add_argument("--step", type=int, default=4, help="train on every STEP-th image (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"write {TARGET.name} and {PYTHON_TARGET.name}")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "huffman_sets.json")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    choices = train(count_all(arguments.train, arguments.step))
    frames = count_all(arguments.test, 1)
    results = {"rows": evaluate(frames[::2], choices), "trellis_rows": evaluate(frames[1::2], choices)}
    for name, rows in results.items():
        print(f"bits of the entropy-coded data, against Annex K's tables: {name}")
        print(f"{'bpp':>9} {'files':>6} {'stored':>7} {'optimal':>8}")
        for row in rows:
            span = f"{row['from_bpp']:g}-{row['to_bpp']:g}"
            print(f"{span:>9} {row['files']:>6} {row['stored']:>7.4f} {row['optimal']:>8.4f}")
    if arguments.write:
        TARGET.write_text(source(choices), encoding="ascii")
        subprocess.run(["clang-format", "-i", TARGET], check=True)
        by_slot = {(family % 2, family // 2): tables[1:] for family, tables in enumerate(choices)}
        PYTHON_TARGET.write_text(python_source(by_slot), encoding="ascii")
        subprocess.run(["ruff", "format", PYTHON_TARGET], check=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"choices": [len(c) for c in choices], **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Images, points and calibrations of strangers: each is used or refused in one sentence, and none takes over.

``UDX_FUZZ_TIMES`` and ``UDX_FUZZ_SEED`` try more, see ``tests.fuzz``.
"""

import io
import os
import random
import struct
import subprocess
import sys
import textwrap
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from tests.fuzz import SEED, cases
from tests.mutations import mutations
from udx.data import images as module
from udx.data.images import ImageChange, load_image, opened
from udx.errors import UdxError

TARGET = (32, 16)
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr", "LAB", "HSV")


def read(path: Path) -> str:
    """Read an image as all commands do; say what came of it."""
    try:
        image, _ = load_image(path, TARGET, ImageChange())
        with opened(path) as whole:
            whole.load()
    except UdxError as error:
        assert str(path) in str(error)
        return "refused"
    assert image.shape == (16, 32, 3) and image.dtype == np.uint8
    return "used"


def written_in_every_way() -> dict[str, bytes]:
    """A small image in every format and mode that Pillow writes."""
    Image.init()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))
    found = {}
    for kind in sorted(Image.SAVE):
        for mode in MODES:
            buffer = io.BytesIO()
            try:
                noise.convert("L" if mode == "I;16" else mode).convert(mode).save(buffer, kind)
            except Exception:  # not every format holds every mode
                continue
            found[f"{kind}-{mode}"] = buffer.getvalue()
    return found


FILES = written_in_every_way()


def test_only_jpeg_and_png_are_read_whatever_the_name_says(tmp_path):
    outcomes = Counter()
    for kind, content in FILES.items():
        path = tmp_path / "CAM_FRONT.jpg"
        path.write_bytes(content)
        outcome = read(path)
        expected = "used" if kind.split("-")[0] in ("JPEG", "PNG", "MPO") else "refused"
        assert outcome == expected, kind
        outcomes[outcome] += 1
    assert outcomes["used"] > 10 and outcomes["refused"] > 50


def test_no_program_is_started_on_an_image(tmp_path, monkeypatch):
    """PostScript in a camera's file: Pillow alone would hand it to Ghostscript."""
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **_: started.append(command))
    path = tmp_path / "CAM_FRONT.jpg"
    path.write_bytes(FILES["EPS-RGB"])
    with pytest.raises(UdxError, match=r"CAM_FRONT\.jpg cannot be decoded as JPEG or PNG .*; restore it"):
        load_image(path, TARGET, ImageChange())
    assert started == []


def test_damaged_images_are_refused_or_can_be_used(tmp_path):
    path, outcomes = tmp_path / "image", Counter()
    own = {kind: content for kind, content in FILES.items() if kind.startswith(("JPEG", "PNG", "MPO"))}
    for number, content in enumerate(own.values()):
        for damaged in mutations(content, cases(60), SEED + number):
            path.write_bytes(damaged)
            outcomes[read(path)] += 1
    assert min(outcomes["used"], outcomes["refused"]) > 20


def png(width: int, height: int, depth: int, colour: int, *, interlaced: int = 0, extra: bytes = b"") -> bytes:
    """A PNG whose header says anything and whose checksums are right."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    rows = zlib.compress(b"\0" * 200)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_headers_of_png_that_say_anything(tmp_path):
    rng, path, outcomes = random.Random(SEED), tmp_path / "image.png", Counter()
    sizes = (0, 1, 2, 7, 24, 65535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
    for _ in range(cases(400)):
        flaws = rng.choice(sizes), rng.choice(sizes), rng.choice((0, 1, 2, 4, 8, 16, 255)), rng.randrange(8)
        path.write_bytes(png(*flaws, interlaced=rng.randrange(2)))
        outcomes[read(path)] += 1
    assert min(outcomes.values()) > 3 and len(outcomes) == 2


@pytest.mark.parametrize("size", [(60_000, 2_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_by_the_header(tmp_path, monkeypatch, size):
    path = tmp_path / "image.png"
    path.write_bytes(png(*size, 8, 2))
    for limit in (Image.MAX_IMAGE_PIXELS, 10**12):  # the devkit raises Pillow's own
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UdxError, match=r"image\.png (has|cannot be decoded)"):
            load_image(path, TARGET, ImageChange())


@pytest.mark.parametrize("error", [NotImplementedError, RuntimeError, AttributeError, MemoryError, ZeroDivisionError])
def test_whatever_a_decoder_raises_is_a_sentence(tmp_path, monkeypatch, error):
    path = tmp_path / "image.jpg"
    path.write_bytes(FILES["JPEG-RGB"])

    def broken(*_):
        raise error("inside the decoder")

    monkeypatch.setattr(module.Image.Image, "convert", broken)
    with pytest.raises(UdxError, match=r"cannot be decoded as JPEG or PNG \(inside the decoder\)"):
        load_image(path, TARGET, ImageChange())


def test_scans_without_end_are_refused_at_once(tmp_path):
    if not features.check("jpg"):
        pytest.skip("Pillow reads no JPEG here")
    buffer = io.BytesIO()
    Image.new("L", (2000, 2000)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    at = content.rindex(module.START_OF_SCAN)
    (tmp_path / "image.jpg").write_bytes(content[:at] + content[at:-2] * 5000 + content[-2:])
    with pytest.raises(UdxError, match="more than 200 scans"):
        load_image(tmp_path / "image.jpg", TARGET, ImageChange())
    (tmp_path / "image.jpg").write_bytes(content)
    assert read(tmp_path / "image.jpg") == "used"


def test_an_image_that_is_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "image.jpg")
    with pytest.raises(UdxError, match=r"image\.jpg cannot be decoded"):
        load_image(tmp_path / "image.jpg", TARGET, ImageChange())


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from udx.data.images import ImageChange, load_image
from udx.data.points import in_bev_frame, read_sweep
from udx.data.rig_file import read_rig
from udx.errors import UdxError

folder = Path(sys.argv[1])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20,) * 2)
for path in sorted(folder.iterdir()):
    reads = {".json": read_rig, ".png": lambda path: load_image(path, (32, 16), ImageChange())}
    try:
        reads.get(path.suffix, read_sweep)(path)
        print("used", path.name)
    except UdxError as error:
        print("refused", path.name)
"""


def hostile_npy(path: Path, shape: tuple[int, ...], dtype: str = "|i1", size: int | None = None) -> None:
    """A file of so many bytes, without holding them, whose header promises an array."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        item = np.dtype(dtype).itemsize
        file.truncate(file.tell() + (int(np.prod([float(side) for side in shape])) * item if size is None else size))


def test_sizes_are_bounded_before_memory_is_taken(tmp_path):
    """In a process that may take 600 MiB more than it has: numbers of one byte would be twenty in memory."""
    hostile_npy(tmp_path / "1.npy", (50_000_000, 5))
    hostile_npy(tmp_path / "2.npy", (2**40, 5), size=10**6)
    hostile_npy(tmp_path / "3.npy", (20_000_000, 4), "<f8", size=640_000_000)
    for name, size in (
        ("4.pcd.bin", 240_000_000),
        ("5.pcd.bin", 20 * 2**36),
        ("6.npy", 2**40),
        ("7.json", 600_000_000),
    ):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
    (tmp_path / "8.png").write_bytes(png(2**31 - 1, 2**31 - 1, 8, 6))
    zeros = zlib.compress(b"\0" * 2**28)
    text = b"zTXt" + b"a\0\0" + zeros
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    (tmp_path / "9.png").write_bytes(png(8, 8, 8, 2, extra=chunk * 20))
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path)], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["refused"] * 9

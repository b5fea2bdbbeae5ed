"""The report in a real browser, at the width of a phone and of a desk: it fits, loads nothing, and is silent."""

import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udx.runtime import html
from udx.runtime.bench import bench, write_report
from udx.runtime.measure import Protocol

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: apt install chromium")
BACKGROUND = (0xF5, 0xF6, 0xF8)
MARGIN_PX = 14  # of 16 that the page leaves free on both sides


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory):
    """Open a page; return a picture of it, and what the browser said of it."""
    home = tmp_path_factory.mktemp("browser")

    def open_page(page: Path, width: int, height: int = 4000) -> tuple[np.ndarray, list[str]]:
        picture = home / f"{page.stem}-{width}.png"
        command = [
            str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", f"--user-data-dir={home / 'profile'}",
            "--enable-logging=stderr", f"--window-size={width},{height}", f"--screenshot={picture}", page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=True, env=os.environ | {"HOME": str(home)}
        )
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        with Image.open(picture) as opened:
            return np.asarray(opened.convert("RGB")), said

    return open_page


@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_fits_and_is_silent(browse, make_engine, tmp_path: Path, width: int) -> None:
    quick = Protocol(warmup=1, blocks=4, frames=2, max_minutes=0)
    report = bench(make_engine("a.onnx", seed=0), against=make_engine("b.onnx", seed=1), protocol=quick)
    page = tmp_path / "report.html"
    write_report(report, html=page)
    picture, said = browse(page, width)
    assert said == []
    assert picture.shape[1] == width
    for edge in (picture[:, :MARGIN_PX], picture[:, -MARGIN_PX:]):
        assert (edge == BACKGROUND).all()  # nothing sticks out of the page
    inside = picture[:, MARGIN_PX:-MARGIN_PX].reshape(-1, 3)
    assert len(np.unique(inside[::7], axis=0)) > 50  # text, plots and cards are there


def test_a_picture_is_wider_than_a_phone_and_the_page_is_not(browse, tmp_path: Path) -> None:
    """On a phone a picture of six cameras scrolls at a size where boxes are seen."""
    encoded = io.BytesIO()
    Image.new("RGB", (2400, 700), (200, 0, 0)).save(encoded, "PNG")
    page = tmp_path / "picture.html"
    page.write_text(html.page("Picture", [html.Section("Cameras", html.image(encoded.getvalue(), "cameras"))]))
    heights = {}
    for width in (390, 1280):
        picture, said = browse(page, width, 900)
        assert said == []
        for edge in (picture[:, :MARGIN_PX], picture[:, -MARGIN_PX:]):
            assert (edge == BACKGROUND).all()
        heights[width] = int((picture[:, width // 2] == (200, 0, 0)).all(axis=1).sum())
    assert heights[390] == pytest.approx(350, abs=2)
    assert heights[1280] == pytest.approx(350, abs=60)


def test_the_browser_would_complain(browse, tmp_path: Path) -> None:
    """A page that loads something, or runs a script, is told of: the test above can fail."""
    body = '<img src="http://127.0.0.1:9/x.png"><script>document.title = "run"</script>'
    page = tmp_path / "bad.html"
    page.write_text(html.page("Bad", [html.Section("Bad", body)]))
    _, said = browse(page, 390, 600)
    assert any("Content Security Policy" in line and "x.png" in line for line in said)
    assert any("script" in line.lower() for line in said)

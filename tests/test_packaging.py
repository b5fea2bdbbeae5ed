"""What a wheel of udx says of itself."""

import re
import shutil
import subprocess
import sys
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def metadata(tmp_path_factory):
    """The folder of a wheel's metadata, made as pip makes it."""
    pytest.importorskip("setuptools")
    work = tmp_path_factory.mktemp("package")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, work / name)
    (work / "udx").mkdir()
    shutil.copy(ROOT / "udx" / "__init__.py", work / "udx")
    code = "from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel('made')"
    (work / "made").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=work, check=True, capture_output=True)
    (found,) = (work / "made").glob("*.dist-info")
    return found


def test_the_licence_is_whole_and_in_the_wheel(metadata):
    (inside,) = metadata.rglob("LICENSE")
    text = inside.read_text()
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert text == (ROOT / "LICENSE").read_text()


def test_metadata_name_authors_licence_and_pythons(metadata):
    said = message_from_string((metadata / "METADATA").read_text(encoding="utf-8"))
    assert said["Author"] == "udx developers"
    assert "Apache-2.0" in (said["License-Expression"] or said["License"])
    assert "Programming Language :: Python :: 3.12" in said.get_all("Classifier")
    (devkit,) = (line for line in said.get_all("Requires-Dist") if line.startswith("nuscenes-devkit"))
    assert re.search(r"python_version < ['\"]3\.13['\"]", devkit)


def test_the_description_has_no_link_that_leads_nowhere(metadata):
    text = (metadata / "METADATA").read_text(encoding="utf-8")
    assert "Distillation" in text
    assert not re.findall(r"\]\((?!https?:)[^)]*\)", text)


def test_the_readme_installs_from_a_checkout():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    declared = set(re.findall(r'^        "(\w+)": ', (ROOT / "setup.py").read_text(), re.MULTILINE))
    installed = set(re.findall(r'^    pip install (?:-e )?"\.\[([\w,]+)\]"', readme, re.MULTILINE))
    named = {extra for extras in installed for extra in extras.split(",")}
    assert 'pip install "udx[' not in readme
    assert named <= declared and {"train", "cpu", "gpu", "rtx", "tensorrt"} <= named

"""pytest collects every test file under ``tests``; a folder that its configuration hides would pass unseen."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Collects as `pytest` does from the same folder, but reads no test module: only which files it would read is asked.
PROGRAM = """
import json, sys
import pytest

class Unread(pytest.Module):
    def collect(self):
        return []

class Files:
    def __init__(self):
        self.paths = []

    def pytest_pycollect_makemodule(self, module_path, parent):
        self.paths.append(str(module_path))
        return Unread.from_parent(parent, path=module_path)

files = Files()
status = pytest.main(["--collect-only", "-p", "no:cacheprovider"], plugins=[files])
json.dump({"status": int(status), "paths": files.paths}, open(sys.argv[1], "w"))
"""


def collected_files(root: Path, scratch: Path) -> set[Path]:
    """Return the files below ``root`` that ``pytest``, started there without arguments, takes for test modules."""
    answer = scratch / "collected.json"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(answer)], cwd=root, env=environment, capture_output=True, text=True
    )
    assert answer.is_file(), done.stderr
    found = json.loads(answer.read_text())
    assert found["status"] == 5, done.stdout  # "no tests collected": nothing went wrong, and no module was read
    return {Path(path).relative_to(root) for path in found["paths"]}


def files_with_tests(root: Path) -> set[Path]:
    """Return the files below ``root / "tests"`` that are named as test modules, or define tests that nobody takes up.

    A contract that test modules import, or a program that they start, is named by another file.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in (root / "tests").rglob("*.py")}

    def is_named_elsewhere(path: Path) -> bool:
        return any(path.stem in text for other, text in texts.items() if other != path)

    return {
        path.relative_to(root)
        for path, text in texts.items()
        if path.name.startswith("test_")
        or path.name.endswith("_test.py")
        or (_defines_tests(text) and not is_named_elsewhere(path))
    }


def _defines_tests(text: str) -> bool:
    tree = ast.parse(text)
    return any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in ast.walk(tree))


def test_every_folder_and_file_is_collected(tmp_path):
    expected, collected = files_with_tests(ROOT), collected_files(ROOT, tmp_path)
    assert expected - collected == set()
    folders = {path.parent for path in collected}
    assert Path("tests/build") in folders
    assert len(folders) == len({path.parent for path in expected})
    assert len(collected) == len(expected)


def test_a_hidden_folder_and_a_misnamed_file_are_seen(tmp_path):
    """``build`` is among the folders that pytest leaves out by default."""
    root = tmp_path / "project"
    for name in ("tests/test_seen.py", "tests/build/test_hidden.py", "tests/mis_named.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("def test_something():\n    assert True\n")
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\ntestpaths = ["tests"]\n')
    missed = files_with_tests(root) - collected_files(root, tmp_path)
    assert missed == {Path("tests/build/test_hidden.py"), Path("tests/mis_named.py")}

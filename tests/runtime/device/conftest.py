"""Runtime caches of these tests stay in their own folders."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for caches."""
    monkeypatch.setenv("UDX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"

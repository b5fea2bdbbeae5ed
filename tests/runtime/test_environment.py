"""What the machine tells of itself, and that nothing breaks where it is silent."""

import json
import subprocess
from dataclasses import asdict

import pytest

from udx.runtime import environment as module


def test_this_machine_is_described() -> None:
    found = module.environment()
    json.dumps(asdict(found), allow_nan=False)
    assert found.cores >= 1
    assert found.versions.keys() >= {"udx", "numpy"}
    assert found.cpu


def test_without_git_and_gpu_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", absent)
    found = module.environment()
    assert found.gpus is None
    assert found.git_commit is None


def test_the_environment_asks_by_the_name_that_the_driver_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers of today know no ``clocks_throttle_reasons``, older ones no ``clocks_event_reasons``."""
    line = "Some GPU, GPU-1, 580.1, 16000 MiB, 1500 MHz, 1980 MHz, 300.00 W, 40, 0x0000000000000004\n"
    for known in ("clocks_event_reasons", "clocks_throttle_reasons"):

        def answer(command: list[str], known: str = known, **_: object) -> subprocess.CompletedProcess[str]:
            if known not in command[1]:
                raise subprocess.CalledProcessError(2, command)
            return subprocess.CompletedProcess(command, 0, stdout=line)

        monkeypatch.setattr(subprocess, "run", answer)
        found = module.gpus()
        assert found is not None
        assert found[0]["clocks_event_reasons.active"] == "0x0000000000000004"


def test_gpus_are_read_field_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "Some GPU, GPU-1, 580.1, 16000 MiB, 1500 MHz, 1980 MHz, 300.00 W, 40, 0x0000000000000000\n"
    done = subprocess.CompletedProcess([], 0, stdout=line * 2)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    found = module.gpus()
    assert found is not None and len(found) == 2
    assert found[0]["name"] == "Some GPU"
    assert found[0]["power.limit"] == "300.00 W"

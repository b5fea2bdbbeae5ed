"""What the machine tells before and after."""

import dataclasses
import json
import subprocess
import time

import pytest

from udx.runtime.conditions import conditions, interference, throttling


def test_this_machine_tells_plain_values() -> None:
    found = conditions()
    json.dumps(dataclasses.asdict(found), allow_nan=False)
    assert found.own_s > 0


def test_own_work_is_no_interference() -> None:
    quiet = dataclasses.replace(conditions(), clock_s=10.0, busy_s=100.0, stolen_s=1.0, own_s=5.0)
    after = dataclasses.replace(quiet, clock_s=20.0, busy_s=125.0, stolen_s=2.0, own_s=13.0)
    found = interference(quiet, after)
    assert found is not None
    assert found.others_cores == pytest.approx((25 - 8) / 10)
    assert found.stolen_cores == pytest.approx(0.1)
    assert interference(dataclasses.replace(quiet, busy_s=None), after) is None


def test_a_busy_loop_is_seen_as_own_work() -> None:
    before = time.process_time()
    while time.process_time() - before < 0.02:
        pass
    assert conditions().own_s >= before + 0.02


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("0x0000000000000000", ()),
        ("0x0000000000000001", ()),  # idle
        ("0x0000000000000004", ("software power cap",)),
        ("0x0000000000000060", ("software thermal slowdown", "hardware thermal slowdown")),
        ("[N/A]", ()),
    ],
)
def test_bits_that_slow_a_gpu_down_have_names(mask: str, expected: tuple[str, ...]) -> None:
    assert throttling(mask) == expected


def test_older_drivers_are_asked_by_their_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[1])
        if "clocks_event_reasons" in command[1]:
            raise subprocess.CalledProcessError(2, command)
        if "compute-apps" in command[1]:
            return subprocess.CompletedProcess(command, 0, stdout="99999999, python, 300 MiB\n")
        line = "Some GPU, 1500 MHz, 1980 MHz, 2600 MHz, 250.1 W, 300.00 W, 71, 900 MiB, 93 %, 0x0000000000000004\n"
        return subprocess.CompletedProcess(command, 0, stdout=line)

    monkeypatch.setattr(subprocess, "run", answer)
    found = conditions()
    assert len(asked) == 3
    (gpu,) = found.gpus
    assert gpu.readings["power.draw"] == "250.1 W" and gpu.readings["temperature.gpu"] == "71"
    assert gpu.throttled == ("software power cap",)
    assert found.gpu_processes == ("99999999, python, 300 MiB",)


def test_without_nvidia_smi_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", absent)
    found = conditions()
    assert found.gpus == () and found.gpu_processes == ()

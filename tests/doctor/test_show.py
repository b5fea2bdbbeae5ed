"""The diagnosis on a terminal."""

from tests.doctor.test_verdicts import ABSENT, NO_DRIVER, everything, machine
from udx.doctor.show import cures, show
from udx.doctor.verdicts import diagnose


def test_a_diagnosis_is_shown_whole(capsys):
    show(diagnose(machine(), everything(driver=NO_DRIVER)))
    shown = capsys.readouterr().out
    for text in (
        "Some CPU, 8 cores, 32 GiB",
        "tensorrt-rtx",
        "1.7.1.116",
        "builds here",
        "cuda-bindings",
        "no GPU: no NVIDIA driver",
    ):
        assert text in shown
    assert "run tensorrt-rtx" in shown.split("cannot")[-1]


def test_what_has_one_cause_is_said_once():
    lines = list(cures(diagnose(machine(), everything(driver=NO_DRIVER))))
    assert len(lines) == 2
    assert lines[0].startswith(
        "cannot run onnxruntime-cuda, build tensorrt, run tensorrt, run tensorrt-rtx, use cuda-bindings"
    )
    assert lines[1].startswith("    sudo ubuntu-drivers install")


def test_a_command_that_mends_several_things_is_said_once():
    lines = list(cures(diagnose(machine(versions={"udx": "0.1.0"}), everything(driver=NO_DRIVER, triton=ABSENT))))
    commands = [line for line in lines if line.startswith("    ")]
    assert len(commands) == len(set(commands)) > 1
    assert lines[-len(commands) :] == commands

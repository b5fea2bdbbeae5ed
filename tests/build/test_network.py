"""What is said of a parser's errors, and what the logger of a library keeps."""

from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from udx.build.network import logger, one_line, parse, parser_error
from udx.errors import UdxError

Severity = IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)


class ILogger:
    Severity = Severity


def error(operator="Unsqueeze", name="images_batch", desc="Invalid Node\nfirst input has type UInt8"):
    return SimpleNamespace(node_operator=lambda: operator, node_name=lambda: name, desc=lambda: desc)


def library(*errors):
    """A module whose parser fails with these errors, or reads the model if there are none."""
    trt = ModuleType("tensorrt")
    trt.__version__ = "10.15.1"
    trt.ILogger = ILogger

    class OnnxParser:
        def __init__(self, network, logger):
            assert isinstance(logger, ILogger)
            self.num_errors = len(errors)
            self.network = network

        def parse(self, model, path):
            self.network.append((model, path))
            return not errors

        def get_error(self, index):
            return errors[index]

    trt.OnnxParser = OnnxParser
    return trt


def test_a_model_is_read_with_its_own_path():
    network = []
    parse(library(), network, b"model", Path("folder/student.onnx"))
    assert network == [(b"model", "folder/student.onnx")]


def test_an_error_names_its_node():
    assert parser_error(error()) == 'Unsqueeze "images_batch": Invalid Node; first input has type UInt8'
    assert parser_error(error(operator="", name="", desc="cannot deserialize")) == "cannot deserialize"


def test_a_refused_model_is_one_sentence():
    with pytest.raises(
        UdxError, match=r'^tensorrt 10\.15\.1 cannot read a\.onnx: Unsqueeze "images_batch": .*; export it again$'
    ) as said:
        parse(library(error()), [], b"", Path("a.onnx"))
    assert "\n" not in str(said.value)


def test_of_many_errors_the_first_are_told():
    errors = [error(name=f"node_{index}") for index in range(7)]
    with pytest.raises(UdxError, match=r"node_0.*node_1.*node_2.*; and 4 more; export"):
        parse(library(*errors), [], b"", Path("a.onnx"))


def test_a_parser_without_a_reason_is_said_to_have_none():
    trt = library(error())
    trt.OnnxParser.num_errors = property(lambda self: 0, lambda self, value: None)
    with pytest.raises(UdxError, match="it gives no reason"):
        parse(trt, [], b"", Path("a.onnx"))


def test_a_library_has_one_logger_which_keeps_errors_and_warnings():
    trt = library()
    heard, messages = logger(trt)
    assert logger(trt)[0] is heard
    for level, message in (
        (Severity.INFO, "ignored"),
        (Severity.WARNING, "slow\n"),
        (Severity.WARNING, "slow"),
        (Severity.ERROR, "Error Code 4\nmore"),
        (Severity.INTERNAL_ERROR, "assertion"),
    ):
        heard.log(level, message)
    assert messages.warnings == ["slow"]
    assert messages.errors == ["Error Code 4; more", "assertion"]
    messages.clear()
    assert not messages.warnings and not messages.errors
    assert logger(library())[1] is not messages


def test_a_message_is_one_line_and_not_endless():
    assert one_line(" a \n\n b\n") == "a; b"
    assert len(one_line("x" * 10_000)) == 401

"""What a user is told is one line of a terminal, whatever names a file holds."""

from udx.errors import MAX_SENTENCE, UdxError


def test_what_terminals_obey_is_shown_and_not_sent():
    hostile = "tensor a\nb \x1b[31m\x07 \u202e is no input"
    assert str(UdxError(hostile)) == "tensor a\\nb \\x1b[31m\\x07 \\u202e is no input"


def test_words_of_any_language_are_left_alone():
    assert str(UdxError("ключ «größe», 大きい: 3 × 4 → 12 is none")) == "ключ «größe», 大きい: 3 × 4 → 12 is none"


def test_a_sentence_is_not_endless():
    assert str(UdxError("x" * 10**6)) == "x" * MAX_SENTENCE + "…"

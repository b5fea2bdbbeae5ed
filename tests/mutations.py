"""Damaged files: the same ones for the same seed."""

import random
from collections.abc import Iterator

INTERESTING = (
    b"",
    b"\0",
    b"\xff",
    b"-1",
    b"1e999",
    b"NaN",
    b"[",
    b"{",
    b"null",
    b'"',
    b"9" * 30,
    b"\xff" * 8,
    b"\n",
    b"(",
)


def mutations(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Copies of a file with bits flipped, bytes overwritten, pieces removed, doubled, swapped or cut off."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(content)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            at, end = sorted((rng.randrange(len(data) + 1), min(len(data), rng.randrange(len(data) + 1))))
            end = min(end, at + rng.choice((1, 4, 20, len(data))))
            match rng.randrange(6):
                case 0 if data:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                case 1:
                    data[at:end] = rng.choice(INTERESTING)
                case 2:
                    del data[at:end]
                case 3:
                    data[at:at] = data[at:end]
                case 4:
                    data[at:at] = rng.choice(INTERESTING)
                case _:
                    del data[at:]
        yield bytes(data)

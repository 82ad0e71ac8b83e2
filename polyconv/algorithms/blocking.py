"""The block of a result that the micro-kernel holds in registers: which is best, and how long it takes."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

__all__ = ["BEGIN", "ENDLESS", "REGISTERS", "SOME", "TALL", "VECTOR_BYTES", "Block", "block"]

SOME, TALL = 9, 14  # rows of a block: where each needs an address of its own, and at most
ENDLESS = 840  # rows or vectors, where there are so many that the last block does not matter
BEGIN = 90.0  # cycles until a block has begun, and has been stored: the reason why large ones are taken
REGISTERS, VECTOR_BYTES = 32, 64  # what a cost supposes; what runs asks the processor


class Block(NamedTuple):
    """What the micro-kernel holds in registers: ``rows`` by ``vectors``."""

    rows: int
    vectors: int


@lru_cache
def block(
    rows: int, vectors: int, across: int, each: int, registers: int, highest: int, widest: int = REGISTERS
) -> tuple[Block, float]:
    """The best block for a result of ``rows`` by ``vectors``, and the cycles that one tap of all of it takes.

    It has ``widest`` vectors at most.

    In a cycle a processor multiplies two vectors and loads two. For each vector of a block ``across`` loads are done
    (two where it lies across lines of the cache), and for each row ``each``, or for each vector of each row where that
    is two; they are not quite hidden. Rows that lie anywhere in memory need a register each for their addresses, of
    which there are enough for ``highest``. A product takes four cycles until another can be added to it.
    """
    best, least = Block(1, 1), float("inf")
    for wide in range(1, min(registers, widest + 1)):
        for high in range(1, registers):
            if high * wide + wide + 1 > registers or high > (highest if wide > 1 else TALL):
                break
            loads = across * wide + (high if each == 1 else each * high * wide)
            number = -(-rows // high) * -(-vectors // wide)
            cycles = number * (max(high * wide / 2, loads / 2 + 0.5, 4.0) + loads / 8)
            if cycles < least:
                best, least = Block(high, wide), cycles
    return best, least

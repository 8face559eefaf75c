"""An adaptive binary arithmetic coder.

Encoder and decoder learn the same probabilities. Bits with the same context share one; it is the
mean of a fast and a slow moving average. The coder is a range coder that propagates carries into
the bytes already written.
"""

from __future__ import annotations

from hcjax.errors import ArtifactError

BITS = 16  # of a probability
HALF = 1 << (BITS - 1)
FAST, SLOW = 4, 7  # shifts of the two averages
TOP = 1 << 24
FULL = (1 << 32) - 1
# a byte can encode up to 5,000 predictable bits; bits allowed to each file, and to each byte
_FREE, _PER_BYTE = 2**20, 256


class Contexts(dict):
    """Context -> [fast average, slow average] of the probability of a 0, times 65,536."""

    def __missing__(self, context):
        self[context] = averages = [HALF, HALF]
        return averages


def _learn(averages: list[int], bit: int) -> None:
    """Moves both averages towards a bit; neither reaches 0 or 65,536."""
    fast, slow = averages
    if bit:
        averages[:] = fast - (fast >> FAST), slow - (slow >> SLOW)
    else:
        one = 1 << BITS
        averages[:] = fast + ((one - fast) >> FAST), slow + ((one - slow) >> SLOW)


class Budget:
    """The bits that a file of a given length may decode to; `left` counts down.

    It bounds the time and the memory of decoding. A file with more bits must be longer by `lacking`
    bytes.
    """

    def __init__(self, length: int):
        self.left = _FREE + _PER_BYTE * length

    def lacking(self) -> int:
        """Returns the number of bytes by which the file is too short."""
        return max(-(self.left // _PER_BYTE), 0)


class Encoder:
    """Encodes bits; `finish` returns the bytes, `count` is the number of bits so far."""

    def __init__(self, low: int = 0, width: int = FULL, written: bytes = b""):
        self.contexts, self.count = Contexts(), 0
        self._low, self._range, self._bytes = low, width, bytearray(written)

    def bit(self, context, bit: int) -> None:
        """Encodes one bit in a context."""
        self.count += 1
        averages = self.contexts[context]
        bound = (self._range >> BITS) * ((averages[0] + averages[1]) >> 1)
        _learn(averages, bit)
        if bit:
            self._low += bound
            self._range -= bound
        else:
            self._range = bound
        if self._low > FULL or self._range < TOP:
            self._shift()

    def raw(self, value: int, bits: int) -> None:
        """Encodes the lowest bits of a value with probability 1/2, the highest first."""
        for i in reversed(range(bits)):
            self._range >>= 1
            if value >> i & 1:
                self._low += self._range
            self._shift()

    def _shift(self) -> None:
        if self._low > FULL:
            self._low &= FULL
            i = len(self._bytes) - 1
            while self._bytes[i] == 255:
                self._bytes[i] = 0
                i -= 1
            self._bytes[i] += 1
        while self._range < TOP:
            self._bytes.append(self._low >> 24)
            self._low = self._low << 8 & FULL
            self._range = self._range << 8 & FULL

    def finish(self) -> bytes:
        """Returns the bytes, without trailing zeros."""
        # the value in [low, low + range) with the most zeros at its end
        for zeros in range(32, -1, -1):
            value = (self._low + (1 << zeros) - 1) >> zeros << zeros
            if value < self._low + self._range:
                break
        self._low, self._range = value, FULL
        self._shift()
        while self._low:
            self._bytes.append(self._low >> 24)
            self._low = self._low << 8 & FULL
        return bytes(self._bytes)


class Decoder:
    """Decodes the bits of an `Encoder`, given the same contexts in the same order.

    Raises ArtifactError on reading more bits than the budget allows.
    """

    def __init__(self, data: bytes, budget: Budget):
        self.contexts, self._budget = Contexts(), budget
        self._data, self._at, self._range = data, 4, FULL
        self._code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def bit(self, context) -> int:
        """Decodes the next bit in a context."""
        self._budget.left -= 1
        if self._budget.left < 0:
            raise ArtifactError("the file is too short for so many numbers")
        averages = self.contexts[context]
        bound = (self._range >> BITS) * ((averages[0] + averages[1]) >> 1)
        bit = int(self._code >= bound)
        _learn(averages, bit)
        if bit:
            self._code -= bound
            self._range -= bound
        else:
            self._range = bound
        if self._range < TOP:
            self._shift()
        return bit

    def raw(self, bits: int) -> int:
        """Decodes the next bits of `Encoder.raw`."""
        value = 0
        for _ in range(bits):
            self._range >>= 1
            bit = int(self._code >= self._range)
            self._code -= self._range * bit
            value = value << 1 | bit
            self._shift()
        return value

    def _shift(self) -> None:
        while self._range < TOP:
            following = self._data[self._at] if self._at < len(self._data) else 0
            if self._at > len(self._data) + 4:
                raise ArtifactError("a stream ends before its last number: the file is cut short")
            self._at += 1
            self._code = (self._code << 8 | following) & FULL
            self._range = self._range << 8 & FULL

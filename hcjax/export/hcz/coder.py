"""An adaptive binary arithmetic coder: bits in, bytes out, by probabilities that both sides learn.

A context is a place whose bits are alike; its probability is the mean of two averages, one that
forgets quickly and one that does not. The coder is a range coder with carries resolved in the
bytes already written.
"""

from __future__ import annotations

from hcjax.errors import ArtifactError

_BITS = 16  # of a probability
_HALF = 1 << (_BITS - 1)
_FAST, _SLOW = 4, 7  # shifts of the two averages
_TOP = 1 << 24
_FULL = (1 << 32) - 1
# a byte holds up to 5,000 bits that are all foreseen: so many are free, to a file, and to a byte
_FREE, _PER_BYTE = 2**20, 256


class Contexts(dict):
    """Context -> [quick average, slow average] of the probability of a 0, of 65,536."""

    def __missing__(self, context):
        self[context] = found = [_HALF, _HALF]
        return found


def _learn(averages: list[int], bit: int) -> None:
    """Moves both averages towards a bit; neither gets to 0 or to 65,536."""
    quick, slow = averages
    if bit:
        averages[:] = quick - (quick >> _FAST), slow - (slow >> _SLOW)
    else:
        most = 1 << _BITS
        averages[:] = quick + ((most - quick) >> _FAST), slow + ((most - slow) >> _SLOW)


class Budget:
    """Bits that a file of some length may be decoded to; `left` counts down.

    What bounds the time, and the memory, that a file can ask for: `lacking` says how much longer a
    file must be whose bits are more.
    """

    def __init__(self, length: int):
        self.left = _FREE + _PER_BYTE * length

    def lacking(self) -> int:
        """Returns the bytes that a file is too short by."""
        return max(-(self.left // _PER_BYTE), 0)


class Encoder:
    """Collects bits; `finish` returns the bytes, `count` is how many bits there were so far."""

    def __init__(self):
        self.contexts, self.count = Contexts(), 0
        self._low, self._range, self._bytes = 0, _FULL, bytearray()

    def bit(self, context, bit: int) -> None:
        """Adds one bit in a context."""
        self.count += 1
        averages = self.contexts[context]
        bound = (self._range >> _BITS) * ((averages[0] + averages[1]) >> 1)
        _learn(averages, bit)
        if bit:
            self._low += bound
            self._range -= bound
        else:
            self._range = bound
        if self._low > _FULL or self._range < _TOP:
            self._shift()

    def raw(self, value: int, bits: int) -> None:
        """Adds the lowest bits of a value, as likely 0 as 1, the highest first."""
        for i in reversed(range(bits)):
            self._range >>= 1
            if value >> i & 1:
                self._low += self._range
            self._shift()

    def _shift(self) -> None:
        if self._low > _FULL:
            self._low &= _FULL
            i = len(self._bytes) - 1
            while self._bytes[i] == 255:
                self._bytes[i] = 0
                i -= 1
            self._bytes[i] += 1
        while self._range < _TOP:
            self._bytes.append(self._low >> 24)
            self._low = self._low << 8 & _FULL
            self._range = self._range << 8 & _FULL

    def finish(self) -> bytes:
        """Returns the bytes, the last ones only as far as they are not 0."""
        # the value in [low, low + range) with the most zeros at its end
        for zeros in range(32, -1, -1):
            value = (self._low + (1 << zeros) - 1) >> zeros << zeros
            if value < self._low + self._range:
                break
        self._low, self._range = value, _FULL
        self._shift()
        while self._low:
            self._bytes.append(self._low >> 24)
            self._low = self._low << 8 & _FULL
        return bytes(self._bytes)


class Decoder:
    """Gives back the bits of an `Encoder`, from the same contexts in the same order.

    Raises ArtifactError where more bits are asked for than the budget allows.
    """

    def __init__(self, data: bytes, budget: Budget):
        self.contexts, self._budget = Contexts(), budget
        self._data, self._at, self._range = data, 4, _FULL
        self._code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def bit(self, context) -> int:
        """Returns the next bit, of a context."""
        self._budget.left -= 1
        if self._budget.left < 0:
            raise ArtifactError("the file is too short for so many numbers")
        averages = self.contexts[context]
        bound = (self._range >> _BITS) * ((averages[0] + averages[1]) >> 1)
        bit = int(self._code >= bound)
        _learn(averages, bit)
        if bit:
            self._code -= bound
            self._range -= bound
        else:
            self._range = bound
        if self._range < _TOP:
            self._shift()
        return bit

    def raw(self, bits: int) -> int:
        """Returns the next bits that were added as they are."""
        value = 0
        for _ in range(bits):
            self._range >>= 1
            bit = int(self._code >= self._range)
            self._code -= self._range * bit
            value = value << 1 | bit
            self._shift()
        return value

    def _shift(self) -> None:
        while self._range < _TOP:
            following = self._data[self._at] if self._at < len(self._data) else 0
            if self._at > len(self._data) + 4:
                raise ArtifactError("a stream ends before its last number: the file is cut short")
            self._at += 1
            self._code = (self._code << 8 | following) & _FULL
            self._range = self._range << 8 & _FULL

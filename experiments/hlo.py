"""What a compiled program of XLA does: FLOPs of its products, its collectives, and their bytes."""

import math
import re
from collections import Counter

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLS = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_COLLECTIVE = re.compile(
    r"\b(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_BITS = re.compile(r"\d+")


class Module:
    """The text of a compiled module."""

    def __init__(self, text):
        self.computations = {}  # name -> {instruction: its text}
        for line in text.splitlines():
            if match := _COMPUTATION.match(line):
                current = self.computations[match[1]] = {}
            elif match := _INSTRUCTION.match(line):
                current[match[1]] = match[2]
        self.entry = next(
            _COMPUTATION.match(line)[1] for line in text.splitlines() if line.startswith("ENTRY")
        )

    def visits(self):
        """(computation, instruction, how often it runs, loops around it).

        Of a condition every branch counts. A loop whose length is not known before it runs does
        not: it is there for values that would lose digits.
        """
        left = [(self.entry, 1, 0)]
        while left:
            name, times, loops = left.pop()
            for text in self.computations[name].values():
                yield name, text, times, loops
                loop, trips = " while(" in text, _TRIPS.search(text)
                runs = (int(trips[1]) if trips else 0) if loop else 1
                called = [
                    *_CALLS.findall(text),
                    *(x.strip(" %") for some in _BRANCHES.findall(text) for x in some.split(",")),
                ]
                left += [(x, times * runs, loops + loop) for x in called if x in self.computations]

    def flops(self):
        """Of dot and convolution instructions."""
        return sum(times * self._flops(name, text) for name, text, times, _ in self.visits())

    def _flops(self, computation, text):
        for kind, count in (("dot", self._of_dot), ("convolution", self._of_convolution)):
            if operands := re.search(rf"\b{kind}\(([^)]*)\)", text):
                names = re.findall(r"%([\w.\-]+)", operands[1])
                shapes = [_shape(self.computations[computation][x]) for x in names]
                return 2 * math.prod(_shape(text)) * count(text, *shapes)
        return 0

    def _of_dot(self, text, left, right):
        return math.prod(left[a] for a in _numbers(_after("lhs_contracting_dims={", text)))

    def _of_convolution(self, text, image, kernel):
        labels = re.search(r"dim_labels=\w+_(\w+)->", text)[1]
        return math.prod(kernel) // kernel[labels.index("o")]

    def collectives(self):
        """Number of loops around a collective -> the kinds of collectives there."""
        found = {}
        for kind, _, _, loops in self.communication():
            found.setdefault(loops, Counter())[kind] += 1
        return found

    def communication(self):
        """Of every collective (kind, shapes of its results, bytes of all its runs, loops)."""
        for _, text, times, loops in self.visits():
            if match := _COLLECTIVE.search(text):
                arrays = _ARRAY.findall(text[: match.start()])
                shapes = [tuple(_numbers(sizes)) for _, sizes in arrays]
                yield match[1], shapes, times * sum(_bytes(*array) for array in arrays), loops

    def largest(self):
        """Entries of the largest array that is made."""
        made = (text.split("(")[0] for _, text, _, _ in self.visits())
        return max(math.prod(_numbers(x)) for text in made for _, x in _ARRAY.findall(text))


def _bytes(dtype, sizes):
    bits = _BITS.search(dtype)
    return math.prod(_numbers(sizes)) * max(1, int(bits[0]) // 8 if bits else 1)


def _shape(text):
    return _numbers(_after("[", text))


def _after(start, text):
    return re.search(re.escape(start) + r"([\d,]*)", text)[1]


def _numbers(text):
    return [int(x) for x in text.split(",") if x]

"""Traffic of a compiled program between devices and through memory, read from its HLO text."""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)
# Instructions that move no data.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while"),
    *("conditional", "call", "partition-id", "replica-id", "opt-barrier", "async-done"),
    *("async-update", "copy-done", "iota", "optimization-barrier"),
}
_BYTES = {"pred": 1, "token": 0, "bf16": 2, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_OPERAND = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# Between TPU slices the hosts carry on a collective: the device sends them its part.
_FAR = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
    """One line of HLO: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: str
    attributes: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of one step on one device.

    Attributes:
      sent: by (kind of collective, mesh axes joined by "+"), what one device sends.
      memory: read and written through main memory, at least.
    """

    sent: Mapping[tuple[str, str], float]
    memory: float


def measure(text: str, mesh_shape: Mapping[str, int]) -> Traffic:
    """Reads `compiled.as_text()`.

    Loops count as often as they run; alternatives of a branch count as if all ran.

    Args:
      text: HLO of the program of one device.
      mesh_shape: sizes by axis in the order in which the mesh numbers its devices.
    """
    computations, entry = _parse(text)
    sent: dict[tuple[str, str], float] = defaultdict(float)
    memory = 0.0
    stack = [(entry, 1, 1, False)]
    while stack:
        name, times, trips, fused = stack.pop()
        shapes = {i.name: i.shape for i in computations[name]}
        for instruction in computations[name]:
            kind = instruction.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                axes, size = _groups(instruction.attributes, mesh_shape)
                if size > 1:
                    sent[kind, axes] += times * _sent(kind, instruction, size)
            elif instruction.opcode == "send" and (far := _FAR.search(instruction.attributes)):
                kind = far[1].lower().replace("_", "-")
                sent[kind, "slice"] += times * _sent_far(kind, instruction, mesh_shape["slice"])
            if not fused:
                memory += times * _through_memory(instruction, shapes, trips)
            stack.extend(_callees(instruction, computations, times, trips, fused))
    return Traffic(sent=dict(sent), memory=memory)


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", []
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[1], [])
            entry = header[1] if line.startswith("ENTRY") else entry
        elif " = " in line and line.startswith(" "):
            current.append(_instruction(line))
    return computations, entry


def _instruction(line: str) -> Instruction:
    name, rest = line.strip().removeprefix("ROOT ").split(" = ", 1)
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    return Instruction(
        name=name.removeprefix("%"),
        shape=shape,
        opcode=rest[:opening],
        operands=rest[opening + 1 : closing - 1],
        attributes=rest[closing:],
    )


def _closing(text: str, start: int) -> int:
    """Position after the bracket that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position + 1
    raise ValueError(f"unbalanced HLO: {text[start : start + 80]!r}")


def _arrays(shape: str) -> Iterator[tuple[tuple[int, ...], int, str]]:
    """(dimensions, bytes, layout) of every array in a shape."""
    for kind, sizes, layout in _ARRAY.findall(shape):
        dimensions = tuple(int(size) for size in sizes.split(",") if size)
        bits = re.search(r"\d+", kind)
        width = _BYTES[kind] if kind in _BYTES else int(bits[0]) / 8 if bits else 0
        yield dimensions, math.ceil(math.prod(dimensions) * width), layout


def _sent(kind: str, instruction: Instruction, size: int) -> float:
    """Bytes that each of `size` devices sends, by the ring algorithms."""
    arrays = [n for dimensions, n, _ in _arrays(instruction.shape) if dimensions]
    if instruction.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
        arrays = arrays[len(arrays) // 2 :]  # the results; the operands come first
    total = float(sum(arrays))
    share = (size - 1) / size
    return {
        "all-gather": share * total,
        "all-reduce": 2 * share * total,
        "reduce-scatter": (size - 1.0) * total,
        "collective-permute": total,
    }.get(kind, share * total)


def _sent_far(kind: str, instruction: Instruction, slices: int) -> float:
    """Bytes of a device's part that leave its slice."""
    part = float(sum(n for dimensions, n, _ in _arrays(instruction.shape) if dimensions))
    return 2 * part * (slices - 1) / slices if kind == "all-reduce" else part


def _groups(attributes: str, mesh_shape: Mapping[str, int]) -> tuple[str, int]:
    """Mesh axes over which a collective runs, and the devices of one group."""
    count = math.prod(mesh_shape.values())
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", attributes):
        numbers = [int(n) for n in re.findall(r"\d+", pairs[1])]
        groups = [p for p in zip(numbers[::2], numbers[1::2], strict=True) if p[0] != p[1]]
    elif iota := re.search(
        r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    ):
        shape = [int(n) for n in iota[3].split(",")]
        order = [int(n) for n in iota[4].split(",")] if iota[4] else range(len(shape))
        ids = np.arange(math.prod(shape)).reshape(shape).transpose(order)
        groups = ids.reshape(int(iota[1]), int(iota[2])).tolist()
    else:
        found = re.search(r"replica_groups=\{(\{.*?\})\}", attributes)
        lists = re.findall(r"\{([\d,]+)\}", found[1]) if found else []
        groups = [[int(n) for n in part.split(",")] for part in lists] or [range(count)]
    if not groups:
        return "", 1
    places = np.array(
        [np.unravel_index(list(group), tuple(mesh_shape.values())) for group in groups]
    )
    moved = (places != places[:, :, :1]).any(axis=(0, 2))
    return "+".join(np.array(list(mesh_shape))[moved]), len(groups[0])


def _callees(instruction, computations, times, trips, fused) -> Iterator[tuple]:
    """(computation, times it runs, trips of its loop, whether it is inside a fusion)."""
    attributes = instruction.attributes
    if instruction.opcode == "while":
        body = re.search(r"body=%?([\w.\-]+)", attributes)[1]
        condition = re.search(r"condition=%?([\w.\-]+)", attributes)[1]
        rounds = _trip_count(attributes, computations[condition])
        yield body, times * rounds, rounds, fused
    elif branches := re.search(r"branch_computations=\{([^}]*)\}", attributes):
        for branch in _OPERAND.findall(branches[1]):
            yield branch, times, trips, fused
    elif called := re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", attributes):
        inside = instruction.opcode not in ("call", "async-start")
        # A computation that reduces two numbers is no program of its own.
        if instruction.opcode in ("fusion", "call", "async-start"):
            yield called[1], times, trips, fused or inside


def _trip_count(attributes: str, condition: list[Instruction]) -> int:
    """Trip count of a `lax.scan`: it counts from 0 up to the only whole number in its condition."""
    if known := _TRIPS.search(attributes):
        return int(known[1])
    limits = [
        int(i.operands)
        for i in condition
        if i.opcode == "constant" and re.match(r"[su]32\[\]", i.shape)
    ]
    return limits[0] if len(limits) == 1 else 1


def _through_memory(instruction: Instruction, shapes: Mapping[str, str], trips: int) -> float:
    """Bytes that an instruction reads and writes; of a loop's stacks, the round's part."""
    if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
        return 0.0
    names = _OPERAND.findall(instruction.operands)
    total = 0.0
    for shape in (instruction.shape, *(shapes[name] for name in names if name in shapes)):
        for dimensions, size, layout in _arrays(shape):
            if "S(1)" in layout:  # vector memory of a TPU
                continue
            stacked = trips > 1 and len(dimensions) > 1 and dimensions[0] == trips
            total += size / trips if stacked else size
    return total

"""System calls laid out in memory as a table, and the walk along it.

A process that has just been forked pays for every page it writes, and a line of Python writes several: counts of references,
frames, numbers. So what is always the same between a fork and the moment a program is known is written down beforehand, as numbers,
and walked by a few instructions that write next to nothing; where they cannot be had, by Python, with the same outcome.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

from payoff.sandbox import kernel

_STEP = struct.Struct("<q10Q")
# Where in a step: the call's number, below 0 for the end; its arguments; where the 32 lower bits of its result go, unless 0; which
# step comes after a result above 0, after 0, and after a failure. The end takes the last result and the step that gave it.
_NUMBER, _FIRST, _INTO, _THEN, _ZERO, _FAILED, SIZE = 0, 8, 56, 64, 72, 80, 88
_END = -1
_ALL = (1 << 64) - 1
_FAR = 1 << 30

# rbx is the step, r12 the one before it:
#   push rbx; push r12; mov rbx, rdi; xor r12, r12; xor eax, eax
#   step: mov rcx, [rbx]; test rcx, rcx; js leave; mov r12, rbx; mov rdi, [rbx + 8] and so on for rsi, rdx, r10, r8, r9
#   mov rax, rcx; syscall; mov rcx, [rbx + 56]; test rcx, rcx; jz next; mov [rcx], eax
#   next: mov rcx, [rbx + 64]; test rax, rax; cmovz rcx, [rbx + 72]; cmovs rcx, [rbx + 80]; mov rbx, rcx; jmp step
#   leave: mov [rbx + 8], rax; mov [rbx + 16], r12; mov rax, rbx; pop r12; pop rbx; ret
_X86_64 = """
f30f1efa5341544889fb4531e431c0488b0b4885c978414989dc488b7b08488b7310488b53184c8b53204c8b43284c8b4b304889c80f05488b4b384885c9
74028901488b4b404885c0480f444b48480f484b504889cbebb7488943084c8963104889d8415c5bc3
"""
# The same with x19 and x20:
#   stp x19, x20, [sp, -16]!; mov x19, x0; mov x20, xzr; mov x0, xzr
#   step: ldr x8, [x19]; tbnz x8, 63, leave; mov x20, x19; ldp x0, x1, [x19, 8]; ldp x2, x3, [x19, 24]; ldp x4, x5, [x19, 40]
#   svc 0; ldr x9, [x19, 56]; cbz x9, next; str w0, [x9]
#   next: ldp x10, x11, [x19, 64]; ldr x12, [x19, 80]; cmp x0, 0; csel x10, x11, x10, eq; csel x19, x12, x10, lt; b step
#   leave: str x0, [x19, 8]; str x20, [x19, 16]; mov x0, x19; ldp x19, x20, [sp], 16; ret
_AARCH64 = """
f353bfa9f30300aaf4031faae0031faa680240f9e801f8b7f40313aa608640a9628e41a9649642a9010000d4691e40f9490000b4200100b96a2e44a96c2a
40f91f0000f16a018a9a93b18a9af1ffff17600600f9740a00f9e00313aaf353c1a8c0035fd6
"""
_CODES = {"x86_64": bytes.fromhex(_X86_64), "aarch64": bytes.fromhex(_AARCH64)}


class Call(NamedTuple):
    """A system call as numbers; `into` is an address for its result."""

    number: int
    arguments: tuple[int | None, ...]
    into: int = 0


def call(name: str, *arguments: int | None, into: int = 0) -> Call:
    """A system call by name; None as its first argument stands for the result of the call before it."""
    return Call(kernel.number(name), arguments + (0,) * (6 - len(arguments)), into)


class Calls(list[Call]):
    """Calls in the order in which they are made; bytes stand for the address of a copy of them."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[ctypes.Array] = []

    def add(self, name: str, *arguments: int | bytes | None, into: int = 0) -> None:
        self.append(call(name, *[self._address(value) if isinstance(value, bytes) else value for value in arguments], into=into))

    def write(self, folder: int, path: str, text: bytes) -> None:
        """Write into a file, and leave it open: what comes after closes everything."""
        self.add("openat", folder, path.encode(), os.O_WRONLY)
        self.add("write", None, text, len(text))

    def _address(self, text: bytes) -> int:
        self._texts.append(ctypes.create_string_buffer(text))
        return ctypes.addressof(self._texts[-1])


def closing(first: int, last: int = 0xFFFFFFFF) -> list[Call]:
    """The calls that close every descriptor from `first` to `last`."""
    try:
        kernel.system_call("close_range", 0xFFFFFFFE, 0xFFFFFFFE, 0)
    except OSError:  # before Linux 5.9; what is not open cannot be closed, and so is opened first
        numbers = range(first, min(os.sysconf("SC_OPEN_MAX"), 1024, last + 1))
        return [step for number in numbers for step in (call("dup3", 0, number, 0), call("close", number))]
    return [call("close_range", first, last, 0)]


class Table:
    """Steps, and room for what they read and write, in pages that hold nothing else."""

    def __init__(self, size: int) -> None:
        far = ctypes.addressof(ctypes.create_string_buffer(1)) // _FAR * _FAR - _FAR  # from all that is written at other times
        self.start = kernel.pages(size, near=far)
        self._free, self._end = self.start, self.start + size
        native = _native(far - size)
        self.native, self.walk = native is not None, native or _walked

    def room(self, size: int) -> int:
        """The address of so many bytes, all 0."""
        at, self._free = self._free, self._free + (size + 7) // 8 * 8
        if self._free > self._end:
            raise MemoryError("more steps than there is room for")
        return at

    def end(self) -> int:
        """A step that ends the walk, which then gives its address."""
        at = self.room(SIZE)
        _store(at, _NUMBER, _END)
        return at

    def lay(self, calls: list[Call], then: int, failed: int, *, zero: int = 0, at: int = 0) -> int:
        """The address of the first of some calls, made in order, which `then` follows, or `zero` if the last of them gave 0.

        failed: what comes after any that fails; at: room that was made for a single call before
        """
        at = at or self.room(SIZE * len(calls))
        for number, one in enumerate(calls):
            last, here = number == len(calls) - 1, at + SIZE * number
            after = then if last else here + SIZE
            into = here + SIZE + _FIRST if not last and calls[number + 1].arguments[0] is None else one.into
            arguments = [(value or 0) & _ALL for value in one.arguments]
            ctypes.memmove(here, _STEP.pack(one.number, *arguments, into, after, (zero if last else 0) or after, failed), SIZE)
        return at

    def receive(self, line: int, at: int, size: int, files: int) -> Call:
        """The call that waits for a message of up to so many bytes, for `at`, and for descriptors that come with it; it gives the
        length, 0 where nobody is left who could send one."""
        beside = 16 + (4 * files + 7) // 8 * 8
        part, header, place = self.room(16), self.room(56), self.room(beside)
        ctypes.memmove(part, struct.pack("@PN", at, size), 16)
        ctypes.memmove(header, struct.pack("@PIPNPNi", 0, 0, part, 1, place, beside, 0), 52)
        return call("recvmsg", line, header, 0)

    def follower(self, step: int) -> int:
        """Where it is written which step comes after this one if its result is above 0."""
        return step + _THEN

    def trouble(self, end: int) -> OSError:
        """What made the walk come to an end: the call that failed, and why."""
        failed = _load(end, _FIRST + 8)
        return kernel.failure(_load(failed, _NUMBER), -_load(end, _FIRST))


def _load(step: int, at: int) -> int:
    return ctypes.c_int64.from_address(step + at).value


def _store(step: int, at: int, value: int) -> None:
    ctypes.c_int64.from_address(step + at).value = value


def _native(near: int) -> Callable[[int], int] | None:
    """The walk as instructions of this machine, if there are any for it and they may be run."""
    code = _CODES.get(kernel.MACHINE)
    if code is None:
        return None
    try:
        return ctypes.PYFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(kernel.pages(len(code), code, near=near))
    except OSError:
        return None


def _walked(step: int) -> int:
    """The walk in Python."""
    result = before = 0
    while (number := _load(step, _NUMBER)) >= 0:
        result = kernel.raw(number, *[_load(step, _FIRST + 8 * k) for k in range(6)])
        if into := _load(step, _INTO):
            ctypes.c_int32.from_address(into).value = result
        before, step = step, _load(step, _THEN if result > 0 else _FAILED if result < 0 else _ZERO)
    _store(step, _FIRST, result)
    _store(step, _FIRST + 8, before)
    return step

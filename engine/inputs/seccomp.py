"""A kernel filter for a process that reads untrusted files: no connection, no program, no write, for the rest of its
life. Linux on x86-64 and AArch64.

The filter is a classic BPF program (`man 2 seccomp`): it compares the architecture, then the number of the system call.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD, _RETURN = 0x20, 0x06  # absolute 32-bit load
_JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT = 0x15, 0x35, 0x45  # compare with a constant
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # offsets in struct seccomp_data, little endian
_CLONE_THREAD = 0x10000
_X32 = 0x40000000  # marks the numbers of a second convention of x86-64, and nothing elsewhere
_WRITES = 0x3 | 0x40 | 0x200  # O_WRONLY, O_RDWR; O_CREAT; O_TRUNC

_DENIED = (
    *("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4"),
    *("execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"),
    *(
        "creat",
        "truncate",
        "unlink",
        "unlinkat",
        "rename",
        "renameat",
        "renameat2",
        "mkdir",
        "mkdirat",
        "rmdir",
        "link",
    ),
    *("linkat", "symlink", "symlinkat", "chmod", "fchmodat", "chown", "lchown", "fchownat", "mknod", "mknodat"),
    *("mount", "umount2", "unshare", "setns", "bpf", "io_uring_setup", "userfaultfd", "perf_event_open", "keyctl"),
)


@dataclass(frozen=True, slots=True)
class _Machine:
    """Numbers of one architecture; those of `_DENIED` that it lacks do not exist there."""

    audit_arch: int
    numbers: Mapping[str, int]


_COMMON = {"pidfd_getfd": 438, "io_uring_setup": 425, "clone3": 435, "openat2": 437}
_MACHINES: Mapping[str, _Machine] = {
    "x86_64": _Machine(
        0xC000003E,
        _COMMON
        | {
            "open": 2,
            "socket": 41,
            "connect": 42,
            "accept": 43,
            "bind": 49,
            "listen": 50,
            "socketpair": 53,
            "clone": 56,
        }
        | {"fork": 57, "vfork": 58, "execve": 59, "truncate": 76, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85}
        | {"link": 86, "unlink": 87, "symlink": 88, "chmod": 90, "chown": 92, "lchown": 94, "ptrace": 101, "mknod": 133}
        | {"mount": 165, "umount2": 166, "keyctl": 250, "openat": 257, "mkdirat": 258, "mknodat": 259, "fchownat": 260}
        | {"unlinkat": 263, "renameat": 264, "linkat": 265, "symlinkat": 266, "fchmodat": 268, "unshare": 272}
        | {"accept4": 288, "perf_event_open": 298, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311}
        | {"renameat2": 316, "bpf": 321, "execveat": 322, "userfaultfd": 323},
    ),
    "aarch64": _Machine(
        0xC00000B7,
        _COMMON
        | {"mknodat": 33, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37, "renameat": 38, "umount2": 39}
        | {"mount": 40, "truncate": 45, "fchmodat": 53, "fchownat": 54, "openat": 56, "unshare": 97, "ptrace": 117}
        | {"socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "accept": 202, "connect": 203, "keyctl": 219}
        | {"clone": 220, "execve": 221, "perf_event_open": 241, "accept4": 242, "setns": 268, "process_vm_readv": 270}
        | {"process_vm_writev": 271, "renameat2": 276, "bpf": 280, "execveat": 281, "userfaultfd": 282},
    ),
}


def deny_world() -> bool:
    """From here on such system calls fail with EPERM, in every thread that is started later.

    False where the kernel or the machine has no such filter.
    """
    machine = _MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None:
        return False
    program = _program(machine)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.create_string_buffer(header, len(header)), 0, 0) == 0)


def _program(machine: _Machine) -> bytes:
    numbers = machine.numbers
    # A process that switches to another calling convention has left the table, and is ended.
    code = _step(_LOAD, _ARCH_AT) + _step(_JUMP_EQUAL, machine.audit_arch, 1, 0) + _step(_RETURN, _KILL)
    code += _step(_LOAD, _NUMBER_AT) + _step(_JUMP_AT_LEAST, _X32, 0, 1) + _step(_RETURN, _KILL)
    for name in _DENIED:
        if name in numbers:
            code += _step(_JUMP_EQUAL, numbers[name], 0, 1) + _fail(errno.EPERM)
    # Its arguments lie in memory, out of the filter's sight; C libraries fall back to the older calls.
    for name in ("clone3", "openat2"):
        code += _step(_JUMP_EQUAL, numbers[name], 0, 1) + _fail(errno.ENOSYS)
    code += _unless_any_bit(numbers["clone"], argument=0, bits=_CLONE_THREAD)
    code += _if_any_bit(numbers["openat"], argument=2, bits=_WRITES)
    if "open" in numbers:
        code += _if_any_bit(numbers["open"], argument=1, bits=_WRITES)
    return code + _step(_RETURN, _ALLOW)


def _if_any_bit(number: int, argument: int, bits: int) -> bytes:
    """Fail call `number` if its argument has one of `bits`; otherwise allow it."""
    return (
        _step(_JUMP_EQUAL, number, 0, 4)
        + _step(_LOAD, _FIRST_ARGUMENT_AT + 8 * argument)
        + _step(_JUMP_ANY_BIT, bits, 0, 1)
        + _fail(errno.EPERM)
        + _step(_RETURN, _ALLOW)
    )


def _unless_any_bit(number: int, argument: int, bits: int) -> bytes:
    """Fail call `number` if its argument has none of `bits`; otherwise allow it."""
    return (
        _step(_JUMP_EQUAL, number, 0, 4)
        + _step(_LOAD, _FIRST_ARGUMENT_AT + 8 * argument)
        + _step(_JUMP_ANY_BIT, bits, 1, 0)
        + _fail(errno.EPERM)
        + _step(_RETURN, _ALLOW)
    )


def _fail(number: int) -> bytes:
    return _step(_RETURN, _FAIL | number)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction (struct sock_filter): jumps are counted from the next one."""
    return struct.pack("HBBI", code, if_true, if_false, value)

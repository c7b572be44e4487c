"""Take files out of this process's reach for good: Linux Landlock (https://docs.kernel.org/userspace-api/landlock.html).

The kernel then also keeps the process from looking into others that are not so restrained, into their memory and their
environment, and from sending them signals. What it starts is restrained as it is. Of the powers of root, which go round
some of that, it keeps those over files and memory.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH, _PR_SET_NO_NEW_PRIVS = 1, 1, 38

# include/uapi/linux/landlock.h. Listing folders (bit 3) is left alone, because Python imports nothing from one it
# cannot list, and so are devices' own commands (bit 15), which a GPU needs.
_READ = 1 << 0 | 1 << 2
_WRITE = 1 << 1 | sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_ON_FILES = _READ | 1 << 1 | _TRUNCATE
_SCOPE_SIGNAL = 1 << 1

# include/uapi/linux/capability.h: reading others' files, pinned memory, a process's own priority and place.
_KEPT_POWERS = 1 << 1 | 1 << 2 | 1 << 14 | 1 << 23
_CAPABILITIES_3 = 0x20080522


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def restrain(*, forbidden: Iterable[Path], readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Allow this thread, and what it starts from now on, to read all files but some and to write only a few.

    Args:
        forbidden: files and folders that can no longer be opened, nor anything below them.
        readable: folders that stay readable although one above them is forbidden.
        writable: files and folders that can be written; nothing else can.

    Returns:
        False, with nothing done, where the kernel has no Landlock.
    """
    version = _syscall(_CREATE_RULESET, None, 0, _VERSION) if sys.platform == "linux" else -1
    if version < 1:
        return False
    write = _WRITE | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    asked = _Ruleset(_READ | write, 0, _SCOPE_SIGNAL if version >= 6 else 0)
    ruleset = _checked(_syscall(_CREATE_RULESET, ctypes.byref(asked), ctypes.c_size_t(ctypes.sizeof(asked)), 0))
    try:
        hidden = [path.resolve() for path in forbidden]
        for path in _around(Path("/"), hidden):
            _allow(ruleset, path, _READ)
        for path in readable:
            root = path.resolve()
            for part in _around(root, [one for one in hidden if one != root and one.is_relative_to(root)]):
                _allow(ruleset, part, _READ)
        for path in writable:
            _allow(ruleset, path, _READ | write)
        _lay_down_powers()
        _checked(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def _around(root: Path, hidden: list[Path]) -> Iterator[Path]:
    """What is below a folder without what is hidden: few paths, each whole."""
    inside = [path for path in hidden if path.is_relative_to(root)]
    if root in inside:
        return
    if not inside:
        yield root
        return
    # Rights are granted only: to leave a folder out, those beside it are named, on every level down to it.
    with suppress(OSError):
        for path in root.iterdir():
            # A link would grant what it leads to, which has its own place.
            if not path.is_symlink():
                yield from _around(path, inside)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    # A file may have gone since it was listed.
    with suppress(OSError):
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            is_folder = stat.S_ISDIR(os.fstat(opened).st_mode)
            rule = _Rule(rights if is_folder else rights & _ON_FILES, opened)
            _checked(_syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0))
        finally:
            os.close(opened)


def _lay_down_powers() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    # Effective, permitted and inheritable: the lower 32 of each, then the upper 32 of each.
    sets = (ctypes.c_uint32 * 6)()
    _checked(libc.capget(header, sets))
    for place in range(6):
        sets[place] &= _KEPT_POWERS if place < 3 else 0
    _checked(libc.capset(header, sets))


def _syscall(number: int, *arguments: object) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

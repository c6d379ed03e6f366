"""A shared library with one function, for stand-ins of libraries that are asked for their version.

Layout and constants: System V ABI, generic part and AMD64 supplement (elf.h).
"""

from __future__ import annotations

import struct

_HEADER, _SEGMENT, _SYMBOL, _ENTRY = 64, 56, 24, 16
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_READ_WRITE, _READ_WRITE_RUN = 6, 7
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = 4, 5, 6, 10, 11, 14
_GLOBAL_FUNCTION, _SHARED, _X86_64 = 0x12, 3, 62
_PAGE = 0x1000


def version_library(soname: str, function: str, version: int) -> bytes:
    """An AMD64 library in which `int function(int *)` stores `version` and returns 0."""
    names = b"\0" + function.encode() + b"\0" + soname.encode() + b"\0"
    # mov dword [rdi], version; xor eax, eax; ret
    code = b"\xc7\x07" + struct.pack("<i", version) + b"\x31\xc0\xc3"
    # One bucket, and two symbols: the empty one that the ABI asks for, and the function.
    hashes = struct.pack("<5I", 1, 2, 1, 0, 0)
    starts = [_HEADER + 3 * _SEGMENT]
    for part in (code, hashes, names):
        starts.append(_aligned(starts[-1] + len(part)))
    at_code, at_hashes, at_names, at_symbols = starts
    symbols = bytes(_SYMBOL) + struct.pack("<IBBHQQ", 1, _GLOBAL_FUNCTION, 0, 1, at_code, len(code))
    at_dynamic = _aligned(at_symbols + len(symbols))
    entries = {
        _DT_HASH: at_hashes,
        _DT_STRTAB: at_names,
        _DT_SYMTAB: at_symbols,
        _DT_STRSZ: len(names),
        _DT_SYMENT: _SYMBOL,
        _DT_SONAME: names.index(soname.encode()),
    }
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries.items()) + bytes(_ENTRY)
    end = at_dynamic + len(dynamic)
    segments = [
        _segment(_PT_LOAD, _READ_WRITE_RUN, 0, end, _PAGE),
        _segment(_PT_DYNAMIC, _READ_WRITE, at_dynamic, len(dynamic), 8),
        _segment(_PT_GNU_STACK, _READ_WRITE, 0, 0, 16),
    ]
    whole = bytearray(end)
    parts = {0: _header(len(segments)), _HEADER: b"".join(segments), at_code: code, at_hashes: hashes}
    for start, part in (parts | {at_names: names, at_symbols: symbols, at_dynamic: dynamic}).items():
        whole[start : start + len(part)] = part
    return bytes(whole)


def _aligned(offset: int) -> int:
    return -(-offset // 8) * 8


def _header(segments: int) -> bytes:
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    sizes = (_HEADER, _SEGMENT, segments, 64, 0, 0)
    return identity + struct.pack("<HHIQQQIHHHHHH", _SHARED, _X86_64, 1, 0, _HEADER, 0, 0, *sizes)


def _segment(kind: int, flags: int, offset: int, size: int, alignment: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, flags, offset, offset, offset, size, size, alignment)

"""Pickles of a few bytes that ask for more time or memory than there is: inputs for fuzzing to start from."""

import pickle
import pickletools
from collections.abc import Mapping
from types import MappingProxyType


def _pushed(value: object) -> bytes:
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]


_BEGIN = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"


def _array(state: bytes) -> bytes:
    """A state for an empty array."""
    call = _BEGIN + b"K\x00\x85U\x01b\x87R"
    return b"\x80\x02" + call + state + b"b."


_NESTED = b"N" + b"2\x86" * 22  # as text it has four million words
_DIGITS = b"\x8b" + (2**16).to_bytes(4, "little") + b"\x01" * 2**16  # an integer of 64 kB
_PRIME = 2**61 - 1  # the hash of its multiples is 0
_FOLLOWS = b"\x80\x02cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}("

HOSTILE: Mapping[str, bytes] = MappingProxyType(
    {
        "a class of nested tuples": _NESTED + b")\x81.",
        "a first shape of nested tuples": _BEGIN + _NESTED + b"N\x87R.",
        "a dtype of nested tuples": b"cnumpy\ndtype\n" + _NESTED + b"\x85R.",
        "a codec of nested tuples": b"c_codecs\nencode\nX\x01\x00\x00\x00a" + _NESTED + b"\x86R.",
        "a shape of nested tuples": b"cnumpy.core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\nU\x02f8\x85R"
        + _NESTED + b"U\x01CtR.",
        "a state's shape of nested tuples": _array(
            b"(K\x01(" + _NESTED + b"tcnumpy\ndtype\nU\x02f8\x85R\x89U\x00t"
        ),
        "a set of bytes, again and again": b"c__builtin__\nset\nq\x00" + _pushed("x" * 2**16)
        + b"\x85q\x01" + b"h\x00h\x01R0" * 1000 + b".",
        "a set of a list, again and again": b"c__builtin__\nset\nq\x00" + _pushed(list(range(100)))
        + b"\x85q\x01" + b"h\x00h\x01R0" * 300 + b"N.",
        "a state, again and again": b"(" + b"".join(_pushed(f"a{i}") + b"N" for i in range(100)) + b"dq\x01"
        + b"cscipy.sparse\ncsc_matrix\n)\x81q\x02" + b"h\x02h\x01b0" * 300 + b"N.",
        "a shape of large integers": _array(
            b"(K\x01" + _DIGITS + b"q\x01(" + b"h\x01" * 1000 + b"tq\x020h\x02cnumpy\ndtype\nU\x02f8\x85R\x89U\x00t"
        ),
        "keys of one hash": b"\x80\x02}(" + b"".join(_pushed(i * _PRIME) + b"N" for i in range(1, 5000)) + b"u.",
        "a place in the memo that nobody counts to": b"Np" + str(_PRIME).encode() + b"\n.",
        "a bytearray that is not there": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
        "bytes that are not there": b"\x80\x05\x8e" + (2**40).to_bytes(8, "little") + b".",
        "a frame that is not there": b"\x80\x05\x95" + (2**40).to_bytes(8, "little") + b".",
        "a name without end": b"\x80\x04" + _pushed("chumpy" + "." * 1000) + _pushed("Ch") + b"\x93.",
        "a key without end": b"}" + _pushed("x" * 2**16) + b"Ns.",
        "a key of complex numbers": b"}cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02c8\x85R"
        + _pushed("x" * 8) + b"\x86RNs.",
        "a state with methods": _FOLLOWS + _pushed("read") + b"cnumpy\ndtype\nub.",
    }
)  # fmt: skip
"""Each is refused, those that say something again and again where less may be made than usual."""

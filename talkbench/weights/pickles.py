"""Pickles as trees of inert records: what is imported is not, what is called is not.

A pickle is a program that imports and calls. Here every name it imports becomes an inert `Record` class, so what comes
out is a tree of records that says what should have been called with which arguments. Tensors are then made from the
few record kinds known to be tensors, and only when asked for: optimizer states, configurations and code stay records.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, ClassVar

_DICTS = {"collections.OrderedDict", "collections.defaultdict"}
_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class Damaged(Exception):  # noqa: N818 - names the state of a file
    """A file that is not whole, or not what its first bytes promise; the message is half a sentence."""


class Record:
    """What a pickle wanted made by `origin`: the arguments, the state and the entries it gave."""

    origin: ClassVar[str] = ""

    args: tuple[Any, ...]
    state: Any
    entries: list[tuple[Any, Any]]

    def __new__(cls, *args: Any, **_: Any) -> Record:
        """Keep the arguments."""
        made = super().__new__(cls)
        made.args, made.state, made.entries = args, None, []
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `__new__` has kept what was given, whether or not this is called."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries.append((key, value))

    def append(self, value: Any) -> None:
        """Forget an element; no list-like object holds weights."""

    add = append

    def __call__(self, *args: Any, **_: Any) -> Record:
        """Answer a call of something that was itself made by a call with one more inert record."""
        return Record(*args)


@dataclass(frozen=True)
class Storage:
    """A stretch of numbers that lies elsewhere in the file.

    Attributes:
        key: Its name in the file.
        dtype: Attribute of `torch`: ``float32``.
        numel: How many numbers.
        start: First number, where the storage is part of another one (older format).
    """

    key: str
    dtype: str
    numel: int
    start: int = 0


class Inert(pickle.Unpickler):
    """An unpickler for which every name is a record class and every persistent id a `Storage`."""

    def __init__(self, file: IO[bytes]) -> None:
        # Python 2 wrote the oldest official files; latin-1 decodes any of its strings.
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> type[Record]:
        """Return a class of records in place of whatever is named."""
        return type("Record", (Record,), {"origin": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Storage:
        """Note where numbers lie; the layout of the reference is that of `torch.save`."""
        kind, storage_type, key, _, numel, *view = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown kind of reference {kind!r:.40}")
        origin = getattr(storage_type, "origin", "")
        dtype = _DTYPES.get(origin.rpartition(".")[2])
        if dtype is None:
            raise pickle.UnpicklingError(f"storages of type {origin or storage_type!r:.60} are not supported")
        if not isinstance(numel, int) or numel < 0:
            raise pickle.UnpicklingError(f"a storage of {numel!r:.40} numbers")
        whole = self.storages[str(key)] = Storage(str(key), dtype, numel)
        if view and view[0] is not None:
            _, start, length = view[0]
            return Storage(whole.key, dtype, int(length), int(start))
        return whole


def as_mapping(value: Any) -> Mapping[Any, Any] | None:
    """Return a dictionary of the tree (plain or ordered) as a mapping; None for anything else.

    Raises:
        Damaged: If its entries are not pairs.
    """
    if isinstance(value, dict):
        return value
    if isinstance(value, Record) and value.origin in _DICTS:
        # Python 2 passed the entries of an ordered dictionary as pairs in its only argument.
        pairs = value.args[0] if value.args and isinstance(value.args[0], list) else []
        try:
            return dict([*pairs, *value.entries])
        except (TypeError, ValueError) as error:
            raise Damaged("a dictionary in it has entries that are not pairs") from error
    return None

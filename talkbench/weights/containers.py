"""Files written by `torch.save` and `torch.jit.save`: the tree of records inside, and tensors on request.

Three containers: the zip of torch >= 1.6, the TorchScript archive (the same zip with code beside it, which is not
looked at), and the older sequence of pickles followed by raw storages.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from talkbench.weights.pickles import Damaged, Inert, Record, Storage

if TYPE_CHECKING:
    import torch

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""First pickle of a file in the older format (PyTorch, `torch/serialization.py`)."""

_TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
_TYPED = {"torch._tensor._rebuild_from_type_v2"}
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, KeyError, ValueError, OSError, EOFError, RuntimeError)
"""What `zipfile` raises for damaged files; `NotImplementedError` is a `RuntimeError`."""


class PickleFile(ABC):
    """An opened file: the tree of records, and the tensors on request.

    Attributes:
        top: What was saved: a record, a dictionary, or anything else.
        one_at_a_time: Let go of a storage as soon as another is asked for.
    """

    top: Any
    one_at_a_time = False

    @abstractmethod
    def _read(self, key: str, num_bytes: int) -> bytearray:
        """Return the bytes of a whole storage."""

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> PickleFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole: dict[str, torch.Tensor] = {}
        self._sizes: dict[str, Storage] = {}

    def tensor(self, value: Any) -> torch.Tensor | None:
        """Return the tensor that a value of the tree stands for, None if it stands for something else.

        Raises:
            Damaged: If it is not described as torch does, reaches beyond its storage, or the storage is cut off.
        """
        if not self.is_tensor(value):
            return None
        try:
            if value.origin in _PARAMETERS:
                return self.tensor(value.args[0])
            if value.origin in _TYPED:
                function, _, args = value.args[:3]
                return self.tensor(function(*args))
            storage, offset, size, stride = value.args[:4]
            numbers_N = self._storage(storage)[storage.start : storage.start + storage.numel]
            return numbers_N.as_strided(size, stride, offset)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            raise Damaged(f"a tensor of it is described wrongly ({type(error).__name__}: {error})") from error

    def is_tensor(self, value: Any) -> bool:
        """Return whether a value of the tree stands for a tensor, without reading its numbers."""
        return isinstance(value, Record) and value.origin in _TENSORS | _PARAMETERS | _TYPED

    def _storage(self, storage: Storage) -> torch.Tensor:
        import torch

        if storage.key not in self._whole:
            if self.one_at_a_time:
                self._whole.clear()
            whole = self._sizes[storage.key]
            dtype: torch.dtype = getattr(torch, whole.dtype)
            num_bytes = whole.numel * dtype.itemsize
            data = self._read(whole.key, num_bytes)
            if len(data) != num_bytes or storage.dtype != whole.dtype:
                raise Damaged(f"its storage {whole.key} is not {whole.numel} numbers of type {whole.dtype}")
            self._whole[storage.key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._whole[storage.key]

    def _unpickle(self, file: IO[bytes]) -> Any:
        unpickler = Inert(file)
        try:
            found = unpickler.load()
        except Exception as error:  # a broken pickle raises nearly any type
            raise Damaged(f"its pickle cannot be read ({type(error).__name__}: {error})") from error
        self._sizes.update(unpickler.storages)
        return found


class ZipFile(PickleFile):
    """The zip of torch >= 1.6, TorchScript archives included."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except ZIP_ERRORS as error:
            raise Damaged("it is cut off: the list of contents at its end is missing") from error
        try:
            names = [name for name in self._zip.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
            if not names:
                raise Damaged("it is a zip file, but not one that torch wrote")
            self._root = names[0].partition("/")[0]
            with self._entry(names[0]) as file:
                self.top = self._unpickle(file)
        except BaseException:
            self._zip.close()
            raise

    def close(self) -> None:
        """Release the file."""
        self._zip.close()

    def _entry(self, name: str) -> IO[bytes]:
        try:
            return self._zip.open(name)
        except ZIP_ERRORS as error:
            raise Damaged(f"its part {name} is missing or damaged") from error

    def _read(self, key: str, num_bytes: int) -> bytearray:
        name = f"{self._root}/data/{key}"
        with self._entry(name) as file:
            if self._zip.getinfo(name).file_size < num_bytes:
                raise Damaged(f"its part {name} is shorter than the {num_bytes} bytes it should have")
            try:
                # The whole entry, so that zipfile compares the checksum.
                return bytearray(file.read())[:num_bytes]
            except ZIP_ERRORS as error:
                raise Damaged(f"its part {name} is damaged: {error}") from error


class LegacyFile(PickleFile):
    """The format before torch 1.6: magic number, version, system facts, object, storage names, raw storages."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = path.open("rb")
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        if self._unpickle(self._file) != LEGACY_MAGIC:
            raise Damaged("it is a pickle, but not one that torch wrote")
        for _ in ("protocol version", "system facts"):
            self._unpickle(self._file)
        self.top = self._unpickle(self._file)
        keys = self._unpickle(self._file)
        if not isinstance(keys, list):
            raise Damaged("its list of storages is missing")
        self._starts: dict[str, int] = {}
        end = self.path.stat().st_size
        import torch

        for key in map(str, keys):
            head = self._file.read(8)
            if len(head) < 8 or key not in self._sizes:
                raise Damaged("it is cut off")
            (numel,) = struct.unpack("<q", head)
            storage = self._sizes[key]
            if numel < storage.numel:
                raise Damaged(f"its storage {key} has {numel} numbers instead of {storage.numel}")
            self._starts[key] = self._file.tell()
            after = self._starts[key] + numel * getattr(torch, storage.dtype).itemsize
            if after > end:
                raise Damaged(f"it is cut off: {end} bytes, at least {after} expected")
            self._file.seek(after)

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _read(self, key: str, num_bytes: int) -> bytearray:
        if key not in self._starts:
            raise Damaged(f"its storage {key} is missing")
        self._file.seek(self._starts[key])
        data = bytearray(num_bytes)
        if self._file.readinto(data) != num_bytes:
            raise Damaged(f"its storage {key} is cut off")
        return data


def open_pickle(path: Path) -> PickleFile:
    """Open a file of either container.

    Raises:
        Damaged: If it is neither, or not whole.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith(b"PK"):
        return ZipFile(path)
    if head.startswith(b"\x80"):
        return LegacyFile(path)
    raise Damaged("its first bytes are neither those of a zip nor of a pickle")

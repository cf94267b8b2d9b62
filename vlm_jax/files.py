"""Files and folders that are either complete or absent."""

import codecs
import contextlib
import errno
import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from vlm_jax.errors import InputError

try:
    import fcntl
except ImportError:
    # Not on Windows.
    fcntl = None

# How the pointer files of Git LFS begin, and those of its first releases.
_POINTERS = (b"version https://git-lfs", b"version https://hawser")
# How other files begin that people have rows in, and what makes JSON of them.
_BY_DATASETS = "the JSON that datasets' to_json makes of it, pictures in files of their own"
_PACKED = {
    b"PAR1": ("a parquet file", _BY_DATASETS),
    b"ARROW1": ("an Arrow file", _BY_DATASETS),
    b"\x1f\x8b": ("a gzip file", "the JSON in it"),
    b"PK\x03\x04": ("a zip archive", "the JSON in it"),
}


def below(folder: Path, name: str | Path, *, allow_outside: bool = False) -> Path:
    """``folder / name``, for a name that stands in a file and may have been written by anybody: it must lie below the
    folder after all links are followed (the folder itself may be one). Whether there is such a file is not asked.

    Args:
        folder: What the name is relative to.
        name: As it stands in the file.
        allow_outside: Whether any place will do.

    Raises:
        InputError: It lies elsewhere, or is no name.
    """
    path = folder / name
    if not allow_outside:
        try:
            # By hand, since a file of rows asks a million times.
            inside = os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), ""))
        except ValueError:
            # A zero byte.
            raise InputError(f"the name {str(name)!r}", "the name of a file") from None
        if not inside:
            found = f"{str(name)!r}, which does not lie below {folder} once links are followed"
            raise InputError(found, "a name below it, or --allow-outside")
    return path


def refuse_existing(path: Path) -> None:
    """Raises:
    InputError: There is something of this name; nothing is overwritten.
    """
    if path.exists():
        raise InputError("a folder or file that exists already", "a new name", file=str(path))


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside it to write into: it takes the folder's name at the end, or goes if the block raises.

    Raises:
        InputError: ``folder`` exists already; nothing is overwritten.
    """
    refuse_existing(folder)
    with _beside(folder) as partial:
        partial.mkdir()
        yield partial
        # Somebody else may have made it since.
        refuse_existing(folder)
        partial.rename(folder)


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """The name of a folder to make, which takes the place of ``folder`` at the end. Who is killed in between finds the
    old one, the new one, or for a moment neither."""
    with _beside(folder) as partial:
        yield partial
        if folder.exists():
            folder.rename(partial.with_name("before"))
        partial.rename(folder)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A place of the same name in a hidden folder beside ``path``, which is new in any case and goes at the end.

    In a folder, since what is made in it has the usual permissions; temporary files and folders themselves have not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{path.name}.partial-", dir=path.parent, ignore_cleanup_errors=True
    ) as folder:
        try:
            yield Path(folder) / path.name
        except OSError as error:
            # A full disk is met while writing, where the system names no file; and nobody knows the hidden name.
            written = error.filename2 or error.filename
            if error.errno is not None and (written is None or str(written).startswith(folder)):
                error.filename, error.filename2 = str(path), None
            raise


def require_writable(path: Path) -> None:
    """Raises what writing ``path`` would raise, before the hours whose result shall lie there."""
    with _beside(path):
        pass


@contextlib.contextmanager
def locked(path: Path, whole: Path | None = None) -> Iterator[None]:
    """:func:`hold` a file, made where there is none, until the block ends or the process does, in whichever way.

    Args:
        path: The file.
        whole: What is kept for oneself by it; its folder without.

    Raises:
        InputError: Somebody else holds it.
    """
    while True:
        with path.open("ab") as file:
            try:
                hold(file, wait=False)
            except BlockingIOError:
                found = f"a {'file' if whole else 'folder'} in use by another process"
                raise InputError(found, "to be alone in it", file=str(whole or path.parent)) from None
            # Whoever held it before may have taken it away in between: then it keeps nobody out.
            if _is_open(path, file):
                yield
                return


def _is_open(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def hold(file: IO[bytes], wait: bool = True) -> None:
    """Keep others who hold a file out of it until it is closed.

    Where the system has no ``flock`` (Windows) or the file system does not support it (some network ones), nothing is
    held and nobody is kept out.

    Raises:
        BlockingIOError: Somebody else holds it, and ``wait`` is off.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        InputError: It cannot be opened or is not UTF-8.
    """
    with _readable(path):
        content = Path(path).read_bytes()
    start = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    return decode(content[start:], path, start)


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a UTF-8 file, one in memory at a time, with their ends; errors as in :func:`read_text`."""
    with _readable(path), Path(path).open("rb") as file:
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        done = file.tell()
        for line in file:
            yield decode(line, path, done)
            done += len(line)


def refuse_pointer(path: Path) -> None:
    """Look at a file's first bytes before somebody reads it as what its name says.

    Raises:
        InputError: It cannot be opened, or is what Git LFS puts in a large file's place until that is fetched.
    """
    with _readable(path), path.open("rb") as file:
        start = file.read(max(map(len, _POINTERS)))
    if start.startswith(_POINTERS):
        raise InputError("a Git LFS pointer in the file's place", "the file itself (git lfs pull)", file=str(path))


def refuse_packed(path: str | Path) -> None:
    """Look at a file's first bytes before somebody reads it as rows of JSON.

    Raises:
        InputError: As in :func:`refuse_pointer`, or the file is one that rows have to be taken out of.
    """
    refuse_pointer(path := Path(path))
    with path.open("rb") as file:
        start = file.read(max(map(len, _PACKED)))
    for beginning, (found, wanted) in _PACKED.items():
        if start.startswith(beginning):
            raise InputError(found, wanted, file=str(path))


@contextlib.contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    try:
        _refuse_streams(path)
        yield
    except FileNotFoundError:
        raise InputError("no such file", "a file", file=str(path)) from None
    except PermissionError:
        raise InputError("a file that is not permitted to be read", "the right to read it", file=str(path)) from None
    except OSError as error:
        raise InputError(f"a file that cannot be read ({error.strerror})", "a file", file=str(path)) from None
    except MemoryError:
        found = f"a file of {os.path.getsize(path):,} bytes"
        raise InputError(found, "one that fits into memory", file=str(path)) from None


def _refuse_streams(path: str | Path) -> None:
    """A pipe may wait for ever, and a device never end."""
    try:
        mode = os.stat(path).st_mode
    except ValueError:
        # A zero byte.
        raise InputError(f"the name {str(path)!r}", "the name of a file") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        found = "no regular file (pipes and devices are not read)"
        raise InputError(found, "a file; write what comes out of a pipe to one first", file=str(path))


def decode(content: bytes, path: str | Path, before: int = 0) -> str:
    """The text of bytes that stand behind ``before`` others in a file.

    Raises:
        InputError: They are not UTF-8.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        found = f"byte {before + error.start} that is not UTF-8"
        raise InputError(found, "UTF-8 text", file=str(path)) from None


def refuse_constant(name: str) -> None:
    """What JSON decoders call on NaN and Infinity."""
    raise InputError(f"{name}, which is not JSON", "a finite number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise InputError(f"the key {twice!r} for the second time", "keys that differ")
    return found


def malformed(error: json.JSONDecodeError, lines_before: int = 0) -> str:
    """What is wrong with a text that should be JSON, where, and what stands there."""
    rest = error.doc[error.pos : error.pos + 20]
    wrong = f"{error.msg.removesuffix(' at')} at {repr(rest) if rest else 'the end'}"
    return f"malformed JSON at line {error.lineno + lines_before}, column {error.colno} ({wrong})"


def read_json(path: str | Path, unique: bool = False) -> dict[str, Any]:
    """The one JSON object that a file holds.

    Args:
        path: The file.
        unique: Whether a key that comes twice in an object is refused; otherwise the last one stands.

    Raises:
        InputError: The file cannot be read, or holds malformed JSON, NaN or Infinity, or anything but an object.
    """
    text, file = read_text(path), str(path)
    try:
        value = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=_unique if unique else None)
    except json.JSONDecodeError as error:
        refuse_pointer(Path(path))
        raise InputError(malformed(error), "a JSON object", file=file) from None
    except InputError as error:
        raise error.at(file) from None
    except RecursionError:
        raise InputError("JSON in too many levels", "a JSON object", file=file) from None
    except ValueError:
        # Python converts no more digits than this on its own.
        found = f"a number of more than {sys.get_int_max_str_digits()} digits"
        raise InputError(found, "a JSON object", file=file) from None
    if not isinstance(value, dict):
        raise InputError(f"a {type(value).__name__}", "a JSON object", file=file)
    return value


def file_sha256(path: Path) -> bytes:
    """Raises:
    InputError: The file cannot be read.
    """
    with _readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def plain(value: Any) -> Any:
    """As JSON has it; a path is its name."""
    return json.loads(json.dumps(value, default=str))


def write_json(path: str | Path, value: object) -> None:
    """Readable UTF-8 JSON with a newline at its end."""
    write_bytes(path, (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode())


_encode = json.JSONEncoder(ensure_ascii=False).encode


def write_json_lines(path: str | Path, rows: Iterable[dict]) -> None:
    """One compact JSON object a line, written as the rows come."""
    write_lines(path, ((_encode(row) + "\n").encode() for row in rows))


def write_lines(path: str | Path, lines: Iterable[bytes]) -> None:
    """Lines with their ends, written as they come."""
    with _replacing(Path(path)) as partial, partial.open("wb") as file:
        file.writelines(lines)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that was written line by line; a last line that was cut off by a kill is left out.

    Raises:
        InputError: A line is no JSON object; names it.
    """
    # Bytes: a kill may cut a letter, and splitlines of text also splits at separators that JSON may hold as they are.
    with _readable(path):
        *lines, _ = path.read_bytes().split(b"\n")
    return [_written_line(line, path, number) for number, line in enumerate(lines, 1)]


def _written_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{line[:60]!r}", "a JSON object, as it was written", file=str(path), row=number)
    return value


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write beside the target, then rename onto it, making folders on the way."""
    with _replacing(Path(path)) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    with _beside(path) as partial:
        yield partial
        partial.replace(path)


def files_sha256(files: Iterable[Path]) -> str:
    """One hash over the names and contents of files, in this order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + file_sha256(path))
    return digest.hexdigest()

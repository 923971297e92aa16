"""Files that others wrote, as :mod:`runtimes.files.untrusted` reads them; what it refuses is an InvalidInput here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, fromstring

from numpy.typing import NDArray

from ..errors import InvalidInput
from ..siblings import runtimes

TEXT_BYTES: int = runtimes.files.untrusted.TEXT_BYTES
ARRAY_BYTES: int = runtimes.files.untrusted.ARRAY_BYTES
OPTION: str = runtimes.files.untrusted.OPTION
large_files: Callable[[], bool] = runtimes.files.untrusted.large_files


@contextmanager
def refused(what: str = "", advice: str = "") -> Iterator[None]:
    """Tell what is refused within as InvalidInput, with ``what`` the file is before it and ``advice`` behind."""
    try:
        yield
    except runtimes.files.untrusted.Unreadable as error:
        message = f"{what} {error}".lstrip()
        raise InvalidInput(f"{message}; {advice}" if advice else message) from error


def require_at_most(count: int, most: int, what: str, where: object) -> None:
    """Raise InvalidInput if ``where`` has more than ``most`` of ``what``, and the limits are not lifted."""
    with refused():
        runtimes.files.untrusted.require_at_most(count, most, what, where)


def require_file(path: Path, what: str) -> None:
    """Raise InvalidInput unless ``path`` is a plain file, or a link to one."""
    with refused(what):
        runtimes.files.untrusted.require_file(path)


def read_bytes(path: Path, what: str, most: int = ARRAY_BYTES) -> bytes:
    """What is in a file; raises InvalidInput."""
    with refused(what):
        content: bytes = runtimes.files.untrusted.read_bytes(path, most)
    return content


def read_text(path: Path, what: str, advice: str = "", most: int = TEXT_BYTES) -> str:
    """The text of a file in UTF-8; raises InvalidInput."""
    with refused(what, advice):
        text: str = runtimes.files.untrusted.read_text(path, most)
    return text


def read_json(path: Path, what: str, advice: str = "") -> Any:
    """What a file of JSON holds; raises InvalidInput."""
    with refused(what, advice):
        return runtimes.files.untrusted.read_json(path)


def parse_json(text: str, where: str, advice: str = "") -> Any:
    """What ``text`` holds; raises InvalidInput."""
    with refused("", advice):
        return runtimes.files.untrusted.parse_json(text, where)


def read_arrays(path: Path, what: str, advice: str = "") -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` by name; raises InvalidInput."""
    with refused(what, advice):
        arrays: dict[str, NDArray[Any]] = runtimes.files.untrusted.read_arrays(path)
    return arrays


def read_xml(path: Path, what: str, advice: str = "") -> Element:
    """The root of a file of XML in UTF-8, without a document type, whose entities could unfold; raises InvalidInput."""
    text = read_text(path, what, advice)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InvalidInput(f"{what} {path}: XML with a document type (<!DOCTYPE) is not read; take it out".lstrip())
    try:
        return fromstring(text)
    except (ParseError, ValueError) as error:
        raise InvalidInput(f"{what} {path}: not XML ({error})".lstrip()) from error

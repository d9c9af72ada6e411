"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write so that `path` is there, or replaced, only once all is written.

    Yields:
        A path beside it, of the same suffix; what is left of it after an error is removed.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    part = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.filename != str(part):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # of the subclass that fits
    finally:
        part.unlink(missing_ok=True)

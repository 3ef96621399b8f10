"""Temporary folders of this package; what a killed process left goes when the next one is made."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

from .files import writing

PREFIX, LOCK = "longrope-lab-", ".longrope-lab.lock"

# Seconds that a new folder has until it is locked.
NEW = 60


class ScratchFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder that is held by a lock, which ends with the process, however that ends.

    When one is made, those that nobody holds any more are removed.

    Raises:
        UnwritableError: there is no room for temporary files.
    """

    def __init__(self) -> None:
        with writing("the folder of temporary files (TMPDIR)"):
            _remove_left()
            super().__init__(prefix=PREFIX, ignore_cleanup_errors=True)
        # Another thread may clean up.
        self._lock = FileLock(Path(self.name, LOCK), thread_local=False)
        self._lock.acquire(blocking=False)

    def cleanup(self) -> None:
        """Remove it."""
        self._lock.release()  # Windows removes no file that is open
        super().cleanup()


def _remove_left() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # Another's folder cannot be read, and one that is held cannot be locked.
        with contextlib.suppress(OSError, Timeout):
            if _may_be_left(folder):
                with FileLock(folder / LOCK, blocking=False):
                    shutil.rmtree(folder, ignore_errors=os.name == "nt")


def _may_be_left(folder: Path) -> bool:
    """Whether a folder is ours, as its lock tells, and not one that is being made."""
    about = folder.lstat()
    ours = about.st_uid == os.getuid() if hasattr(os, "getuid") else True
    return ours and time.time() - about.st_mtime > NEW and (folder / LOCK).is_file()

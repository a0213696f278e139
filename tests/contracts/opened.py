"""Which files a command opens, watched by inotify: every process and every library, Python or not."""

import ctypes
import os
import struct
import threading
from pathlib import Path

IN_OPEN, IN_Q_OVERFLOW, IN_ISDIR = 0x20, 0x4000, 0x40000000  # <sys/inotify.h>
_libc = ctypes.CDLL(None, use_errno=True)


class Opened:
    """`with Opened(folder) as opened: ...`, then `opened.files`: relative to the folder, those that it had before."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: set[str] = set()

    def __enter__(self) -> "Opened":
        self._inotify = _libc.inotify_init1(os.O_CLOEXEC)
        self._folders = {}
        for folder, _, _ in os.walk(self.folder):
            watch = _libc.inotify_add_watch(self._inotify, os.fsencode(folder), IN_OPEN)
            if watch < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)
            self._folders[watch] = Path(folder).relative_to(self.folder)
        self._before = {path for path in self.folder.rglob("*") if path.is_file()}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self) -> None:
        """Until the file that __exit__ opens."""
        while ".end" not in self.files:
            events = os.read(self._inotify, 2**20)
            while events:
                watch, mask, _, length = struct.unpack_from("iIII", events)
                assert not mask & IN_Q_OVERFLOW, "events were lost"
                name, events = events[16 : 16 + length].rstrip(b"\0").decode(), events[16 + length :]
                if name and not mask & IN_ISDIR:
                    self.files.add(str(self._folders[watch] / name))

    def __exit__(self, *_: object) -> None:
        end = self.folder / ".end"
        end.touch()
        self._reader.join()
        os.close(self._inotify)
        end.unlink()
        self.files &= {str(path.relative_to(self.folder)) for path in self._before}

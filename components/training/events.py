"""Live curves for TensorBoard: `tensorboard --logdir FOLDER`. Beside the checkpoints, as they hold times.

Written record by record (half of torch.utils.tensorboard's work is importing it). A run that continues after a kill
opens a new file which says that later points of earlier files do not count.
"""

import os
import socket
import time
from pathlib import Path

from components.training.curves import Row

FOLDER = "tensorboard"


class Events:
    def __init__(self, checkpoints: Path, step: int) -> None:
        """`step`: steps done before; points after it in earlier files are void."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]  # made by protobuf
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder = checkpoints / FOLDER
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 1000:016d}.{socket.gethostname()}.{os.getpid()}"
        self._file = RecordWriter(open(folder / name, "wb"))  # noqa: SIM115  # closed by close
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=step + 1, session_log=start))
        self.flush()

    def add(self, row: Row) -> None:
        """A point of the curves; figures named valid_... under valid/, others without a group under train/."""
        values = [
            self._summary.Value(tag=_tag(name), simple_value=value) for name, value in row.items() if name != "step"
        ]
        summary = self._summary(value=values)
        self._write(self._event(wall_time=time.time(), step=int(row["step"]), summary=summary))

    def flush(self) -> None:
        """Make what was added visible to readers."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, event) -> None:  # type: ignore[no-untyped-def]  # Event is imported late
        self._file.write(event.SerializeToString())


def _tag(name: str) -> str:
    if "/" in name:
        return name
    return f"valid/{name.removeprefix('valid_')}" if name.startswith("valid_") else f"train/{name}"

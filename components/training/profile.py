"""A trace of a few steps by torch.profiler: the costliest operations as a table, everything as a file to look at."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from components.training.progress import say

FOLDER = "profile"
WARM = 3  # steps that pass before: the first ones allocate, choose kernels and compile
ROWS = 12  # operations in the table


class Profile:
    """Traces `steps` steps; call `step` after each. What it leaves lies in `checkpoints`/profile, if there is one."""

    def __init__(self, steps: int, device: torch.device, checkpoints: Path | None) -> None:
        self.device, self.checkpoints = device, checkpoints
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
        phases = schedule(skip_first=WARM, wait=0, warmup=1, active=steps, repeat=1)
        self._profile = profile(activities=activities, schedule=phases, on_trace_ready=self._show, acc_events=True)
        self._profile.start()

    def step(self) -> None:
        self._profile.step()

    def close(self) -> None:
        self._profile.stop()

    def _show(self, trace: profile) -> None:
        order = f"self_{self.device.type}_time_total"
        say(trace.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=50))
        if self.checkpoints:
            path = self.checkpoints / FOLDER / "trace.json.gz"
            path.parent.mkdir(exist_ok=True)
            trace.export_chrome_trace(str(path))
            say(f"trace: {path}: open it at ui.perfetto.dev or chrome://tracing")

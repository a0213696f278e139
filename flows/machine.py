"""What stages share of the machine: slots, filled by the threads they declare, and devices, held by one at a time."""

import os
import subprocess
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from flows.graph import Needs


@dataclass(frozen=True)
class Grant:
    """What a running stage holds."""

    slots: int
    devices: tuple[str, ...]
    exclusive: bool


class Machine:
    """Slots and devices, given to stages and taken back; safe between threads."""

    def __init__(self, slots: int, devices: Iterable[str]) -> None:
        self.slots = slots
        self.devices = tuple(devices)
        self._held: list[Grant] = []
        self._lock = threading.Lock()

    def take(self, needs: Needs) -> Grant | None:
        """A grant for a stage with these needs, or None if it does not fit beside what runs."""
        with self._lock:
            used = {device for grant in self._held for device in grant.devices}
            free = [device for device in self.devices if device not in used]
            slots = min(max(1, needs.threads), self.slots)
            full = sum(grant.slots for grant in self._held) + slots > self.slots
            company = bool(self._held) and (needs.exclusive or any(grant.exclusive for grant in self._held))
            if full or company or needs.gpus > len(free):
                return None
            grant = Grant(slots, tuple(free[: needs.gpus]), needs.exclusive)
            self._held.append(grant)
            return grant

    def lacks(self, needs: Needs) -> str:
        """Why a stage with these needs can never run here, or nothing."""
        if needs.gpus > len(self.devices):
            return f"asks for {needs.gpus} GPUs (meta.gpus), {len(self.devices)} declared or found"
        return ""

    def give(self, grant: Grant) -> None:
        """Take back what a stage held."""
        with self._lock:
            self._held.remove(grant)


def find_devices() -> list[str]:
    """The GPUs that this process may use: those of CUDA_VISIBLE_DEVICES if set, else of `nvidia-smi -L`."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return []
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [line.split()[1].rstrip(":") for line in lines]

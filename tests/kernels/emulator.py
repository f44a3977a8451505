"""A machine under software emulation."""
from __future__ import annotations

import subprocess
import tarfile
import time
from pathlib import Path
from typing import Optional

PROGRAMME = "qemu-system-x86_64"
RESULTS_BYTES = 64 << 20
MEMORY = 1536  # MiB: the system in its tmpfs takes 200, the tests' trees and memory files some more
# Never hardware acceleration: inside a virtual machine guests may hang when they start. Newer processor models make
# 6.12 panic now and then (emulated cmpxchg16b), `microvm` hangs, and on a busy machine the timer check fails.
MACHINE = ("-accel", "tcg,tb-size=256", "-cpu", "Nehalem,-cx16", "-M", "pc", "-smp", "1", "-m", str(MEMORY),
           "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none")
KERNEL_WORDS = "console=ttyS0 quiet edd=off no_timer_check mitigations=off panic=-1"
USERSPACE = "userspace reached after"


def version() -> str:
    done = subprocess.run([PROGRAMME, "--version"], check=True, stdout=subprocess.PIPE, text=True)
    return " ".join(done.stdout.split()[:4])


class Machine:
    """One boot, from its creation on. What it left on its second disk lies in `place` when it has ended.

    folding  the third disk, a file system that ignores case where it is asked to; what is written to it is lost
    """

    def __init__(
        self, kernel: Path, initramfs: Path, system: Path, folding: Path, place: Path, name: str, limit: float,
    ) -> None:
        self.console = place / f"{name}.console.txt"
        self.place = place
        self.limit = limit
        self.begin = time.monotonic()
        self.disk = place / f"{name}.disk"
        with self.disk.open("wb") as file:
            file.truncate(RESULTS_BYTES)
        self.console.unlink(missing_ok=True)
        # It ends with us, however we end.
        self.process = subprocess.Popen([
            "setpriv", "--pdeathsig", "KILL", PROGRAMME, *MACHINE, "-kernel", kernel, "-initrd", initramfs,
            "-append", KERNEL_WORDS, "-serial", f"file:{self.console}",
            "-drive", f"file={system},if=virtio,format=raw,readonly=on",
            "-drive", f"file={self.disk},if=virtio,format=raw",
            "-drive", f"file={folding},if=virtio,format=raw,snapshot=on",
        ], stdin=subprocess.DEVNULL)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    def poll(self) -> Optional[str]:
        """None while it runs; then how it ended, `off` if well. `panic`, `stall` and `no userspace` are the emulator's.

        A stall is a machine that lost minutes in one place while its clock, which is ours, went on.
        """
        status = self.process.poll()
        if status is None and self.seconds < self.limit:
            return None
        self.kill()
        said = self.console.read_text(errors="replace") if self.console.exists() else ""
        self._collect()
        if "Kernel panic" in said:
            return "panic"
        if USERSPACE not in said:
            return "no userspace"
        if status is None:
            return f"more than {self.limit:.0f} s"
        if "soft lockup" in said:
            return "stall"
        return f"{PROGRAMME}: status {status}" if status else "off"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _collect(self) -> None:
        with tarfile.open(self.disk) as results:
            for entry in results:
                content = results.extractfile(entry)
                if content:
                    (self.place / Path(entry.name).name).write_bytes(content.read())
        self.disk.unlink()

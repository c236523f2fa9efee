"""Where the networks run: which device is wanted, which one there is, and what is done when its memory runs out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from covct.errors import DeviceMissing, UsageError

NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
DRIVER = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))
TENSORFLOW, OPENVINO = "tensorflow", "openvino"  # what computes, of `networks.runtimes`
FLOAT32, BFLOAT16 = "float32", "bfloat16"
# Out of memory as TensorFlow, JAX and PyTorch say it: the kind of the error, or words in it. Their classes are not
# imported: which of them computes is not known here.
OUT_OF_MEMORY_KINDS = {"ResourceExhaustedError", "OutOfMemoryError", "MemoryError", "_ArrayMemoryError"}
OUT_OF_MEMORY_WORDS = re.compile(
    r"RESOURCE_EXHAUSTED|OUT_OF_MEMORY|out of memory|STATUS_ALLOC_FAILED|failed to allocate|Dst tensor is not init",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Device:
    """Where the networks ran.

    Attributes
    ----------
    kind, name : str
        "cpu" or "gpu", and its name. The CPU where a GPU's memory did not suffice and some slices were done there.
    batch : int or None
        Slices computed at once, the fewest where there were several numbers; None for what is not batched.
    fallbacks : tuple of str
        What was tried before, and why not that.
    runtime, precision : str or None
        What computed the networks (openvino, tensorflow, jax), and in which numbers; None for what is neither.
    """

    kind: str
    name: str
    batch: int | None = None
    fallbacks: tuple[str, ...] = ()
    runtime: str | None = None
    precision: str | None = None


@dataclass
class Ladder:
    """Slices through a network in batches: of half the size where memory runs out, and so on, at last on the CPU.

    One ladder serves all networks of a device, which share its memory. It goes down within a series and begins again at
    the top with the next one: another process may have given the memory back.

    Attributes
    ----------
    device : Device
    batch : int
        Slices at once, to begin with.
    """

    device: Device
    batch: int
    _down: int = 0
    _fallbacks: list[str] = field(default_factory=list)

    @property
    def rungs(self) -> list[tuple[str, int]]:
        """Kind of device and batch size, in the order they are tried in."""
        sizes = [self.batch >> halved for halved in range(self.batch.bit_length())]
        return [(kind, size) for kind in dict.fromkeys((self.device.kind, "cpu")) for size in sizes]

    def begin(self) -> None:
        """A new series: from the top again."""
        self._down = 0
        self._fallbacks.clear()

    def used(self) -> Device:
        """The device as it was used since `begin`."""
        kind, batch = self.rungs[self._down]
        name = self.device.name if kind == self.device.kind else f"cpu, in place of {self.device.name}"
        return replace(
            self.device, kind=kind, name=name, batch=batch, fallbacks=(*self.device.fallbacks, *self._fallbacks)
        )

    def run(
        self, compute: Callable[[np.ndarray, str], np.ndarray], slices: np.ndarray, most: int | None = None
    ) -> np.ndarray:
        """All slices through a network; those that are done stay done when memory runs out.

        Parameters
        ----------
        compute : function (slices (batch, rows, columns, channels), "cpu" or "gpu") -> (batch, ...)
            Always given a full batch: another shape would trace the graph once more.
        slices : (slices, rows, columns, channels), or (patches, slices, rows, columns, channels)
        most : int, optional
            Not more than so many at once: patches of a volume are large.

        Returns
        -------
        (slices, ...) float32
            As `compute` gives them.

        Raises
        ------
        MemoryError
            Not even one slice at a time on the CPU.
        """
        out = None
        start = 0
        while start < len(slices):
            kind, batch = self.rungs[self._down]
            batch = min(batch, most or batch)
            part = slices[start : start + batch]
            padded = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), part.dtype)])
            try:
                computed = compute(padded, kind)[: len(part)]
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._step_down(error, batch)
                continue
            if out is None:
                out = np.empty((len(slices), *computed.shape[1:]), np.float32)
            out[start : start + batch] = computed
            start += batch
        return np.empty(slices.shape[:-1], np.float32) if out is None else out

    def _step_down(self, error: Exception, at_once: int) -> None:
        """To the next rung that asks for less than what was tried."""
        kind, _ = self.rungs[self._down]
        less = [
            rung
            for rung, (other, batch) in enumerate(self.rungs)
            if rung > self._down and (other != kind or batch < at_once)
        ]
        if not less:
            raise MemoryError(f"{kind}: no memory for one slice at a time") from error
        self._fallbacks.append(f"{kind}: out of memory with {at_once} slice{'s' * (at_once > 1)} at once")
        self._down = less[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's or the machine's memory did not suffice."""
    return type(error).__name__ in OUT_OF_MEMORY_KINDS or bool(OUT_OF_MEMORY_WORDS.search(str(error)))


@dataclass(frozen=True)
class Wish:
    """`--device`: "auto", "cpu" or "gpu", and the number of one GPU."""

    kind: str
    number: int | None = None


def parse_wish(text: str) -> Wish:
    found = re.fullmatch(r"(auto|cpu|gpu)|gpu:(\d{1,4})", text.strip().lower())
    if not found:
        raise UsageError(f"--device {text}: wanted auto, cpu, gpu or gpu:N, with N as nvidia-smi numbers them")
    return Wish(found[1] or "gpu", int(found[2]) if found[2] else None)


def select(wish: Wish, environment: MutableMapping[str, str], gpus: Path = NVIDIA_GPUS) -> None:
    """Show CUDA only what is wanted. To be called before anything that computes is imported.

    Where CUDA_VISIBLE_DEVICES is set already, as by a scheduler, N counts among those that it names.

    Raises
    ------
    DeviceMissing
        There is no GPU of that number.
    """
    if wish.kind == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
    if wish.number is None:
        return
    environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the numbers of nvidia-smi, not the fastest first
    given = environment.get("CUDA_VISIBLE_DEVICES")
    names, visible = present_gpus(gpus), visible_gpus(environment, gpus)
    if wish.number < len(visible):
        environment["CUDA_VISIBLE_DEVICES"] = visible[wish.number]
    elif given is None and not names:  # a driver that does not list them: the network's backend has the last word
        environment["CUDA_VISIBLE_DEVICES"] = str(wish.number)
    else:
        raise DeviceMissing(f"GPU {wish.number} was asked for; {_there_are(names, given)}")


def missing(wish: Wish, environment: MutableMapping[str, str], gpus: Path = NVIDIA_GPUS) -> DeviceMissing:
    """The error for a GPU that is required, and that the backend does not see."""
    wanted = "a GPU is required" if wish.number is None else f"GPU {wish.number} was asked for"
    there = _there_are(present_gpus(gpus), environment.get("CUDA_VISIBLE_DEVICES"))
    return DeviceMissing(
        f"{wanted}, and keras sees none; {there}; check the driver, or run with --device cpu and without --require-gpu"
    )


def present_gpus(folder: Path = NVIDIA_GPUS) -> list[str]:
    """Names of the NVIDIA GPUs that the driver lists, in the order of nvidia-smi; empty where it lists none."""
    names = []
    for path in sorted(folder.glob("*/information")):
        try:
            found = re.search(r"^Model:\s*(.+?)\s*$", path.read_text(errors="replace"), re.MULTILINE)
        except OSError:
            continue
        names.append(found[1] if found else "unknown model")
    return names


def visible_gpus(environment: Mapping[str, str], gpus: Path = NVIDIA_GPUS) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(len(present_gpus(gpus)))] if given is None else _visible(given)


def _visible(given: str) -> list[str]:
    """CUDA stops at the first that it does not know, such as -1."""
    out: list[str] = []
    for entry in given.split(","):
        if not entry.strip() or entry.strip().startswith("-"):
            break
        out.append(entry.strip())
    return out


def _there_are(names: list[str], given: str | None) -> str:
    listed = ", ".join(f"{number} ({name})" for number, name in enumerate(names)) or "none"
    return f"the driver lists {listed}" + (f"; CUDA_VISIBLE_DEVICES is {given!r}" if given is not None else "")

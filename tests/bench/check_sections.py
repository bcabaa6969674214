"""Sections for the tests of `bench gpu`: each does one thing that a section may do wrong."""

import os
import signal
import time

import torch

from simvtp.bench.gpu.check_worker import Recorder, Section


def _fine(recorder: Recorder) -> None:
    recorder.row("process", number=os.getpid(), clips_per_s=12345.678)
    recorder.gate("one is one", True)


def _not_held(recorder: Recorder) -> None:
    recorder.row("process", number=os.getpid())
    recorder.gate("one is two", False)


def _raises(recorder: Recorder) -> None:
    recorder.row("process", number=os.getpid())
    with recorder.attempt("first part"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    recorder.gate("the next part ran", True)


def _optional(recorder: Recorder) -> None:
    with recorder.attempt("a library that may be absent", optional=True):
        raise ModuleNotFoundError("no such library")


def _memory(recorder: Recorder) -> None:
    recorder.row("process", number=os.getpid())
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _crashes(recorder: Recorder) -> None:
    recorder.row("process", number=os.getpid())
    os.kill(os.getpid(), signal.SIGSEGV)


def _hangs(recorder: Recorder) -> None:
    recorder.row("process", number=os.getpid())
    time.sleep(600)


def _slow(recorder: Recorder) -> None:
    with recorder.attempt("a part that has the time"):
        recorder.row("parts", name="short")
    with recorder.attempt("a part that has not", needed=1e6):
        recorder.row("parts", name="long")


FINE = Section("fine", "ends", 1, _fine)
NOT_HELD = Section("not held", "has a gate that does not hold", 1, _not_held)
RAISES = Section("raises", "raises an error that may leave the device unusable", 1, _raises)
OPTIONAL = Section("optional", "lacks something that is no condition", 1, _optional)
MEMORY = Section("memory", "has too little memory", 1, _memory)
CRASHES = Section("crashes", "kills its process", 1, _crashes)
HANGS = Section("hangs", "does not end", 1, _hangs)
SLOW = Section("slow", "has too little time for a part", 1, _slow)

"""The sections of `simvtp bench gpu`, in their order, with their shares of the time.

Each imports what it needs when it runs.
"""

from __future__ import annotations

from simvtp.bench.gpu.check_worker import Recorder, Section


def _versions(recorder: Recorder) -> None:
    from simvtp.bench.gpu.device_facts import check_versions

    check_versions(recorder)


def _ceilings(recorder: Recorder) -> None:
    from simvtp.bench.gpu.device_facts import measure_ceilings

    measure_ceilings(recorder)


def _equality(recorder: Recorder) -> None:
    from simvtp.bench.gpu.case_checks import check_equality

    check_equality(recorder)


def _waits(recorder: Recorder) -> None:
    from simvtp.bench.gpu.case_checks import check_waits

    check_waits(recorder)


def _loop(recorder: Recorder) -> None:
    from simvtp.bench.gpu.loop_check import check_loop

    check_loop(recorder)


def _group(recorder: Recorder) -> None:
    from simvtp.bench.gpu.group_check import check_group

    check_group(recorder)


def _steps(recorder: Recorder) -> None:
    from simvtp.bench.gpu.step_rates import measure_step_rates

    measure_step_rates(recorder)


def _peers(recorder: Recorder) -> None:
    from simvtp.bench.gpu.step_rates import measure_peers

    measure_peers(recorder)


def _attention(recorder: Recorder) -> None:
    from simvtp.bench.gpu.attention_kernels import measure_attention

    measure_attention(recorder)


def _loader(recorder: Recorder) -> None:
    from simvtp.bench.gpu.data_rates import measure_loader_rates

    measure_loader_rates(recorder)


def _scoring(recorder: Recorder) -> None:
    from simvtp.bench.gpu.data_rates import measure_scoring

    measure_scoring(recorder)


def _mac(recorder: Recorder) -> None:
    from simvtp.bench.gpu.step_rates import measure_mac_rates

    measure_mac_rates(recorder)


SECTIONS = (
    Section("versions", "driver, libraries, kernels of attention", 20, _versions),
    Section("ceilings", "memory bandwidth and matrix products", 10, _ceilings),
    Section("equality", "steps of all cases against float64 on the CPU", 60, _equality),
    Section("waits", "steps of all cases without waiting for the device", 25, _waits),
    Section("loop", "the loop: stop and continue, other devices and precisions", 50, _loop),
    Section("group", "process groups, DDP and FSDP2 of one process", 20, _group),
    Section("steps", "speed and memory of the step of base", 115, _steps),
    Section("peers", "our step against transformers and the released structure", 30, _peers),
    Section("attention", "kernels of attention at the shapes of the model", 30, _attention),
    Section("loader", "raw store, workers, pinned memory, device", 40, _loader),
    Section("scoring", "views of videos in fp32, TF32 and bf16", 25, _scoring),
    Section("mac", "MAC with hidden patches", 15, _mac),
)

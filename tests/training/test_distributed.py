"""Two gloo ranks give what one process gives with the whole batch.

Losses, gradients, weights, journal.
"""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from simvtp.batch import Batch, Masks
from simvtp.config.train_config import LossConfig
from simvtp.errors import UserError
from simvtp.models.downstream.retrieval_encoders import DualEncoder
from simvtp.training.checkpointing.preemption import StopFlag
from simvtp.training.loop import train
from simvtp.training.losses import contrastive_loss, word_loss
from simvtp.training.objectives import Objective, PretrainObjective, RetrievalObjective
from simvtp.training.parallel import distributed
from tests.training.training_runs import (
    MODEL,
    TRAIN,
    draw_with_negatives_of,
    free_port,
    make_batch,
    make_model,
    make_stage,
    metrics,
    on_ranks,
)

QUIET = replace(MODEL, text_dropout=0.0)
CASES: dict[str, LossConfig] = {
    "all": LossConfig(),
    "mvm": LossConfig(mlm=0, vtc=0, vtm=0),
    "mlm": LossConfig(mvm=0, vtc=0, vtm=0),
    "vtc": LossConfig(mvm=0, mlm=0, vtm=0),
    "vtm": LossConfig(mvm=0, mlm=0, vtc=0),
    "raw": LossConfig(mvm_target="raw", vtc=0.5, temperature=0.2),
}


def losses_and_gradients(
    model: torch.nn.Module, objective: Objective, batch: Batch, masks: Masks | None
) -> dict[str, torch.Tensor]:
    """Report (mean over ranks) and gradients after one backward pass."""
    wrapped = distributed.wrap(model)
    losses, report = objective(wrapped(batch, masks), objective.loss_normalizers([masks]))
    sum(losses.values(), torch.zeros(())).backward()
    found = {
        name: distributed.sum_over_ranks(value) / distributed.world()
        for name, value in report.items()
    }
    return found | {
        f"grad/{name}": p.grad for name, p in model.named_parameters() if p.grad is not None
    }


def my_half(batch: Batch, masks: Masks) -> tuple[Batch, Masks]:
    """This rank's samples, with the masks they have in the whole batch.

    Negatives counted within the half.
    """
    size = len(batch) // distributed.world()
    start = distributed.rank() * size
    fields = {
        name: getattr(masks, name)[start : start + size]
        for name in ("visible", "masked", "input_ids", "word_positions", "word_labels")
    }
    assert masks.negative_index is not None and masks.text_negative_index is not None
    noise = masks.negative_noise[start : start + size, start : start + size]
    return batch.part(start, start + size), Masks(
        **fields,
        negative_noise=noise,
        text_negative_noise=noise,
        negative_index=masks.negative_index[start : start + size] - start,
        text_negative_index=masks.text_negative_index[start : start + size] - start,
    )


def all_cases() -> dict[str, dict[str, torch.Tensor]]:
    batch = make_batch(0)
    masks = draw_with_negatives_of(4)(batch, 0, 0)
    part, its_masks = my_half(batch, masks)
    found = {}
    for name, losses in CASES.items():
        model = make_model(losses.wanted, QUIET).double()
        found[name] = losses_and_gradients(model, PretrainObjective(losses), part, its_masks)
    both = make_model(("vtm",), replace(QUIET, vtm_directions="both")).double()
    objective = PretrainObjective(CASES["vtm"])
    found["vtm, both directions"] = losses_and_gradients(both, objective, part, its_masks)
    dual = DualEncoder.from_unified(make_model(config=QUIET)).double()
    found["retrieval"] = losses_and_gradients(dual, RetrievalObjective(0.1, "global"), part, None)
    return found


def save_all_cases(path: Path) -> None:
    found = all_cases()
    if distributed.is_main():
        torch.save(found, path)


def test_losses_and_gradients_equal_one_process(tmp_path: Path) -> None:
    on_ranks(2, save_all_cases, tmp_path / "two.pt")
    two, one = torch.load(tmp_path / "two.pt", weights_only=True), all_cases()
    assert two.keys() == one.keys()
    for case in one:
        assert two[case].keys() == one[case].keys() and any(
            name.startswith("grad/") for name in one[case]
        )
        for name, value in one[case].items():
            tolerance = 1e-6 if name.startswith("acc/") else 1e-9
            torch.testing.assert_close(
                two[case][name],
                value,
                rtol=tolerance,
                atol=1e-11,
                msg=lambda m, c=case, n=name: f"{c} {n}: {m}",
            )


def local_and_empty(path: Path) -> None:
    """Local negatives see only the rank's own samples.

    Words are averaged over ranks even if one of them has none.
    """
    generator = torch.Generator().manual_seed(0)
    video, text = torch.randn(8, 6, generator=generator), torch.randn(8, 6, generator=generator)
    mine = slice(4 * distributed.rank(), 4 * distributed.rank() + 4)
    logits = torch.randn(2, 3, 5, generator=generator)
    labels = (
        torch.full((2, 3), -100)
        if distributed.rank() == 1
        else torch.tensor([[1, 2, -100], [0, 4, 3]])
    )
    local = contrastive_loss(video[mine], text[mine], 0.1, gather=False)
    assert torch.equal(local, contrastive_loss(video[mine].clone(), text[mine].clone(), 0.1))
    words = distributed.sum_over_ranks(word_loss(logits, labels)) / 2
    nothing = word_loss(logits, torch.full((2, 3), -100))
    if distributed.is_main():
        torch.save({"local": local, "words": words, "nothing": nothing}, path)


def test_local_negatives_and_a_rank_without_words(tmp_path: Path) -> None:
    on_ranks(2, local_and_empty, tmp_path / "found.pt")
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    generator = torch.Generator().manual_seed(0)
    video, text = torch.randn(8, 6, generator=generator), torch.randn(8, 6, generator=generator)
    logits = torch.randn(2, 3, 5, generator=generator)
    torch.testing.assert_close(found["local"], contrastive_loss(video[:4], text[:4], 0.1))
    torch.testing.assert_close(
        found["words"], word_loss(logits, torch.tensor([[1, 2, -100], [0, 4, 3]]))
    )
    assert found["nothing"] == 0


def train_here(
    directory: Path, stop_at: int = 0, accumulate: int = 1, losses: LossConfig | None = None
) -> torch.nn.Module:
    """The whole loop on this rank's share of the batches.

    Rank 1 alone is asked to stop at the step `stop_at`.
    """
    from simvtp.runs.journal import Journal

    stop, size = StopFlag(), 8 // distributed.world()

    def source(first: int) -> Any:
        for step in range(first, 100):
            if step + 1 == stop_at and distributed.rank() == distributed.world() - 1:
                stop.set("test")
            yield make_batch(step).part(distributed.rank() * size, (distributed.rank() + 1) * size)

    journal = Journal(directory / "journal.jsonl") if distributed.is_main() else None
    stage = make_stage(
        directory, train=replace(TRAIN, base_lr=0.01), accumulate=accumulate, total_steps=9
    )
    losses = losses or LossConfig(vtc_negatives="global")
    model = make_model(losses.wanted, QUIET)
    outcome = train(
        stage,
        model,
        PretrainObjective(losses),
        source,
        draw_with_negatives_of(4 // accumulate),
        journal,
        stop=stop,
    )
    assert outcome.stopped == (0 < stop_at < 9)
    if journal is not None:
        journal.close()
    return model


def test_the_loop_on_two_ranks_equals_one_process_and_continues_after_a_stop(
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file

    train_here(tmp_path / "one")
    on_ranks(2, train_here, tmp_path / "two", 5)
    saved = [path.name for path in (tmp_path / "two/checkpoints/pretrain").glob("step_*.pt")]
    assert (
        "step_00000006.pt" in saved
    )  # the other rank learns of the wish one step later, and both stop there
    on_ranks(2, train_here, tmp_path / "two")
    one, two = (
        load_file(tmp_path / name / "checkpoints/pretrain.safetensors") for name in ("one", "two")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)
    lines_one, lines_two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [step for step, _ in lines_one] == [step for step, _ in lines_two] == [3, 6, 9]
    for (_, ours), (_, theirs) in zip(lines_one, lines_two, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours == pytest.approx(theirs, rel=1e-4)


WITHOUT_VTC = LossConfig(
    vtc=0
)  # its negatives are those of a micro-batch, which differ between one and two ranks


def train_and_compare(directory: Path) -> None:
    model = train_here(directory, accumulate=2, losses=WITHOUT_VTC)
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert len(set(distributed.from_all(flat.numpy().tobytes()))) == 1


def test_accumulation_on_two_ranks_equals_one_process(tmp_path: Path) -> None:
    """Gradients are exchanged after the last micro-batch only.

    The ranks' weights must still be the same, bit by bit.
    """
    from safetensors.torch import load_file

    on_ranks(2, train_and_compare, tmp_path / "two")
    train_here(tmp_path / "one", accumulate=2, losses=WITHOUT_VTC)
    one, two = (
        load_file(tmp_path / name / "checkpoints/pretrain.safetensors") for name in ("one", "two")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


# ---- launch --------------------------------------------------------------------------------------


def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for key in (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "OMP_NUM_THREADS",
        "SLURM_CPUS_PER_TASK",
    ):
        monkeypatch.delenv(key, raising=False)
    for key, value in values.items():
        monkeypatch.setenv(key, value)


def test_a_port_in_use_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment(
            monkeypatch, RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
        )
        with (
            pytest.raises(UserError, match=f":{port}.*port in use.*--master-port"),
            distributed.distributed(torch.device("cpu")),
        ):
            pytest.fail("the group must not come up")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_that_meets_nobody_says_so_within_the_limit(
    monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    environment(
        monkeypatch,
        RANK=rank,
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(free_port()),
    )
    monkeypatch.setattr(distributed, "RENDEZVOUS_TIMEOUT", timedelta(seconds=2))
    began = time.monotonic()
    sentence = (
        f"rank {rank} of 2 on .* cannot meet the others at 127.0.0.1:.*did all processes start"
    )
    with pytest.raises(UserError, match=sentence), distributed.distributed(torch.device("cpu")):
        pytest.fail("the group must not come up")
    assert time.monotonic() - began < 30
    assert distributed.RENDEZVOUS_TIMEOUT <= distributed.COLLECTIVE_TIMEOUT


def test_a_missing_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, RANK="0", WORLD_SIZE="2", MASTER_PORT="1")
    with (
        pytest.raises(UserError, match="MASTER_ADDR are not set"),
        distributed.distributed(torch.device("cpu")),
    ):
        pytest.fail("the group must not come up")


def test_two_nodes_with_two_gpus_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 3 of a job of 2 nodes x 2 tasks, as torchrun and submitit describe it."""
    environment(monkeypatch, RANK="3", WORLD_SIZE="4", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2")
    launch = distributed.launch_from_environment()
    assert launch == distributed.Launch(rank=3, world=4, local_rank=1, local_world=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for seen, device in (
        (2, "cuda:1"),
        (8, "cuda:1"),
        (1, "cuda:0"),
    ):  # one: the launcher shows each process its own GPU only
        monkeypatch.setattr(torch.cuda, "device_count", lambda seen=seen: seen)
        assert distributed.choose_device("auto", launch) == torch.device(device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        UserError, match="process 3 of 4 on this node has no GPU, as only 2 are visible"
    ):
        distributed.choose_device("cuda", distributed.Launch(2, 4, 2, 4))


def test_processes_of_a_node_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch)
    monkeypatch.setattr(distributed.os, "sched_getaffinity", lambda pid: set(range(16)))
    many = distributed.Launch(0, 8, 0, 4)
    assert distributed.threads_per_rank(0, distributed.Launch()) == 0  # alone: torch's own choice
    assert distributed.threads_per_rank(0, many) == 4
    assert distributed.threads_per_rank(7, many) == 7
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert distributed.threads_per_rank(0, many) == 6
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert distributed.threads_per_rank(0, many) == 0

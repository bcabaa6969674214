"""The embedded data set survives kills, signals and other processes at the same time."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from simvtp.config.data_config import ShapesConfig
from simvtp.data.shapes.generate import ensure_shapes, shapes_folder
from simvtp.errors import ConfigError
from tests.data.shapes.small_shapes import CALL, ROOT, SMALL, contents, decode


def test_only_what_is_missing_is_made_again(made: Path, tmp_path: Path) -> None:
    folder = ensure_shapes(SMALL, tmp_path, workers=1).parent
    gone = ["clips/train/000003.mp4", "clips/test/000006.mp4", "actions.csv"]
    before = {name: os.stat(folder / name).st_mtime_ns for name in contents(folder)}
    for name in gone:
        (folder / name).unlink()
    (folder / "clips/train/.000003.mp4.1.tmp").write_bytes(b"half a clip")
    calls: list[tuple[int, int]] = []
    ensure_shapes(
        SMALL, tmp_path, workers=1, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(36, 36)]  # 34 were there
    assert contents(folder) == contents(made)
    untouched = [name for name in before if name.startswith("clips") and name not in gone]
    assert len(untouched) == 34 and all(
        os.stat(folder / name).st_mtime_ns == before[name] for name in untouched
    )
    ensure_shapes(
        SMALL, tmp_path, workers=1, progress=lambda done, total: calls.append((done, total))
    )
    assert len(calls) == 1  # nothing to do, nothing said


def start(cache: Path, train: int, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CALL, str(cache), str(train), str(workers)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def test_two_processes_at_once_do_the_work_once(made: Path, tmp_path: Path) -> None:
    pair = [start(tmp_path, 24, 1), start(tmp_path, 24, 1)]
    said = [process.communicate(timeout=120)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert sum(text.count("making 36 of 36 clips") for text in said) == 1
    assert contents(tmp_path / made.name) == contents(made)


def test_a_waiting_process_says_so(tmp_path: Path) -> None:
    config = ShapesConfig(train=1, val=1, test=1)
    folder = shapes_folder(config, tmp_path)
    folder.mkdir(parents=True)
    lines: list[str] = []
    with open(folder / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=ensure_shapes, args=(config, tmp_path, 1, lines.append))
        waiting.start()
        deadline = time.monotonic() + 60
        while not lines and time.monotonic() < deadline:
            time.sleep(0.02)
        assert lines and "waiting" in lines[0] and str(folder) in lines[0]
        assert not (folder / "manifest.csv").exists()
    waiting.join(timeout=120)
    assert (folder / "manifest.csv").is_file()


def test_killed_half_way_leaves_whole_files_no_workers_and_is_completed(tmp_path: Path) -> None:
    process = start(tmp_path, 120, 2)
    folder = shapes_folder(ShapesConfig(train=120, val=5, test=7), tmp_path)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("clips/*/*.mp4"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(children) >= 2 and not any(alive(pid) for pid in children)

    whole = {path: path.read_bytes() for path in folder.glob("clips/*/*.mp4")}
    assert 20 <= len(whole) < 132 and not (folder / "manifest.csv").exists()
    assert all(decode(path).shape == (16, 64, 64, 3) for path in whole)
    calls: list[tuple[int, int]] = []
    ensure_shapes(
        ShapesConfig(train=120, val=5, test=7),
        tmp_path,
        workers=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[0][0] > len(whole) and calls[-1] == (132, 132)
    assert all(path.read_bytes() == data for path, data in whole.items())
    assert not list(folder.rglob("*.tmp"))


class Enough(Exception):
    pass


def test_a_request_to_stop_ends_the_work_and_the_wait(made: Path, tmp_path: Path) -> None:
    def stop() -> None:
        raise Enough

    folder = shapes_folder(SMALL, tmp_path)
    folder.mkdir(parents=True)
    with open(folder / ".lock", "w") as held, pytest.raises(Enough):
        fcntl.flock(held, fcntl.LOCK_EX)
        ensure_shapes(SMALL, tmp_path, workers=1, check=stop)
    with pytest.raises(Enough):
        ensure_shapes(SMALL, tmp_path, workers=2, progress=lambda done, total: stop())
    assert not (folder / "manifest.csv").exists() and list(folder.glob("clips/*/*.mp4"))
    ensure_shapes(SMALL, tmp_path, workers=1)
    assert contents(folder) == contents(made)


GROUP = """
import signal, sys, time
from pathlib import Path
from simvtp.config.data_config import ShapesConfig
from simvtp.errors import ConfigError
from simvtp.data.shapes.generate import ensure_shapes
asked = []
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: asked.append(number))
def check(*progress):
    if asked:
        print("stopped", flush=True)
        raise SystemExit(3)
say = lambda line: print(line, flush=True)
config = ShapesConfig(train=400, val=5, test=7)
ensure_shapes(config, Path(sys.argv[1]), workers=2, say=say, progress=check, check=check)
"""


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_to_the_whole_group_is_no_defect_of_the_workers(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", GROUP, str(tmp_path)]
    root = ROOT
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=root,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*/clips/*/*.mp4")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, number)
        asked = time.monotonic()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 3 and said.splitlines()[-1] == "stopped", said
    assert time.monotonic() - asked < 20


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- damage --------------------------------------------------------------------------------------


def zeros(path: Path) -> None:
    """A file that was allocated, but whose content never reached the disk."""
    path.write_bytes(b"\0" * path.stat().st_size)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [zeros, half, empty])
@pytest.mark.parametrize("name", ["clips/test/000002.mp4", "questions.csv", "manifest.csv"])
def test_damaged_files_are_made_again(
    made: Path, tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    folder = tmp_path / made.name
    shutil.copytree(made, folder)
    harm(folder / name)
    said: list[str] = []
    ensure_shapes(SMALL, tmp_path, workers=1, say=said.append)
    assert contents(folder) == contents(made)
    assert said[0] == f"embedded data set: damaged and made again in {folder}: {name}"


@pytest.mark.parametrize("harm", [zeros, half, empty, Path.unlink])
def test_without_checksums_clips_count_if_they_decode(
    made: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """After a kill, or made by a version that wrote no checksums."""
    folder = tmp_path / made.name
    shutil.copytree(made, folder)
    harm(folder / "checksums.json")
    zeros(folder / "clips/val/000001.mp4")
    calls: list[tuple[int, int]] = []
    ensure_shapes(SMALL, tmp_path, workers=1, progress=lambda *state: calls.append(state))
    assert calls == [(36, 36)]  # one was made
    assert contents(folder) == contents(made)


def test_a_negative_number_of_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers=-1: must be 0"):
        ensure_shapes(SMALL, tmp_path, workers=-1)

"""From a folder of images to a trained net and its curve, and a run that is stopped, as a user types it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent.parent / "golden" / "misc"
GLOG_LINE = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d{6} {1,6}\d+ ([\w.]+):\d+\] (.*)")


def messages(log: str) -> list[str]:
    """The messages of a log's lines, without what each begins with."""
    return [match[3] for match in map(GLOG_LINE.fullmatch, log.splitlines()) if match]


def test_images_to_a_trained_net_and_its_curve(job, run_netc, tmp_path: Path) -> None:
    job(max_iter=60)
    assert (tmp_path / "train_lmdb_label_names.txt").read_text() == "above\nbelow\n"

    trained = run_netc("train", "-solver", "solver.prototxt", "-log_dir", "logs")
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout == ""
    said = messages(trained.stderr)
    assert said[0] == "Use CPU."
    assert said[-1] == "Optimization Done."
    for line in (
        "Starting Optimization",
        "Solving tiny",
        "Learning Rate Policy: step",
        "Iteration 30, lr = 0.025",
    ):
        assert line in said
    assert (tmp_path / "snap_iter_60.caffemodel").exists()

    (text,) = (tmp_path / "logs").glob("netc.*.log.INFO.*[0-9]")
    assert messages(text.read_text()) == said
    events = [json.loads(line) for line in Path(f"{text}.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in events if event["iter"] == 20] == ["test", "display"]
    assert events[0]["kind"] == "start"
    assert [event["kind"] for event in events[-3:]] == ["snapshot", "test", "end"]
    assert next(e for e in events if e["kind"] == "display" and e["iter"] == 10)["images_per_s"] > 0

    tested = run_netc("test", "-model=net.prototxt", "-weights=snap_iter_60.caffemodel", "-iterations=4")
    assert tested.returncode == 0, tested.stderr
    said = messages(tested.stderr)
    assert "Running for 4 iterations." in said
    assert "Batch 3, accuracy = 1" in said
    assert said[-2] == "accuracy = 1"
    assert re.fullmatch(r"loss = (\S+) \(\* 1 = \1 loss\)", said[-1])
    last = [line for line in messages(trained.stderr) if line.startswith("    Test net output #1: loss = ")][
        -1
    ]
    assert float(last.split(" = ")[1].split()[0]) == pytest.approx(float(said[-1].split()[2]), rel=1e-4)

    plotted = run_netc("plot", "logs", f"{text}.jsonl", "-o", "curve.png")
    assert plotted.returncode == 0, plotted.stderr
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def told(log: str) -> list[tuple[str, list[float]]]:
    """What the command and the solver say, in order: each line with N for its numbers, and these numbers.

    Speeds are left out, and what a net says while it is built.
    """
    lines = re.findall(
        r"^[IWEF]\S+ \S+ +\d+ ((?:caffe|solver|sgd_solver)\.cpp:)\d+\] (.*)", log, re.MULTILINE
    )
    number = r"-?\d+\.?\d*(?:e[-+]?\d+)?"
    texts = [f"{file} {re.sub(r' [(].* iter/s, .*?s/', ' (', text)}" for file, text in lines]
    return [(re.sub(number, "N", text), [float(x) for x in re.findall(number, text)]) for text in texts]


def assert_says_the_same(log: str, caffes: str) -> None:
    """The same lines in the same order, and numbers that agree to the digits shown."""
    ours, expected = told(log), told(caffes)
    assert [words for words, _ in ours] == [words for words, _ in expected]
    for (words, found), (_, numbers) in zip(ours, expected, strict=True):
        assert found == pytest.approx(numbers, rel=1e-4, abs=1e-6), words


def bring(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes((GOLDEN / name).read_bytes())


def test_training_says_what_caffe_says(run_netc, tmp_path: Path) -> None:
    bring(tmp_path, "train_net.prototxt", "train_solver.prototxt", "conv_init.caffemodel")
    bring(tmp_path, "conv_data.h5", "conv_data.txt")
    done = run_netc("train", "--solver=train_solver.prototxt", "--weights=conv_init.caffemodel")
    assert done.returncode == 0, done.stderr
    assert_says_the_same(done.stderr, (GOLDEN / "caffe_train.log").read_text())


def test_resuming_from_caffes_snapshot_says_what_caffe_says(run_netc, tmp_path: Path) -> None:
    bring(tmp_path, "train_net.prototxt", "train_solver.prototxt", "conv_data.h5", "conv_data.txt")
    bring(tmp_path, "snap_iter_20.caffemodel", "snap_iter_20.solverstate")
    done = run_netc("train", "--solver=train_solver.prototxt", "--snapshot=snap_iter_20.solverstate")
    assert done.returncode == 0, done.stderr
    assert_says_the_same(done.stderr, (GOLDEN / "caffe_train_resume.log").read_text())


def test_testing_says_what_caffe_says(run_netc, tmp_path: Path) -> None:
    bring(tmp_path, "train_net.prototxt", "snap_iter_25.caffemodel", "conv_data.h5", "conv_data.txt")
    done = run_netc("test", "-model=train_net.prototxt", "-weights=snap_iter_25.caffemodel", "-iterations=3")
    assert done.returncode == 0, done.stderr
    assert_says_the_same(done.stderr, (GOLDEN / "caffe_test.log").read_text())


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Reads the process' log up to the line with these words."""
    assert process.stderr is not None
    log = ""
    for line in process.stderr:
        log += line
        if words in line:
            return log
    raise AssertionError(log)


@pytest.fixture
def endless(job, environment: dict[str, str], tmp_path: Path):
    """Starts a run that would take hours, in a process group of its own, as a terminal does."""
    started: list[subprocess.Popen[str]] = []
    job(max_iter=100_000_000)

    def start(*flags: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "netc", "train", "-solver", "solver.prototxt", *flags],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_a_snapshot_and_stops(
    endless, number: signal.Signals, run_netc, tmp_path: Path
) -> None:
    process = endless()
    wait_for(process, "Iteration 10, lr")
    os.killpg(process.pid, number)  # to the whole group: what Ctrl-C does
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert f"{number.name}: finishing this iteration" in log
    assert "Optimization stopped early." in log
    (state,) = tmp_path.glob("snap_iter_*.solverstate")
    resumed = run_netc("train", "-solver=solver.prototxt", "-snapshot=latest", "-iterations=5")
    assert resumed.returncode == 0, resumed.stderr
    assert f"Resuming from {state.name}" in resumed.stderr
    at = int(re.findall(r"\d+", state.name)[0])
    assert (tmp_path / f"snap_iter_{at + 5}.solverstate").exists()


def test_a_run_whose_log_nobody_reads_any_more_still_takes_its_snapshot(endless, tmp_path: Path) -> None:
    """Ctrl-C in `netc train 2>&1 | tee log` ends tee first."""
    process = endless()
    wait_for(process, "Iteration 10, lr")
    process.stderr.close()
    time.sleep(0.2)  # so that it writes into the closed pipe
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert list(tmp_path.glob("snap_iter_*.solverstate"))


def test_sighup_takes_a_snapshot_and_goes_on(endless, tmp_path: Path) -> None:
    process = endless()
    wait_for(process, "Iteration 10, lr")
    process.send_signal(signal.SIGHUP)
    wait_for(process, "Snapshotting solver state")
    wait_for(process, ", lr = ")
    assert process.poll() is None
    assert list(tmp_path.glob("snap_iter_*.caffemodel"))


def test_effects_are_those_of_the_flags(endless, tmp_path: Path) -> None:
    process = endless("-sigint_effect", "none", "-sighup_effect=stop")
    wait_for(process, "Iteration 10, lr")
    process.send_signal(signal.SIGINT)
    wait_for(process, "SIGINT: it has no effect")
    wait_for(process, ", lr = ")
    process.send_signal(signal.SIGHUP)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Optimization stopped early." in log


def children(parent: int) -> list[int]:
    """The processes that a process started, which may have sessions of their own."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:  # it has ended meanwhile
            continue
        if f"\nPPid:\t{parent}\n" in text:
            found.append(int(status.parent.name))
    return found


def runs(process: int) -> bool:
    """Whether a process is there and is more than an entry that its new parent has not looked at yet."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_a_killed_run_leaves_no_process_behind(endless) -> None:
    process = endless()
    wait_for(process, "Iteration 10, lr")
    started = children(process.pid)
    assert started  # the readers of the databases
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(map(runs, started)):
        assert time.monotonic() < deadline, "a reader outlives its run"
        time.sleep(0.05)


def test_latest_starts_from_scratch_where_there_is_no_snapshot(job, run_netc) -> None:
    job(max_iter=5)
    done = run_netc("train", "-solver=solver.prototxt", "-snapshot=latest")
    assert done.returncode == 0, done.stderr
    assert "No snapshot of snap yet: starting from scratch" in done.stderr


def test_level_replaces_the_solvers_as_in_caffe_and_says_so(job, run_netc, tmp_path: Path) -> None:
    job(max_iter=1)
    with (tmp_path / "solver.prototxt").open("a") as solver:
        solver.write("train_state { level: 2 }\n")
    done = run_netc("train", "-solver=solver.prototxt")
    assert done.returncode == 0, done.stderr
    assert "-level (0) replaces the solver's train_state level 2" in done.stderr
    assert "replaces" not in run_netc("train", "-solver=solver.prototxt", "-level=1").stderr


def test_model_stage_seed_and_threads_reach_the_solver(job, run_netc, tmp_path: Path) -> None:
    job(max_iter=2)
    other = (tmp_path / "net.prototxt").read_text().replace('"tiny"', '"other"')
    other += 'layer { name: "quiet" type: "Silence" bottom: "ip" include { stage: "extra" } }\n'
    (tmp_path / "other.prototxt").write_text(other)
    done = run_netc(
        "train", "-solver=solver.prototxt", "-model=other.prototxt", "-stage=extra", "-seed=11", "-threads=3"
    )
    assert done.returncode == 0, done.stderr
    assert "Solving other" in done.stderr
    assert "Creating Layer quiet" in done.stderr
    assert "random_seed: 11" in done.stderr
    assert '"threads": 3' in (tmp_path / "snap_iter_2.netcstate").read_text()

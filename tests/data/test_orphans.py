"""Nothing outlives a process that is killed, nor a Ctrl-C, nor a script without a `__main__` guard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may ignore it
from netc.data import open_source
from netc.proto import netc_pb2 as pb
layer = pb.LayerParameter(name="d", type="Data", top=["data"])
layer.data_param.source = "{folder}"
layer.data_param.batch_size = 4
source = open_source(layer, pb.TRAIN)
source.next()
{then}
"""


def start(folder: str, then: str) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A script that has a source open, in a process group of its own, and its children."""
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(folder=folder, then=then)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert script.stdout
    assert script.stdout.readline() == b"ready\n"
    children = Path(f"/proc/{script.pid}/task/{script.pid}/children").read_text().split()
    return script, [int(child) for child in children]


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("blocked", [False, True], ids=["waiting", "writing"])
def test_a_killed_parent_leaves_no_reader(blocked, make_database, pictures):
    script, children = start(make_database(pictures), "print('ready', flush=True)\ntime.sleep(60)")
    assert len(children) == 1
    assert running(children[0])
    if blocked:
        os.kill(children[0], signal.SIGSTOP)
    script.kill()
    script.wait()
    if blocked:
        os.kill(children[0], signal.SIGCONT)
    deadline = time.monotonic() + 10
    while running(children[0]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not running(children[0])


def test_an_interrupt_of_the_terminal_reaches_only_the_parent(make_database, pictures):
    then = """
try:
    print('ready', flush=True)
    for _ in range(600):
        time.sleep(0.1)  # a signal that comes just before a long sleep would not end it
except KeyboardInterrupt:
    source.next()
    print('went on')
"""
    script, _ = start(make_database(pictures), then)
    os.killpg(script.pid, signal.SIGINT)
    out, err = script.communicate(timeout=20)
    assert out == b"went on\n", err
    assert script.returncode == 0


def test_a_script_that_just_ends_ends_cleanly(make_database, pictures):
    script, children = start(make_database(pictures), "print('ready', flush=True)\nsys.stdin.read()")
    _, err = script.communicate(timeout=20)
    assert (script.returncode, err) == (0, b"")
    assert not running(children[0])

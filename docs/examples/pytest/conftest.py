"""The recorded run as a fixture. Each test gets an attempt of its own, which begins the run anew."""

import itertools
import json
import os
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "order.jsonl"
OUTRIGGER = os.environ.get("OUTRIGGER_BIN", "outrigger")


@pytest.fixture(scope="session")
def replay_server():
    command = [OUTRIGGER, "replay", "--strict", "--journal", str(RUN)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        line = server.stdout.readline()
        assert line, "outrigger did not start; its reason is on standard error"
        yield json.loads(line)
        server.terminate()
    # 3: something was asked for that is not recorded, even if no test noticed.
    assert server.returncode == 0, "the replay was not as it is recorded; see standard error"


@pytest.fixture(scope="session")
def attempts():
    return itertools.count(1)


@pytest.fixture
def replay(replay_server, attempts, monkeypatch):
    """The environment of an agent whose calls are answered from the recorded run."""
    workflow = f"/w/{replay_server['workflow']}"
    attempt = f"{workflow}/a/{next(attempts)}"
    for name, value in replay_server["env"].items():
        monkeypatch.setenv(name, value.replace(workflow, attempt, 1))

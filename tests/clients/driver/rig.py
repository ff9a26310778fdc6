"""The processes of a scenario: upstreams, sidecar, agent. Starts each in a process group of its own and ends only
those groups and process ids; every wait has an end. Knows nothing of what a run should look like.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
START_S_MAX = 30
POLL_S = 0.03

# What frameworks report to their makers or ask of a cloud they may run in; a test reaches none of these, and must
# not wait for one.
TELEMETRY_OFF = {
    "ANONYMIZED_TELEMETRY": "false",
    "AUTOGEN_DISABLE_RUNTIME_TRACING": "true",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "NO_GCE_CHECK": "true",
}


class Trouble(Exception):
    """A scenario that did not come as far as it should."""


def await_that(condition, seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(POLL_S)
    raise Trouble(f"{what}: not within {seconds} s")


def clean_environment(home):
    """Little enough that no proxy, key or tracing setting of the machine reaches an agent."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


class Process:
    def __init__(self, command, log, **options):
        self.log = Path(log)
        with self.log.open("ab") as file:
            streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file} | options
            self.child = subprocess.Popen([str(part) for part in command], start_new_session=True, **streams)

    def running(self):
        return self.child.poll() is None

    def wait(self, seconds):
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired as timeout:
            raise Trouble(f"{self.log.name} has not ended within {seconds} s") from timeout

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def first_line(self):
        """The JSON line a server prints when it is ready."""
        ready, _, _ = select.select([self.child.stdout], [], [], START_S_MAX)
        line = ready and self.child.stdout.readline()
        if not line:
            raise Trouble(f"{self.log.name}: no ready line within {START_S_MAX} s: {self.tail()}")
        return json.loads(line)

    def tail(self, size=1500):
        return self.log.read_text("utf-8", "replace")[-size:].strip() if self.log.exists() else ""


class Upstream:
    """One of upstream/*.py, shared by all runs; its control endpoint by method."""

    def __init__(self, script, folder, *arguments):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, HERE / "upstream" / script, *arguments]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        log = folder / f"{script}.log"
        self.process = Process(command, log, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.url = self.process.first_line()["url"]

    def _ask(self, what, seconds=10, **value):
        data = json.dumps(value).encode()
        with urllib.request.urlopen(f"{self.url}/control/{what}", data, seconds) as answer:
            return json.load(answer)

    def _get(self, what, seconds=10, **query):
        text = "&".join(f"{name}={value}" for name, value in query.items())
        with urllib.request.urlopen(f"{self.url}/control/{what}?{text}", timeout=seconds) as answer:
            return json.load(answer)

    def hold(self, run, call, phase, kill=None):
        self._ask("hold", run=run, call=call, phase=phase, kill=kill and str(kill))

    def hit(self, run, wait_s):
        return self._get("wait", wait_s + 10, run=run, timeout_s=wait_s)["hit"]

    def release(self, run):
        self._ask("release", run=run)

    def state(self, run):
        return self._get("state", run=run)


class Agent:
    """A program, started as often as it must be; every life leaves its process id in a file."""

    def __init__(self, command, folder, environment):
        self.command, self.folder, self.environment = command, folder, environment
        self.pids_file = folder / "pids"
        self.pids_file.write_text("")
        self.process = None

    def launch(self, wrapper=()):
        shell = ["/bin/sh", "-c", f'echo $$ >> "{self.pids_file}"; exec "$@"', "agent", *self.command]
        self.process = Process([*wrapper, *shell], self.folder / "agent.log", env=self.environment, cwd=self.folder)

    def pids(self):
        return [int(line) for line in self.pids_file.read_text().split()]

    def signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids()[-1], number)

    def final(self):
        lines = self.process.log.read_text("utf-8", "replace").splitlines()
        return next((line.removeprefix("FINAL ") for line in reversed(lines) if line.startswith("FINAL ")), None)


class Sidecar:
    """`outrigger serve`, and the other commands on its journal."""

    def __init__(self, binary, folder, model_url, tools_url):
        self.binary, self.folder = binary, folder
        self.journal = folder / "journal"
        self.config = folder / "outrigger.yaml"
        self.config.write_text(
            "listen: [{ address: 127.0.0.1:0 }]\n"
            "admin: { address: 127.0.0.1:0 }\n"
            f"journal: {{ path: {self.journal} }}\n"
            "upstreams:\n"
            f"  openai: {{ dialect: openai, url: '{model_url}' }}\n"
            f"  anthropic: {{ dialect: anthropic, url: '{model_url}' }}\n"
            f"  gemini: {{ dialect: gemini, url: '{model_url}' }}\n"
            f"  tools: {{ dialect: mcp, url: '{tools_url}', env: {{ MCP_URL: /mcp }} }}\n"
            f"  desk: {{ dialect: http, url: '{tools_url}', env: {{ DESK_URL: /desk }} }}\n"
        )
        self.process = self.address = None

    def start(self):
        """Starts it; a second time on the port of the first."""
        command = [self.binary, "serve", "--config", self.config]
        if self.address:
            command += ["--listen", self.address]
        environment = clean_environment(self.folder)
        log = self.folder / "outrigger.log"
        self.process = Process(command, log, env=environment, cwd=self.folder, stdout=subprocess.PIPE)
        self.address = self.process.first_line()["listen"][0]

    def kill(self):
        if self.process:
            self.process.kill()

    def urls(self, workflow):
        base = f"http://{self.address}/w/{workflow}"
        return {
            "OPENAI_BASE_URL": f"{base}/openai/v1",
            "ANTHROPIC_BASE_URL": f"{base}/anthropic",
            "GOOGLE_GEMINI_BASE_URL": f"{base}/gemini",
            "MCP_URL": f"{base}/tools/mcp",
            "DESK_URL": f"{base}/desk/desk",
        }

    def run_command(self, workflow):
        return [self.binary, "run", "--workflow", workflow, "--config", self.config, "--max-restarts", "5", "--"]

    def timeline(self, workflow):
        """The timeline, or None while the workflow is not known."""
        command = [self.binary, "timeline", workflow, "--json", "--journal", self.journal]
        with (self.folder / "timeline.log").open("ab") as log:
            done = subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                timeout=START_S_MAX,
                env=clean_environment(self.folder),
            )
        return json.loads(done.stdout) if done.returncode == 0 else None

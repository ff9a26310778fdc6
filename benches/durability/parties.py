"""The processes that take part, each ended with the run, and how one step is asked of each."""

import atexit
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
START_MAX_S = 120
STOP_MAX_S = 60
# Bytes of a bare append, and of a file that is there before it is written to.
APPEND_BYTES = 512
LAID_OUT_BYTES = 8 << 20

started: list[subprocess.Popen] = []


@atexit.register
def kill_all():
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def spawn(command, log, **options) -> subprocess.Popen:
    with open(log, "ab") as errors:
        options = {"stdin": subprocess.DEVNULL, "stdout": errors, "stderr": errors, "text": True} | options
        process = subprocess.Popen([str(word) for word in command], **options)
    started.append(process)
    return process


def stop(process):
    process.send_signal(signal.SIGTERM)
    process.wait(STOP_MAX_S)


def free_port() -> int:
    """For programs that cannot say which port they took."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def until(holds, what):
    """Waits for a program that does not say when it is ready."""
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > START_MAX_S:
            sys.exit(f"{what} does not start")
        time.sleep(0.05)


def median(values):
    return statistics.median(values)


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


class Mock:
    def __init__(self, work):
        process = spawn([sys.executable, HERE / "mock.py"], work / "mock.log", stdout=subprocess.PIPE)
        self.port = int(process.stdout.readline())


class Sidecar:
    """`outrigger serve` over the journal in `folder`, which outlives it."""

    def __init__(self, binary, folder, mock):
        folder.mkdir(exist_ok=True)
        self.binary, self.folder, self.journal = binary, folder, folder / "journal"
        (folder / "outrigger.yaml").write_text(
            'listen: [{ address: "127.0.0.1:0" }]\nadmin: { address: "127.0.0.1:0" }\n'
            f"journal: {{ path: {json.dumps(str(self.journal))} }}\nupstreams:\n"
            f'  model: {{ dialect: openai, url: "http://127.0.0.1:{mock.port}" }}\n'
            f'  tools: {{ dialect: http, url: "http://127.0.0.1:{mock.port}" }}\n'
        )
        self.start()

    def start(self):
        """Starts it; `ready_s` is what passed until it listened."""
        self.begun = time.perf_counter()
        command = [self.binary, "serve", "--config", self.folder / "outrigger.yaml"]
        self.process = spawn(command, self.folder / "log", stdout=subprocess.PIPE)
        line = self.process.stdout.readline()
        self.ready_s = time.perf_counter() - self.begun
        if not line:
            sys.exit(f"outrigger does not start: {(self.folder / 'log').read_text()[-2000:]}")
        self.port = int(json.loads(line)["listen"][0].rsplit(":", 1)[1])

    def stop(self):
        stop(self.process)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def memory_mib(self):
        """Resident: now, and at its highest."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        return tuple(int(values[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))


class Connection:
    """One kept-alive connection to the mock or to a sidecar."""

    def __init__(self, port):
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.http.connect()

    def ask(self, path, body) -> tuple[bytes, str | None]:
        """The answer's body, and where Outrigger says it has it from."""
        self.http.request("POST", path, body, {"content-type": "application/json"})
        answer = self.http.getresponse()
        content = answer.read()
        if answer.status != 200:
            sys.exit(f"{path} was answered {answer.status}: {content[:500]!r}")
        return content, answer.headers.get("x-outrigger-source")


def charge(workflow, step):
    return json.dumps({"invoice": f"{workflow}-{step}", "amount_cents": 1200}).encode()


def turn(workflow, step):
    message = {"role": "user", "content": f"Turn {step} of {workflow}: what is to be done next?"}
    return json.dumps({"model": "mock-1", "messages": [message]}).encode()


def timed(steps, one):
    """Milliseconds of each of `steps` calls of `one`."""
    times = []
    for step in range(steps):
        begun = time.perf_counter()
        one(step)
        times.append((time.perf_counter() - begun) * 1e3)
    return times


class Bare:
    """A write to the end of an open file and its fdatasync.

    `laid_out` bytes of it are on disk before, so that no flush of those has to write the file's length as well.
    """

    def __init__(self, work, name, laid_out=0):
        self.file = os.open(work / name, os.O_RDWR | os.O_CREAT)
        os.write(self.file, bytes(laid_out))
        os.fsync(self.file)
        os.lseek(self.file, 0, os.SEEK_SET)

    def steps(self, _workflow, steps):
        def one(_):
            os.write(self.file, b"7" * APPEND_BYTES)
            os.fdatasync(self.file)

        return timed(steps, one)


class Calls:
    """Calls from Python: straight to the mock (`prefix` empty), or through a sidecar."""

    def __init__(self, port, path, body, prefix="", source=None):
        self.connection = Connection(port)
        self.path, self.body, self.prefix, self.source = path, body, prefix, source

    def steps(self, workflow, steps):
        path = self.prefix.format(workflow) + self.path

        def one(step):
            source = self.connection.ask(path, self.body(workflow, step))[1]
            if source != self.source:
                sys.exit(f"step {step} of {path} came from {source}, not {self.source}")

        return timed(steps, one)


class Restate:
    def __init__(self, work, mock, server, node, service):
        folder = work / "restate"
        folder.mkdir()
        ingress, admin, between = free_port(), free_port(), free_port()
        environment = os.environ | {
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        }
        command = [server, "--no-logo", "--listen-mode", "tcp", "--bind-ip", "127.0.0.1", "--bind-port", between]
        command += ["--advertised-host", "127.0.0.1", "--base-dir", folder / "data"]
        spawn(command, folder / "log", env=environment, cwd=folder)
        # The SDK logs to standard output.
        quiet = os.environ | {"RESTATE_LOGGING": "ERROR"}
        steps = spawn([node, service, mock.port], folder / "log", env=quiet, stdout=subprocess.PIPE)
        self.ingress = f"http://127.0.0.1:{ingress}"
        line = steps.stdout.readline().strip()
        if not line.isdigit():
            sys.exit(f"the Restate service says {line!r}: {(folder / 'log').read_text()[-2000:]}")
        uri = f"http://127.0.0.1:{line}"
        until(lambda: self._answers(f"http://127.0.0.1:{admin}/deployments", {"uri": uri}), "Restate")
        until(lambda: self._answers(f"{self.ingress}/bench/steps", {"workflow": "first", "steps": 1}), "Restate")

    @staticmethod
    def _post(url, content):
        request = urllib.request.Request(url, json.dumps(content).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def _answers(self, url, content):
        try:
            self._post(url, content)
        except OSError:
            return False
        return True

    def steps(self, workflow, steps):
        return self._post(f"{self.ingress}/bench/steps", {"workflow": workflow, "steps": steps})


class Dbos:
    def __init__(self, work, mock, name, python, url):
        command = [python, HERE / "dbos_steps.py", url, mock.port]
        log = work / f"{name}.log"
        self.process = spawn(command, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.process.stdout.readline() != "ready\n":
            sys.exit(f"{name} does not start: {log.read_text()[-2000:]}")

    def steps(self, workflow, steps):
        self.process.stdin.write(f"{workflow} {steps}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class Postgres:
    """A cluster of its own, with PostgreSQL's defaults."""

    # It does not run as root.
    UNPRIVILEGED = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]

    def __init__(self, work, programs):
        folder = work / "postgres"
        folder.mkdir()
        user = []
        if os.getuid() == 0:
            shutil.chown(folder, "nobody", "nogroup")
            user = self.UNPRIVILEGED
        run = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
        command = [*user, programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "bench"]
        subprocess.run([str(word) for word in command], **run)
        self.port = free_port()
        command = [*user, programs / "postgres", "-D", folder / "data", "-p", self.port, "-k", folder]
        self.process = spawn([*command, "-c", "listen_addresses=127.0.0.1"], work / "postgres.log", cwd=folder)
        create = [programs / "createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "bench", "bench"]
        create = [str(word) for word in create]
        until(lambda: subprocess.run(create, stderr=subprocess.DEVNULL).returncode == 0, "PostgreSQL")
        self.url = f"postgresql://bench@127.0.0.1:{self.port}/bench"

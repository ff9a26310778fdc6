"""Runs the MCP conformance suite directly and through Outrigger and compares the results check by check.

Starts the reference server, Outrigger and the suite, each in a process group of its own, and ends only those. Judges
nothing itself: the suite's verdict on the server is the standard, and Outrigger must not change any of it.
"""

import argparse
import collections
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# name, package folder, further arguments, checks that pass when the suite meets the server directly
SUITES = (
    ("alpha-2025-11-25", "conformance-alpha", ["--spec-version", "2025-11-25"], 84),
    ("alpha-2026-07-28", "conformance-alpha", ["--spec-version", "2026-07-28"], 151),
    ("stable-2025-11-25", "conformance-stable", [], 44),
)
SUITE_S_MAX, START_S_MAX = 180, 30


@contextlib.contextmanager
def process(command, log, **options):
    """A process in its own group, killed with the group at the end."""
    with open(log, "ab") as file:
        child = subprocess.Popen(command, stderr=file, start_new_session=True, **options)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_port(port, child):
    end = time.monotonic() + START_S_MAX
    while time.monotonic() < end and child.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port} after {START_S_MAX} s")


@contextlib.contextmanager
def reference_server(folder, work):
    port = free_port()
    env = {**os.environ, "PYTHONPATH": folder}
    command = [sys.executable, "-m", "mcp_everything_server", "--port", str(port), "--log-level", "WARNING"]
    with process(command, work / "server.log", env=env, stdout=subprocess.DEVNULL) as child:
        await_port(port, child)
        yield f"http://localhost:{port}"


@contextlib.contextmanager
def outrigger(upstream, work):
    """`outrigger serve` before the reference server; yields its base URL, by the name the suite checks (localhost)."""
    config = work / "outrigger.yaml"
    config.write_text(
        "listen: [{ address: 127.0.0.1:0 }]\n"
        "admin: { address: 127.0.0.1:0 }\n"
        f"journal: {{ path: {work / 'journal'} }}\n"
        f"upstreams:\n  tools: {{ dialect: mcp, url: '{upstream}' }}\n"
    )
    command = [os.environ["OUTRIGGER_BIN"], "serve", "--config", str(config)]
    with process(command, work / "outrigger.log", stdout=subprocess.PIPE) as child:
        ready, _, _ = select.select([child.stdout], [], [], START_S_MAX)
        line = ready and child.stdout.readline()
        if not line:
            raise SystemExit("outrigger did not start:\n" + (work / "outrigger.log").read_text())
        yield "http://localhost:" + json.loads(line)["listen"][0].rsplit(":", 1)[1]


def results(arguments, suite, url, folder):
    """{scenario / check id / name: sorted verdicts}; lines of kind INFO are traces, not checks."""
    _, package, more, _ = suite
    command = [arguments.node, f"{arguments.suites}/{package}/dist/index.js", "server", "--url", url]
    command += ["--suite", "all", "-o", str(folder), *more]
    folder.mkdir(parents=True)
    with open(folder / "suite.out", "wb") as out, process(command, folder / "suite.log", stdout=out) as child:
        with contextlib.suppress(subprocess.TimeoutExpired):  # what is missing then shows as a difference
            child.wait(SUITE_S_MAX)
    found = collections.defaultdict(list)
    for file in sorted(folder.glob("*/checks.json")):
        # the folder's name ends in a time stamp: server-<scenario>-2026-11-20T14-22-46-437Z
        scenario = file.parent.name.rsplit("-", 6)[0]
        for check in json.loads(file.read_text()):
            if check["status"] != "INFO":
                found[f"{scenario} / {check['id']} / {check['name']}"].append(check["status"])
    return {key: sorted(found[key]) for key in sorted(found)}


def differences(direct, through):
    for key in sorted({*direct, *through}):
        if direct.get(key) != through.get(key):
            yield f"{key}: directly {direct.get(key, 'absent')}, through Outrigger {through.get(key, 'absent')}"


class Tally:
    def __init__(self):
        self.passed = self.failed = 0

    def note(self, name, problems):
        ok = not problems
        self.passed, self.failed = self.passed + ok, self.failed + (not ok)
        print(("ok    " if ok else "FAIL  ") + name, flush=True)
        for problem in problems:
            print(f"      {problem}", flush=True)


def judge_direct(suite, found):
    verdicts = collections.Counter(verdict for verdicts in found.values() for verdict in verdicts)
    if (verdicts["SUCCESS"], verdicts["FAILURE"]) == (suite[3], 0):
        return []
    bad = [key for key, values in found.items() if "FAILURE" in values]
    return [f"expected {suite[3]} passed and 0 failed, got {dict(verdicts)}", *bad]


def run(arguments, work, report):
    tally = Tally()
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(reference_server(arguments.server, work))
        ways = [("direct", lambda _: f"{upstream}/mcp")]
        if not arguments.direct:
            base = stack.enter_context(outrigger(upstream, work))
            ways.append(("without a workflow id", lambda _: f"{base}/tools/mcp"))
            # One id per suite: the same id twice would be a second attempt, and replay the first.
            ways.append(("with a workflow id", lambda suite: f"{base}/w/conf-{suite[0]}/tools/mcp"))
        for way, url in ways:
            for suite in SUITES:
                found = results(arguments, suite, url(suite), work / way.replace(" ", "-") / suite[0])
                report[f"{suite[0]} {way}"] = found
                if way == "direct":
                    tally.note(f"{suite[0]}, directly", judge_direct(suite, found))
                else:
                    direct = report[f"{suite[0]} direct"]
                    tally.note(f"{suite[0]}, through Outrigger {way}", list(differences(direct, found)))
    return tally


def main():
    parser = argparse.ArgumentParser()
    for name in ("--node", "--suites", "--server", "--report"):
        parser.add_argument(name, required=True)
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--keep", action="store_true", help="keep logs and raw results, also when all is well")
    arguments = parser.parse_args()
    work, report = Path(tempfile.mkdtemp(prefix="outrigger-conformance-")), {}
    tally = run(arguments, work, report)
    Path(arguments.report).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.report).write_text(json.dumps(report, indent=1))
    if tally.failed or arguments.keep:
        print(f"logs and raw results: {work}")
    else:
        shutil.rmtree(work)
    print(f"{tally.passed} passed, {tally.failed} failed")
    sys.exit(bool(tally.failed))


if __name__ == "__main__":
    main()

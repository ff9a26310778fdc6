"""Runs the matrix: real agent programs, killed and started again, with and without Outrigger. See `run` beside it.

Owns the order of things, the tally and the report. First every program runs undisturbed and directly, which gives
the final answer to compare with; then come the kills, a few at a time.
"""

import argparse
import concurrent.futures
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import table
from rig import HERE, Upstream
from scenario import Scenario

INTERPRETERS = ("sdk", "langgraph", "crewai", "adk", "autogen", "node")


class Bench:
    """What all scenarios share: the upstreams, the interpreters, the binary, the undisturbed answers."""

    def __init__(self, arguments, work):
        self.work, self.binary = work, arguments.binary
        self.interpreters = {name: getattr(arguments, name) for name in INTERPRETERS}
        self.node_agents = Path(arguments.node_agents)
        self.finals = {}
        self.model = Upstream("model.py", work / "upstreams")
        self.tools = Upstream("tools.py", work / "upstreams", work / "upstreams")

    def command(self, program):
        kind, script, arguments = table.PROGRAMS[program]
        folder = self.node_agents if kind == "node" else HERE / "agents"
        return [self.interpreters[kind], folder / script, *arguments]

    def close(self):
        self.model.process.kill()
        self.tools.process.kill()


class Tally:
    def __init__(self):
        self.passed = self.failed = 0
        self.rows = []

    def play(self, scenarios, jobs):
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(self._one, scenario) for scenario in scenarios]
            try:
                for future in concurrent.futures.as_completed(futures):
                    self._note(*future.result())
            except KeyboardInterrupt:
                # What runs is let come to its end, which ends its processes; the rest is not begun.
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    @staticmethod
    def _one(scenario):
        start = time.monotonic()
        try:
            problems = scenario.play()
        except Exception as error:  # one broken scenario must not take the others along
            problems = [f"{type(error).__name__}: {error}"]
        return scenario, problems, time.monotonic() - start

    def _note(self, scenario, problems, seconds):
        self.passed, self.failed = self.passed + (not problems), self.failed + bool(problems)
        print(f"{'FAIL' if problems else 'ok  '}  {scenario.name} ({seconds:.1f} s)", flush=True)
        for problem in problems:
            print("      " + problem.replace("\n", "\n      "), flush=True)
        self.rows.append(
            {
                "program": scenario.program,
                "mode": scenario.mode,
                "victim": scenario.victim,
                "point": scenario.point and list(scenario.point),
                "seconds": round(seconds, 2),
                "problems": problems,
                **scenario.seen,
            }
        )


def chosen(arguments):
    """The rows of the table, and the undisturbed direct runs before them, that the options ask for."""
    undisturbed = [(program, "direct", "agent", None) for program in table.PROGRAMS]
    rows = table.SMOKE if arguments.smoke else (*undisturbed, *table.scenarios())
    for scenario in rows:
        program, mode, _, _ = scenario
        if arguments.only and program not in arguments.only:
            continue
        if arguments.direct and mode != "direct":
            continue
        if arguments.match and arguments.match not in Scenario.title(*scenario):
            continue
        yield scenario


def play(arguments, work, tally):
    wanted = list(chosen(arguments))
    # Whatever else is asked of a program, its undisturbed answer comes first.
    programs = [program for program in table.PROGRAMS if any(program == row[0] for row in wanted)]
    bench = Bench(arguments, work)
    try:
        undisturbed = [Scenario(bench, program, "direct", "agent", None) for program in programs]
        tally.play(undisturbed, arguments.jobs)
        bench.finals = {scenario.program: scenario.seen.get("final") for scenario in undisturbed}
        rest = [row for row in wanted if (row[1], row[3]) != ("direct", None)]
        tally.play([Scenario(bench, *row) for row in rest], arguments.jobs)
    finally:
        bench.close()


def main():
    parser = argparse.ArgumentParser()
    for name in (*INTERPRETERS, "node-agents", "report"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--binary", help="the outrigger binary")
    parser.add_argument("--only", action="append", choices=table.PROGRAMS, metavar="PROGRAM")
    parser.add_argument("--match", help="only scenarios whose name contains this text")
    parser.add_argument("--smoke", action="store_true", help="a handful of scenarios")
    parser.add_argument("--direct", action="store_true", help="only what needs no Outrigger")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--keep", action="store_true", help="keep all logs, also when all is well")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    work, tally, start = Path(tempfile.mkdtemp(prefix="outrigger-clients-")), Tally(), time.monotonic()
    play(arguments, work, tally)
    report = Path(arguments.report)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps({"seconds": round(time.monotonic() - start, 1), "scenarios": tally.rows}, indent=1))
    if tally.failed or arguments.keep:
        print(f"logs: {work}")
    else:
        shutil.rmtree(work)
    print(f"{tally.passed} passed, {tally.failed} failed")
    sys.exit(bool(tally.failed) or not tally.passed)


if __name__ == "__main__":
    main()

"""Measures what the report's last three sections say, in one run, and writes their tables. See `run` beside it."""

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import cost
import large
import long
from parties import HERE, Dbos, Mock, Postgres, Restate, kill_all

TABLE = HERE.parent.parent / "tests" / "proof" / "table.sh"


@dataclasses.dataclass
class Effort:
    # Rounds of everything that is compared, and steps of each in a round.
    rounds: int
    steps: int
    # Steps of the long workflow.
    long_steps: int
    # Bytes of answers in the large store, and kills of it.
    store_bytes: int
    kills: int


FULL = Effort(rounds=9, steps=50, long_steps=10_000, store_bytes=5_000_000_000, kills=5)
SMOKE = Effort(rounds=1, steps=5, long_steps=40, store_bytes=40_000_000, kills=1)


def others(arguments, work, mock):
    """Whoever is compared, by name; those that are not here are left out."""
    found = {"Restate": Restate(work, mock, arguments.restate, arguments.node, arguments.restate_steps)}
    url = f"sqlite:///{work / 'dbos.sqlite'}"
    found["DBOS on SQLite"] = Dbos(work, mock, "dbos-sqlite", arguments.python, url)
    if arguments.postgres:
        postgres = Postgres(work, Path(arguments.postgres))
        found["DBOS on PostgreSQL"] = Dbos(work, mock, "dbos-postgres", arguments.python, postgres.url)
    else:
        print("PostgreSQL is not installed: DBOS on it is left out", file=sys.stderr)
    return found


def said(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")[0]


def circumstances(arguments, work, load_before):
    """What took part, and on what."""
    file_system = said("findmnt", "-no", "FSTYPE", "-T", work)
    load = ", ".join(f"{load:.1f}" for load in (load_before, os.getloadavg()[0]))
    rows = [
        ("Outrigger", said(arguments.binary, "--version").split()[-1]),
        ("Restate", said(arguments.restate, "--version").split()[1]),
        ("DBOS", importlib.metadata.version("dbos")),
        ("SQLite, PostgreSQL", f"{sqlite3.sqlite_version}, {postgres_version(arguments.postgres)}"),
        ("Node, Python", f"{said(arguments.node, '--version').lstrip('v')}, {platform.python_version()}"),
        ("processors, file system", f"{os.cpu_count()}, {file_system}"),
        ("processes waiting for a processor before and after (load)", load),
    ]
    return "\n".join(["| taking part | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def postgres_version(programs):
    return said(Path(programs) / "postgres", "--version").split()[2] if programs else "not installed"


def main():
    parser = argparse.ArgumentParser()
    for name in ("binary", "python", "node", "restate", "restate-steps"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--postgres", default="")
    parser.add_argument("--work", required=True)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--only", choices=["cost", "long", "large"])
    arguments = parser.parse_args()
    # An end from outside also ends what was started.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit("ended"))
    load_before = os.getloadavg()[0]
    effort = SMOKE if arguments.smoke else FULL
    work = Path(tempfile.mkdtemp(prefix="outrigger-durability-", dir=arguments.work))
    # PostgreSQL runs as somebody else when this runs as root.
    work.chmod(0o711)
    tables = {}
    try:
        mock = Mock(work)
        wanted = [arguments.only] if arguments.only else ["cost", "long", "large"]
        if "cost" in wanted:
            tables |= cost.measure(arguments.binary, work, mock, others(arguments, work, mock), effort)
        if "long" in wanted:
            tables |= long.measure(arguments.binary, work, mock, effort)
        if "large" in wanted:
            tables |= large.measure(arguments.binary, work, mock, effort)
        if not arguments.only:
            tables["figures-of"] = circumstances(arguments, work, load_before)
    finally:
        kill_all()
        shutil.rmtree(work, ignore_errors=True)
    for name, table in tables.items():
        print(f"== {name}\n{table}")
        if not arguments.smoke:
            subprocess.run([TABLE, name], input=table, text=True, check=True)


if __name__ == "__main__":
    main()

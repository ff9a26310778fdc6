"""A workflow of many steps: what opening and replaying it costs, what it takes on disk and in memory."""

import base64
import hashlib
import json
import subprocess
import sys
import time

from parties import Connection, Sidecar, median, percentile

SHORT_STEPS = 10
# Messages of a model call before its newest, and the length of each text in bytes.
WINDOW = 20
TEXT_BYTES = 1200
# Restarts after which both workflows are opened.
OPENINGS = 9
CHAT = "/model/v1/chat/completions"


class Agent:
    """Takes turns: a model call with a window of its conversation, then a tool call."""

    def __init__(self, workflow, steps):
        self.workflow, self.steps = workflow, steps
        # Length of every message, tool request and answer, each once, by its hash: what has to be kept at least.
        self.distinct = {}
        self.crossed = 0
        self.answers = []

    def text(self, at):
        """A text that is the same in every life. It compresses to three quarters, and no further."""
        noise = hashlib.shake_128(f"{self.workflow} {at}".encode()).digest(TEXT_BYTES * 3 // 4)
        return base64.b64encode(noise).decode()

    def request(self, step):
        if step % 2:
            body = {"invoice": f"{self.workflow}-{step}", "memo": self.text(step)}
            return "/tools/charge", json.dumps(body).encode(), [json.dumps(body)]
        messages = [{"role": "system", "content": self.text("system")}]
        for at in range(max(0, step - WINDOW * 2), step + 1, 2):
            messages.append({"role": "user" if at % 4 == 0 else "assistant", "content": self.text(at)})
        body = {"model": "mock-1", "messages": messages}
        return CHAT, json.dumps(body).encode(), [json.dumps(message) for message in messages]

    def live(self, connection):
        for step in range(self.steps):
            path, body, parts = self.request(step)
            answer, source = connection.ask(f"/w/{self.workflow}/a/1{path}", body)
            if source != "live":
                sys.exit(f"step {step} came from {source}")
            self.crossed += len(body) + len(answer)
            self.answers.append(hashlib.sha256(answer).digest())
            for part in [*(part.encode() for part in parts), answer]:
                self.distinct[hashlib.sha256(part).digest()] = len(part)

    def replay(self, connection, attempt, steps):
        """Seconds that each of the first `steps` took; they come from the journal, to the byte."""
        times = []
        for step in range(steps):
            path, body, _ = self.request(step)
            begun = time.perf_counter()
            answer, source = connection.ask(f"/w/{self.workflow}/a/{attempt}{path}", body)
            times.append(time.perf_counter() - begun)
            if source != "replay" or hashlib.sha256(answer).digest() != self.answers[step]:
                sys.exit(f"step {step} of {self.workflow} came wrong, from {source}")
        return times


def bytes_in(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class Openings:
    """Times until first replayed answers after a restart: of a short workflow alone in its journal, and of both
    beside each other, in ms.
    """

    def __init__(self, alone, together, first, short, agent):
        self.alone_s, self.together_s = [], []
        self.alone_ready, self.together_ready = [], []
        self.short, self.long = [], []
        for attempt in range(3, 3 + 2 * OPENINGS, 2):
            self.alone_s.append(self._restart(alone, attempt, short, self.alone_ready))
            self.together_s.append(self._restart(together, attempt, agent, self.together_ready))
            # In this process something has been asked before, whichever of the two it is of.
            self._restart(together, attempt + 1, first, [])
            turns = [(short, self.short), (agent, self.long)]
            for who, times in turns if attempt % 4 == 1 else reversed(turns):
                times.append(who.replay(Connection(together.port), attempt + 1, 1)[0] * 1e3)

    @staticmethod
    def _restart(sidecar, attempt, who, ready):
        sidecar.stop()
        sidecar.start()
        ready.append(sidecar.ready_s * 1e3)
        who.replay(Connection(sidecar.port), attempt, 1)
        return (time.perf_counter() - sidecar.begun) * 1e3


def measure(binary, work, mock, effort):
    sidecar, alone = Sidecar(binary, work / "long", mock), Sidecar(binary, work / "short", mock)
    first, short, agent = Agent("first", 1), Agent("short", SHORT_STEPS), Agent("long", effort.long_steps)
    first.live(Connection(sidecar.port))
    short.live(Connection(sidecar.port))
    Agent("short", SHORT_STEPS).live(Connection(alone.port))
    idle, _ = sidecar.memory_mib()
    print(f"a long workflow: {agent.steps} steps", flush=True)
    begun = time.perf_counter()
    agent.live(Connection(sidecar.port))
    live_s = time.perf_counter() - begun
    written = sidecar.memory_mib()
    sidecar.stop()
    stats = [binary, "journal", "stats", "--json", "--journal", sidecar.journal]
    stats = json.loads(subprocess.run(stats, check=True, capture_output=True).stdout)
    log, index, stored = stats["log_bytes"], stats["index_bytes"], stats["bodies_stored_bytes"]
    distinct = sum(agent.distinct.values())
    sidecar.start()
    print("a long workflow: replay", flush=True)
    short_times = short.replay(Connection(sidecar.port), 2, short.steps)
    times = agent.replay(Connection(sidecar.port), 2, agent.steps)
    replayed = sidecar.memory_mib()
    seen = Openings(alone, sidecar, first, short, agent)
    sidecar.stop()
    alone.stop()
    short_ms, long_ms, whole_ms = median(seen.short), median(seen.long), median(seen.together_s)
    p99 = percentile(times, 0.99) * 1e3
    tenth = max(1, agent.steps // 10)
    mib = 1 << 20
    rows = [
        ("steps, half of them model calls, half effects", f"{agent.steps:,}"),
        ("recorded, steps a second", f"{agent.steps / live_s:,.0f}"),
        ("replayed, steps a second", f"{agent.steps / sum(times):,.0f}"),
        ("a replayed step, p50 / p99, ms", f"{median(times) * 1e3:.2f} / {p99:.2f}"),
        ("its last tenth against its first, p50", f"{median(times[-tenth:]) / median(times[:tenth]):.2f}"),
        (f"its p50 against one of {short.steps} steps", f"{median(times) / median(short_times):.2f}"),
        (f"first replayed answer of {short.steps} steps, in the same journal, ms", f"{short_ms:.2f}"),
        ("first replayed answer of the long one, ms, and against that", f"{long_ms:.2f}, {long_ms / short_ms:.1f}"),
        (f"start until it listens, with {short.steps} steps alone, ms", f"{median(seen.alone_ready):.0f}"),
        ("start until it listens, with the long one, ms", f"{median(seen.together_ready):.0f}"),
        (f"start until the first replayed answer, of {short.steps} steps alone, ms", f"{median(seen.alone_s):.0f}"),
        (
            "start until the first replayed answer, of the long one, ms, and against that",
            f"{whole_ms:.0f}, {whole_ms / median(seen.alone_s):.1f}",
        ),
        ("bytes that the agent and the upstream exchanged, MiB", f"{agent.crossed / mib:.1f}"),
        ("distinct content in them, MiB", f"{distinct / mib:.1f}"),
        ("bodies as stored, MiB, and against the distinct content", f"{stored / mib:.1f}, {stored / distinct:.2f}"),
        ("log, all records included, MiB, and against it", f"{log / mib:.1f}, {log / distinct:.2f}"),
        ("index, KiB", f"{index / 1024:,.1f}"),
        ("resident memory before and after, MiB", f"{idle:.0f}, {written[0]:.0f}"),
        ("resident memory after a new start and the replay, MiB", f"{replayed[0]:.0f}"),
        ("resident memory at its highest, MiB", f"{max(written[1], replayed[1]):.0f}"),
    ]
    table = ["| a long workflow | |", "| --- | --: |", *(f"| {name} | {value} |" for name, value in rows)]
    return {"a-long-workflow": "\n".join(table)}

"""A store of gigabytes, killed with -9 while it is written to: how soon it replays again, beside an empty one."""

import hashlib
import http.client
import os
import random
import shutil
import sys
import threading
import time

from long import bytes_in
from parties import Connection, Sidecar, median, percentile

ANSWER_BYTES = 2_000_000
WORKFLOW_STEPS = 5
WRITERS = 6
# Written in each life after the first, until it is killed.
LIFE_BYTES = 60_000_000
# Workflows asked for after the first one.
SAMPLE = 20


class Store:
    def __init__(self, binary, work, mock, seed):
        self.work, self.random = work, random.Random(seed)
        self.sidecar = Sidecar(binary, work / "large", mock)
        # Hash of the first answer of every workflow whose first answer was read to its end.
        self.known = {}
        self.acknowledged = 0
        self.next = 0
        self.lock = threading.Lock()

    def _writes(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.sidecar.port, timeout=120)
        while True:
            with self.lock:
                self.next += 1
                workflow = f"large-{self.next}"
            for step in range(WORKFLOW_STEPS):
                path = f"/w/{workflow}/a/1/tools/blob/{ANSWER_BYTES}"
                try:
                    connection.request("POST", path, f'{{"step":{step}}}', {"content-type": "application/json"})
                    answer = connection.getresponse()
                    content = answer.read()
                except (OSError, http.client.HTTPException):
                    # The sidecar was killed.
                    return
                if answer.status != 200 or len(content) != ANSWER_BYTES:
                    os.write(2, f"{path}: {answer.status} {content[:300]!r}\n".encode())
                    return
                with self.lock:
                    self.acknowledged += ANSWER_BYTES
                    if step == 0:
                        self.known[workflow] = hashlib.sha256(content).digest()

    def write_and_kill(self, more):
        """Kills the sidecar once `more` bytes of answers were read, while all writers go on."""
        enough = self.acknowledged + more
        writers = [threading.Thread(target=self._writes) for _ in range(WRITERS)]
        for writer in writers:
            writer.start()
        while self.acknowledged < enough:
            if not any(writer.is_alive() for writer in writers):
                sys.exit("nobody writes any more")
            time.sleep(0.05)
        self.sidecar.kill()
        for writer in writers:
            writer.join()

    def replay(self, workflow, attempt):
        """Milliseconds of the first step, replayed to the byte."""
        connection = Connection(self.sidecar.port)
        begun = time.perf_counter()
        content, source = connection.ask(f"/w/{workflow}/a/{attempt}/tools/blob/{ANSWER_BYTES}", '{"step":0}')
        took = (time.perf_counter() - begun) * 1e3
        if source != "replay" or hashlib.sha256(content).digest() != self.known[workflow]:
            sys.exit(f"{workflow} came wrong, from {source}")
        return took


def forget_pages(folder):
    """Takes the files out of the page cache, which a kill leaves full: a machine that starts anew has it empty."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def empty_start(binary, work, mock, kill):
    """Seconds until a sidecar with nothing in its journal listened, and until its first answer, a live one."""
    sidecar = Sidecar(binary, work / f"empty-{kill}", mock)
    Connection(sidecar.port).ask(f"/w/empty/a/1/tools/blob/{ANSWER_BYTES}", '{"step":0}')
    answered = time.perf_counter() - sidecar.begun
    sidecar.stop()
    shutil.rmtree(sidecar.folder)
    return sidecar.ready_s, answered


def measure(binary, work, mock, effort):
    store = Store(binary, work, mock, seed=3)
    ready, answered, warm, empty, later = [], [], [], [], []
    print(f"a large store: {effort.store_bytes / 1e9:.1f} GB", flush=True)
    for kill in range(effort.kills):
        store.write_and_kill(LIFE_BYTES if kill else effort.store_bytes)
        print(f"a large store: kill {kill + 1} of {effort.kills}", flush=True)
        forget_pages(store.sidecar.journal)
        store.sidecar.start()
        ready.append(store.sidecar.ready_s)
        chosen = store.random.sample(sorted(store.known), min(SAMPLE + 1, len(store.known)))
        store.replay(chosen[0], 2 + kill * 2)
        answered.append(time.perf_counter() - store.sidecar.begun)
        later += [store.replay(workflow, 2 + kill * 2) for workflow in chosen[1:]]
        # Killed once more, at rest and with the page cache as it is.
        store.sidecar.kill()
        store.sidecar.start()
        store.replay(store.random.choice(sorted(store.known)), 3 + kill * 2)
        warm.append(time.perf_counter() - store.sidecar.begun)
        empty.append(empty_start(binary, work, mock, kill))
    memory = store.sidecar.memory_mib()
    store.sidecar.stop()
    size = bytes_in(store.sidecar.journal)
    empty_ready, empty_answered = (median(values) for values in zip(*empty, strict=True))
    rows = [
        ("answers that were acknowledged, GB", f"{store.acknowledged / 1e9:.2f}"),
        ("journal on disk, GB, and against them", f"{size / 1e9:.2f}, {size / store.acknowledged:.3f}"),
        ("workflows", f"{len(store.known):,}"),
        ("kills while it was written to", f"{effort.kills}"),
        ("start until it listens, s: median, longest", f"{median(ready):.2f}, {max(ready):.2f}"),
        ("start until the first replayed answer, s: median, longest", f"{median(answered):.2f}, {max(answered):.2f}"),
        ("the same, page cache warm, s: median, longest", f"{median(warm):.2f}, {max(warm):.2f}"),
        ("an empty store until it listens, s", f"{empty_ready:.3f}"),
        ("an empty store until its first answer, s", f"{empty_answered:.3f}"),
        ("the large store against the empty one, first answer", f"{median(answered) / empty_answered:.1f}"),
        ("the same, page cache warm", f"{median(warm) / empty_answered:.1f}"),
        ("next random workflows, 2 MB each, ms: p50, p99", f"{median(later):.1f}, {percentile(later, 0.99):.1f}"),
        ("resident memory after the last start, highest, MiB", f"{memory[1]:.0f}"),
    ]
    table = ["| a large store | |", "| --- | --: |", *(f"| {name} | {value} |" for name, value in rows)]
    return {"a-large-store": "\n".join(table)}

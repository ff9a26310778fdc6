"""DBOS: a workflow of N steps, each an HTTP call. Reads lines of `WORKFLOW STEPS`, prints each step's time, in ms.

`dbos_steps.py DATABASE_URL UPSTREAM_PORT`
"""

import http.client
import json
import sys
import time

from dbos import DBOS

url, upstream = sys.argv[1], int(sys.argv[2])
connection = http.client.HTTPConnection("127.0.0.1", upstream)
DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR", "run_admin_server": False})


@DBOS.step()
def charge(invoice: str) -> str:
    body = json.dumps({"invoice": invoice, "amount_cents": 1200})
    connection.request("POST", "/charge", body, {"content-type": "application/json"})
    return connection.getresponse().read().decode()


@DBOS.workflow()
def run(workflow: str, steps: int) -> list[float]:
    # The clock is not part of what is recorded: nothing is replayed here.
    times = []
    for step in range(steps):
        begun = time.perf_counter()
        charge(f"{workflow}-{step}")
        times.append((time.perf_counter() - begun) * 1e3)
    return times


DBOS.launch()
print("ready", flush=True)
for line in sys.stdin:
    workflow, steps = line.split()
    print(json.dumps(run(workflow, int(steps))), flush=True)
DBOS.destroy()

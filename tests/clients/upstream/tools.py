"""The tools: a real MCP server (PyPI's `mcp`, streamable HTTP) whose tools have effects, and the same as plain HTTP.

One process serves any number of runs: `/r/<run>/mcp` is the MCP endpoint, `/r/<run>/desk/<tool>` a POST per tool.
Every effect is appended to `<folder>/<run>.jsonl` and synced before it is answered, so that what happened survives
any kill and is counted from the file. It prints `{"url": ...}` when it listens and ends when its standard input does.
`/control/` sets pauses as in model.py, with one phase more: `done`, the effect has happened and nothing is answered.
Never judges a run: the driver reads the file.
"""

import asyncio
import contextlib
import contextvars
import json
import os
import signal
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qsl

import errand
import uvicorn
from mcp.server import MCPServer

HOLD_S_MAX = 90
RUN = contextvars.ContextVar("run")


class Hold:
    def __init__(self, call, phase, kill):
        self.call, self.phase, self.kill = call, phase, kill
        self.hit, self.released = asyncio.Event(), asyncio.Event()
        self.text = None  # of the answer to watch for, once the effect has happened
        self.effect = None  # tool and invoice of the call it met: parallel calls arrive in any order

    async def reach(self):
        self.hit.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.released.wait(), HOLD_S_MAX)


class Run:
    """The calls and effects of one run; the k-th call is the k-th that arrives."""

    def __init__(self, path):
        self.path, self.arrived, self.hold = path, 0, None
        self.times = {}

    def arrive(self):
        self.arrived += 1
        hold = self.hold
        return hold if hold and hold.call == self.arrived and not hold.hit.is_set() else None

    def commit(self, tool, invoice, arguments):
        times = self.times[tool, invoice] = self.times.get((tool, invoice), 0) + 1
        line = json.dumps({"tool": tool, "invoice": invoice, "times": times, "arguments": arguments})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        return errand.effect_text(tool, invoice, times)


class Desk:
    """All runs, and the effect every tool has, whichever protocol asked for it."""

    def __init__(self, folder):
        self.folder, self.runs = folder, {}

    def run(self, name):
        if name not in self.runs:
            self.runs[name] = Run(self.folder / f"{name}.jsonl")
        return self.runs[name]

    async def act(self, tool, arguments):
        run = self.run(RUN.get())
        hold = run.arrive()
        if hold:
            hold.effect = [tool, arguments["invoice_id"]]
        if hold and hold.phase == "before":
            await hold.reach()
        text = run.commit(tool, arguments["invoice_id"], arguments)
        if hold and hold.phase == "done":
            await hold.reach()
        if hold and hold.phase in ("during", "after"):
            hold.text = text.encode()
        return text

    async def deliver(self, run, message, send):
        """Sends one part of an answer; phases `during` and `after` act on the part that carries the result."""
        hold, body = run.hold, message.get("body", b"")
        if not (hold and hold.text and hold.text in body) or hold.hit.is_set():
            return await send(message)
        if hold.phase == "during":
            half = len(body) // 2
            await send({**message, "body": body[:half], "more_body": True})
            await hold.reach()
            return await send({**message, "body": body[half:]})
        await send(message)
        if hold.kill:
            os.kill(int(Path(hold.kill).read_text("ascii").split()[-1]), signal.SIGKILL)
        return hold.hit.set()


def mcp_server(desk):
    server = MCPServer("desk")

    @server.tool(description=errand.TOOLS["fraud_check"][1])
    async def fraud_check(invoice_id: str) -> str:
        return await desk.act("fraud_check", {"invoice_id": invoice_id})

    @server.tool(description=errand.TOOLS["charge"][1])
    async def charge(invoice_id: str, amount_cents: int) -> str:
        return await desk.act("charge", {"invoice_id": invoice_id, "amount_cents": amount_cents})

    @server.tool(description=errand.TOOLS["send_email"][1])
    async def send_email(invoice_id: str, body: str) -> str:
        return await desk.act("send_email", {"invoice_id": invoice_id, "body": body})

    @server.tool(description=errand.TOOLS["ledger_post"][1])
    async def ledger_post(invoice_id: str, receipt: str) -> str:
        return await desk.act("ledger_post", {"invoice_id": invoice_id, "receipt": receipt})

    return server


async def _read(receive):
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _answer(send, status, value):
    data = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


class App:
    """Routes `/control/`, `/r/<run>/mcp` and `/r/<run>/desk/`; the MCP application itself is left as it is."""

    def __init__(self, desk):
        self.desk = desk
        self.mcp = mcp_server(desk).streamable_http_app()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.mcp(scope, receive, send)
        path = scope["path"]
        if path.startswith("/control/"):
            return await self.control(path.removeprefix("/control/"), scope, receive, send)
        _, marker, run, *rest = path.split("/")
        if marker != "r":
            return await _answer(send, 404, {"error": f"no {path}"})
        RUN.set(run)

        async def deliver(message):
            await self.desk.deliver(self.desk.run(run), message, send)

        if rest[0] == "desk":
            arguments = json.loads(await _read(receive))
            return await _answer(deliver, 200, {"text": await self.desk.act(rest[1], arguments)})
        inner = "/" + "/".join(rest)
        return await self.mcp({**scope, "path": inner, "raw_path": inner.encode()}, receive, deliver)

    async def control(self, what, scope, receive, send):
        value = dict(parse_qsl(scope["query_string"].decode())) or json.loads(await _read(receive))
        run = self.desk.run(value["run"])
        if what == "hold":
            run.hold = Hold(value["call"], value["phase"], value.get("kill"))
        elif what == "release" and run.hold:
            run.hold.released.set()
        elif what == "wait":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(run.hold.hit.wait(), float(value["timeout_s"]))
            return await _answer(send, 200, {"hit": run.hold.hit.is_set()})
        elif what == "state":
            lines = run.path.read_text("utf-8").splitlines() if run.path.exists() else []
            effects = [json.loads(line) for line in lines]
            held = run.hold and run.hold.effect
            return await _answer(send, 200, {"arrived": run.arrived, "effects": effects, "held": held})
        return await _answer(send, 200, {})


def main():
    app = App(Desk(Path(sys.argv[1])))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False)
    server = uvicorn.Server(config)

    async def serve():
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        print(json.dumps({"url": f"http://127.0.0.1:{port}"}), flush=True)
        await task

    def leave():
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=leave, daemon=True).start()
    asyncio.run(serve())


if __name__ == "__main__":
    main()

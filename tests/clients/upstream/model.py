"""The scripted model: an HTTP/1.1 server on loopback that answers for OpenAI, Anthropic and Gemini, and counts.

One process serves any number of runs, each under `/r/<run>/`. It prints `{"url": ...}` when it listens and ends when
its standard input does. Under `/control/` the driver sets where a run is to pause, waits until it does, lets it go
on, and reads what was asked. Plain threads and the standard library only; it never starts or ends a process, but for
the one kill a pause of phase `after` may name.
"""

import hashlib
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import dialects
import errand

HOLD_S_MAX = 90


class Hold:
    """A pause at one model call: `before` the answer, `during` it (half is out), or a mark `after` it."""

    def __init__(self, call, phase, kill):
        self.call, self.phase, self.kill = call, phase, kill
        self.hit, self.released = threading.Event(), threading.Event()

    def reach(self):
        self.hit.set()
        self.released.wait(HOLD_S_MAX)


class Run:
    def __init__(self):
        self.lock = threading.Lock()
        self.calls = []
        self.hold = None

    def begin(self, call, raw, stream, agent):
        """Notes a call; the hold is handed out once, to the first call that it names."""
        with self.lock:
            entry = {
                "call": call,
                "sha256": hashlib.sha256(raw).hexdigest(),
                "stream": stream,
                "agent": agent,
                "answered": False,
            }
            self.calls.append(entry)
            hold = self.hold if self.hold and self.hold.call == call and not self.hold.hit.is_set() else None
            if hold and any(other["call"] == call for other in self.calls[:-1]):
                hold = None
            return entry, hold


class Book:
    def __init__(self):
        self.lock = threading.Lock()
        self.runs = {}

    def run(self, name):
        with self.lock:
            return self.runs.setdefault(name, Run())


BOOK = Book()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def _body(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _json(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status, message):
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        self._json(status, {"type": "error", "error": error})

    def do_GET(self):
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if url.path == "/control/wait":
            hold = BOOK.run(query["run"]).hold
            return self._json(200, {"hit": bool(hold and hold.hit.wait(float(query["timeout_s"])))})
        if url.path == "/control/state":
            run = BOOK.run(query["run"])
            with run.lock:
                return self._json(200, {"calls": [dict(call) for call in run.calls]})
        return self._error(404, f"no {url.path}")

    def do_POST(self):
        raw = self._body()
        path = urlsplit(self.path).path
        if path.startswith("/control/"):
            return self._control(path.removeprefix("/control/"), json.loads(raw))
        _, marker, run, *rest = path.split("/")
        inner = "/" + "/".join(rest)
        tongue = next((dialect for dialect in dialects.ALL if dialect.at(inner)), None)
        if marker != "r" or tongue is None:
            return self._error(404, f"no {path}")
        try:
            body = json.loads(raw)
            stream = tongue.streams(inner, body)
            number, calls, final = errand.answer(errand.plan_of(raw.decode()), tongue.results(body))
            calls = [(errand.announced(tool, tongue.tools(body)), arguments) for tool, arguments in calls]
        except (ValueError, KeyError, errand.Unexpected) as error:
            return self._error(400, f"{type(error).__name__}: {error}")
        entry, hold = BOOK.run(run).begin(number, raw, stream, self.headers.get("user-agent", ""))
        if hold and hold.phase == "before":
            hold.reach()
        try:
            arguments = (body, len(raw), number, calls, final)
            if stream:
                self._stream(list(tongue.events(*arguments)), hold)
            else:
                self._whole(tongue.whole(*arguments), hold)
            entry["answered"] = True
        except OSError:
            self.close_connection = True
        finally:
            if hold and hold.phase == "after":
                self._after(hold)
        return None

    def _whole(self, value, hold):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("x-request-id", os.urandom(8).hex())
        self.end_headers()
        half = len(data) // 2
        self.wfile.write(data[:half])
        if hold and hold.phase == "during":
            hold.reach()
        self.wfile.write(data[half:])

    def _stream(self, events, hold):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.send_header("x-request-id", os.urandom(8).hex())
        self.end_headers()
        for index, (name, data) in enumerate(events):
            if hold and hold.phase == "during" and index == len(events) // 2:
                hold.reach()
            text = (f"event: {name}\n" if name else "") + f"data: {data}\n\n"
            chunk = text.encode()
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    @staticmethod
    def _after(hold):
        # Killing from here, not from the driver, is what makes "after the last answer" come before the agent's
        # own end every time.
        if hold.kill:
            with open(hold.kill, encoding="ascii") as file:
                os.kill(int(file.read().split()[-1]), signal.SIGKILL)
        hold.hit.set()

    def _control(self, what, value):
        run = BOOK.run(value["run"])
        if what == "hold":
            with run.lock:
                run.hold = Hold(value["call"], value["phase"], value.get("kill"))
        elif what == "release" and run.hold:
            run.hold.released.set()
        self._json(200, {})


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()

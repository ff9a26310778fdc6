"""The upstream of every measurement: answers at once, as the path says, and prints its port when it listens.

`/blob/BYTES` answers that many random bytes, `/v1/chat/completions` a completion whose text follows from the request,
every other path one small body that is always the same.
"""

import asyncio
import base64
import hashlib
import json
import os

# Text of a completion.
TEXT_BYTES = 1200
RECEIPT = b'{"status":"charged","receipt":"r-1"}'


def completion(request: bytes) -> bytes:
    noise = hashlib.shake_128(request).digest(TEXT_BYTES * 3 // 4)
    message = {"role": "assistant", "content": base64.b64encode(noise).decode()}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
    answer = {"id": f"chatcmpl-{noise[:6].hex()}", "object": "chat.completion", "created": 1, "model": "mock"}
    return json.dumps(answer | {"choices": [choice], "usage": usage}).encode()


def answer_to(path: str, request: bytes) -> tuple[str, bytes]:
    if path.startswith("/blob/"):
        return "application/octet-stream", os.urandom(int(path.rsplit("/", 1)[1]))
    if path.endswith("/chat/completions"):
        return "application/json", completion(request)
    return "application/json", RECEIPT


class Exchange(asyncio.Protocol):
    """One kept-alive connection whose requests come one after the other, each with a content-length."""

    def connection_made(self, transport):
        self.transport = transport
        self.pending = bytearray()

    def data_received(self, data):
        self.pending += data
        while (end := self.pending.find(b"\r\n\r\n")) >= 0:
            first, *lines = self.pending[:end].decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            length = int(headers.get("content-length", "0"))
            if len(self.pending) < end + 4 + length:
                return
            kind, body = answer_to(first.split(" ")[1], bytes(self.pending[end + 4 : end + 4 + length]))
            del self.pending[: end + 4 + length]
            head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
            self.transport.write(head.encode() + body)


async def main():
    server = await asyncio.get_running_loop().create_server(Exchange, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

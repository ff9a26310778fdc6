"""The scripted model's four tongues: OpenAI chat completions and responses, Anthropic messages, Gemini.

Each dialect reads the announced tools and the tool results out of a request and renders an answer, whole or as
server-sent events. Every answer carries fresh random ids and padding, so that two live answers never have the same
bytes. Never opens a socket; knows the plan only through the arguments it is given.
"""

import json
import re
import secrets
import time

import errand


def _text(content):
    """The text of a tool result, whatever shape the client wrapped it in."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text(part.get("text", part.get("content", ""))) for part in content if isinstance(part, dict))
    return json.dumps(content)


def _id(prefix):
    return f"{prefix}_{secrets.token_hex(12)}"


def _pieces(text, count=4):
    """The text cut into a few parts, none of them empty."""
    step = max(1, -(-len(text) // count))
    return [text[at : at + step] for at in range(0, len(text), step)] or [""]


def _words(number, calls, final):
    return final if final is not None else f"Step {number}: " + " and ".join(tool for tool, _ in calls) + "."


class Dialect:
    """`path` is a pattern of the whole path; who wants a stream says so in the body, but for Gemini."""

    path = ""

    @classmethod
    def at(cls, path):
        return re.fullmatch(cls.path, path)

    @staticmethod
    def streams(_path, body):
        return bool(body.get("stream"))

    @staticmethod
    def tools(body):
        """The announced tools, each an object with its name and description."""
        return body.get("tools") or []


class Chat(Dialect):
    """`POST /v1/chat/completions`"""

    path = "/v1/chat/completions"

    @staticmethod
    def tools(body):
        return [tool["function"] for tool in body.get("tools") or []]

    @staticmethod
    def results(body):
        return [_text(message["content"]) for message in body["messages"] if message["role"] == "tool"]

    @staticmethod
    def _usage(size, text):
        prompt, completion = size // 4, max(1, len(text) // 4)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }

    @staticmethod
    def _calls(calls):
        return [
            {"id": _id("call"), "type": "function", "function": {"name": tool, "arguments": json.dumps(arguments)}}
            for tool, arguments in calls
        ]

    @classmethod
    def whole(cls, body, size, number, calls, final):
        text = _words(number, calls, final)
        message = {"role": "assistant", "content": final, "refusal": None, "annotations": []}
        if calls:
            message["tool_calls"] = cls._calls(calls)
        return {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": "tool_calls" if calls else "stop",
                }
            ],
            "usage": cls._usage(size, text),
            "service_tier": "default",
            "system_fingerprint": f"fp_{secrets.token_hex(5)}",
        }

    @classmethod
    def events(cls, body, size, number, calls, final):
        wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": body["model"],
            "service_tier": "default",
            "system_fingerprint": f"fp_{secrets.token_hex(5)}",
        }

        def chunk(delta, finish=None):
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            data = {**head, "choices": [choice], "obfuscation": secrets.token_urlsafe(6)}
            if wants_usage:
                data["usage"] = None
            return None, json.dumps(data)

        yield chunk({"role": "assistant", "content": None if calls else "", "refusal": None})
        for index, call in enumerate(cls._calls(calls)):
            yield chunk({"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]})
            for piece in _pieces(call["function"]["arguments"]):
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        for piece in _pieces(final) if final is not None else []:
            yield chunk({"content": piece})
        yield chunk({}, "tool_calls" if calls else "stop")
        if wants_usage:
            usage = cls._usage(size, _words(number, calls, final))
            yield None, json.dumps({**head, "choices": [], "usage": usage, "obfuscation": secrets.token_urlsafe(6)})
        yield None, "[DONE]"


class Responses(Dialect):
    """`POST /v1/responses`"""

    path = "/v1/responses"

    @staticmethod
    def results(body):
        items = body["input"] if isinstance(body["input"], list) else []
        return [_text(item["output"]) for item in items if item.get("type") == "function_call_output"]

    @staticmethod
    def _items(calls, final):
        if final is not None:
            part = {"type": "output_text", "text": final, "annotations": [], "logprobs": []}
            return [
                {"type": "message", "id": _id("msg"), "status": "completed", "role": "assistant", "content": [part]}
            ]
        return [
            {
                "type": "function_call",
                "id": _id("fc"),
                "call_id": _id("call"),
                "name": tool,
                "arguments": json.dumps(arguments),
                "status": "completed",
            }
            for tool, arguments in calls
        ]

    @classmethod
    def _response(cls, body, items, size, text, status):
        output = max(1, len(text) // 4)
        done = status == "completed"
        return {
            "id": _id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "max_output_tokens": None,
            "model": body["model"],
            "output": items if done else [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": True,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": body.get("tools") or [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": {
                "input_tokens": size // 4,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": size // 4 + output,
            }
            if done
            else None,
            "user": None,
            "metadata": {},
        }

    @classmethod
    def whole(cls, body, size, number, calls, final):
        return cls._response(body, cls._items(calls, final), size, _words(number, calls, final), "completed")

    @classmethod
    def events(cls, body, size, number, calls, final):
        items = cls._items(calls, final)
        done = cls._response(body, items, size, _words(number, calls, final), "completed")
        begun = {**done, "status": "in_progress", "output": [], "usage": None}
        count = iter(range(10_000))

        def event(kind, **fields):
            return kind, json.dumps({"type": kind, "sequence_number": next(count), **fields})

        yield event("response.created", response=begun)
        yield event("response.in_progress", response=begun)
        for index, item in enumerate(items):
            at = {"output_index": index, "item_id": item["id"]}
            if item["type"] == "function_call":
                empty = {**item, "arguments": "", "status": "in_progress"}
                yield event("response.output_item.added", output_index=index, item=empty)
                for piece in _pieces(item["arguments"]):
                    padding = secrets.token_urlsafe(6)
                    yield event("response.function_call_arguments.delta", **at, delta=piece, obfuscation=padding)
                yield event(
                    "response.function_call_arguments.done", **at, name=item["name"], arguments=item["arguments"]
                )
            else:
                part = item["content"][0]
                empty = {**item, "status": "in_progress", "content": []}
                yield event("response.output_item.added", output_index=index, item=empty)
                yield event("response.content_part.added", **at, content_index=0, part={**part, "text": ""})
                for piece in _pieces(part["text"]):
                    padding = secrets.token_urlsafe(6)
                    yield event(
                        "response.output_text.delta",
                        **at,
                        content_index=0,
                        delta=piece,
                        logprobs=[],
                        obfuscation=padding,
                    )
                yield event("response.output_text.done", **at, content_index=0, text=part["text"], logprobs=[])
                yield event("response.content_part.done", **at, content_index=0, part=part)
            yield event("response.output_item.done", output_index=index, item=item)
        yield event("response.completed", response=done)


class Messages(Dialect):
    """`POST /v1/messages`"""

    path = "/v1/messages"

    @staticmethod
    def results(body):
        return [
            _text(block.get("content", ""))
            for message in body["messages"]
            if message["role"] == "user" and isinstance(message["content"], list)
            for block in message["content"]
            if block["type"] == "tool_result"
        ]

    @staticmethod
    def _blocks(number, calls, final):
        blocks = [{"type": "text", "text": _words(number, calls, final), "citations": None}]
        for tool, arguments in calls:
            blocks.append({"type": "tool_use", "id": _id("toolu"), "name": tool, "input": arguments})
        return blocks

    @staticmethod
    def _usage(size, output):
        return {
            "input_tokens": size // 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": output,
            "service_tier": "standard",
        }

    @classmethod
    def whole(cls, body, size, number, calls, final):
        return {
            "id": _id("msg"),
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": cls._blocks(number, calls, final),
            "stop_reason": "tool_use" if calls else "end_turn",
            "stop_sequence": None,
            "usage": cls._usage(size, max(1, len(_words(number, calls, final)) // 4)),
        }

    @classmethod
    def events(cls, body, size, number, calls, final):
        done = cls.whole(body, size, number, calls, final)
        begun = {**done, "content": [], "stop_reason": None, "usage": cls._usage(size, 1)}

        def event(kind, **fields):
            return kind, json.dumps({"type": kind, **fields})

        yield event("message_start", message=begun)
        yield event("ping")
        for index, block in enumerate(done["content"]):
            if block["type"] == "text":
                yield event("content_block_start", index=index, content_block={**block, "text": ""})
                for piece in _pieces(block["text"]):
                    yield event("content_block_delta", index=index, delta={"type": "text_delta", "text": piece})
            else:
                yield event("content_block_start", index=index, content_block={**block, "input": {}})
                for piece in ["", *_pieces(json.dumps(block["input"]))]:
                    delta = {"type": "input_json_delta", "partial_json": piece}
                    yield event("content_block_delta", index=index, delta=delta)
            yield event("content_block_stop", index=index)
        yield event(
            "message_delta",
            delta={"stop_reason": done["stop_reason"], "stop_sequence": None},
            usage={"output_tokens": done["usage"]["output_tokens"]},
        )
        yield event("message_stop")


class Gemini(Dialect):
    """`POST /v1beta/models/<model>:generateContent`, and `:streamGenerateContent?alt=sse`"""

    path = r"/v1beta/models/[^/:]+:(generate|streamGenerate)Content"

    @staticmethod
    def streams(path, _body):
        return path.endswith(":streamGenerateContent")

    @staticmethod
    def tools(body):
        return [one for tool in body.get("tools") or [] for one in tool.get("functionDeclarations", ())]

    @staticmethod
    def results(body):
        parts = [part for content in body["contents"] for part in content.get("parts") or []]
        return [_text(part["functionResponse"]["response"]) for part in parts if "functionResponse" in part]

    @staticmethod
    def _parts(calls, final):
        if final is not None:
            return [{"text": final}]
        parts = [{"functionCall": {"id": _id("fc"), "name": tool, "args": arguments}} for tool, arguments in calls]
        # The maker signs the first call of a turn, and wants the signature back.
        parts[0]["thoughtSignature"] = secrets.token_urlsafe(30)
        return parts

    @staticmethod
    def _answer(response_id, parts, size, words, finish):
        candidate = {"content": {"parts": parts, "role": "model"}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        prompt, said = size // 4, max(1, len(words) // 4)
        return {
            "candidates": [candidate],
            "usageMetadata": {
                "promptTokenCount": prompt,
                "candidatesTokenCount": said,
                "totalTokenCount": prompt + said,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
            },
            "modelVersion": errand.MODEL,
            "responseId": response_id,
        }

    @classmethod
    def whole(cls, _body, size, number, calls, final):
        words = _words(number, calls, final)
        return cls._answer(secrets.token_urlsafe(16), cls._parts(calls, final), size, words, "STOP")

    @classmethod
    def events(cls, _body, size, number, calls, final):
        """A call comes in one piece; only text is cut."""
        words, response_id = _words(number, calls, final), secrets.token_urlsafe(16)
        parts = [{"text": piece} for piece in _pieces(final)] if final is not None else cls._parts(calls, None)
        for at, part in enumerate(parts, 1):
            finish = "STOP" if at == len(parts) else None
            yield None, json.dumps(cls._answer(response_id, [part], size, words, finish))


ALL = (Chat, Responses, Messages, Gemini)

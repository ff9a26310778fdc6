"""Anthropic's Python SDK, messages, with an MCP server for tools. `--stream` streams the answers.

Base URLs come from the environment alone: ANTHROPIC_BASE_URL (read by the SDK) and MCP_URL.
"""

import asyncio
import os
import sys

from anthropic import AsyncAnthropic
from mcp import Client

PROMPT = "Reconcile invoices INV-101, INV-102 and INV-103: check, charge, notify, book. Then report."


async def whole(anthropic, **request):
    return await anthropic.messages.create(**request)


async def streamed(anthropic, **request):
    async with anthropic.messages.stream(**request) as stream:
        async for _text in stream.text_stream:
            pass
        return await stream.get_final_message()


async def main():
    ask = streamed if "--stream" in sys.argv else whole
    anthropic = AsyncAnthropic()
    async with Client(os.environ["MCP_URL"]) as desk:
        listed = await desk.list_tools()
        tools = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}
            for tool in listed.tools
        ]
        messages = [{"role": "user", "content": PROMPT}]
        while True:
            message = await ask(
                anthropic, model="claude-sonnet-4-6", max_tokens=1024, messages=messages, tools=tools
            )
            messages.append({"role": "assistant", "content": [b.to_dict(mode="json") for b in message.content]})
            calls = [block for block in message.content if block.type == "tool_use"]
            if not calls:
                break
            results = []
            for call in calls:
                result = await desk.call_tool(call.name, call.input)
                text = "".join(part.text for part in result.content)
                results.append({"type": "tool_result", "tool_use_id": call.id, "content": text})
            messages.append({"role": "user", "content": results})
    print("FINAL", "".join(block.text for block in message.content if block.type == "text"), flush=True)


asyncio.run(main())

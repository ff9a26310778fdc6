"""OpenAI's Python SDK, chat completions, with an MCP server for tools. `--stream` streams the answers.

Base URLs come from the environment alone: OPENAI_BASE_URL (read by the SDK) and MCP_URL.
"""

import asyncio
import json
import os
import sys

from mcp import Client
from openai import AsyncOpenAI

PROMPT = "Reconcile invoices INV-101, INV-102 and INV-103: check, charge, notify, book. Then report."


async def whole(openai, **request):
    completion = await openai.chat.completions.create(**request)
    return completion.choices[0].message


async def streamed(openai, **request):
    async with openai.chat.completions.stream(**request) as stream:
        async for _event in stream:
            pass
        completion = await stream.get_final_completion()
    return completion.choices[0].message


async def main():
    ask = streamed if "--stream" in sys.argv else whole
    openai = AsyncOpenAI()
    async with Client(os.environ["MCP_URL"]) as desk:
        listed = await desk.list_tools()
        tools = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
            }
            for tool in listed.tools
        ]
        messages = [{"role": "user", "content": PROMPT}]
        while True:
            message = await ask(openai, model="gpt-5", messages=messages, tools=tools)
            messages.append(message.to_dict(mode="json"))
            if not message.tool_calls:
                break
            for call in message.tool_calls:
                result = await desk.call_tool(call.function.name, json.loads(call.function.arguments))
                text = "".join(part.text for part in result.content)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
    print("FINAL", message.content, flush=True)


asyncio.run(main())

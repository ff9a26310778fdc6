"""FastMCP's client for tools, OpenAI's Python SDK (chat completions) for the model.

Base URLs come from the environment alone: OPENAI_BASE_URL (read by the SDK) and MCP_URL. `--at-once` asks for
several tools in one turn, which are called side by side in one MCP session.
"""

import asyncio
import json
import os
import sys

from fastmcp import Client
from openai import AsyncOpenAI

HOW = ", all at once: " if "--at-once" in sys.argv else ": "
PROMPT = f"Reconcile invoices INV-101, INV-102 and INV-103{HOW}check, charge, notify, book. Then report."


async def answer(desk, call):
    result = await desk.call_tool(call.function.name, json.loads(call.function.arguments), raise_on_error=False)
    text = "".join(part.text for part in result.content)
    return {"role": "tool", "tool_call_id": call.id, "content": text}


async def main():
    openai = AsyncOpenAI()
    async with Client(os.environ["MCP_URL"]) as desk:
        tools = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
            }
            for tool in await desk.list_tools()
        ]
        messages = [{"role": "user", "content": PROMPT}]
        while True:
            completion = await openai.chat.completions.create(model="gpt-5", messages=messages, tools=tools)
            message = completion.choices[0].message
            messages.append(message.to_dict(mode="json"))
            if not message.tool_calls:
                break
            messages += await asyncio.gather(*(answer(desk, call) for call in message.tool_calls))
    print("FINAL", message.content, flush=True)


asyncio.run(main())

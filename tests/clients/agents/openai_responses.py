"""OpenAI's Python SDK, responses, with an MCP server for tools. `--stream` streams the answers.

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
    return await openai.responses.create(**request)


async def streamed(openai, **request):
    async with openai.responses.stream(**request) as stream:
        async for _event in stream:
            pass
        return await stream.get_final_response()


async def main():
    ask = streamed if "--stream" in sys.argv else whole
    openai = AsyncOpenAI()
    async with Client(os.environ["MCP_URL"]) as desk:
        listed = await desk.list_tools()
        tools = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.input_schema,
                "strict": False,
            }
            for tool in listed.tools
        ]
        items = [{"role": "user", "content": PROMPT}]
        while True:
            response = await ask(openai, model="gpt-5", input=items, tools=tools)
            items += [item.to_dict(mode="json") for item in response.output]
            calls = [item for item in response.output if item.type == "function_call"]
            if not calls:
                break
            for call in calls:
                result = await desk.call_tool(call.name, json.loads(call.arguments))
                text = "".join(part.text for part in result.content)
                items.append({"type": "function_call_output", "call_id": call.call_id, "output": text})
    print("FINAL", response.output_text, flush=True)


asyncio.run(main())

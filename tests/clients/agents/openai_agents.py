"""An agent on the OpenAI Agents SDK (responses, streamed) with an MCP server over streamable HTTP.

Base URLs come from the environment alone: OPENAI_BASE_URL (read by the SDK beneath) and MCP_URL.
"""

import asyncio
import os

from agents import Agent, Runner, set_tracing_disabled
from agents.mcp import MCPServerStreamableHttp

PROMPT = "Reconcile invoices INV-101, INV-102 and INV-103: check, charge, notify, book. Then report."


async def main():
    set_tracing_disabled(True)  # tracing reports to the maker's servers, which a test does not reach
    async with MCPServerStreamableHttp(name="desk", params={"url": os.environ["MCP_URL"]}) as desk:
        agent = Agent(name="Reconciler", model="gpt-5", mcp_servers=[desk])
        result = Runner.run_streamed(agent, PROMPT, max_turns=20)
        async for _event in result.stream_events():
            pass
    print("FINAL", result.final_output, flush=True)


asyncio.run(main())

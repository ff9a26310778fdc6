"""An agent on Pydantic AI with an MCP server as its toolset.

Base URLs come from the environment alone: OPENAI_BASE_URL (read by the SDK beneath) and MCP_URL.
"""

import asyncio
import os

from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset

PROMPT = "Reconcile invoices INV-101, INV-102 and INV-103: check, charge, notify, book. Then report."


async def main():
    agent = Agent("openai-chat:gpt-5", toolsets=[MCPToolset(os.environ["MCP_URL"])])
    async with agent:
        result = await agent.run(PROMPT)
    print("FINAL", result.output, flush=True)


asyncio.run(main())

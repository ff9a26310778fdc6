"""An agent on LangGraph (`create_agent`) with MCP tools over HTTP through langchain-mcp-adapters.

Base URLs come from the environment alone: OPENAI_BASE_URL (read by langchain-openai) and MCP_URL.
`--at-once` asks for several tools in one turn, which LangGraph runs side by side, each in an MCP session of its own.
"""

import asyncio
import os
import sys

from langchain.agents import create_agent
from langchain_mcp_adapters.client import MultiServerMCPClient

HOW = ", all at once: " if "--at-once" in sys.argv else ": "
PROMPT = f"Reconcile invoices INV-101, INV-102 and INV-103{HOW}check, charge, notify, book. Then report."


async def main():
    client = MultiServerMCPClient({"desk": {"url": os.environ["MCP_URL"], "transport": "http"}})
    tools = await client.get_tools()
    agent = create_agent("openai:gpt-5", tools)
    answer = await agent.ainvoke({"messages": PROMPT})
    print("FINAL", answer["messages"][-1].text, flush=True)


asyncio.run(main())

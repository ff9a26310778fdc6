"""An agent on AutoGen (`AssistantAgent`) with an MCP server as its workbench. `--stream` streams the answers.

Base URLs come from the environment alone: OPENAI_BASE_URL (read by OpenAI's SDK beneath) and MCP_URL. `--at-once`
asks for several tools in one turn, which AutoGen runs side by side in one MCP session.
"""

import asyncio
import os
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.tools.mcp import McpWorkbench, StreamableHttpServerParams

HOW = ", all at once: " if "--at-once" in sys.argv else ": "
PROMPT = f"Reconcile invoices INV-101, INV-102 and INV-103{HOW}check, charge, notify, book. Then report."


async def main():
    model = OpenAIChatCompletionClient(model="gpt-5")
    async with McpWorkbench(StreamableHttpServerParams(url=os.environ["MCP_URL"])) as desk:
        agent = AssistantAgent(
            "reconciler",
            model,
            workbench=desk,
            max_tool_iterations=20,
            model_client_stream="--stream" in sys.argv,
        )
        result = await agent.run(task=PROMPT)
    await model.close()
    print("FINAL", result.messages[-1].content, flush=True)


asyncio.run(main())

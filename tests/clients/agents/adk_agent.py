"""An agent on Google's Agent Development Kit with Gemini and MCP tools over HTTP. `--stream` streams the answers.

Base URLs come from the environment alone: GOOGLE_GEMINI_BASE_URL (read by google-genai beneath) and MCP_URL.
`--at-once` asks for several tools in one turn, which the kit runs side by side.
"""

import asyncio
import os
import sys

from google.adk.agents import LlmAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.runners import InMemoryRunner
from google.adk.tools.mcp_tool import McpToolset, StreamableHTTPConnectionParams
from google.genai import types

HOW = ", all at once: " if "--at-once" in sys.argv else ": "
PROMPT = f"Reconcile invoices INV-101, INV-102 and INV-103{HOW}check, charge, notify, book. Then report."


async def main():
    desk = McpToolset(connection_params=StreamableHTTPConnectionParams(url=os.environ["MCP_URL"]))
    agent = LlmAgent(name="reconciler", model="gemini-3-pro", tools=[desk])
    config = RunConfig(streaming_mode=StreamingMode.SSE if "--stream" in sys.argv else StreamingMode.NONE)
    runner = InMemoryRunner(agent=agent, app_name="desk")
    session = await runner.session_service.create_session(app_name="desk", user_id="clerk")
    prompt = types.Content(role="user", parts=[types.Part(text=PROMPT)])
    async for event in runner.run_async(
        user_id="clerk", session_id=session.id, new_message=prompt, run_config=config
    ):
        if event.error_code:
            raise SystemExit(f"{event.error_code}: {event.error_message}")
        if event.is_final_response():
            text = "".join(part.text or "" for part in event.content.parts)
    await runner.close()
    print("FINAL", text, flush=True)


asyncio.run(main())

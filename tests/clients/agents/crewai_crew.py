"""A crew of one on CrewAI, whose tools are an MCP server through the adapter of crewai-tools.

Base URLs come from the environment alone: OPENAI_BASE_URL (read by CrewAI) and MCP_URL. `--at-once` asks for several
tools in one turn, which CrewAI runs in threads.
"""

import os
import sys

from crewai import LLM, Agent, Crew, Task
from crewai_tools import MCPServerAdapter

HOW = ", all at once: " if "--at-once" in sys.argv else ": "
PROMPT = f"Reconcile invoices INV-101, INV-102 and INV-103{HOW}check, charge, notify, book. Then report."

with MCPServerAdapter({"url": os.environ["MCP_URL"], "transport": "streamable-http"}) as tools:
    clerk = Agent(
        role="Reconciler",
        goal="Reconcile invoices",
        backstory="A careful clerk.",
        llm=LLM(model="openai/gpt-5"),
        tools=tools,
    )
    task = Task(description=PROMPT, expected_output="A report", agent=clerk)
    report = Crew(agents=[clerk], tasks=[task]).kickoff()
print("FINAL", report.raw, flush=True)

"""What is tried: programs, kill points, and which program meets which point in which mode. Data only, no processes.

A point is (channel, call, phase): the k-th model call or the k-th tool call, and where in it the kill comes.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "upstream"))

import errand  # noqa: E402  (it lives with the upstreams, which are programs, not a package)

LAST_MODEL, LAST_TOOL = errand.ONE_BY_ONE.model_calls, len(errand.ONE_BY_ONE.effects)

# program -> (interpreter, script, arguments)
PROGRAMS = {
    "openai-chat": ("sdk", "openai_chat.py", ()),
    "openai-chat-stream": ("sdk", "openai_chat.py", ("--stream",)),
    "openai-responses": ("sdk", "openai_responses.py", ()),
    "openai-responses-stream": ("sdk", "openai_responses.py", ("--stream",)),
    "anthropic": ("sdk", "anthropic_messages.py", ()),
    "anthropic-stream": ("sdk", "anthropic_messages.py", ("--stream",)),
    "langgraph": ("langgraph", "langgraph_agent.py", ()),
    "pydantic-ai": ("sdk", "pydantic_agent.py", ()),
    "openai-agents": ("sdk", "openai_agents.py", ()),
    "ai-sdk": ("node", "ai_sdk.mjs", ()),
    "openai-node": ("node", "openai_node.mjs", ()),
    "fastmcp": ("sdk", "fastmcp_client.py", ()),
    "crewai": ("crewai", "crewai_crew.py", ()),
    "google-adk": ("adk", "adk_agent.py", ()),
    "autogen": ("autogen", "autogen_agent.py", ()),
    "fastmcp-at-once": ("sdk", "fastmcp_client.py", ("--at-once",)),
    "crewai-at-once": ("crewai", "crewai_crew.py", ("--at-once",)),
    "google-adk-at-once": ("adk", "adk_agent.py", ("--stream", "--at-once")),
    "autogen-at-once": ("autogen", "autogen_agent.py", ("--stream", "--at-once")),
    "langgraph-at-once": ("langgraph", "langgraph_agent.py", ("--at-once",)),
    "ai-sdk-at-once": ("node", "ai_sdk.mjs", ("--at-once",)),
}


def plan(program):
    """What the program is asked to do."""
    return errand.TOGETHER if "--at-once" in PROGRAMS[program][2] else errand.ONE_BY_ONE


MODEL_POINTS = tuple(
    ("model", call, phase) for call in (1, 2, 7, LAST_MODEL) for phase in ("before", "during", "after")
)
TOOL_POINTS = tuple(("tool", call, phase) for call in (1, 2, 7, LAST_TOOL) for phase in ("before", "done", "after"))
# An answer of a tool that is half out, once: the MCP server's own framing, cut.
HALF = ("tool", 2, "during")

# These meet every point; the others of ROTATED a third each, rotated so that together they meet every point twice
# per mode.
ROTATED = tuple(PROGRAMS)[: tuple(PROGRAMS).index("fastmcp")]
THOROUGH = ("openai-chat-stream", "ai-sdk")

# A handful that shows whether anything works at all.
SMOKE = (
    ("openai-chat-stream", "serve", "agent", ("model", 7, "during")),
    ("openai-chat-stream", "direct", "agent", ("tool", 2, "done")),
    ("openai-chat-stream", "serve", "sidecar", ("model", 7, "between")),
    ("anthropic-stream", "run", "agent", ("model", 2, "before")),
    ("langgraph", "serve", "agent", ("tool", 2, "done")),
    ("ai-sdk", "run", "agent", ("model", LAST_MODEL, "after")),
    ("openai-node", "serve", "agent", ("tool", 7, "before")),
    ("ai-sdk-at-once", "run", "agent", ("tool", 5, "done")),
    ("google-adk", "serve", "both", ("model", 7, "during")),
)

# The sidecar is killed instead of the agent, and started again on its port at once; or both are killed at the same
# moment and started again, the sidecar on its port (`serve`) or with the agent on any port (`run`).
SIDECAR_PROGRAMS = ("openai-chat-stream", "openai-node")
BOTH_PROGRAM = "openai-node"
SIDECAR_POINTS = (
    ("model", 1, "before"),
    ("model", 2, "between"),
    ("model", 4, "during"),
    ("model", 7, "between"),
    ("model", 7, "during"),
    ("model", LAST_MODEL, "before"),
    ("tool", 2, "before"),
    ("tool", 7, "done"),
)

# These go on waiting when the connection breaks over a tool's answer that has begun, whatever stood behind it: their
# MCP client (Python's mcp before 2) tells nobody, and their timeout for it is five minutes or none.
WAIT_ON = ("autogen", "autogen-at-once", "crewai", "crewai-at-once")

# The other programs: what each victim meets, in the modes in turn; of `run` the sidecar alone is not killed, as it is
# the parent of its agent.
FEW = {
    "agent": (("model", 7, "during"), ("tool", 2, "done"), ("tool", 7, "before")),
    "sidecar": (("model", 4, "between"), ("model", 7, "during"), ("tool", 2, "done")),
    "both": (("model", 7, "before"), ("tool", 2, "done"), ("tool", 8, "between")),
}
FEW_AT_ONCE = {
    "agent": (("tool", 5, "done"), ("tool", 9, "before"), ("model", 3, "during")),
    "sidecar": (("tool", 5, "done"), ("model", 3, "during")),
    "both": (("tool", 5, "done"), ("tool", 9, "between")),
}

# Its start alone takes longer than a whole run of most others: one point for each victim.
SLOW = "crewai-at-once"

# Without Outrigger the same kills must do harm: everything for the quickest program, these for each.
DIRECT = (("model", 7, "during"), ("tool", 2, "done"))
DIRECT_AT_ONCE = (("tool", 5, "done"),)


def _share(points, index):
    """Every third point, starting where the program stands in the list."""
    return tuple(point for at, point in enumerate(points) if (at + at // 3 + index) % 3 == 0)


def _rotated():
    for index, program in enumerate(ROTATED):
        thorough = program in THOROUGH
        for shift, mode in enumerate(("serve", "run")):
            yield program, mode, "agent", None
            points = MODEL_POINTS if thorough else _share(MODEL_POINTS, index + shift)
            more = (*TOOL_POINTS, HALF) if thorough else _share(TOOL_POINTS, index + shift)
            for point in (*points, *more):
                yield program, mode, "agent", point
        direct = (*MODEL_POINTS, *TOOL_POINTS) if program == "openai-node" else DIRECT
        for point in direct:
            yield program, "direct", "agent", point
    for program in SIDECAR_PROGRAMS:
        for point in SIDECAR_POINTS:
            yield program, "serve", "sidecar", point
    for mode in ("serve", "run"):
        for point in SIDECAR_POINTS:
            yield BOTH_PROGRAM, mode, "both", point


def _few():
    for index, program in enumerate(name for name in PROGRAMS if name not in ROTATED):
        together = plan(program) is errand.TOGETHER
        if not together:
            yield program, ("serve", "run")[index % 2], "agent", None
        for victim, points in (FEW_AT_ONCE if together else FEW).items():
            for at, point in enumerate(points[:1] if program == SLOW else points, index):
                mode = "serve" if victim == "sidecar" else ("serve", "run")[at % 2]
                yield program, mode, victim, point
        for point in DIRECT_AT_ONCE if together else DIRECT:
            yield program, "direct", "agent", point


def scenarios():
    """(program, mode, victim, point) of the whole matrix; point None is an undisturbed run."""
    yield from _rotated()
    yield from _few()

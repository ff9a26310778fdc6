"""What is tried: programs, kill points, and which program meets which point in which mode. Data only, no processes.

A point is (channel, call, phase): the k-th model call or the k-th tool call, and where in it the kill comes.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "upstream"))

import errand  # noqa: E402  (it lives with the upstreams, which are programs, not a package)

LAST_MODEL, LAST_TOOL = errand.MODEL_CALLS, len(errand.EFFECTS)

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
}

MODEL_POINTS = tuple(
    ("model", call, phase) for call in (1, 2, 7, LAST_MODEL) for phase in ("before", "during", "after")
)
TOOL_POINTS = tuple(("tool", call, phase) for call in (1, 2, 7, LAST_TOOL) for phase in ("before", "done", "after"))
# An answer of a tool that is half out, once: the MCP server's own framing, cut.
HALF = ("tool", 2, "during")

# These meet every point; the others a third each, rotated so that together they meet every point twice per mode.
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
)

# The sidecar is killed instead of the agent, and started again on its port at once.
SIDECAR_PROGRAMS = ("openai-chat-stream", "openai-node")
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


def _share(points, index):
    """Every third point, starting where the program stands in the list."""
    return tuple(point for at, point in enumerate(points) if (at + at // 3 + index) % 3 == 0)


def scenarios():
    """(program, mode, victim, point) of the whole matrix; point None is an undisturbed run."""
    for index, program in enumerate(PROGRAMS):
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


# Without Outrigger the same kills must do harm: everything for the quickest program, these for each.
DIRECT = (("model", 7, "during"), ("tool", 2, "done"))

"""The errand every agent runs: which tools there are, what the scripted model asks for, what it answers.

The prompt chooses the plan: one invoice after the other, or all at once, with three to six tools in a turn. From
there on only the number of tool results counts that a conversation carries; so a restarted agent that brings the
same results gets the same next request, and one that brings none starts over. Receipts carry how often the effect
has happened, so that a repeated effect shows in the final answer too. Never opens a socket or a file.
"""

import re

MODEL = "scripted-1"
# Agents ask "Reconcile invoices INV-101, INV-102 and INV-103: check, charge, notify, book. Then report.", and with
# these words in it they get the plan of that name.
AT_ONCE = "all at once"
INVOICES = ("INV-101", "INV-102", "INV-103")
AMOUNTS = {"INV-101": 12000, "INV-102": 4550, "INV-103": 98999}

# tool -> (receipt prefix, description, parameters in order with their JSON types)
TOOLS = {
    "fraud_check": ("FC", "Checks an invoice for fraud.", {"invoice_id": "string"}),
    "charge": ("CH", "Charges the customer of an invoice.", {"invoice_id": "string", "amount_cents": "integer"}),
    "send_email": ("EM", "Sends the customer a mail.", {"invoice_id": "string", "body": "string"}),
    "ledger_post": ("LP", "Posts an entry to the ledger.", {"invoice_id": "string", "receipt": "string"}),
}

RECEIPT = re.compile(r"\b(?:FC|CH|EM|LP)-INV-\d+-\d+\b")


class Plan:
    """What the model asks for, turn by turn: (tool, invoice) pairs, those of one turn all together."""

    def __init__(self, turns):
        self.turns = tuple(turns)
        self.model_calls = len(self.turns) + 1
        self.effects = tuple(effect for turn in self.turns for effect in turn)


def _one_by_one():
    for invoice in INVOICES:
        yield (("fraud_check", invoice),)
        yield (("charge", invoice),)
        yield (("send_email", invoice), ("ledger_post", invoice))


def _at_once():
    yield tuple(("fraud_check", invoice) for invoice in INVOICES)
    yield tuple(("charge", invoice) for invoice in INVOICES)
    yield tuple((tool, invoice) for invoice in INVOICES for tool in ("send_email", "ledger_post"))


ONE_BY_ONE, TOGETHER = Plan(_one_by_one()), Plan(_at_once())


def plan_of(conversation):
    """The plan that a conversation asks for: any text with the prompt in it."""
    return TOGETHER if AT_ONCE in conversation else ONE_BY_ONE


class Unexpected(Exception):
    """A conversation that no faithful run of the plan can have."""


def receipt(tool, invoice, times):
    return f"{TOOLS[tool][0]}-{invoice}-{times}"


def effect_text(tool, invoice, times):
    return f"{tool} done for {invoice}, receipt {receipt(tool, invoice, times)}"


def tool_schema(tool):
    """The JSON Schema of a tool's arguments, as a client would announce it to a model."""
    parameters = TOOLS[tool][2]
    return {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in parameters.items()},
        "required": list(parameters),
        "additionalProperties": False,
    }


def announced(tool, announcements):
    """The name under which a client announced the tool. Some put a server's name or address into it, so that, as a
    model would, this goes by the description."""
    for announcement in announcements:
        if TOOLS[tool][1] in announcement.get("description", ""):
            return announcement["name"]
    raise Unexpected(f"nothing like {tool} was announced")


def arguments(tool, invoice, seen):
    """The arguments the model asks for, computed from the receipts seen so far."""
    charged = next((r for r in sorted(seen) if r.startswith(f"CH-{invoice}-")), "none")
    if tool == "charge":
        return {"invoice_id": invoice, "amount_cents": AMOUNTS[invoice]}
    if tool == "send_email":
        return {"invoice_id": invoice, "body": f"Thank you. Your receipt is {charged}."}
    if tool == "ledger_post":
        return {"invoice_id": invoice, "receipt": charged}
    return {"invoice_id": invoice}


def answer(plan, results):
    """What the model says to a conversation with these tool results (texts, in conversation order).

    Returns (call number from 1, [(tool, arguments)], final text or None).
    """
    done = 0
    for index, turn in enumerate(plan.turns):
        if len(results) == done:
            number = index + 1
            break
        done += len(turn)
    else:
        number = plan.model_calls
        if len(results) != done:
            raise Unexpected(f"{len(results)} tool results; the plan has none of that length")
    seen = set()
    for text in results:
        receipts = set(RECEIPT.findall(text))
        if len(receipts) != 1:
            # A tool that failed ends the errand: the model reports what it was told.
            return number, [], f"STOPPED: {' '.join(text.split())}"
        seen |= receipts
    if number == plan.model_calls:
        lines = []
        for invoice in INVOICES:
            mine = [r for tool in TOOLS for r in sorted(seen) if r.startswith(f"{TOOLS[tool][0]}-{invoice}-")]
            lines.append(f"{invoice} {AMOUNTS[invoice]}: {' '.join(mine)}")
        return number, [], f"Reconciled {len(INVOICES)} invoices. " + "; ".join(lines) + "."
    return number, [(tool, arguments(tool, invoice, seen)) for tool, invoice in plan.turns[number - 1]], None

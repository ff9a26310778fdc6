"""What a durable step costs, beside a bare flush, no durability at all, and other engines: rounds interleaved."""

from parties import LAID_OUT_BYTES, Bare, Calls, Sidecar, charge, median, percentile, turn


def parties(binary, work, mock, others):
    port = Sidecar(binary, work / "cost", mock).port
    chat = "/v1/chat/completions"
    return {
        "bare append and fdatasync": Bare(work, "appended"),
        "the same into a file laid out before": Bare(work, "laid-out", LAID_OUT_BYTES),
        "the call alone, nothing recorded": Calls(mock.port, "/charge", charge),
        "Outrigger, an effect": Calls(port, "/tools/charge", charge, "/w/{}/a/1", "live"),
        "Outrigger, a model call": Calls(port, f"/model{chat}", turn, "/w/{}/a/1", "live"),
        "Outrigger, the effect replayed": Calls(port, "/tools/charge", charge, "/w/{}/a/2", "replay"),
    } | others


def measure(binary, work, mock, others, effort):
    everybody = parties(binary, work, mock, others)
    times = {name: [] for name in everybody}
    # The first round warms up and does not count.
    for round_ in range(effort.rounds + 1):
        print(f"cost of a step: round {round_} of {effort.rounds}", flush=True)
        for name, party in everybody.items():
            seen = party.steps(f"cost-{round_}-{'model' if 'model' in name else 'effect'}", effort.steps)
            if round_ > 0:
                times[name].append(seen)
    bare = [median(round_) for round_ in times["bare append and fdatasync"]]
    rows = ["| a step | p50, ms | p99, ms | p50 in bare flushes |", "| --- | --: | --: | --: |"]
    for name, rounds in times.items():
        pooled = [time for round_ in rounds for time in round_]
        ratio = median([median(round_) / flush for round_, flush in zip(rounds, bare, strict=True)])
        rows.append(f"| {name} | {median(pooled):.2f} | {percentile(pooled, 0.99):.1f} | {ratio:.2f} |")
    return {"cost-of-a-step": "\n".join(rows)}

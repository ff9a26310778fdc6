"""One scenario from start to verdict: run a program, kill it, the sidecar or both at the point, start it again, judge.

The verdict comes from what the upstreams saw (the model's counts, the tools' effects file), from the program's own
last words, and from the timeline. Starts processes only through rig.py.
"""

import collections
import contextlib
import signal

import table
from rig import TELEMETRY_OFF, Agent, Sidecar, Trouble, await_that, clean_environment

HIT_S_MAX, LIFE_S_MAX = 40, 60
# For a program that waits for an answer whose connection is broken.
PATIENCE_S = 5
# Lives a program may need when the sidecar dies under it: its own, and one per error it gives up on.
LIVES_MAX = 4


def name_of(point):
    return "undisturbed" if point is None else "{}-{}-{}".format(*point)


class Scenario:
    def __init__(self, bench, program, mode, victim, point):
        self.bench, self.program, self.mode, self.victim, self.point = bench, program, mode, victim, point
        self.plan = table.plan(program)
        self.name = self.title(program, mode, victim, point)
        self.run = f"{program}-{mode}-{victim}-{name_of(point)}"
        self.folder = bench.work / self.run
        self.sidecar = self.agent = None
        self.seen = {}

    @staticmethod
    def title(program, mode, victim, point):
        return f"{program} {mode} {victim} {name_of(point)}"

    def play(self):
        """Runs it; returns what is wrong, nothing if all is well."""
        self.folder.mkdir(parents=True)
        try:
            self._set_up()
            if self.point is None:
                self._live(1)
            elif self.victim == "agent":
                self._kill_agent()
            elif self.victim == "sidecar":
                self._kill_sidecar()
            else:
                self._kill_both()
            return self._judge()
        except Trouble as trouble:
            return [str(trouble), *self._tails()]
        finally:
            if self.agent and self.agent.process:
                self.agent.process.kill()
            if self.sidecar:
                self.sidecar.kill()

    # -- playing ------------------------------------------------------------------------------------------------

    def _set_up(self):
        model, tools = self.bench.model, self.bench.tools
        model_url, tools_url = f"{model.url}/r/{self.run}", f"{tools.url}/r/{self.run}"
        keys = {"OPENAI_API_KEY": "sk-test", "ANTHROPIC_API_KEY": "sk-ant-test", "GOOGLE_API_KEY": "AIza-test"}
        environment = {**clean_environment(self.folder), **TELEMETRY_OFF, **keys}
        self.wrapper = ()
        if self.mode == "direct":
            environment |= {
                "OPENAI_BASE_URL": f"{model_url}/v1",
                "ANTHROPIC_BASE_URL": model_url,
                "GOOGLE_GEMINI_BASE_URL": model_url,
                "MCP_URL": f"{tools_url}/mcp",
                "DESK_URL": f"{tools_url}/desk",
            }
        else:
            self.sidecar = Sidecar(self.bench.binary, self.folder, model_url, tools_url)
            if self.mode == "serve":
                self.sidecar.start()
                environment |= self.sidecar.urls(self.run)
            else:
                self.wrapper = self.sidecar.run_command(self.run)
        self.agent = Agent(self.bench.command(self.program), self.folder, environment)

    def _upstream(self):
        return self.bench.model if self.point[0] == "model" else self.bench.tools

    def _live(self, lives_max):
        """Lets the program live until it succeeds, starting it again when it fails."""
        for _ in range(lives_max):
            self.agent.launch(self.wrapper)
            if (code := self.agent.process.wait(LIFE_S_MAX)) == 0:
                return
        raise Trouble(f"the program failed with exit code {code}")

    def _await_hit(self):
        upstream = self._upstream()
        await_that(
            lambda: upstream.hit(self.run, 1) or not self.agent.process.running(), HIT_S_MAX, "reaching the point"
        )
        if not upstream.hit(self.run, 0):
            raise Trouble("the program ended before the point was reached")

    def _attempts(self):
        timeline = self.sidecar.timeline(self.run)
        return len(timeline["attempts"]) if timeline else 0

    def _kill_agent(self):
        _, call, phase = self.point
        upstream = self._upstream()
        kill = self.agent.pids_file if phase == "after" else None
        upstream.hold(self.run, call, phase, kill)
        self.agent.launch(self.wrapper)
        self._await_hit()
        if phase != "after":
            self.agent.signal(signal.SIGKILL)
        if self.mode != "run":
            self.agent.process.wait(LIFE_S_MAX)
        if self.mode == "direct":
            upstream.release(self.run)
        if self.mode != "run":
            self.agent.launch()
        if self.mode != "direct" and phase != "after":
            # Held until the new attempt is there: it may find the call still running, and must join it.
            await_that(lambda: self._attempts() == 2, HIT_S_MAX, "a second attempt")
            upstream.release(self.run)
        if code := self.agent.process.wait(LIFE_S_MAX):
            raise Trouble(f"started again, the program failed with exit code {code}")

    def _reach(self):
        """Lets the program come to the point; `between` steps it is stopped there."""
        _, call, phase = self.point
        self._upstream().hold(self.run, call, "after" if phase == "between" else phase)
        self.agent.launch(self.wrapper)
        self._await_hit()
        if phase == "between":
            self.agent.signal(signal.SIGSTOP)
            await_that(self._is_quiet, HIT_S_MAX, "all steps completed")

    def _kill_sidecar(self):
        self._reach()
        self.sidecar.kill()
        self._upstream().release(self.run)
        self.sidecar.start()
        if self.point[2] == "between":
            self.agent.signal(signal.SIGCONT)
        if not self._came_through():
            self._live(LIVES_MAX - 1)
        # Some clients take a broken connection for the tool's answer and end well; whoever starts the program again
        # must be told what became of the call.
        if self.point[0] == "tool" and self._is_left_open():
            self._live(1)

    def _came_through(self):
        """Whether the program ended well. One that waits on is ended here, as whoever watches over it would."""
        if self.point[0] == "model" or self.program not in table.WAIT_ON:
            return self.agent.process.wait(LIFE_S_MAX) == 0
        with contextlib.suppress(Trouble):
            return self.agent.process.wait(PATIENCE_S) == 0
        self.agent.process.kill()
        return False

    def _kill_both(self):
        self._reach()
        self.agent.signal(signal.SIGKILL)
        # Of `run` the sidecar is the agent's parent, the process that was launched.
        self.agent.process.kill()
        self.sidecar.kill()
        self._upstream().release(self.run)
        if self.mode == "serve":
            self.sidecar.start()
        self._live(1)

    def _is_left_open(self):
        return any(step["state"] == "open" for step in self.sidecar.timeline(self.run)["steps"])

    def _is_quiet(self):
        timeline = self.sidecar.timeline(self.run)
        return timeline and all(step["state"] == "completed" for step in timeline["steps"])

    # -- judging ------------------------------------------------------------------------------------------------

    def _look(self):
        self.model_calls = collections.Counter(c["call"] for c in self.bench.model.state(self.run)["calls"])
        self.effects = collections.Counter(
            (effect["tool"], effect["invoice"]) for effect in self.bench.tools.state(self.run)["effects"]
        )
        self.final = self.agent.final()
        self.timeline = self.sidecar.timeline(self.run) if self.sidecar else None
        self.seen = {
            "lives": len(self.agent.pids()),
            "model_calls": sum(self.model_calls.values()),
            "effects": sum(self.effects.values()),
            "final": self.final,
        }

    def _judge(self):
        self._look()
        if self.mode == "direct":
            problems = list(self._undisturbed()) if self.point is None else list(self._harmless())
        elif self.victim != "agent" and self.point[0] == "tool" and self.point[2] != "between":
            problems = list(self._in_doubt())
        else:
            allowed = self.victim != "agent" and self.point[2] != "between"
            again = {self.point[1]} if allowed else set()
            problems = [*self._undisturbed(again), *self._timeline_is_whole()]
        if self.point and self.victim != "sidecar" and self.seen["lives"] != 2:
            problems.append(f"the program had {self.seen['lives']} lives, not 2: the kill did not do what it should")
        return problems + self._tails() if problems else []

    def _undisturbed(self, again=frozenset()):
        """What an undisturbed run leaves behind; model calls in `again` may have been sent twice."""
        for call in range(1, self.plan.model_calls + 1):
            count, most = self.model_calls[call], 2 if call in again else 1
            if not 1 <= count <= most:
                yield f"model call {call} was made {count} times"
        for effect in self.plan.effects:
            if self.effects[effect] != 1:
                yield f"{effect[0]} of {effect[1]} happened {self.effects[effect]} times"
        expected = self.bench.finals.get(self.program)
        if not self.final or expected not in (None, self.final):
            yield f"final answer {self.final!r}, undisturbed {expected!r}"

    def _harmless(self):
        """Without Outrigger a kill must repeat something, or the test proves nothing."""
        if all(count == 1 for count in (*self.model_calls.values(), *self.effects.values())):
            yield "killed without Outrigger, and nothing was repeated"

    def _in_doubt(self):
        """The sidecar died while an effect was under way: held in doubt, named, and never done twice."""
        effect = tuple(self.bench.tools.state(self.run)["held"])
        beside = next(turn for turn in self.plan.turns if effect in turn)
        for other, count in self.effects.items():
            if count > 1:
                yield f"{other[0]} of {other[1]} happened {count} times"
        if self.point[2] == "done" and self.effects[effect] != 1:
            yield f"{effect[0]} of {effect[1]} happened {self.effects[effect]} times"
        if not (self.final or "").startswith("STOPPED: "):
            yield f"the program was not told that the effect is in doubt: {self.final!r}"
        doubtful = [step for step in self.timeline["steps"] if step["state"] == "in_doubt"]
        named = {step["operation"].rsplit("/", 1)[-1] for step in doubtful}
        # What was under way beside it when the sidecar died may be in doubt as well.
        if effect[0] not in named or not named <= {tool for tool, _ in beside}:
            yield f"{effect[0]} was held, and in doubt in the timeline: {doubtful}"

    def _timeline_is_whole(self):
        if not self.timeline:
            yield "no timeline"
            return
        steps = self.timeline["steps"]
        models = [step for step in steps if step["kind"] == "llm"]
        if len(models) != self.plan.model_calls or len(steps) - len(models) != len(self.plan.effects):
            yield f"the timeline has {len(models)} model steps and {len(steps) - len(models)} others"
        if unfinished := [step["step"] for step in steps if step["state"] != "completed"]:
            yield f"steps {unfinished} are not completed"
        if any(not (step.get("usage") or {}).values() for step in models):
            yield "a model step has no usage"
        attempts, lives = len(self.timeline["attempts"]), self.seen["lives"]
        # What begins a life rides the next flush: of one that ended with its sidecar before the first answer, nothing
        # need be left on disk.
        leaves_nothing = self.victim == "both" and tuple(self.point[:2]) == ("model", 1)
        if self.victim != "sidecar" and attempts not in range(lives - leaves_nothing, lives + 1):
            yield f"{attempts} attempts for {lives} lives"

    def _tails(self):
        logs = [self.agent.process] if self.agent and self.agent.process else []
        logs += [self.sidecar.process] if self.sidecar and self.sidecar.process else []
        return [f"--- {log.log.name}\n{log.tail()}" for log in logs if log.tail()]

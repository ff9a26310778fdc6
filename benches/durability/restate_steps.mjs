// A Restate service whose one handler takes N steps: each an HTTP call in a `ctx.run`. Prints its port when it listens.
import http from "node:http";
import * as restate from "@restatedev/restate-sdk";

const upstream = Number(process.argv[2]);
const agent = new http.Agent({ keepAlive: true });

function charge(body) {
  return new Promise((resolve, reject) => {
    const options = { port: upstream, host: "127.0.0.1", path: "/charge", method: "POST", agent };
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
    const request = http.request({ ...options, headers }, (answer) => {
      const chunks = [];
      answer.on("data", (chunk) => chunks.push(chunk));
      answer.on("end", () => resolve(Buffer.concat(chunks).toString()));
    });
    request.on("error", reject);
    request.end(body);
  });
}

const service = restate.service({
  name: "bench",
  handlers: {
    // Milliseconds of each step. The clock is not part of what is recorded: nothing is replayed here.
    steps: async (ctx, { workflow, steps }) => {
      const times = [];
      for (let step = 0; step < steps; step += 1) {
        const begun = performance.now();
        await ctx.run("charge", () => charge(JSON.stringify({ invoice: `${workflow}-${step}`, amount_cents: 1200 })));
        times.push(performance.now() - begun);
      }
      return times;
    },
  },
});

console.log(await restate.endpoint().bind(service).listen(0));

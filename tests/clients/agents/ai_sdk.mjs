// The AI SDK (streamText) with tools from an MCP server. A tool starts as soon as its arguments are complete,
// while the model's stream still runs.
//
// Base URLs come from the environment alone: OPENAI_BASE_URL (read by @ai-sdk/openai) and MCP_URL. `--at-once`
// asks for several tools in one turn, which the SDK runs side by side.

import { createMCPClient } from '@ai-sdk/mcp';
import { openai } from '@ai-sdk/openai';
import { isStepCount, streamText } from 'ai';

const how = process.argv.includes('--at-once') ? ', all at once: ' : ': ';
const prompt = `Reconcile invoices INV-101, INV-102 and INV-103${how}check, charge, notify, book. Then report.`;

const desk = await createMCPClient({ transport: { type: 'http', url: process.env.MCP_URL } });
try {
  const result = streamText({
    model: openai.chat('gpt-5'),
    tools: await desk.tools(),
    stopWhen: isStepCount(20),
    prompt,
    onError: ({ error }) => {
      console.error(error);
      process.exitCode = 1;
    },
  });
  let text = '';
  for await (const part of result.fullStream) {
    if (part.type === 'start-step') text = '';
    if (part.type === 'text-delta') text += part.text;
    if (part.type === 'error') throw part.error;
  }
  console.log('FINAL', text);
} finally {
  await desk.close();
}

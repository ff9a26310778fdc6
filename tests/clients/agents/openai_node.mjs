// OpenAI's Node SDK (chat completions, `runTools`) with tools that are plain HTTP calls through fetch.
//
// Base URLs come from the environment alone: OPENAI_BASE_URL (read by the SDK) and DESK_URL.

import OpenAI from 'openai';

const prompt = 'Reconcile invoices INV-101, INV-102 and INV-103: check, charge, notify, book. Then report.';

const string = { type: 'string' };

function tool(name, description, properties) {
  return {
    type: 'function',
    function: {
      name,
      description,
      parameters: { type: 'object', properties, required: Object.keys(properties) },
      parse: JSON.parse,
      function: async (args) => {
        const response = await fetch(`${process.env.DESK_URL}/${name}`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify(args),
        });
        const text = await response.text();
        return response.ok ? JSON.parse(text).text : text;
      },
    },
  };
}

const client = new OpenAI();
const runner = client.chat.completions.runTools(
  {
    model: 'gpt-5',
    messages: [{ role: 'user', content: prompt }],
    tools: [
      tool('fraud_check', 'Checks an invoice for fraud.', { invoice_id: string }),
      tool('charge', 'Charges the customer of an invoice.', { invoice_id: string, amount_cents: { type: 'integer' } }),
      tool('send_email', 'Sends the customer a mail.', { invoice_id: string, body: string }),
      tool('ledger_post', 'Posts an entry to the ledger.', { invoice_id: string, receipt: string }),
    ],
  },
  { maxChatCompletions: 20 },
);
console.log('FINAL', await runner.finalContent());

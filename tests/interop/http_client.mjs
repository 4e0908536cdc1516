// Charges with Node's fetch, in the loop that everybody writes around it, and tells in JSON what came of it.

import { setTimeout as sleep } from "node:timers/promises";

const [url, key, body, retries] = process.argv.slice(2);

async function attempt() {
  try {
    const answer = await fetch(url, {
      method: "POST",
      headers: { "Authorization": "Bearer sk_test", "Content-Type": "application/json", "Idempotency-Key": key },
      body,
      signal: AbortSignal.timeout(50_000),
    });
    return { status: answer.status, headers: answer.headers, body: await answer.text() };
  } catch (error) {
    return { status: 0, headers: new Headers(), body: String(error) };
  }
}

let answer = await attempt();
for (let retry = 0; retry < Number(retries) && [0, 409, 429, 503].includes(answer.status); retry++) {
  await sleep(1000 * Number(answer.headers.get("retry-after") ?? 0.2 * 2 ** retry));
  answer = await attempt();
}
const replayed = answer.headers.get("idempotent-replayed");
console.log(JSON.stringify({ status: answer.status, replayed, body: answer.body }));

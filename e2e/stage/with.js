// Runs a command on a stage: node stage/with.js <command> <argument>...
// The command finds the stage by the variables E2E_*, and trusts Caddy's own
// certificate authority as an operator's clients do.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { Stage } from "./stage.js";

const stage = await Stage.start(
  "policy priority",
  "retry_delay 10ms",
  "retry_backoff 1",
  "first_event_timeout 1500ms",
  "answer_timeout 1500ms",
  "max_body 1MiB",
);
let code = 1;
try {
  const [command, ...args] = process.argv.slice(2);
  const child = spawn(command, args, {
    stdio: ["ignore", "inherit", "inherit"],
    env: {
      ...process.env,
      E2E_URL: stage.secureUrl,
      E2E_PLAIN_URL: stage.url,
      E2E_ADMIN: stage.admin,
      E2E_SIMULATOR: stage.simulator,
      E2E_CA: stage.caFile,
      NODE_EXTRA_CA_CERTS: stage.caFile,
    },
  });
  [code] = await once(child, "exit");
  if (code !== 0) console.error(`Caddy's log:\n${(await stage.log()).split("\n").slice(-40).join("\n")}`);
} finally {
  await stage.stop();
}
process.exit(code ?? 1);

// A stage to play on: the real Caddy with the plugin in front of the simulated
// provider, each a process of its own on free ports.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

export const bin = (name) => new URL(`../bin/${name}`, import.meta.url).pathname;

const JSON_TYPE = { "content-type": "application/json" };
const STOP_MS = 10_000;

// children die with this process, however it ends.
const children = new Set();
process.on("exit", () => children.forEach((child) => child.kill("SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

// until resolves to what check returns once that is truthy. What check throws
// counts as not yet.
export async function until(what, check, ms = 10_000) {
  const deadline = Date.now() + ms;
  let last;
  do {
    try {
      const value = await check();
      if (value) return value;
    } catch (problem) {
      last = problem;
    }
    await sleep(20);
  } while (Date.now() < deadline);
  throw new Error(`never: ${what}`, { cause: last });
}

// call sends JSON and reads JSON; an error status throws. It names its origin:
// to Caddy's admin endpoint, Node's fetch looks like a browser.
export async function call(url, method = "GET", body) {
  const answer = await fetch(url, { method, headers: { ...JSON_TYPE, origin: new URL(url).origin }, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${method} ${url}: ${answer.status} ${await answer.text()}`);
  const text = await answer.text();
  return text === "" ? null : JSON.parse(text);
}

export class Stage {
  static #made = 0;

  // start resolves to a stage without accounts. Its site has the lines given for
  // the directive.
  static async start(...directive) {
    const stage = new Stage();
    stage.dir = await mkdtemp(join(tmpdir(), "claude-balancer-e2e-"));
    try {
      await stage.#startSimulator();
      await stage.#configure(directive);
      await stage.startCaddy();
    } catch (problem) {
      await stage.stop();
      throw problem;
    }
    return stage;
  }

  // attached is the stage that with.js runs, seen from its command.
  static attached() {
    const { E2E_URL: secureUrl, E2E_PLAIN_URL: url, E2E_ADMIN: admin, E2E_SIMULATOR: simulator, E2E_CA: caFile } = process.env;
    if (!secureUrl) throw new Error("no stage: run this with `node stage/with.js <command>`");
    return Object.assign(new Stage(), { secureUrl, url, admin, simulator, caFile });
  }

  async #startSimulator() {
    this.simulatorProcess = spawn(bin("simulator"), ["-addr", "127.0.0.1:0", "-accounts", "nobody:api", "-pace", "5ms"], { stdio: ["ignore", "pipe", "inherit"] });
    children.add(this.simulatorProcess);
    for await (const line of createInterface({ input: this.simulatorProcess.stdout })) {
      this.simulator = line.match(/listens on (http:\S+),/)?.[1];
      break;
    }
    if (!this.simulator) throw new Error("the simulator did not say where it listens");
    this.simulatorProcess.stdout.resume();
  }

  async #configure(directive) {
    const [admin, plain, tls] = [await freePort(), await freePort(), await freePort()];
    this.admin = `http://127.0.0.1:${admin}/claude_balancer`;
    this.url = `http://localhost:${plain}`;
    this.secureUrl = `https://localhost:${tls}`;
    this.caFile = join(this.dir, "data/caddy/pki/authorities/local/root.crt");
    this.database = join(this.dir, "accounts.db");
    await writeFile(
      join(this.dir, "Caddyfile"),
      `{
	admin 127.0.0.1:${admin}
	default_bind 127.0.0.1
	persist_config off
	auto_https disable_redirects
	skip_install_trust
	grace_period 2s
	log {
		level WARN
	}
	claude_balancer {
		store sqlite ${JSON.stringify(this.database)}
		oauth {
			token_url ${this.simulator}/v1/oauth/token
			profile_url ${this.simulator}/api/oauth/profile
		}
	}
}
${this.url}, ${this.secureUrl} {
	@down header X-Upstream down
	claude_balancer @down {
		upstream http://127.0.0.1:1
		retry_delay 10ms
		retry_backoff 1
	}
	claude_balancer {
		upstream ${this.simulator}
${directive.map((line) => `\t\t${line}\n`).join("")}	}
}
`,
    );
  }

  async startCaddy() {
    const env = { ...process.env, HOME: this.dir, XDG_DATA_HOME: join(this.dir, "data"), XDG_CONFIG_HOME: join(this.dir, "config") };
    this.caddy = spawn(bin("caddy"), ["run", "--config", join(this.dir, "Caddyfile"), "--adapter", "caddyfile"], { env, stdio: ["ignore", "ignore", "pipe"] });
    children.add(this.caddy);
    this.caddy.stderr.pipe(createWriteStream(join(this.dir, "caddy.log"), { flags: "a" }));
    const gone = once(this.caddy, "exit").then(async () => {
      throw new Error(`Caddy ended:\n${await this.log()}`);
    });
    gone.catch(() => {}); // it ends some time
    await Promise.race([gone, until("Caddy serves", async () => (await fetch(`${this.url}/health`)).ok)]);
    await until("Caddy has its certificate authority", () => readFile(this.caFile));
  }

  // stopCaddy resolves once the process is gone.
  async stopCaddy() {
    await end(this.caddy);
  }

  log() {
    return readFile(join(this.dir, "caddy.log"), "utf8");
  }

  async stop() {
    await end(this.caddy);
    await end(this.simulatorProcess);
    await rm(this.dir, { recursive: true, force: true });
  }

  // add puts an account into the simulator and, under its name or another, into
  // the pool.
  async add(name, plan, { called = name, ...more } = {}) {
    const c = await this.control("POST", "accounts", { name, plan });
    const credential =
      plan === "api" ? { api_key: c.api_key } : { access_token: c.access_token, refresh_token: c.refresh_token, expires_at: c.expires_at };
    return call(`${this.admin}/accounts`, "POST", { name: called, plan_type: plan, ...credential, ...more });
  }

  // freshPool replaces the pool with new accounts, one for each plan given, so
  // that nothing is left of what happened before. The first is asked first.
  async freshPool(...plans) {
    await this.control("DELETE", "script");
    for (const { name } of await call(`${this.admin}/accounts`)) await call(`${this.admin}/accounts/${encodeURIComponent(name)}`, "DELETE");
    const names = plans.map((plan) => `${plan}-${++Stage.#made}-${process.pid}`);
    for (const [i, plan] of plans.entries()) await this.add(names[i], plan, { priority: i });
    return names;
  }

  control(method, path, body) {
    return call(`${this.simulator}/_simulator/${path}`, method, body);
  }

  // script tells the simulator how to answer; "" is every account.
  script(account, step) {
    return this.control("POST", "script", { account, ...step });
  }

  message({ model = "claude-sonnet-5-5", stream = false, text = "Hello", headers = {}, path = "/v1/messages", signal } = {}) {
    return fetch(this.url + path, {
      method: "POST",
      headers: { ...JSON_TYPE, "anthropic-version": "2023-06-01", ...headers },
      body: JSON.stringify({ model, max_tokens: 64, stream, messages: [{ role: "user", content: text }] }),
      signal,
    });
  }
}

async function end(child) {
  if (!child || child.exitCode != null || child.signalCode != null) return;
  const gone = once(child, "exit");
  child.kill("SIGTERM");
  const force = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
  await gone;
  clearTimeout(force);
  children.delete(child);
}

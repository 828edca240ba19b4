// Runs codex-bridge under PM2: `node pm2-launch.js BINARY ARGUMENT…`. Tells PM2 "ready" once /readyz answers
// 200, passes signals on, and ends with the bridge's own exit code. No dependencies.

const { spawn } = require("node:child_process");
const http = require("node:http");
const os = require("node:os");
const readline = require("node:readline");

const [binary, ...args] = process.argv.slice(2);
if (!binary) {
  console.error("usage: node pm2-launch.js BINARY ARGUMENT…");
  process.exit(2);
}

// A process group of its own, so that a terminal's Ctrl-C reaches it once, through us.
const child = spawn(binary, args, { stdio: ["ignore", "pipe", "inherit"], detached: true });
let ended = false;

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(signal, () => child.kill(signal));
}
// PM2's shutdown_with_message, and its only way on Windows.
process.on("message", (message) => {
  if (message === "shutdown") child.kill("SIGTERM");
});

child.on("error", (error) => {
  console.error(`codex-bridge could not be started: ${error.message}`);
  process.exit(1);
});
// "close" comes after the last line of output.
child.on("close", (code, signal) => {
  ended = true;
  process.exit(signal ? 128 + os.constants.signals[signal] : code);
});

readline.createInterface({ input: child.stdout }).on("line", (line) => {
  console.log(line);
  const address = /^listening on (http:\/\/\S+)/.exec(line);
  if (address) waitReady(new URL("/readyz", address[1]));
});

// Not ready may last (nobody is logged in, say): ask less and less often, at least every two seconds.
function waitReady(url, delay = 100) {
  const again = () => {
    if (!ended) setTimeout(() => waitReady(url, Math.min(delay * 1.5, 2000)), delay).unref();
  };
  http
    .get(url, { timeout: 5000 }, (response) => {
      response.resume();
      if (response.statusCode === 200) {
        // Absent when this runs outside PM2.
        process.send?.("ready");
      } else {
        again();
      }
    })
    .on("timeout", function () {
      this.destroy();
    })
    .on("error", again);
}

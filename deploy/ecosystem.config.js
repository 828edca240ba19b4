// PM2. The bridge alone, with an app-server of its own:
//
//   pm2 start deploy/ecosystem.config.js
//
// Two processes, the app-server under PM2 as well (without the lean catalogue, so more of Codex's own words
// reach the model; see "Known quirks" in the README):
//
//   BRIDGE_FORM=two pm2 start deploy/ecosystem.config.js
//
// BRIDGE_BIN and CODEX_BIN name the binaries where they are not on PATH.

const os = require("node:os");
const path = require("node:path");

const bridge = process.env.BRIDGE_BIN || "codex-bridge";
const codex = process.env.CODEX_BIN || "codex";
const runtime = process.env.XDG_RUNTIME_DIR || path.join(os.homedir(), ".codex");
const socket = `unix://${path.join(runtime, "codex-app-server.sock")}`;

// The launcher says "ready" and passes signals on; 2 and 78 are mistakes that a restart does not mend.
const launched = {
  script: path.join(__dirname, "pm2-launch.js"),
  exec_mode: "fork",
  wait_ready: true,
  // A signal to the whole tree would reach the bridge twice, and the second one means "at once".
  treekill: false,
  listen_timeout: 60000,
  // Longer than shutdown.drain (30 s) and the about 30 s after it; raise it with that.
  kill_timeout: 90000,
  stop_exit_codes: [0, 2, 78],
  exp_backoff_restart_delay: 500,
};

const alone = [{ ...launched, name: "codex-bridge", args: [bridge, "serve"] }];

const two = [
  {
    name: "codex-app-server",
    script: codex,
    interpreter: "none",
    args: ["app-server", "--listen", socket],
    exp_backoff_restart_delay: 500,
  },
  { ...launched, name: "codex-bridge", args: [bridge, "serve", "--connect", socket] },
];

module.exports = { apps: process.env.BRIDGE_FORM === "two" ? two : alone };

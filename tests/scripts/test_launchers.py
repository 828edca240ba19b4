import os
import pathlib
import plistlib
import re
import shutil
import subprocess
import tempfile
import textwrap
import threading
import unittest

from support import HERE, ROOT, SCRIPTS

FAKE = HERE / "fake_bridge.py"
LAUNCH = ROOT / "deploy" / "pm2-launch.js"


def run(*command, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


class SystemUnit(unittest.TestCase):
    @unittest.skipUnless(shutil.which("systemd-analyze"), "there is no systemd here")
    def test_its_exposure_is_low(self):
        unit = ROOT / "deploy" / "codex-bridge.system.service"
        # The threshold counts tenths.
        done = run("systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", unit)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("Overall exposure level", done.stdout)


class WithDemo(unittest.TestCase):
    def demo(self, *command, flags=(), **environment):
        return run(SCRIPTS / "with-demo", "--bin", FAKE, *flags, "--", *command, **environment)

    def test_the_command_gets_the_addresses_and_its_exit_code_comes_back(self):
        show = 'echo "$OPENAI_BASE_URL $OPENAI_API_KEY $STANDIN_URL $STANDIN_FACE"; exit 7'
        done = self.demo("sh", "-c", show, FAKE_UNREADY="2")
        self.assertEqual(done.returncode, 7, done.stderr)
        self.assertRegex(done.stdout, r"^http://127\.0\.0\.1:\d+/v1 demo http://127\.0\.0\.1:1 plain\n$")
        done = self.demo("sh", "-c", 'echo "$STANDIN_FACE"; cat "$STANDIN_CA"', flags=["--chatgpt"])
        self.assertEqual((done.returncode, done.stdout), (0, "chatgpt\na certificate\n"), done.stderr)

    def test_a_demo_that_does_not_stop_cleanly_is_a_failure(self):
        done = self.demo("true", FAKE_EXIT="3")
        self.assertEqual(done.returncode, 1)
        self.assertIn("ended with 3 instead of 0", done.stderr)

    def test_a_demo_that_does_not_start_is_shown_with_its_log(self):
        done = self.demo("true", FAKE_DIE="4")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no such model", done.stderr)
        self.assertIn("ended before it was ready", done.stderr)

    def test_the_developers_own_settings_do_not_reach_the_demo(self):
        fake = 'test -z "${CODEX_BRIDGE_SERVER__PORT+x}"'
        done = self.demo("sh", "-c", fake, CODEX_BRIDGE_SERVER__PORT="1")
        self.assertEqual(done.returncode, 0, done.stderr)


class Run(unittest.TestCase):
    """scripts/run on a machine of made-up tools: the build is a link to the fake."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = pathlib.Path(folder.name)
        self.tool("cargo", "exit 0")
        self.tool("rustc", "echo rustc 1.99.0")
        self.tool("cc", "exit 0")
        self.codex = self.tool("made-up-codex", "echo codex-cli 0.169.0")
        (self.home / "target" / "release").mkdir(parents=True)
        (self.home / "target" / "release" / "codex-bridge").symlink_to(FAKE)

    def tool(self, name, code):
        path = self.home / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{code}\n")
        path.chmod(0o755)
        return path

    def start(self, *flags, **environment):
        """Runs it until the snippets are out, then stops it: (lines, exit code)."""
        environment = {
            **os.environ, "HOME": str(self.home), "PATH": f"{self.home}/bin:{os.environ['PATH']}",
            "CARGO_TARGET_DIR": str(self.home / "target"), "CODEX_BIN": str(self.codex), "FAKE_SHOW": "1",
            "FAKE_EXIT": "6", **environment,
        }
        environment.pop("CODEX_HOME", None)
        command = [SCRIPTS / "run", *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
            killer = threading.Timer(30, run.kill)
            killer.start()
            lines = []
            for line in run.stdout:
                lines.append(line.rstrip())
                if line.startswith("Ctrl-C"):
                    run.terminate()
            self.said = run.stderr.read()
            killer.cancel()
        return lines, run.returncode

    def test_without_a_login_it_is_the_demo(self):
        lines, code = self.start("--port", "0")
        self.assertIn("arguments demo --port 0", lines, self.said)
        base = next(line for line in lines if line.startswith("listening on "))[len("listening on "):] + "/v1"
        text = "\n".join(lines)
        self.assertIn(f"curl {base}/responses -H 'Authorization: Bearer demo'", text)
        self.assertIn(f'OpenAI(base_url="{base}", api_key="demo")', text)
        self.assertIn(f'new OpenAI({{ baseURL: "{base}", apiKey: "demo" }})', text)
        self.assertEqual(code, 6, "the exit code is the bridge's own")

    def test_with_a_login_it_serves_unless_told_otherwise(self):
        (self.home / ".codex").mkdir()
        (self.home / ".codex" / "auth.json").write_text("{}")
        self.assertIn("arguments serve", self.start()[0], self.said)
        self.assertIn("arguments demo", self.start("--demo")[0])
        self.assertIn("arguments demo --chatgpt", self.start("--chatgpt")[0])

    def test_a_toolchain_that_is_too_old_is_named(self):
        self.tool("rustc", "echo rustc 1.60.0")
        lines, code = self.start()
        self.assertEqual((lines, code), ([], 1))
        self.assertIn("found 1.60.0: rustup update", self.said)

    def test_a_codex_that_is_too_old_is_named(self):
        self.tool("made-up-codex", "echo codex-cli 0.99.0")
        self.assertEqual(self.start()[1], 1)
        self.assertIn("is 0.99.0; 0.169.0 or newer is needed", self.said)


@unittest.skipUnless(shutil.which("node"), "needs Node")
class Pm2(unittest.TestCase):
    def launch(self, body, **environment):
        """Forks the launcher as PM2 does, over the fake; `body` gets it as `child`."""
        script = f"""
            const child = require("node:child_process").fork({str(LAUNCH)!r}, [{str(FAKE)!r}], {{ silent: true }});
            child.stdout.pipe(process.stdout);
            child.stderr.pipe(process.stderr);
            child.on("close", (code) => console.log("exit " + code));
            {body}
        """
        return run("node", "-e", textwrap.dedent(script), **environment)

    def test_ready_comes_after_readyz_and_a_signal_reaches_the_bridge_once(self):
        body = 'child.on("message", (m) => { console.log("told " + m); child.kill("SIGINT"); });'
        lines = self.launch(body, FAKE_UNREADY="2", FAKE_EXIT="5").stdout.splitlines()
        self.assertEqual(lines[2:], ["told ready", "stopped by 1", "exit 5"])

    def test_pm2s_shutdown_message_stops_it_too(self):
        body = 'child.on("message", () => child.send("shutdown"));'
        self.assertIn("exit 0", self.launch(body).stdout)

    def test_a_bridge_that_fails_at_once_gives_its_code_and_no_ready(self):
        done = self.launch('child.on("message", (m) => console.log("told " + m));', FAKE_DIE="78")
        self.assertEqual(done.stdout, "exit 78\n")

    def test_a_missing_binary_is_an_error(self):
        done = run("node", LAUNCH, "/nonexistent/codex-bridge")
        self.assertEqual(done.returncode, 1)
        self.assertIn("could not be started", done.stderr)

    def test_both_forms_of_the_ecosystem_file(self):
        names = "console.log(require('./deploy/ecosystem.config.js').apps.map(a => a.name).join())"
        for form, expected in [("", "codex-bridge\n"), ("two", "codex-app-server,codex-bridge\n")]:
            done = subprocess.run(
                ["node", "-e", names], cwd=ROOT, capture_output=True, text=True,
                env={**os.environ, "BRIDGE_FORM": form},
            )
            self.assertEqual(done.stdout, expected, done.stderr)


class Files(unittest.TestCase):
    def test_the_launchd_agent_is_a_property_list_that_runs_the_bridge(self):
        agent = plistlib.loads((ROOT / "deploy" / "codex-bridge.plist").read_bytes())
        self.assertIn("exec /usr/local/bin/codex-bridge serve", agent["ProgramArguments"][2])

    def test_the_units_do_not_retry_what_a_retry_cannot_mend(self):
        for name in ("codex-bridge.service", "codex-bridge.system.service"):
            unit = (ROOT / "deploy" / name).read_text()
            self.assertIn("Type=notify", unit)
            self.assertTrue(re.search(r"^RestartPreventExitStatus=2 78$", unit, re.MULTILINE), name)


class Lib(unittest.TestCase):
    def lib(self, code):
        return run("bash", "-c", f"source {SCRIPTS}/lib.sh; {code}")

    def test_versions_are_compared_as_numbers(self):
        for wanted, found, expected in [
            ("0.169.0", "0.169.0", 0), ("0.169.0", "0.170.1", 0), ("0.169.0", "0.99.0", 1),
            ("1.92", "1.100.0", 0), ("1.92", "1.91.9", 1), ("0.169.0", "0", 1),
        ]:
            self.assertEqual(self.lib(f"at_least {wanted} {found}").returncode, expected, (wanted, found))

    def test_a_version_is_found_in_what_a_command_prints(self):
        self.assertEqual(self.lib("version_of echo 'codex-cli 0.169.0 (x)'").stdout, "0.169.0\n")
        self.assertEqual(self.lib("version_of /nonexistent; echo $?").stdout, "0\n")


if __name__ == "__main__":
    unittest.main()

import base64
import contextlib
import datetime
import http.server
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import unittest

from support import SCRIPTS, load

auth_check = load("auth-check")
NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)


def jwt(expiry, **claims):
    claims["exp"] = int(expiry.timestamp())
    encoded = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{encoded}.secretsignature"


def login(hours, now=NOW):
    expiry = now + datetime.timedelta(hours=hours)
    stale = now - datetime.timedelta(days=3)
    return {"auth_mode": "chatgpt", "tokens": {"access_token": jwt(expiry), "id_token": jwt(stale)}}


class AuthCheck(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = pathlib.Path(folder.name)

    def judge(self, auth, hours=48):
        text = auth if isinstance(auth, str) else json.dumps(auth)
        (self.home / "auth.json").write_text(text)
        return auth_check.judge(self.home, hours, NOW)

    def test_the_access_token_decides(self):
        for hours, code in [(49, 0), (48, 1), (0.5, 1), (0, 2), (-1, 2)]:
            self.assertEqual(self.judge(login(hours))[0], code, hours)
        self.assertEqual(self.judge(login(49), hours=72)[0], 1)

    def test_the_id_token_stands_in_for_an_opaque_access_token(self):
        auth = login(0)
        auth["tokens"] = {"access_token": "opaque", "id_token": jwt(NOW + datetime.timedelta(hours=5))}
        self.assertEqual(self.judge(auth)[0], 1)

    def test_no_login_in_all_its_forms(self):
        self.assertEqual(auth_check.judge(self.home, 48, NOW)[0], 2)
        for auth in ["", "{", "[]", {}, {"tokens": None}, {"tokens": {}}, {"tokens": {"access_token": "a.b.c"}}]:
            code, text = self.judge(auth)
            self.assertEqual(code, 2, auth)
            self.assertIn("codex login", text)

    def test_an_api_key_never_runs_out(self):
        self.assertEqual(self.judge({"OPENAI_API_KEY": "sk-secret", "tokens": None})[0], 0)

    def run_script(self, *flags):
        command = [sys.executable, SCRIPTS / "auth-check", "--codex-home", self.home, *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    def test_exit_codes_for_cron_and_no_token_in_the_output(self):
        now = datetime.datetime.now(datetime.timezone.utc)
        for hours, code in [(1000, 0), (5, 1), (-5, 2)]:
            (self.home / "auth.json").write_text(json.dumps(login(hours, now)))
            done = self.run_script()
            self.assertEqual(done.returncode, code)
            self.assertTrue(done.stdout + done.stderr)
            self.assertNotIn("secretsignature", done.stdout + done.stderr)
        (self.home / "auth.json").write_text(json.dumps(login(1000, now)))
        self.assertEqual(self.run_script("--quiet").stdout, "")
        self.assertEqual(self.run_script("--nonsense").returncode, 64)

    def test_the_webhook_is_told_of_trouble_only(self):
        bodies = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        webhook = f"http://127.0.0.1:{server.server_port}/T0/secret"
        now = datetime.datetime.now(datetime.timezone.utc)
        for hours in (1000, 5):
            (self.home / "auth.json").write_text(json.dumps(login(hours, now)))
            self.run_script("--webhook", webhook)
        self.assertEqual(len(bodies), 1)
        self.assertIn("runs out at", bodies[0]["text"])

    def test_discord_has_a_form_of_its_own_and_a_failure_hides_the_address(self):
        sent = []
        original = auth_check.urllib.request.urlopen

        def urlopen(request, timeout):
            sent.append(json.loads(request.data))
            raise OSError("refused")

        auth_check.urllib.request.urlopen = urlopen
        self.addCleanup(setattr, auth_check.urllib.request, "urlopen", original)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            auth_check.tell("https://discord.com/api/webhooks/1/secret", "soon")
            auth_check.tell("https://hooks.slack.com/services/secret", "soon")
        self.assertEqual([list(body) for body in sent], [["content"], ["text"]])
        self.assertIn("was not told", said.getvalue())
        self.assertNotIn("secret", said.getvalue())


if __name__ == "__main__":
    unittest.main()

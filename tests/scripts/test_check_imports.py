import pathlib
import subprocess
import sys
import tempfile
import unittest

from support import ROOT, SCRIPTS


def check(files):
    """Exit code and complaints for a crate with these files."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {"src/lib.rs": "pub mod api;", **files}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, SCRIPTS / "check-imports", root], capture_output=True, text=True)
        return done.returncode, done.stderr


class CheckImports(unittest.TestCase):
    def bad(self, path, text, expected):
        code, said = check({path: text})
        self.assertEqual(code, 1, text)
        self.assertIn(expected, said)

    def good(self, path, text):
        code, said = check({path: text})
        self.assertEqual((code, said), (0, ""), text)

    def test_an_import_that_runs_back_fails_in_every_spelling(self):
        self.bad("src/bridge/turn.rs", "//! Doc.\nuse crate::api::Thing;", "src/bridge/turn.rs:2: bridge must not use api")
        self.bad("src/bridge.rs", "use crate::{\n    model::Item,\n    api::{self, Thing},\n};", "bridge must not use api")
        self.bad("src/bridge/turn.rs", "fn f() { super::super::api::g() }", "bridge must not use api")
        self.bad("src/app_server.rs", "fn f() -> crate::bridge::BridgeError {}", "app_server must not use bridge")
        self.bad("src/model/item.rs", "use crate::config::Config;", "model must not use config")
        self.bad("src/config.rs", "use codex_bridge::cli;", "config must not use cli")

    def test_imports_that_run_on_are_fine(self):
        self.good("src/cli/serve.rs", "use crate::{app, config::{Config, Profile}};")
        self.good("src/api/sse.rs", "use crate::bridge::Turn;\nuse super::super::model::Item;\nuse super::error::ApiError;")
        self.good("src/bridge.rs", "use super::model::Item;")

    def test_comments_and_texts_are_no_imports(self):
        self.good("src/model.rs", "// use crate::api::X;\n/* crate::api::Y */\nconst A: &str = \"crate::api::Z\";")
        self.good("src/model.rs", "const A: &str = r#\"axum::Router \"crate::api::X\" \"#; const Q: char = '\"';")
        self.bad("src/model.rs", "const Q: char = '\"';\nuse crate::api::X; // \"", "src/model.rs:2")

    def test_wire_crates_stay_on_their_side(self):
        self.bad("src/bridge.rs", "use axum::Router;", "axum belongs to api, standin only")
        self.bad("src/bridge.rs", "use tokio_tungstenite::connect_async;", "tokio_tungstenite belongs to api, app_server, standin only")
        self.good("src/api.rs", "use axum::Router;")
        self.good("src/app_server.rs", "use tokio_tungstenite::tungstenite::Message;")

    def test_wire_modules_are_private(self):
        self.bad("src/api.rs", "pub(crate) mod wire;", "wire modules are private")
        self.good("src/api.rs", "mod wire;")

    def test_a_module_without_a_place_is_named(self):
        self.bad("src/utils.rs", "", "module utils has no place")

    def test_our_own_crate_passes(self):
        done = subprocess.run([sys.executable, SCRIPTS / "check-imports", ROOT], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()

//! Finds the real binary and gives each test folders of its own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own helper: what fails here fails the test"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use codex_bridge::app_server::{LocateInputs, locate};
use codex_bridge::config::{AppServerConfig, Machine};

/// Every wait of a test ends here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A provider nobody answers for: enough where no turn runs, and it needs no login.
const PROVIDER: &str = "model_providers.standin={name=\"standin\",base_url=\"http://127.0.0.1:9/v1\",\
    wire_api=\"responses\",requires_openai_auth=false}";

/// Folders of one test.
pub(crate) struct Place {
    pub(crate) temp: tempfile::TempDir,
}

impl Place {
    /// Fresh folders: `state` and `user`, the user's Codex home.
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("user")).unwrap();
        Self { temp }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.temp.path().join("state")
    }

    /// The user's Codex home.
    pub(crate) fn user_home(&self) -> PathBuf {
        self.temp.path().join("user")
    }

    /// A file in the user's Codex home.
    pub(crate) fn user(&self, name: &str) -> PathBuf {
        self.user_home().join(name)
    }

    /// The configuration of a bridge here, with the built-in provider.
    pub(crate) fn config(&self) -> AppServerConfig {
        AppServerConfig { user_codex_home: self.user_home(), ..AppServerConfig::default() }
    }

    /// The same with a provider that needs no login.
    pub(crate) fn config_without_login(&self) -> AppServerConfig {
        let codex_config = vec!["model_provider=\"standin\"".to_owned(), PROVIDER.to_owned()];
        AppServerConfig { codex_config, ..self.config() }
    }
}

/// The real binary, by `CODEX_BIN` or the project's own install.
pub(crate) async fn codex() -> PathBuf {
    let config = AppServerConfig { codex_bin: named_codex(), ..AppServerConfig::default() };
    match locate(&LocateInputs::new(&config, &machine())).await {
        Ok(codex) => codex.path,
        Err(error) => {
            panic!("these tests run the real codex. Set CODEX_BIN, or let scripts/test install it: {error}")
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "tests have no configuration layer to read the environment")]
fn named_codex() -> Option<PathBuf> {
    std::env::var_os("CODEX_BIN").map(PathBuf::from)
}

/// What a bridge in a test knows of this machine.
#[expect(clippy::disallowed_methods, reason = "tests have no configuration layer to read the environment")]
pub(crate) fn machine() -> Machine {
    Machine {
        project_install: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/codex")),
        environment: std::env::vars_os().collect(),
        ..Machine::default()
    }
}

/// `future`, which must end in time.
pub(crate) async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Waits until `condition` holds; what it looks at has no other way to tell.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    bounded(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

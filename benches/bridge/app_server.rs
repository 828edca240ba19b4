//! App-servers of the benches' own, started like the bridge's: same binary, flags and environment, in a
//! private home with the same files.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use tokio::process::{Child, Command};

use crate::process::CommandLine;

/// What a private home holds that is not the app-server's own making.
const HOME_FILES: [&str; 3] = ["auth.json", "config.toml", "installation_id"];

/// A running app-server; killed when dropped.
#[derive(Debug)]
pub(crate) struct AppServer {
    _child: Child,
}

impl AppServer {
    /// Starts another one like `model`, with its home in `folder`, listening at `listen`.
    pub(crate) fn start_like(model: &CommandLine, folder: &Path, listen: &OsStr) -> anyhow::Result<Self> {
        let home = folder.join("home");
        std::fs::create_dir_all(&home)?;
        let original = model.environment.iter().find(|(name, _)| name == "CODEX_HOME");
        let (_, original) = original.context("the bridge's app-server has no home of its own")?;
        for name in HOME_FILES {
            let file = Path::new(original).join(name);
            if file.exists() {
                std::fs::copy(file, home.join(name))?;
            }
        }
        let environment = model.environment.iter().filter(|(name, _)| name != "CODEX_HOME");
        let child = Command::new(&model.program)
            .args(with_listen(&model.arguments, listen))
            .env_clear()
            .envs(environment.map(|(name, value)| (name, value)))
            .env("CODEX_HOME", &home)
            .current_dir(&model.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log"))?)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start an app-server")?;
        Ok(Self { _child: child })
    }
}

fn with_listen(arguments: &[OsString], listen: &OsStr) -> Vec<OsString> {
    let mut arguments = arguments.to_vec();
    if let Some(at) = arguments.iter().position(|argument| argument == "--listen")
        && let Some(value) = arguments.get_mut(at + 1)
    {
        *value = listen.into();
    }
    arguments
}

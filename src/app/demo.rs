//! The daemon with the stand-in model behind it, and the stand-in alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::config::Config;
use crate::standin::{Face, StandIn, StandInOptions};
use crate::tasks::Tasks;

/// What `demo` is told beside the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct DemoOptions {
    /// The logged-in path: a made-up login, TLS, upstream WebSocket, usage windows.
    pub chatgpt: bool,
}

/// What `standin` is told.
#[derive(Debug, Clone)]
pub struct StandinOptions {
    /// Address to bind.
    pub host: String,
    /// Port to bind; 0 picks one.
    pub port: u16,
    /// The backend a logged-in Codex talks to, in place of a plain provider.
    pub chatgpt: bool,
    /// Waited before each answer.
    pub delay: Duration,
    /// Where the logged-in face puts its made-up login and its CA.
    pub folder: PathBuf,
}

/// The daemon on the stand-in model: no login is needed or touched. Its key comes with the configuration.
pub async fn demo(config: Config, options: DemoOptions, read_keys: super::ReadKeys) -> anyhow::Result<()> {
    // First: a demo that runs already must keep the login it started with.
    let mut place = super::Place::take(config, Vec::new()).await?;
    let config = &mut place.config;
    let tasks = Tasks::new();
    let user_home = config.state_dir.join("demo-login");
    private_dir(&user_home)?;
    let args = StandinOptions {
        host: "127.0.0.1".into(),
        port: 0,
        chatgpt: options.chatgpt,
        delay: Duration::ZERO,
        folder: user_home.clone(),
    };
    let standin = start(&args, &tasks).await?;
    config.app_server.user_codex_home = user_home;
    config.app_server.codex_config.extend(standin.codex_config());
    config.app_server.child_environment.extend(standin.child_environment());
    let standin_line = format!("stand-in on {}", standin.base_url());
    let lines = |address| vec![standin_line, format!("listening on http://{address}")];
    let result = super::run(place, read_keys, lines).await;
    standin.stop();
    tasks.shut_down(super::TASKS_TIMEOUT).await;
    result
}

/// The stand-in alone, until a signal.
pub async fn standin(args: StandinOptions) -> anyhow::Result<()> {
    use std::io::Write;

    let tasks = Tasks::new();
    let standin = start(&args, &tasks).await?;
    let mut lines = vec![format!("stand-in on {}", standin.base_url())];
    lines.extend(standin.codex_config().iter().map(|setting| format!("codex -c {setting}")));
    lines.extend(
        standin.child_environment().iter().map(|(name, value)| format!("environment {name}={value}")),
    );
    let mut out = std::io::stdout();
    for line in lines {
        writeln!(out, "{line}").context("cannot write to standard output")?;
    }
    let super::signals::Signals { stop, force, .. } = super::signals::listen()?;
    tokio::select! {
        () = super::stopped(stop) => {}
        () = force => {}
    }
    standin.stop();
    tasks.shut_down(super::TASKS_TIMEOUT).await;
    Ok(())
}

async fn start(args: &StandinOptions, tasks: &Tasks) -> anyhow::Result<StandIn> {
    let face = if args.chatgpt { Face::Chatgpt { folder: args.folder.clone() } } else { Face::Plain };
    let options = StandInOptions { host: args.host.clone(), port: args.port, face, delay: args.delay };
    Ok(StandIn::start(options, tasks).await?)
}

/// Makes `path` a folder that only this user can look into.
fn private_dir(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;

    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).with_context(|| format!("cannot make the folder {}", path.display()))
}

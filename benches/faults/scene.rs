//! The bridge, the app-server it starts and the stand-in model, on folders of their own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use codex_bridge::standin::{Face, StandIn, StandInOptions};
use codex_bridge::tasks::Tasks;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::Stage;
use crate::client::Client;
use crate::daemon::{give_few_roots, serve};
use crate::process::children_with;
use crate::processes::processes_in;
use crate::service::Service;

/// What every bridge here is told: limits so short that a run meets them.
const SETTINGS: [(&str, &str); 9] = [
    ("TURN__DEADLINE", "30s"),
    // Longer than any pause of a busy machine.
    ("TURN__IDLE_TIMEOUT", "10s"),
    ("TURN__STATUS_CHECK", "2s"),
    ("TURN__MAX_RETRY_WAIT", "8s"),
    ("APP_SERVER__REQUEST_TIMEOUT", "10s"),
    ("CONTINUATION__WARM_TTL", "3s"),
    ("CONTINUATION__SPARE_TTL", "3s"),
    ("CONTINUATION__HELD_TTL", "3s"),
    ("SHUTDOWN__DRAIN", "5s"),
];

/// A bridge is ready again by then: the longest pause between two starts, and then some.
const READY_LIMIT: Duration = Duration::from_secs(90);
const READY_CHECK: Duration = Duration::from_millis(100);

/// The running three.
#[derive(Debug)]
pub(crate) struct Scene {
    // Dropped in this order.
    bridge: Service,
    standin: StandIn,
    program: PathBuf,
    chatgpt: bool,
    settings: Vec<(&'static str, String)>,
    starts: usize,
    folder: TempDir,
    // The stand-in's.
    _tasks: Tasks,
}

impl Scene {
    /// With `settings` beside our own.
    pub(crate) async fn start(stage: &Stage, settings: &[(&'static str, &str)]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("codex-bridge-faults").tempdir()?;
        let home = folder.path().join("home");
        std::fs::create_dir(&home)?;
        let tasks = Tasks::new();
        let face = if stage.chatgpt { Face::Chatgpt { folder: home } } else { Face::Plain };
        let standin = StandIn::start(StandInOptions { face, ..StandInOptions::default() }, &tasks).await?;
        let all = SETTINGS.iter().chain(settings).map(|(name, value)| (*name, (*value).to_owned()));
        let processes = ("APP_SERVER__PROCESSES", stage.app_servers.to_string());
        let settings: Vec<_> = all.chain([processes]).collect();
        let bridge = start_bridge(&stage.bin, stage.chatgpt, &folder, &standin, &settings, 0).await?;
        let (program, chatgpt) = (stage.bin.clone(), stage.chatgpt);
        Ok(Self { bridge, standin, program, chatgpt, settings, starts: 1, folder, _tasks: tasks })
    }

    /// A client with connections of its own.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Client::new(self.bridge.address())
    }

    pub(crate) fn standin(&self) -> &StandIn {
        &self.standin
    }

    pub(crate) fn bridge_pid(&self) -> u32 {
        self.bridge.pid()
    }

    /// Our app-servers; none while one is being started.
    pub(crate) fn app_servers(&self) -> Vec<u32> {
        children_with(self.bridge.pid(), "app-server").unwrap_or_default()
    }

    /// Processes of the bridge's, itself included.
    pub(crate) fn processes(&self) -> Vec<String> {
        processes_in(self.folder.path())
    }

    pub(crate) async fn health(&self) -> anyhow::Result<Value> {
        self.client()?.get("/v1/health").await
    }

    /// Waits until there is an app-server.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let client = self.client()?;
        let ready = async {
            while client.get("/readyz").await.is_err() {
                sleep(READY_CHECK).await;
            }
        };
        timeout(READY_LIMIT, ready).await.context("the bridge does not become ready again")
    }

    /// `kill -9`.
    pub(crate) async fn kill_bridge(&mut self) -> anyhow::Result<()> {
        self.bridge.kill().await
    }

    /// Another bridge on the same folders.
    pub(crate) async fn start_again(&mut self) -> anyhow::Result<()> {
        self.bridge = start_bridge(
            &self.program,
            self.chatgpt,
            &self.folder,
            &self.standin,
            &self.settings,
            self.starts,
        )
        .await?;
        self.starts += 1;
        Ok(())
    }

    /// For a failed run.
    pub(crate) fn last_log_lines(&self) -> String {
        self.bridge.last_log_lines()
    }

    /// Keeps the folders, for whoever looks into a failed run.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// SIGTERM: the bridge must end well and leave no process.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.bridge.stop().await?;
        let left = self.processes();
        ensure!(left.is_empty(), "processes are left: {left:?}");
        Ok(())
    }
}

async fn start_bridge(
    program: &std::path::Path,
    chatgpt: bool,
    folder: &TempDir,
    standin: &StandIn,
    settings: &[(&'static str, String)],
    starts: usize,
) -> anyhow::Result<Service> {
    let mut command = serve(program, folder.path(), &folder.path().join("home"), &standin.codex_config());
    if !chatgpt {
        // Less to compute in each turn: more turns.
        give_few_roots(&mut command, folder.path())?;
    }
    command.envs(standin.child_environment());
    command.envs(settings.iter().map(|(name, value)| (format!("CODEX_BRIDGE_{name}"), value)));
    let log = folder.path().join(format!("bridge-{starts}.log"));
    Service::start(command, "listening on", &log).await.context("the bridge does not start")
}

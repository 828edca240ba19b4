//! What a bridge without callers may have: no slot, no queue, no held turn, no thread, no more descriptors than at
//! the start.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use crate::process::CommandLine;
use crate::rpc;
use crate::scene::Scene;

/// What is left must be gone by then: the longest limit of a turn, and then some.
const PATIENCE: Duration = Duration::from_secs(60);
/// A look is not the first to see a descriptor that the last look had opened.
const PAUSE: Duration = Duration::from_millis(300);
/// Sockets that an app-server may have more: connections to the model that it keeps for the next turn.
const APP_SERVER_SLACK: usize = 2;
/// Descriptors that the bridge may have more: it looks at files now and then.
const BRIDGE_SLACK: usize = 1;

/// What is open without callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Baseline {
    /// The bridge's descriptors.
    bridge: usize,
    /// Sockets of one app-server; several are alike. Its databases' files come and go as it likes.
    app_server: usize,
}

/// One look.
#[derive(Debug)]
struct Figures {
    slots: u64,
    queued: u64,
    held_turns: u64,
    warm_threads: u64,
    spare_threads: u64,
    /// In all app-servers.
    threads_live: u64,
    turns_active: u64,
    /// Answers that the model is giving.
    model_answers: usize,
    bridge_descriptors: usize,
    app_server_sockets: usize,
}

/// Waits until nothing is left of earlier calls; fails if that takes too long, or descriptors are more than at
/// `baseline`.
pub(crate) async fn settle(scene: &Scene, baseline: Option<Baseline>) -> anyhow::Result<Baseline> {
    let until = Instant::now() + PATIENCE;
    loop {
        sleep(PAUSE).await;
        let looked = Figures::read(scene).await;
        match &looked {
            Ok(figures) if figures.is_calm(baseline) => return Ok(figures.baseline()),
            Ok(figures) if Instant::now() > until => {
                bail!("left over: {figures}; at the start: {baseline:?}")
            }
            Err(error) if Instant::now() > until => bail!("it does not come back: {error:#}"),
            Ok(_) | Err(_) => {}
        }
    }
}

impl Figures {
    async fn read(scene: &Scene) -> anyhow::Result<Self> {
        let app_servers = scene.app_servers();
        ensure!(!app_servers.is_empty(), "there is no app-server");
        // First: what follows opens some.
        let bridge_descriptors = descriptors(scene.bridge_pid())?;
        let (mut app_server_sockets, mut threads_live, mut turns_active) = (0, 0, 0);
        for pid in app_servers {
            app_server_sockets = app_server_sockets.max(sockets(pid)?);
            let (threads, turns) = loaded(pid).await?;
            threads_live += threads;
            turns_active += turns;
        }
        let health = scene.health().await?;
        ensure!(health["status"] == "ready", "health says {}", health["status"]);
        let number =
            |path: &str| health.pointer(path).and_then(Value::as_u64).with_context(|| path.to_owned());
        Ok(Self {
            slots: number("/slots/in_use")?,
            queued: number("/slots/queued")?,
            held_turns: number("/continuation/held_turns")?,
            warm_threads: number("/continuation/warm_threads")?,
            spare_threads: number("/continuation/spare_threads")?,
            threads_live,
            turns_active,
            model_answers: scene.standin().open(),
            bridge_descriptors,
            app_server_sockets,
        })
    }

    fn is_calm(&self, baseline: Option<Baseline>) -> bool {
        let threads = self.held_turns + self.warm_threads + self.spare_threads + self.threads_live;
        let work = self.slots + self.queued + self.turns_active;
        let descriptors = baseline.is_none_or(|baseline| {
            self.bridge_descriptors <= baseline.bridge + BRIDGE_SLACK
                && self.app_server_sockets <= baseline.app_server + APP_SERVER_SLACK
        });
        threads == 0 && work == 0 && self.model_answers == 0 && descriptors
    }

    fn baseline(&self) -> Baseline {
        Baseline { bridge: self.bridge_descriptors, app_server: self.app_server_sockets }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Open file descriptors of a process.
pub(crate) fn descriptors(pid: u32) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Those of them that are sockets.
fn sockets(pid: u32) -> anyhow::Result<usize> {
    let links =
        std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten().flat_map(|entry| entry.path().read_link());
    Ok(links.filter(|link| link.to_string_lossy().starts_with("socket:")).count())
}

/// Threads that an app-server has loaded, and turns that run there, by its own count.
pub(crate) async fn loaded(app_server: u32) -> anyhow::Result<(u64, u64)> {
    let command = CommandLine::of(app_server)?;
    let listen = command.listen().and_then(|listen| listen.to_str()).unwrap_or_default();
    let socket = listen.strip_prefix("unix://").context("an app-server that is not on a unix socket")?;
    let mut rpc = rpc::connect(|| UnixStream::connect(socket)).await?;
    let diagnostics = rpc.call("server/diagnostics", &json!({})).await?;
    // It knows a gauge from its first use on.
    let gauge = |name: &str| {
        let gauges = diagnostics["gauges"].as_array();
        gauges.and_then(|all| all.iter().find(|gauge| gauge["name"] == name)?["value"].as_u64()).unwrap_or(0)
    };
    Ok((gauge("core.threads.live"), gauge("core.turns.active")))
}

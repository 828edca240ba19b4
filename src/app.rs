//! A configuration becomes a running daemon: build, run, drain, each a call of its own.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::api;
use crate::app_server::{AppServer, LocateInputs, StateFolder, locate};
use crate::bridge::Bridge;
use crate::config::Config;
use crate::model::ModelInfo;
use crate::store::{self, ResponseStore};
use crate::tasks::Tasks;

mod demo;
mod signals;

pub use demo::{DemoOptions, StandinOptions, demo, standin};

pub use crate::app_server::{Codex, become_tethered as tether};

/// How long connections may take to end once their turns have.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the app-server may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long our own tasks may take to end.
const TASKS_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything wired, listening, and not yet serving.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "`app_server` is the peer's own name")]
pub struct App {
    config: Config,
    listener: TcpListener,
    address: SocketAddr,
    /// Held, and with it locked, until the end.
    state: StateFolder,
    app_server: AppServer,
    store: Arc<dyn ResponseStore>,
    bridge: Bridge,
    tasks: Tasks,
}

impl App {
    /// Binds the address, takes the state folder and starts the app-server. Fails on what only a person can
    /// mend: an address in use, a second bridge on the folder, no codex.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let place = Place::take(&config).await?;
        Self::build_in(place, config).await
    }

    async fn build_in(place: Place, config: Config) -> anyhow::Result<Self> {
        let Place { listener, address, state } = place;
        let tasks = Tasks::new();
        // First: it may have to be mended by hand, and then nothing else is to be stopped again.
        let store = store::open(&config.store, state.path(), &tasks).await?;
        let app_server = start_app_server(&config, &state, &tasks).await?;
        let bridge = Bridge::new(app_server.clone(), Arc::clone(&store), &config, &tasks);
        Ok(Self { config, listener, address, state, app_server, store, bridge, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The engine, for programs that host it.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// Where it keeps responses.
    pub fn store(&self) -> &Arc<dyn ResponseStore> {
        &self.store
    }

    /// Serves until `stop` says `true`, then drains: no new calls, running turns finish within the bound, the
    /// rest is interrupted, the child is stopped, tasks end. A second `stop` (the sender gone) cuts it short.
    pub async fn run(self, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let Self { config, listener, address, state, app_server, store, bridge, tasks } = self;
        info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
        tasks.spawn("readiness", announce_ready(app_server.clone(), tasks.stop_token().clone()));

        let router = api::router(api::Edge::new(bridge.clone(), &config, &tasks)?);
        let limit = config.shutdown.drain + CLOSE_TIMEOUT;
        let (close, closed) = watch::channel(false);
        let server = api::serve(listener, router, &config.server, stopped(closed), limit, &tasks);
        let drain = async {
            stopped(stop).await;
            notify_stopping();
            let _ = close.send(true);
            info!(limit = ?config.shutdown.drain, "draining");
            let interrupted = bridge.drain(config.shutdown.drain).await;
            if interrupted > 0 {
                warn!(interrupted, "turns were interrupted");
            }
        };
        tokio::join!(server, drain);
        app_server.stop(STOP_TIMEOUT).await;
        if tokio::time::timeout(STOP_TIMEOUT, store.close()).await.is_err() {
            error!("the response store did not close in time");
        }
        if !tasks.shut_down(TASKS_TIMEOUT).await {
            error!(running = tasks.running(), "tasks did not end in time");
        }
        drop(state);
        info!("stopped");
        Ok(())
    }
}

/// What one bridge alone can have.
struct Place {
    listener: TcpListener,
    address: SocketAddr,
    state: StateFolder,
}

impl Place {
    async fn take(config: &Config) -> anyhow::Result<Self> {
        let at = (config.server.host.as_str(), config.server.port);
        let listener = TcpListener::bind(at)
            .await
            .with_context(|| format!("cannot listen on {}:{}; is another bridge running?", at.0, at.1))?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, state: StateFolder::open(&config.state_dir)? })
    }
}

/// The daemon: from a configuration to its end by signal.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    run(Place::take(&config).await?, config, |address| vec![format!("listening on http://{address}")]).await
}

/// The catalogue, asked of an app-server started for the purpose.
pub async fn models(config: Config) -> anyhow::Result<Vec<ModelInfo>> {
    let tasks = Tasks::new();
    let state = StateFolder::open(&config.state_dir)?;
    let app_server = start_app_server(&config, &state, &tasks).await?;
    let models = app_server.models().await;
    app_server.stop(STOP_TIMEOUT).await;
    tasks.shut_down(TASKS_TIMEOUT).await;
    Ok(models?.to_vec())
}

/// The codex that a daemon with this configuration would start.
pub async fn codex(config: Config) -> Option<Codex> {
    locate(&LocateInputs::new(&config.app_server, &config.machine)).await.ok()
}

/// Starts the app-server; a codex that is absent or too old is told at once.
async fn start_app_server(config: &Config, state: &StateFolder, tasks: &Tasks) -> anyhow::Result<AppServer> {
    if config.app_server.connect.is_none() {
        let codex = locate(&LocateInputs::new(&config.app_server, &config.machine)).await?;
        info!(path = %codex.path.display(), version = %codex.version, "codex found");
    }
    Ok(AppServer::start(&config.app_server, &config.machine, state, tasks)?)
}

/// Runs an app under the process's signals; `lines` go to standard output once it listens.
async fn run(
    place: Place,
    config: Config,
    lines: impl FnOnce(SocketAddr) -> Vec<String>,
) -> anyhow::Result<()> {
    // First, so that a signal that comes meanwhile is obeyed as soon as there is something to drain.
    let (stop, force) = signals::listen()?;
    let app = App::build_in(place, config).await?;
    let mut out = std::io::stdout().lock();
    for line in lines(app.address()) {
        // Nobody may be reading; the log has the address too.
        let _ = writeln!(out, "{line}");
    }
    let _ = out.flush();
    drop(out);
    tokio::select! {
        result = app.run(stop) => result,
        () = force => anyhow::bail!("stopped by a second signal"),
    }
}

/// Ends once `stop` says so or can no longer say anything.
async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Tells the service manager, once a call made now would be tried.
async fn announce_ready(app_server: AppServer, stop: tokio_util::sync::CancellationToken) {
    let ready = tokio::select! {
        () = stop.cancelled() => return,
        ready = app_server.connection() => ready,
    };
    match ready {
        Ok(connection) => info!(app_server = connection.server_version(), "ready"),
        // Still worth running: it recovers by itself, and says what is wrong meanwhile.
        Err(error) => error!(%error, "the app-server is not available yet"),
    }
    #[cfg(target_os = "linux")]
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

fn notify_stopping() {
    #[cfg(target_os = "linux")]
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
}

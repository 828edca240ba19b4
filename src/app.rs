//! A configuration becomes a running daemon: build, run, drain, each a call of its own.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::api;
use crate::app_server::{AppServer, LocateInputs, StateFolder, locate};
use crate::bridge::Bridge;
use crate::config::{AppServerConfig, Config};
use crate::model::ModelInfo;
use crate::store::{self, Documents, ResponseStore, Seal};
use crate::tasks::Tasks;

use self::listeners::Listeners;

mod demo;
mod listeners;
mod process;
mod reload;
mod service_manager;
mod signals;
mod sweep;

pub use demo::{DemoOptions, StandinOptions, demo, standin};
pub use process::harden;
pub use reload::{ReadKeys, Reload};

pub use crate::app_server::Codex;
pub use crate::tasks::tether::become_tethered as tether;

/// How long connections may take to end once their turns have.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the app-server may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long our own tasks may take to end.
const TASKS_TIMEOUT: Duration = Duration::from_secs(5);
/// A replaced app-server has this much longer than a turn may take.
const DRAIN_MARGIN: Duration = Duration::from_secs(60);

/// Everything wired, listening, and not yet serving.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "`app_server` is the peer's own name")]
pub struct App {
    config: Config,
    listeners: Listeners,
    /// Held, and with it locked, until the end.
    state: StateFolder,
    app_server: AppServer,
    store: Arc<dyn ResponseStore>,
    documents: Arc<Documents>,
    seal: Seal,
    bridge: Bridge,
    reload: Option<Reload>,
    tasks: Tasks,
}

impl App {
    /// Binds the address, takes the state folder and starts the app-server. Fails on what only a person can
    /// mend: an address in use, a second bridge on the folder, no codex.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let place = Place::take(config, Vec::new()).await?;
        Self::build_in(place).await
    }

    async fn build_in(place: Place) -> anyhow::Result<Self> {
        let Place { config, listeners, state } = place;
        let tasks = Tasks::new();
        // First: it may have to be mended by hand, and then nothing else is to be stopped again.
        let store = store::open(&config.store, state.path(), &tasks).await?;
        let limit = config.continuation.store_timeout;
        let documents = store::open_documents(&config.store, limit, state.path(), &tasks).await?;
        let seal = store::open_seal(&config.store, state.path())?;
        let app_server = start_app_server(&config, &state, &tasks).await?;
        let bridge = Bridge::new(app_server.clone(), Arc::clone(&store), &config, &tasks);
        Ok(Self { config, listeners, state, app_server, store, documents, seal, bridge, reload: None, tasks })
    }

    /// Where it listens; the first one, where a service manager holds several sockets.
    pub fn address(&self) -> SocketAddr {
        self.listeners.address()
    }

    /// The engine, for programs that host it.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// Where it keeps responses.
    pub fn store(&self) -> &Arc<dyn ResponseStore> {
        &self.store
    }

    /// Has it read its keys again when that is asked for.
    #[must_use]
    pub fn reloading(self, reload: Reload) -> Self {
        Self { reload: Some(reload), ..self }
    }

    /// Serves until `stop` says `true`, then drains: no new calls, running turns finish within the bound, the
    /// rest is interrupted, the child is stopped, tasks end. A second `stop` (the sender gone) cuts it short.
    pub async fn run(self, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let Self { config, listeners, state, app_server, store, documents, seal, bridge, reload, tasks } =
            self;
        info!(%listeners, version = env!("CARGO_PKG_VERSION"), "listening");
        tasks.spawn("readiness", announce_ready(app_server.clone(), tasks.stop_token().clone()));
        if let Some(period) = config.machine.watchdog {
            let feed = service_manager::feed(app_server.clone(), period, tasks.stop_token().clone());
            tasks.spawn("watchdog", feed);
        }

        let edge = api::Edge::new(bridge.clone(), Arc::clone(&documents), seal, &config, &tasks)?;
        edge.start().await;
        let sweeping = sweep::sweep(Arc::clone(&documents), tasks.stop_token().clone());
        tasks.spawn("document sweeper", sweeping);
        if let Some(reload) = reload {
            tasks.spawn("key reload", reload::reload_keys(reload, edge.clone(), tasks.clone()));
        }
        let router = api::router(edge.clone());
        let limit = config.shutdown.drain + CLOSE_TIMEOUT;
        let (close, closed) = watch::channel(false);
        let server = api::serve(listeners.take(), router, &config.server, stopped(closed), limit, &tasks);
        let drain = async {
            stopped(stop).await;
            service_manager::stopping();
            let _ = close.send(true);
            info!(limit = ?config.shutdown.drain, "draining");
            edge.begin_drain();
            let interrupted = bridge.drain(config.shutdown.drain).await;
            if interrupted > 0 {
                warn!(interrupted, "turns were interrupted");
            }
            if !edge.drained(STOP_TIMEOUT).await {
                error!("background responses and batches did not settle in time");
            }
        };
        tokio::join!(server, drain);
        app_server.stop(STOP_TIMEOUT).await;
        let closed = async { tokio::join!(store.close(), documents.close()) };
        if tokio::time::timeout(STOP_TIMEOUT, closed).await.is_err() {
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

/// What one bridge alone can have, and the configuration that fits it.
struct Place {
    config: Config,
    listeners: Listeners,
    state: StateFolder,
}

impl Place {
    /// `passed` are the sockets that a service manager holds for us; with none, the configured address is bound.
    async fn take(mut config: Config, passed: Vec<std::net::TcpListener>) -> anyhow::Result<Self> {
        let listeners = if passed.is_empty() {
            Listeners::bind(&config.server).await?
        } else {
            Listeners::adopt(passed, &mut config)?
        };
        let state = StateFolder::open(&config.state_dir)?;
        Ok(Self { config, listeners, state })
    }
}

/// The daemon: from a configuration, and the sockets held for it, to its end by signal.
pub async fn serve(
    config: Config,
    passed: Vec<std::net::TcpListener>,
    read_keys: ReadKeys,
) -> anyhow::Result<()> {
    let place = Place::take(config, passed).await?;
    run(place, read_keys, |address| vec![format!("listening on http://{address}")]).await
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
    // Nothing that a turn may take is cut short by a replacement.
    let drain_limit = config.app_server.drain_limit.max(config.turn.deadline.saturating_add(DRAIN_MARGIN));
    let app_server = AppServerConfig { drain_limit, ..config.app_server.clone() };
    Ok(AppServer::start(&app_server, &config.machine, state, tasks)?)
}

/// Runs an app under the process's signals; `lines` go to standard output once it listens.
async fn run(
    place: Place,
    read_keys: ReadKeys,
    lines: impl FnOnce(SocketAddr) -> Vec<String>,
) -> anyhow::Result<()> {
    // First, so that a signal that comes meanwhile is obeyed as soon as there is something to drain.
    let signals::Signals { stop, force, hang_ups } = signals::listen()?;
    let app = App::build_in(place).await?;
    let app = app.reloading(Reload { asked: hang_ups, read: read_keys });
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
    service_manager::ready();
}

//! The app-server as the rest of the bridge has it: there, or not there for a reason.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::home::{self, Home};
use super::launch::{Connected, Launcher, Live, McpServers, Streams, Supervised};
use super::locate::LocateInputs;
use super::login::LoginCache;
use super::model_list::ModelList;
use super::rate_limits::LastRateLimits;
use super::supervisor::{Order, Phase, Snapshot, Supervisor};
use super::{
    AppServerError, AppServerMode, AppServerState, AppServerStatus, Connection, SetupError, StateFolder,
    ThreadOptions,
};
use crate::config::{AppServerConfig, Machine, Scaffold};
use crate::model::LoginState;
use crate::tasks::Tasks;

/// Orders on their way to the supervisor; past it the asker waits.
const ORDERS: usize = 32;
/// How long a generated image stays where the model can find it again.
const IMAGE_LIFE: Duration = Duration::from_secs(3600);

/// Lets tool outputs of any size through where the stock catalogue would cut them.
const TOOL_OUTPUT_TOKENS: u64 = 100_000_000;

/// The app-server. Cheap to clone; all clones are one. When the last is dropped, our child ends.
#[derive(Debug, Clone)]
pub struct AppServer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    mode: AppServerMode,
    scaffold: Scaffold,
    start_timeout: Duration,
    cwd: PathBuf,
    user_home: Option<PathBuf>,
    /// Where Codex puts the images it has generated, in a home of ours.
    images: Option<PathBuf>,
    auth_file: Option<PathBuf>,
    /// Where threads of ours are kept on disk; none where the home is somebody else's.
    sessions: Option<PathBuf>,
    mcp_servers: McpServers,
    shared: Arc<Shared>,
    snapshot: watch::Receiver<Snapshot>,
    orders: mpsc::Sender<Order>,
    tasks: Tasks,
}

/// What the supervisor expires when the app-server tells of a change, and the runtime fills again.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) login: LoginCache,
    pub(super) models: ModelList,
    pub(super) limits: LastRateLimits,
}

/// What differs between the ways to have an app-server.
struct Parts {
    cwd: PathBuf,
    user_home: Option<PathBuf>,
    sessions: Option<PathBuf>,
    images: Option<PathBuf>,
    mcp_servers: McpServers,
}

impl Parts {
    /// Of an app-server whose home is not ours.
    fn foreign(cwd: PathBuf, mcp_servers: McpServers) -> Self {
        Self { cwd, user_home: None, sessions: None, images: None, mcp_servers }
    }
}

impl AppServer {
    /// Makes the folders and spawns the one supervising task. Does not wait for the app-server.
    pub fn start(
        config: &AppServerConfig,
        machine: &Machine,
        state: &StateFolder,
        tasks: &Tasks,
    ) -> Result<Self, SetupError> {
        let locate = LocateInputs::new(config, machine);
        let runtime_dir = machine.runtime_dir.as_deref();
        let home = Home::prepare(state, &config.user_codex_home, runtime_dir)?;
        let mcp_servers = McpServers::default();
        let cwd = home.cwd().to_owned();
        let user_home = Some(home.user_home().to_owned());
        Ok(match &config.connect {
            None => {
                let (images, sessions) = (Some(home.images()), Some(home.sessions()));
                let parts = Parts { cwd, user_home, sessions, images, mcp_servers };
                let launcher = Supervised::new(config, locate, machine, home, tasks);
                Self::with(config, Arc::new(launcher), parts, tasks)
            }
            Some(endpoint) => {
                let parts = Parts::foreign(cwd, mcp_servers.clone());
                let launcher = Connected::new(
                    config,
                    endpoint.clone(),
                    locate,
                    &machine.environment,
                    &home,
                    mcp_servers,
                    tasks,
                );
                Self::with(config, Arc::new(launcher), parts, tasks)
            }
        })
    }

    /// An app-server behind streams that `open` gives, one for each connection: for tests. It counts as ours;
    /// `auth_file` stands for its login where the test has one.
    pub fn over_streams<F, Fut, S>(
        config: &AppServerConfig,
        cwd: &Path,
        auth_file: Option<&Path>,
        open: F,
        tasks: &Tasks,
    ) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = std::io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let parts = Parts::foreign(cwd.to_owned(), McpServers::default());
        let launcher = Streams::new(config, auth_file.map(Path::to_owned), open, tasks);
        Self::with(config, Arc::new(launcher), parts, tasks)
    }

    fn with(config: &AppServerConfig, launcher: Arc<dyn Launcher>, parts: Parts, tasks: &Tasks) -> Self {
        let (mode, auth_file) = (launcher.mode(), launcher.auth_file());
        let (orders, received) = mpsc::channel(ORDERS);
        let (published, snapshot) = watch::channel(Snapshot::starting());
        let shared = Arc::new(Shared::default());
        let supervisor = Supervisor::new(launcher, config, Arc::clone(&shared), published, received, tasks);
        tasks.spawn("app-server supervisor", supervisor.run());
        let Parts { cwd, user_home, sessions, images, mcp_servers } = parts;
        Self {
            inner: Arc::new(Inner {
                mode,
                scaffold: config.scaffold,
                start_timeout: config.start_timeout,
                cwd,
                user_home,
                images,
                auth_file,
                sessions,
                mcp_servers,
                shared,
                snapshot,
                orders,
                tasks: tasks.clone(),
            }),
        }
    }

    /// The connection for new calls. Waits while the app-server starts, at most the start's time limit; fails
    /// at once where it cannot be had.
    pub async fn connection(&self) -> Result<Connection, AppServerError> {
        Ok(self.live().await?.connection.clone())
    }

    /// How it stands; never waits.
    pub fn status(&self) -> AppServerStatus {
        let snapshot = self.inner.snapshot.borrow();
        let (state, live, reason) = match &snapshot.phase {
            Phase::Starting => (AppServerState::Starting, None, None),
            Phase::Ready(live) => (AppServerState::Ready, Some(live), None),
            Phase::Reconnecting { reason } => (AppServerState::Reconnecting, None, Some(reason)),
            Phase::Failed { reason } => (AppServerState::Failed, None, Some(reason)),
            Phase::Stopped => (AppServerState::Stopped, None, None),
        };
        AppServerStatus {
            state,
            mode: self.inner.mode,
            reason: reason.cloned(),
            version: live.and_then(|live| live.version.clone()),
            generation: snapshot.generation,
            pid: live.and_then(|live| live.pid),
            memory: snapshot.memory,
            last_disconnect: snapshot.last_disconnect.clone(),
            since: snapshot.since,
        }
    }

    /// Whether it answers within `limit`; `false` at once where there is none.
    pub async fn probe(&self, limit: Duration) -> bool {
        let live = match &self.inner.snapshot.borrow().phase {
            Phase::Ready(live) => Arc::clone(live),
            Phase::Starting | Phase::Reconnecting { .. } | Phase::Failed { .. } | Phase::Stopped => {
                return false;
            }
        };
        live.connection.ping(limit).await.is_ok()
    }

    /// Follows the generation: it changes with each connection that replaces another. A thread of an older
    /// one may be finished, not continued.
    pub fn generations(&self) -> Generations {
        Generations { snapshot: self.inner.snapshot.clone() }
    }

    /// Whether the app-server is ours: lean catalogue and private home.
    pub fn owns_app_server(&self) -> bool {
        self.inner.mode == AppServerMode::Supervised
    }

    /// Removes generated images that no thread still works on; the client has them.
    pub async fn sweep_images(&self) {
        if let Some(folder) = self.inner.images.clone() {
            self.inner.tasks.blocking(move || home::sweep_images(&folder, IMAGE_LIFE)).await;
        }
    }

    /// What a thread starts with here.
    pub fn thread_options(&self, model: &str, verbosity: Option<&str>) -> ThreadOptions {
        let mut options = ThreadOptions::lean(model, &self.inner.cwd);
        options.verbosity = verbosity.map(str::to_owned);
        options.scaffold = self.inner.scaffold;
        options.disabled_mcp_servers = self.inner.mcp_servers.names();
        if !self.owns_app_server() || self.inner.scaffold == Scaffold::Codex {
            options.tool_output_token_limit = Some(TOOL_OUTPUT_TOKENS);
        }
        options
    }

    /// Closes the connections and ends our child, within about `limit`. Nothing can be had afterwards.
    pub async fn stop(&self, limit: Duration) {
        let (done, stopped) = oneshot::channel();
        if self.inner.orders.send(Order::Stop { limit, done }).await.is_ok() {
            let _ = stopped.await;
        }
        if let Some(sessions) = self.inner.sessions.clone() {
            // Whatever was not deleted while there was somebody to do it.
            self.inner.tasks.blocking(move || std::fs::remove_dir_all(sessions)).await;
        }
    }

    /// The ready app-server, waited for as `connection` does.
    pub(super) async fn live(&self) -> Result<Arc<Live>, AppServerError> {
        let deadline = Instant::now() + self.inner.start_timeout;
        let mut snapshot = self.inner.snapshot.clone();
        loop {
            let waits_for = match &snapshot.borrow_and_update().phase {
                // One that has just ended stays in view until the supervisor has noticed.
                Phase::Ready(live) if !live.connection.is_closed() => return Ok(Arc::clone(live)),
                Phase::Ready(_) | Phase::Starting => None,
                Phase::Reconnecting { reason } => Some(reason.clone()),
                Phase::Failed { reason } => {
                    return Err(AppServerError::Unavailable { reason: reason.clone() });
                }
                Phase::Stopped => return Err(AppServerError::Unavailable { reason: "it is stopped".into() }),
            };
            match timeout_at(deadline, snapshot.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(AppServerError::Unavailable { reason: "it is stopped".into() }),
                Err(_) => {
                    let limit = self.inner.start_timeout;
                    let reason = match waits_for {
                        Some(reason) => format!("not back within {limit:?}: {reason}"),
                        None => format!("not ready within {limit:?}"),
                    };
                    return Err(AppServerError::Unavailable { reason });
                }
            }
        }
    }

    /// Has a new app-server in the place of `generation`, and waits for it. The old one finishes what it has.
    pub(super) async fn replace(&self, generation: u64, why: &'static str) -> Result<(), AppServerError> {
        let (done, replaced) = oneshot::channel();
        let stopped = || AppServerError::Unavailable { reason: "it is stopped".into() };
        self.inner.orders.send(Order::Replace { generation, why, done }).await.map_err(|_| stopped())?;
        match replaced.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(AppServerError::Unavailable { reason: error.to_string() }),
            Err(_) => Err(stopped()),
        }
    }

    /// Has the supervisor look whether the app-server is out of date. Nothing is lost if it is too busy.
    pub(super) fn check_soon(&self) {
        let _ = self.inner.orders.try_send(Order::Check);
    }

    /// Takes note of who is logged in.
    pub(super) fn learned(&self, state: &LoginState) {
        let before = self.inner.shared.login.last();
        if before.is_some_and(|before| before.state != *state) {
            self.inner.shared.limits.forget();
            self.inner.shared.models.expire();
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    pub(super) fn scaffold(&self) -> Scaffold {
        self.inner.scaffold
    }

    pub(super) fn sessions(&self) -> Option<&Path> {
        self.inner.sessions.as_deref()
    }

    pub(super) fn auth_file(&self) -> Option<&Path> {
        self.inner.auth_file.as_deref()
    }

    pub(super) fn user_home(&self) -> Option<&Path> {
        self.inner.user_home.as_deref()
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }
}

/// Follows the generation of an app-server.
#[derive(Debug, Clone)]
pub struct Generations {
    snapshot: watch::Receiver<Snapshot>,
}

impl Generations {
    /// The generation as it is now; 0 before the first connection.
    pub fn current(&self) -> u64 {
        self.snapshot.borrow().generation
    }

    /// Waits until it is another than `seen`; `None` once the app-server has stopped for good. Cancel-safe.
    pub async fn changed(&mut self, seen: u64) -> Option<u64> {
        self.snapshot.wait_for(|snapshot| snapshot.generation != seen).await.ok().map(|now| now.generation)
    }
}

#[cfg(test)]
mod tests;

//! The app-server as the rest of the bridge has it: there, or not there for a reason.

mod member;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::home::{self, Home};
use super::launch::{Connected, Launcher, Live, McpServers, Streams, Supervised};
use super::locate::LocateInputs;
use super::login::LoginCache;
use super::model_list::ModelList;
use super::rate_limits::LastRateLimits;
use super::supervisor::{Order, Phase, Pool, Snapshot, Supervisor};
use super::{
    AppServerError, AppServerMode, AppServerState, AppServerStatus, Connection, DisconnectReason,
    ProcessStatus, SetupError, StateFolder, ThreadOptions,
};
use crate::config::{AppServerConfig, Machine, Scaffold};
use crate::model::{LoginState, ThreadId};
use crate::tasks::Tasks;
use member::{Member, outlook};

/// Orders on their way to the supervisor; past it the asker waits.
const ORDERS: usize = 32;
/// One of several that gives no sign of life for this long, though asked, is passed over where it can be: until it
/// answers again or is given up.
const SILENCE: Duration = Duration::from_secs(2);
/// How long a generated image stays where the model can find it again.
const IMAGE_LIFE: Duration = Duration::from_secs(3600);
/// How long a kept thread that nobody knows stays: it may have been made just now.
const SESSION_LIFE: Duration = Duration::from_secs(600);

/// Lets tool outputs of any size through where the stock catalogue would cut them.
const TOOL_OUTPUT_TOKENS: u64 = 100_000_000;

/// The app-server, or several of ours that share the load. Cheap to clone; all clones are one. When the last is
/// dropped, our children end.
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
    /// At least one; more only where they are ours.
    members: Vec<Member>,
    /// Where the search for the least loaded one begins: equal ones take turns.
    rotation: AtomicUsize,
    newest: watch::Receiver<u64>,
    tasks: Tasks,
}

/// What the supervisor expires when the app-server tells of a change, and the runtime fills again.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) login: LoginCache,
    pub(super) models: ModelList,
    pub(super) limits: LastRateLimits,
    /// Turns of ours that nobody waited for and that were interrupted.
    pub(super) orphans: AtomicU64,
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
    /// Makes the folders and spawns the supervising tasks, one for each app-server. Does not wait for any.
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
                Self::with(config, launcher, parts, tasks)
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
                Self::with(config, launcher, parts, tasks)
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
        let launcher = Streams::new(config, cwd, auth_file.map(Path::to_owned), open, tasks);
        Self::with(config, launcher, parts, tasks)
    }

    fn with(config: &AppServerConfig, launcher: impl Launcher, parts: Parts, tasks: &Tasks) -> Self {
        let launcher: Arc<dyn Launcher> = Arc::new(launcher);
        let (mode, auth_file) = (launcher.mode(), launcher.auth_file());
        let shared = Arc::new(Shared::default());
        let (pool, newest) = Pool::new();
        // Somebody else's is one, however many of ours are wanted.
        let count = if mode == AppServerMode::Supervised { config.processes.max(1) } else { 1 };
        let start = |_| {
            let (orders, received) = mpsc::channel(ORDERS);
            let (published, snapshot) = watch::channel(Snapshot::starting());
            let (launcher, pool, shared) = (Arc::clone(&launcher), pool.clone(), Arc::clone(&shared));
            let supervisor = Supervisor::new(launcher, config, pool, shared, published, received, tasks);
            tasks.spawn("app-server supervisor", supervisor.run());
            Member { snapshot, orders }
        };
        let members = (0..count).map(start).collect();
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
                members,
                rotation: AtomicUsize::new(0),
                newest,
                tasks: tasks.clone(),
            }),
        }
    }

    /// The connection for new calls: of several app-servers the one on which the fewest turns run. Waits while
    /// there is none, at most the start's time limit; fails at once where none can be had.
    pub async fn connection(&self) -> Result<Connection, AppServerError> {
        Ok(self.live_by(|ready| self.least_loaded(ready)).await?.connection.clone())
    }

    /// The generations of the connections that new calls may use. A thread of another one may be finished, not
    /// continued.
    pub fn current(&self) -> Vec<u64> {
        self.ready().iter().map(|live| live.generation).collect()
    }

    /// How it stands; never waits. Of several, what is told of one is told of the first that is ready.
    pub fn status(&self) -> AppServerStatus {
        let processes: Vec<ProcessStatus> = self.inner.members.iter().map(Member::status).collect();
        let lead = processes.iter().find(|process| process.state == AppServerState::Ready);
        // One that will be there soon says more of the whole than one that failed.
        let soon = |process: &&ProcessStatus| process.state != AppServerState::Failed;
        let lead = lead.or_else(|| processes.iter().find(soon)).or(processes.first());
        let lead = lead.cloned().unwrap_or_else(|| Snapshot::starting().status());
        AppServerStatus {
            state: lead.state,
            mode: self.inner.mode,
            reason: lead.reason,
            version: lead.version,
            generation: processes.iter().map(|process| process.generation).max().unwrap_or_default(),
            pid: lead.pid,
            memory: lead.memory,
            last_disconnect: processes.iter().rev().find_map(|process| process.last_disconnect.clone()),
            since: lead.since,
            bytes_sent: self.ready().iter().map(|live| live.connection.bytes_sent()).sum(),
            orphans: self.inner.shared.orphans.load(Ordering::Relaxed),
            processes,
        }
    }

    /// Whether somebody looks after each: starts it again when it ends.
    pub fn is_supervised(&self) -> bool {
        self.inner.members.iter().all(|member| !member.orders.is_closed())
    }

    /// Whether any answers within `limit`; `false` at once where there is none.
    pub async fn probe(&self, limit: Duration) -> bool {
        let ready = self.ready();
        let answers = join_all(ready.iter().map(|live| live.connection.ping(limit))).await;
        answers.iter().any(Result::is_ok)
    }

    /// Follows the generation: it changes with each new connection.
    pub fn generations(&self) -> Generations {
        Generations { newest: self.inner.newest.clone() }
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

    /// Removes kept threads that are on disk and are none of `kept`; those there is no reason to doubt stay.
    pub async fn sweep_sessions(&self, kept: Vec<ThreadId>) {
        if let Some(folder) = self.inner.sessions.clone() {
            self.inner.tasks.blocking(move || home::sweep_sessions(&folder, &kept, SESSION_LIFE)).await;
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

    /// Closes the connections and ends our children, within about `limit`. Nothing can be had afterwards.
    pub async fn stop(&self, limit: Duration) {
        join_all(self.inner.members.iter().map(|member| async move {
            let (done, stopped) = oneshot::channel();
            if member.orders.send(Order::Stop { limit, done }).await.is_ok() {
                let _ = stopped.await;
            }
        }))
        .await;
        if let Some(sessions) = self.inner.sessions.clone() {
            // Whatever was not deleted while there was somebody to do it.
            self.inner.tasks.blocking(move || std::fs::remove_dir_all(sessions)).await;
        }
    }

    /// The app-server to ask for what all of them know alike, waited for as `connection` does: always the same
    /// one while it is there and answers.
    pub(super) async fn live(&self) -> Result<Arc<Live>, AppServerError> {
        self.live_by(|ready| ready.first().cloned()).await
    }

    /// Those that are ready, in their order.
    pub(super) fn ready(&self) -> Vec<Arc<Live>> {
        self.inner.members.iter().filter_map(|member| member.snapshot.borrow().phase.live()).collect()
    }

    /// The one on which the fewest turns run.
    fn least_loaded(&self, ready: &[Arc<Live>]) -> Option<Arc<Live>> {
        let first = self.inner.rotation.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..ready.len()).map(|ahead| &ready[(first.wrapping_add(ahead)) % ready.len()]);
        in_turn.min_by_key(|live| live.connection.running_turns()).cloned()
    }

    /// What `live` answers; an error that is a loss, as soon as it falls silent and another one can be asked.
    pub(super) async fn unless_silent<T>(
        &self,
        live: &Live,
        answer: impl Future<Output = Result<T, AppServerError>>,
    ) -> Result<T, AppServerError> {
        let mut answer = std::pin::pin!(answer);
        loop {
            if is_silent(live) && self.ready().iter().any(|other| !is_silent(other)) {
                return Err(AppServerError::Disconnected(DisconnectReason::Silent(SILENCE)));
            }
            if let Ok(answer) = timeout(SILENCE, &mut answer).await {
                return answer;
            }
        }
    }

    async fn live_by(
        &self,
        pick: impl Fn(&[Arc<Live>]) -> Option<Arc<Live>>,
    ) -> Result<Arc<Live>, AppServerError> {
        let stopped = || AppServerError::Unavailable { reason: "it is stopped".into() };
        let deadline = Instant::now() + self.inner.start_timeout;
        let mut snapshots: Vec<_> = self.inner.members.iter().map(|member| member.snapshot.clone()).collect();
        loop {
            let phases: Vec<Phase> =
                snapshots.iter_mut().map(|snapshot| snapshot.borrow_and_update().phase.clone()).collect();
            let mut ready: Vec<_> = phases.iter().filter_map(Phase::live).collect();
            if ready.iter().any(|live| !is_silent(live)) {
                ready.retain(|live| !is_silent(live));
            }
            if let Some(live) = pick(&ready) {
                return Ok(live);
            }
            let waits_for = outlook(&phases)?;
            let changed = select_all(snapshots.iter_mut().map(|snapshot| Box::pin(snapshot.changed())));
            match timeout_at(deadline, changed).await {
                Ok((Ok(()), ..)) => {}
                Ok((Err(_), ..)) => return Err(stopped()),
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
        let has_it = |member: &&Member| member.snapshot.borrow().generation == generation;
        let Some(member) = self.inner.members.iter().find(has_it) else { return Ok(()) };
        let (done, replaced) = oneshot::channel();
        let stopped = || AppServerError::Unavailable { reason: "it is stopped".into() };
        member.orders.send(Order::Replace { generation, why, done }).await.map_err(|_| stopped())?;
        match replaced.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(AppServerError::Unavailable { reason: error.to_string() }),
            Err(_) => Err(stopped()),
        }
    }

    /// Has the supervisors look whether the app-server is out of date. Nothing is lost if they are too busy.
    pub(super) fn check_soon(&self) {
        for member in &self.inner.members {
            let _ = member.orders.try_send(Order::Check);
        }
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

/// Whether it has been asked something and given no sign of life for too long.
fn is_silent(live: &Live) -> bool {
    live.connection.silence() >= SILENCE
}

/// Follows the newest generation.
#[derive(Debug, Clone)]
pub struct Generations {
    newest: watch::Receiver<u64>,
}

impl Generations {
    /// The generation as it is now; 0 before the first connection.
    pub fn current(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Waits until it is another than `seen`; `None` once the app-server has stopped for good. Cancel-safe.
    pub async fn changed(&mut self, seen: u64) -> Option<u64> {
        self.newest.wait_for(|newest| *newest != seen).await.ok().map(|now| *now)
    }
}

#[cfg(test)]
mod tests;

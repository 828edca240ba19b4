//! The one task that has an app-server and has it again when it is lost.

mod drains;
mod looks;
mod patience;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::child::Child;
use super::connection::Leaving;
use super::launch::{Launch, Launcher, Live, Measured};
use super::runtime::Shared;
use super::{DisconnectReason, Notice, SetupError};
use crate::config::AppServerConfig;
use crate::tasks::Tasks;

use drains::Drains;
use looks::{Look, Looks};
use patience::Patience;

/// How long an app-server that was asked to end may take, unless the caller says.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// After its connection is lost, how long a child's own end is waited for: it is the better reason.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Replacements asked for by hand (`models_fresh`) happen at most this often.
const CHECK_APART: Duration = Duration::from_secs(60);

/// Looks at what a child takes before it may be replaced for it.
const LOOKS: u32 = 10;

/// Probes in a row that are not answered before an app-server is given up: one may meet a busy moment.
const MISSES: u32 = 2;

/// What the supervisor is asked. At most 32 wait; past that the asker does.
#[derive(Debug)]
pub(super) enum Order {
    /// Have a new app-server; the running one drains. Nothing is done if `generation` is gone already.
    Replace { generation: u64, why: &'static str, done: oneshot::Sender<Result<(), SetupError>> },
    /// Look soon whether the running one is out of date.
    Check,
    /// End everything, within the limit.
    Stop { limit: Duration, done: oneshot::Sender<()> },
}

/// Where the supervisor is, for everybody to see.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) phase: Phase,
    pub(super) generation: u64,
    pub(super) last_disconnect: Option<String>,
    /// Of the running child, as last looked at.
    pub(super) measured: Measured,
    pub(super) since: SystemTime,
}

/// Where the supervisor is with its app-server.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    Starting,
    Ready(Arc<Live>),
    Reconnecting { reason: String },
    Failed { reason: String },
    Stopped,
}

impl Snapshot {
    pub(super) fn starting() -> Self {
        Self {
            phase: Phase::Starting,
            generation: 0,
            last_disconnect: None,
            measured: Measured::default(),
            since: SystemTime::now(),
        }
    }
}

/// What the supervisors of all app-servers of one bridge have in common. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    /// The last number given to a connection: no two have the same.
    given: Arc<AtomicU64>,
    /// The newest connection's; closed with the last supervisor.
    newest: Arc<watch::Sender<u64>>,
    /// Held by whoever has its app-server replaced: one at a time, so that the others carry the load.
    replacing: Arc<Semaphore>,
}

impl Pool {
    /// With what follows the newest generation.
    pub(super) fn new() -> (Self, watch::Receiver<u64>) {
        let (newest, follow) = watch::channel(0);
        let (given, replacing) = (Arc::default(), Arc::new(Semaphore::new(1)));
        (Self { given, newest: Arc::new(newest), replacing }, follow)
    }

    fn next_generation(&self) -> u64 {
        self.given.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Owns launching, watching and ending. Run as one task.
#[derive(Debug)]
pub(super) struct Supervisor {
    launcher: Arc<dyn Launcher>,
    config: AppServerConfig,
    pool: Pool,
    shared: Arc<Shared>,
    snapshot: watch::Sender<Snapshot>,
    orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
    generation: u64,
    patience: Patience,
    /// Those who asked for a new app-server and wait for it; as many as there are calls.
    waiting: Vec<oneshot::Sender<Result<(), SetupError>>>,
    drains: Drains,
    /// Those to its app-server that have not ended: the running one's, and those that drain.
    connections: Vec<Leaving>,
}

struct Running {
    live: Arc<Live>,
    child: Option<Child>,
    notices: broadcast::Receiver<Notice>,
    looks: Looks,
    /// Probes in a row that were not answered.
    missed: u32,
    since: Instant,
}

/// Why [`Supervisor::serve`] came back.
enum End {
    Lost { running: Running, reason: String },
    Stop { running: Running, limit: Duration, done: Option<oneshot::Sender<()>> },
}

/// What ends the wait for a launch.
enum Interrupted {
    Stop { limit: Duration, done: Option<oneshot::Sender<()>> },
}

impl Supervisor {
    pub(super) fn new(
        launcher: Arc<dyn Launcher>,
        config: &AppServerConfig,
        pool: Pool,
        shared: Arc<Shared>,
        snapshot: watch::Sender<Snapshot>,
        orders: mpsc::Receiver<Order>,
        tasks: &Tasks,
    ) -> Self {
        let patience = Patience::new(launcher.mode());
        Self {
            launcher,
            config: config.clone(),
            pool,
            shared,
            snapshot,
            orders,
            stop: tasks.stop_token().clone(),
            generation: 0,
            patience,
            waiting: Vec::new(),
            drains: Drains::default(),
            connections: Vec::new(),
        }
    }

    /// Runs until it is told to stop.
    pub(super) async fn run(mut self) {
        let mut wait = Duration::ZERO;
        let (limit, done) = loop {
            let launch = match self.have_one(wait).await {
                Ok(launch) => launch,
                Err(Interrupted::Stop { limit, done }) => break (limit, done),
            };
            match self.serve(launch).await {
                End::Lost { running, reason } => wait = self.lost(running, reason),
                End::Stop { running, limit, done } => {
                    self.enter(Phase::Stopped);
                    running.live.connection.close().await;
                    if let Some(child) = running.child {
                        child.stop(limit).await;
                    }
                    break (limit, done);
                }
            }
        };
        self.enter(Phase::Stopped);
        self.drains.finish(limit).await;
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    /// Launches until one is ready; the first try is after `wait`.
    async fn have_one(&mut self, mut wait: Duration) -> Result<Launch, Interrupted> {
        loop {
            if !wait.is_zero() {
                self.unless_stopped(tokio::time::sleep(wait)).await?;
            }
            let launch = self.launcher.launch(self.pool.next_generation());
            let limit = self.patience.start_limit(self.config.start_timeout);
            let error = match self.unless_stopped(timeout(limit, launch)).await? {
                Ok(Ok(launch)) => return Ok(launch),
                Ok(Err(error)) => error,
                Err(_) => {
                    self.patience.timed_out();
                    SetupError::Timeout(limit)
                }
            };
            wait = self.patience.failed();
            tracing::warn!(%error, retry_in = ?wait, failures = self.patience.failures(), "no app-server");
            if error.needs_mending() || self.patience.is_exhausted() {
                self.enter(Phase::Failed { reason: error.to_string() });
            }
            for waiting in self.waiting.drain(..) {
                let _ = waiting.send(Err(error.clone()));
            }
        }
    }

    /// Watches a ready app-server until it is lost or everything stops.
    async fn serve(&mut self, launch: Launch) -> End {
        let mut running = self.ready(launch);
        let mut replacing: Option<BoxFuture<'static, Result<Launch, SetupError>>> = None;
        loop {
            // Cancel-safe: receives, process waits and boxed futures that stay in their slots lose nothing.
            tokio::select! {
                reason = running.live.connection.closed() => {
                    let reason = match &mut running.child {
                        // A child that hangs has no last words.
                        Some(child) if !matches!(reason, DisconnectReason::Hung(_)) => {
                            timeout(LAST_WORDS, child.ended()).await.ok()
                        }
                        _ => None,
                    }
                    .unwrap_or_else(|| reason.to_string());
                    return End::Lost { running, reason };
                }
                reason = end_of(&mut running.child) => return End::Lost { running, reason },
                notice = running.notices.recv() => {
                    if self.heard(notice) {
                        running.looks.check_now();
                    }
                }
                look = running.looks.next() => {
                    let why = self.found(look, &mut running);
                    if let Some(why) = why.filter(|_| replacing.is_none()) {
                        replacing = Some(self.replacement(why));
                    }
                }
                launched = finished(&mut replacing) => match launched {
                    Ok(launch) => {
                        // What is being looked at is no longer what runs.
                        let Running { live, child, .. } =
                            std::mem::replace(&mut running, self.ready(launch));
                        self.drains.drain(live, child, self.config.drain_limit);
                    }
                    Err(error) => {
                        if let SetupError::Timeout(_) = error {
                            self.patience.timed_out();
                        }
                        tracing::warn!(%error, "the app-server could not be replaced; the running one stays");
                        for waiting in self.waiting.drain(..) {
                            let _ = waiting.send(Err(error.clone()));
                        }
                    }
                },
                order = self.orders.recv() => match order {
                    Some(Order::Replace { generation, why, done }) => {
                        if generation == running.live.generation {
                            self.waiting.push(done);
                            replacing.get_or_insert_with(|| self.replacement(why));
                        } else {
                            let _ = done.send(Ok(()));
                        }
                    }
                    Some(Order::Check) => {
                        if replacing.is_none() && running.looks.last_check().elapsed() >= CHECK_APART {
                            running.looks.check_now();
                        }
                    }
                    Some(Order::Stop { limit, done }) => {
                        return End::Stop { running, limit, done: Some(done) };
                    }
                    // Nobody is left to use it.
                    None => return End::Stop { running, limit: STOP_LIMIT, done: None },
                },
                () = self.drains.advance() => {}
                () = self.stop.cancelled() => {
                    return End::Stop { running, limit: STOP_LIMIT, done: None };
                }
            }
        }
    }

    /// Takes in what a look found. Gives why a new app-server is wanted, if it is.
    fn found(&self, look: Look, running: &mut Running) -> Option<&'static str> {
        match look {
            Look::Outdated(outdated) => outdated.then_some("the model catalogue changed"),
            Look::Measured(measured) => self.outgrown(measured, running.since),
            Look::Answered(true) => {
                running.missed = 0;
                None
            }
            // What speaks is slow, and does not hang: a machine may have little time for it.
            Look::Answered(false) if running.live.connection.silence() < self.config.probe_timeout => {
                running.missed = 0;
                None
            }
            Look::Answered(false) => {
                running.missed += 1;
                if running.missed < MISSES {
                    running.looks.probe_now();
                } else {
                    // Its turns learn of it at once; `closed` tells the supervisor.
                    running.live.connection.give_up(DisconnectReason::Hung(self.config.probe_timeout));
                }
                None
            }
            Look::Swept(stopped) => {
                self.shared.orphans.fetch_add(stopped, Ordering::Relaxed);
                None
            }
        }
    }

    /// Waits for `future`, answering orders meanwhile.
    async fn unless_stopped<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Interrupted> {
        tokio::pin!(future);
        loop {
            // Cancel-safe: a receive loses nothing, the rest is polled in place.
            tokio::select! {
                value = &mut future => return Ok(value),
                order = self.orders.recv() => match order {
                    // One is being had anyway.
                    Some(Order::Replace { done, .. }) => self.waiting.push(done),
                    Some(Order::Check) => {}
                    Some(Order::Stop { limit, done }) => {
                        return Err(Interrupted::Stop { limit, done: Some(done) });
                    }
                    None => return Err(Interrupted::Stop { limit: STOP_LIMIT, done: None }),
                },
                () = self.drains.advance() => {}
                () = self.stop.cancelled() => {
                    return Err(Interrupted::Stop { limit: STOP_LIMIT, done: None });
                }
            }
        }
    }

    fn replacement(&self, why: &'static str) -> BoxFuture<'static, Result<Launch, SetupError>> {
        tracing::info!(generation = self.generation, why, "the app-server is replaced");
        let (limit, pool, launcher) = (
            self.patience.start_limit(self.config.start_timeout),
            self.pool.clone(),
            Arc::clone(&self.launcher),
        );
        Box::pin(async move {
            // Never closed.
            let _turn = pool.replacing.acquire().await;
            let launch = launcher.launch(pool.next_generation());
            timeout(limit, launch).await.unwrap_or(Err(SetupError::Timeout(limit)))
        })
    }

    /// Takes note of what the child takes; why it is time for a new one, if it is. Not soon after its start: where
    /// the limit is less than a fresh one takes, each would be replaced by the next.
    fn outgrown(&self, measured: Measured, since: Instant) -> Option<&'static str> {
        self.snapshot.send_modify(|snapshot| snapshot.measured = measured);
        let past = |size: Option<u64>, limit: usize| size.is_some_and(|size| size > limit as u64);
        let why = if past(measured.memory, self.config.max_memory) {
            "it takes more memory than app_server.max_memory"
        } else if past(measured.databases, self.config.max_databases) {
            "its databases take more than app_server.max_databases"
        } else {
            return None;
        };
        let Measured { memory, databases } = measured;
        tracing::warn!(generation = self.generation, memory, databases, "{why}");
        (since.elapsed() >= self.config.memory_check * LOOKS).then_some(why)
    }

    fn ready(&mut self, launch: Launch) -> Running {
        let Launch { live, child } = launch;
        self.generation = live.generation;
        let live = Arc::new(live);
        self.shared.models.expire();
        // This one may have started with another login than the others.
        self.shared.login.expire();
        let notices = live.connection.notices();
        self.connections.retain(|connection| !connection.is_closed());
        self.connections.push(live.connection.clone().leave());
        let looks = Looks::new(&self.launcher, &live, &self.config, self.connections.clone().into());
        self.enter(Phase::Ready(Arc::clone(&live)));
        self.pool.newest.send_if_modified(|newest| {
            let newer = *newest < live.generation;
            *newest = live.generation.max(*newest);
            newer
        });
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(Ok(()));
        }
        Running { live, child, notices, looks, missed: 0, since: Instant::now() }
    }

    /// Tells everybody; gives the wait before the next try.
    fn lost(&mut self, running: Running, reason: String) -> Duration {
        tracing::warn!(generation = running.live.generation, reason, "the app-server was lost");
        self.snapshot.send_modify(|snapshot| snapshot.last_disconnect = Some(reason.clone()));
        let wait = self.patience.ran(running.since.elapsed());
        if self.patience.is_exhausted() {
            let reason = format!("it keeps ending: {reason}");
            self.enter(Phase::Failed { reason });
        } else {
            self.enter(Phase::Reconnecting { reason });
        }
        // Nothing of it can be used any more, a child without its connection included.
        if let Some(child) = running.child {
            self.drains.end(child);
        }
        wait
    }

    /// Takes a notice in; `true` asks for a check.
    fn heard(&self, notice: Result<Notice, RecvError>) -> bool {
        match notice {
            Ok(Notice::AccountUpdated | Notice::LoginCompleted { .. }) | Err(RecvError::Lagged(_)) => {
                self.shared.login.expire();
                self.shared.models.expire();
                // Which models there are depends on who asks.
                true
            }
            Ok(Notice::RateLimits(limits)) => {
                self.shared.limits.merge(limits);
                false
            }
            Ok(Notice::Warning { message } | Notice::ConfigWarning { summary: message }) => {
                tracing::warn!(target: "codex_app_server", "{message}");
                false
            }
            // `closed` tells why.
            Err(RecvError::Closed) => false,
        }
    }

    fn enter(&self, phase: Phase) {
        let generation = self.generation;
        self.snapshot.send_modify(|snapshot| {
            snapshot.phase = phase;
            snapshot.generation = generation;
            snapshot.measured = Measured::default();
            snapshot.since = SystemTime::now();
        });
    }
}

/// The child's end; without one, never.
async fn end_of(child: &mut Option<Child>) -> String {
    match child {
        Some(child) => child.ended().await,
        None => std::future::pending().await,
    }
}

/// The value of the future in `slot`, which is then empty; with an empty one, never. Cancel-safe.
async fn finished<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(future) => {
            let value = future.await;
            *slot = None;
            value
        }
        None => std::future::pending().await,
    }
}

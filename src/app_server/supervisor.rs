//! The one task that has an app-server and has it again when it is lost.

mod drains;
mod patience;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use super::child::Child;
use super::launch::{Launch, Launcher, Live};
use super::runtime::Shared;
use super::{Notice, SetupError};
use crate::config::AppServerConfig;
use crate::tasks::Tasks;

use drains::Drains;
use patience::Patience;

/// How long an app-server that was asked to end may take, unless the caller says.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// After its connection is lost, how long a child's own end is waited for: it is the better reason.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Replacements asked for by hand (`models_fresh`) happen at most this often.
const CHECK_APART: Duration = Duration::from_secs(60);

/// Looks at a child's memory before it may be replaced for it.
const LOOKS: u32 = 10;

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
    /// The running child's, bytes, as last looked at.
    pub(super) memory: Option<u64>,
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
            memory: None,
            since: SystemTime::now(),
        }
    }
}

/// Owns launching, watching and ending. Run as one task.
#[derive(Debug)]
pub(super) struct Supervisor {
    launcher: Arc<dyn Launcher>,
    start_timeout: Duration,
    /// Bytes; past it the child is replaced.
    max_memory: u64,
    memory_check: Duration,
    shared: Arc<Shared>,
    snapshot: watch::Sender<Snapshot>,
    orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
    generation: u64,
    patience: Patience,
    /// Those who asked for a new app-server and wait for it; as many as there are calls.
    waiting: Vec<oneshot::Sender<Result<(), SetupError>>>,
    drains: Drains,
}

struct Running {
    live: Arc<Live>,
    child: Option<Child>,
    notices: broadcast::Receiver<Notice>,
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
        shared: Arc<Shared>,
        snapshot: watch::Sender<Snapshot>,
        orders: mpsc::Receiver<Order>,
        tasks: &Tasks,
    ) -> Self {
        let patience = Patience::new(launcher.mode());
        Self {
            launcher,
            start_timeout: config.start_timeout,
            max_memory: config.max_memory as u64,
            memory_check: config.memory_check,
            shared,
            snapshot,
            orders,
            stop: tasks.stop_token().clone(),
            generation: 0,
            patience,
            waiting: Vec::new(),
            drains: Drains::default(),
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
            let launch = timeout(self.start_timeout, self.launcher.launch(self.generation + 1));
            let error = match self.unless_stopped(launch).await? {
                Ok(Ok(launch)) => return Ok(launch),
                Ok(Err(error)) => error,
                Err(_) => SetupError::Timeout(self.start_timeout),
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
        let mut checking: Option<BoxFuture<'static, bool>> = None;
        let mut measuring: Option<BoxFuture<'static, Option<u64>>> = None;
        let mut check = every(self.launcher.check_every());
        let mut measure = every(self.memory_check);
        let mut last_check = Instant::now();
        loop {
            // Cancel-safe: receives, process waits and boxed futures that stay in their slots lose nothing.
            tokio::select! {
                reason = running.live.connection.closed() => {
                    let reason = match &mut running.child {
                        Some(child) => timeout(LAST_WORDS, child.ended()).await.ok(),
                        None => None,
                    }
                    .unwrap_or_else(|| reason.to_string());
                    return End::Lost { running, reason };
                }
                reason = end_of(&mut running.child) => return End::Lost { running, reason },
                notice = running.notices.recv() => {
                    if self.heard(notice) && checking.is_none() {
                        last_check = Instant::now();
                        checking = Some(self.launcher.outdated(Arc::clone(&running.live)));
                    }
                }
                _ = check.tick(), if checking.is_none() && replacing.is_none() => {
                    last_check = Instant::now();
                    checking = Some(self.launcher.outdated(Arc::clone(&running.live)));
                }
                outdated = finished(&mut checking) => {
                    if outdated && replacing.is_none() {
                        replacing = Some(self.replacement("the model catalogue changed"));
                    }
                }
                _ = measure.tick(), if measuring.is_none() => {
                    measuring = Some(self.launcher.memory(Arc::clone(&running.live)));
                }
                memory = finished(&mut measuring) => {
                    if self.is_too_large(memory, running.since) && replacing.is_none() {
                        replacing = Some(self.replacement("it takes more than app_server.max_memory"));
                    }
                }
                launched = finished(&mut replacing) => match launched {
                    Ok(launch) => {
                        let old = std::mem::replace(&mut running, self.ready(launch));
                        self.drains.drain(old.live, old.child);
                        // What is being looked at is no longer what runs.
                        checking = None;
                        measuring = None;
                    }
                    Err(error) => {
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
                        if checking.is_none() && replacing.is_none() && last_check.elapsed() >= CHECK_APART {
                            last_check = Instant::now();
                            checking = Some(self.launcher.outdated(Arc::clone(&running.live)));
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
        tracing::info!(why, "the app-server is replaced");
        let (limit, launch) = (self.start_timeout, self.launcher.launch(self.generation + 1));
        Box::pin(async move { timeout(limit, launch).await.unwrap_or(Err(SetupError::Timeout(limit))) })
    }

    /// Takes note of the child's memory; whether it is time for a new one. Not soon after its start: where the
    /// limit is less than a fresh one takes, each would be replaced by the next.
    fn is_too_large(&self, memory: Option<u64>, since: Instant) -> bool {
        self.snapshot.send_modify(|snapshot| snapshot.memory = memory);
        let too_large = memory.filter(|memory| *memory > self.max_memory);
        if let Some(memory) = too_large {
            tracing::warn!(memory, limit = self.max_memory, "the app-server takes too much memory");
        }
        too_large.is_some() && since.elapsed() >= self.memory_check * LOOKS
    }

    fn ready(&mut self, launch: Launch) -> Running {
        let Launch { live, child } = launch;
        self.generation = live.generation;
        let live = Arc::new(live);
        self.shared.models.expire();
        let notices = live.connection.notices();
        self.enter(Phase::Ready(Arc::clone(&live)));
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(Ok(()));
        }
        Running { live, child, notices, since: Instant::now() }
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
            snapshot.memory = None;
            snapshot.since = SystemTime::now();
        });
    }
}

/// Ticks from one `period` from now on.
fn every(period: Duration) -> Interval {
    // An interval of nothing is a panic.
    let mut interval = tokio::time::interval(period.max(Duration::from_millis(10)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once, and what was launched just now needs no look.
    interval.reset();
    interval
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

//! What is looked at again and again while an app-server runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::app_server::AppServerError;
use crate::app_server::connection::Leaving;
use crate::app_server::launch::{Launcher, Live, Measured};
use crate::app_server::orphans::Sweeper;
use crate::config::AppServerConfig;

/// What a look found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Look {
    /// Whether it is out of date.
    Outdated(bool),
    Measured(Measured),
    /// Whether it answered within the probe's time limit.
    Answered(bool),
    /// Turns of ours that nobody waited for and that were interrupted.
    Swept(u64),
}

/// The looks at one app-server; they end with it.
#[derive(Debug)]
pub(super) struct Looks {
    outdated: Repeated<bool>,
    measured: Repeated<Measured>,
    answered: Repeated<bool>,
    swept: Repeated<u64>,
}

impl Looks {
    /// At `live`. Threads of `ours` have an owner.
    pub(super) fn new(
        launcher: &Arc<dyn Launcher>,
        live: &Arc<Live>,
        config: &AppServerConfig,
        ours: Arc<[Leaving]>,
    ) -> Self {
        let (check, to_check) = (Arc::clone(launcher), Arc::clone(live));
        let (measure, to_measure) = (Arc::clone(launcher), Arc::clone(live));
        let (to_probe, to_sweep, limit) = (Arc::clone(live), Arc::clone(live), config.probe_timeout);
        let (mark, sweeper) = (launcher.mark(), Arc::new(Mutex::new(Sweeper::default())));
        let mut looks = Self {
            outdated: Repeated::new(launcher.check_every(), move || check.outdated(Arc::clone(&to_check))),
            measured: Repeated::new(config.memory_check, move || measure.measure(Arc::clone(&to_measure))),
            answered: Repeated::new(config.probe_interval, move || {
                let live = Arc::clone(&to_probe);
                Box::pin(async move { answers(&live, limit).await })
            }),
            swept: Repeated::new(config.orphan_sweep, move || {
                let (live, ours, mark) = (Arc::clone(&to_sweep), Arc::clone(&ours), mark.clone());
                let sweeper = Arc::clone(&sweeper);
                // Free: there is one look of a kind at a time.
                Box::pin(async move { sweeper.lock().await.sweep(&live.connection, &ours, &mark).await })
            }),
        };
        // What an earlier connection or bridge left there.
        if !config.orphan_sweep.is_zero() {
            looks.swept.now();
        }
        looks
    }

    /// What the next look finds. Cancel-safe.
    pub(super) async fn next(&mut self) -> Look {
        // Each keeps its own state.
        tokio::select! {
            outdated = self.outdated.next() => Look::Outdated(outdated),
            measured = self.measured.next() => Look::Measured(measured),
            answered = self.answered.next() => Look::Answered(answered),
            swept = self.swept.next() => Look::Swept(swept),
        }
    }

    /// Has it looked at now whether it is out of date.
    pub(super) fn check_now(&mut self) {
        self.outdated.now();
    }

    /// When that was last looked at, or is being.
    pub(super) fn last_check(&self) -> Instant {
        self.outdated.last
    }

    /// Has it asked again at once.
    pub(super) fn probe_now(&mut self) {
        self.answered.now();
    }
}

/// Whether it answers at all within `limit`: a refusal is an answer.
async fn answers(live: &Live, limit: Duration) -> bool {
    !matches!(live.connection.ping(limit).await, Err(AppServerError::Timeout { .. }))
}

/// One kind of look, one at a time.
struct Repeated<T> {
    /// `None` for never.
    every: Option<Interval>,
    look: Box<dyn Fn() -> BoxFuture<'static, T> + Send + Sync>,
    running: Option<BoxFuture<'static, T>>,
    /// When the last one began.
    last: Instant,
}

impl<T> Repeated<T> {
    /// The first after one `period`; never where that is nothing.
    fn new(period: Duration, look: impl Fn() -> BoxFuture<'static, T> + Send + Sync + 'static) -> Self {
        let every = (!period.is_zero()).then(|| {
            let mut interval = tokio::time::interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick is at once, and what was launched just now needs no look.
            interval.reset();
            interval
        });
        Self { every, look: Box::new(look), running: None, last: Instant::now() }
    }

    fn now(&mut self) {
        if self.running.is_none() {
            self.last = Instant::now();
            self.running = Some((self.look)());
        }
    }

    async fn next(&mut self) -> T {
        loop {
            if let Some(running) = &mut self.running {
                let found = running.await;
                self.running = None;
                return found;
            }
            match &mut self.every {
                Some(every) => drop(every.tick().await),
                None => std::future::pending().await,
            }
            self.now();
        }
    }
}

impl<T> fmt::Debug for Repeated<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repeated").field("every", &self.every).finish_non_exhaustive()
    }
}

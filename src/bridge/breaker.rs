//! A circuit breaker over the backend's failures: a pure state machine, and the places it hands out.
//!
//! Closed it counts; with enough failures it opens and refuses; after a time it is half open and lets probes
//! through, which close it or open it again. Only what the backend did counts: a request that was wrong, a used-up
//! window or a lost login says nothing of the next call.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::BridgeError;
use crate::config::{BreakerConfig, BreakerMode};

/// Calls remembered within the window; past it the oldest no longer counts.
const MAX_CALLS: usize = 1024;

/// What the backend did to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It failed, after all retries of the app-server's.
    Error,
    /// Its stream was cut.
    Cut,
    /// It has too much to do.
    Overloaded,
    /// It was silent, or not done in time.
    Timeout,
}

impl Fault {
    /// What the error of a turn says of the backend; `None` where it is not the backend's fault.
    pub(super) fn of(error: &BridgeError) -> Option<Self> {
        match error {
            BridgeError::Upstream { code: "upstream_error", .. } => Some(Self::Error),
            BridgeError::Upstream { code: "stream_disconnected" | "retry_diverged", .. } => Some(Self::Cut),
            BridgeError::Overloaded { .. } => Some(Self::Overloaded),
            BridgeError::Timeout { .. } => Some(Self::Timeout),
            _ => None,
        }
    }
}

/// How it stands, and what it has counted since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BreakerHealth {
    /// `observe`, `enforce` or `off`.
    pub mode: &'static str,
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// Until the next probe, while it is open.
    pub next_probe: Option<Duration>,
    /// Calls within the window, and how many of them failed.
    pub recent: (usize, usize),
    /// How often it has opened.
    pub opened: u64,
    /// Calls it has refused; in `observe`, would have refused.
    pub refused: u64,
    /// Failures by what the backend did.
    pub faults: FaultCounts,
}

/// Failures by what the backend did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// It failed, after all retries of the app-server's.
    pub error: u64,
    /// Its stream was cut.
    pub cut: u64,
    /// It has too much to do.
    pub overloaded: u64,
    /// It was silent, or not done in time.
    pub timeout: u64,
}

/// One breaker for the one backend. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Breaker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: BreakerConfig,
    /// Never held across an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Changes with each phase: a call that was let through in an earlier one no longer counts.
    epoch: u64,
    /// When each call of the window ended, and whether it failed; oldest first.
    calls: VecDeque<(Instant, bool)>,
    opened: u64,
    refused: u64,
    faults: FaultCounts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { probing: usize, succeeded: usize, since: Instant },
}

/// A call that was let through. Dropped without a verdict (its client left, its request was wrong) it gives its
/// place back and counts for nothing.
#[derive(Debug)]
pub(super) struct Pass {
    breaker: Breaker,
    epoch: u64,
    probe: bool,
}

impl Breaker {
    pub(super) fn new(config: BreakerConfig) -> Self {
        let state = State {
            phase: Phase::Closed,
            epoch: 0,
            calls: VecDeque::new(),
            opened: 0,
            refused: 0,
            faults: FaultCounts::default(),
        };
        Self(Arc::new(Inner { config, state: Mutex::new(state) }))
    }

    /// Refuses what would be refused now, before it waits for anything. Takes no place.
    pub(super) fn check(&self) -> Result<(), BridgeError> {
        self.would_admit().inspect_err(|_| self.lock().refused += 1)
    }

    /// The same, for whom it is told only: counts nothing.
    pub(super) fn would_admit(&self) -> Result<(), BridgeError> {
        match self.wait(&mut self.lock()) {
            Some(wait) if self.0.config.mode == BreakerMode::Enforce => {
                Err(BridgeError::BreakerOpen { retry_after: wait })
            }
            _ => Ok(()),
        }
    }

    /// Lets a call through, as a probe where it is half open, or refuses it.
    pub(super) fn admit(&self) -> Result<Pass, BridgeError> {
        let mut state = self.lock();
        let pass = |epoch, probe| Pass { breaker: self.clone(), epoch, probe };
        if self.0.config.mode == BreakerMode::Off {
            return Ok(pass(state.epoch, false));
        }
        if let Some(wait) = self.wait(&mut state) {
            state.refused += 1;
            if self.0.config.mode == BreakerMode::Enforce {
                return Err(BridgeError::BreakerOpen { retry_after: wait });
            }
            // As if it had not run: no epoch is its own.
            return Ok(pass(u64::MAX, false));
        }
        let epoch = state.epoch;
        if let Phase::HalfOpen { probing, .. } = &mut state.phase {
            *probing += 1;
            return Ok(pass(epoch, true));
        }
        Ok(pass(epoch, false))
    }

    pub(super) fn health(&self) -> BreakerHealth {
        let mut state = self.lock();
        let wait = self.wait(&mut state);
        self.forget_old(&mut state);
        let failed = state.calls.iter().filter(|(_, failed)| *failed).count();
        BreakerHealth {
            mode: match self.0.config.mode {
                BreakerMode::Off => "off",
                BreakerMode::Observe => "observe",
                BreakerMode::Enforce => "enforce",
            },
            state: match state.phase {
                Phase::Closed => "closed",
                Phase::Open { .. } => "open",
                Phase::HalfOpen { .. } => "half_open",
            },
            next_probe: wait.filter(|_| matches!(state.phase, Phase::Open { .. })),
            recent: (state.calls.len(), failed),
            opened: state.opened,
            refused: state.refused,
            faults: state.faults,
        }
    }

    /// How long a call would have to wait; `None` where it is let through. An open breaker whose time is up is half
    /// open from here on.
    fn wait(&self, state: &mut State) -> Option<Duration> {
        let now = Instant::now();
        match state.phase {
            Phase::Closed => None,
            Phase::Open { until } if now < until => Some(until - now),
            Phase::Open { .. } => {
                state.enter(Phase::HalfOpen { probing: 0, succeeded: 0, since: now });
                None
            }
            // The probes under way will tell; nobody knows when. They take at least as long as they have taken.
            Phase::HalfOpen { probing, succeeded, since } => {
                let (least, most) = (Duration::from_secs(1), self.0.config.open.max(Duration::from_secs(1)));
                (probing + succeeded >= self.0.config.probes).then(|| (now - since).clamp(least, most))
            }
        }
    }

    /// Takes in how a call went.
    fn record(&self, epoch: u64, probe: bool, fault: Option<Fault>) {
        if self.0.config.mode == BreakerMode::Off {
            return;
        }
        let mut state = self.lock();
        match fault {
            None => {}
            Some(Fault::Error) => state.faults.error += 1,
            Some(Fault::Cut) => state.faults.cut += 1,
            Some(Fault::Overloaded) => state.faults.overloaded += 1,
            Some(Fault::Timeout) => state.faults.timeout += 1,
        }
        if epoch != state.epoch {
            return;
        }
        match &mut state.phase {
            Phase::Closed => {
                if state.calls.len() == MAX_CALLS {
                    state.calls.pop_front();
                }
                state.calls.push_back((Instant::now(), fault.is_some()));
                self.forget_old(&mut state);
                if fault.is_some() && self.is_failing(&state) {
                    self.open(&mut state);
                }
            }
            // One that had begun to answer too: whoever has this epoch is a probe.
            Phase::HalfOpen { .. } if fault.is_some() => self.open(&mut state),
            Phase::HalfOpen { probing, succeeded, .. } if probe => {
                *probing = probing.saturating_sub(1);
                *succeeded += 1;
                if *succeeded >= self.0.config.probes {
                    tracing::info!("the backend answers again; the circuit breaker is closed");
                    state.enter(Phase::Closed);
                }
            }
            Phase::HalfOpen { .. } | Phase::Open { .. } => {}
        }
    }

    fn give_back(&self, epoch: u64) {
        let mut state = self.lock();
        if state.epoch == epoch
            && let Phase::HalfOpen { probing, .. } = &mut state.phase
        {
            *probing = probing.saturating_sub(1);
        }
    }

    fn is_failing(&self, state: &State) -> bool {
        let failed = state.calls.iter().filter(|(_, failed)| *failed).count();
        let share = usize::from(self.0.config.failure_percent);
        failed >= self.0.config.failures && failed * 100 >= share * state.calls.len()
    }

    fn open(&self, state: &mut State) {
        let enforced = self.0.config.mode == BreakerMode::Enforce;
        tracing::warn!(enforced, faults = ?state.faults, open = ?self.0.config.open, "the circuit breaker opens");
        state.opened += 1;
        state.enter(Phase::Open { until: Instant::now() + self.0.config.open });
    }

    fn forget_old(&self, state: &mut State) {
        let now = Instant::now();
        while let Some((at, _)) = state.calls.front()
            && now.duration_since(*at) > self.0.config.window
        {
            state.calls.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch += 1;
        self.calls.clear();
    }
}

impl Pass {
    /// The backend has begun to answer: nobody need wait for the end of a probe to know that it does.
    pub(super) fn answering(&mut self) {
        if self.probe {
            self.end(None);
        }
    }

    /// The backend answered.
    pub(super) fn succeeded(mut self) {
        self.end(None);
    }

    /// The backend failed.
    pub(super) fn failed(mut self, fault: Fault) {
        self.end(Some(fault));
    }

    fn end(&mut self, fault: Option<Fault>) {
        self.breaker.record(self.epoch, self.probe, fault);
        // Its place is given back already.
        self.probe = false;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.give_back(self.epoch);
        }
    }
}

#[cfg(test)]
mod tests;

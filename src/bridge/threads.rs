//! Idle native threads: warm ones that wait for their continuation, spare ones started ahead of a call.
//!
//! Both are bounded and expire; what does not fit is dropped, which unsubscribes it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::tools::Tools;
use crate::app_server::Thread;
use crate::config::ContinuationConfig;
use crate::model::{ResponseId, TurnRequest};

/// What belongs to a thread from its start and cannot change along it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Catalogue id.
    pub(super) model: String,
    pub(super) verbosity: Option<String>,
    pub(super) tools: Tools,
    pub(super) web_search: bool,
}

impl Shape {
    /// What the request needs of a thread for `model`.
    pub(super) fn of(request: &TurnRequest, model: &str) -> Self {
        Self {
            model: model.to_owned(),
            verbosity: request.verbosity.clone(),
            tools: Tools::offered(request),
            web_search: request.web_search,
        }
    }

    /// Whether a thread of this shape does where `other` is wanted, but for the model.
    fn does_for(&self, other: &Self) -> bool {
        self.verbosity == other.verbosity && self.tools == other.tools && self.web_search == other.web_search
    }
}

/// A thread with the conversation it holds.
#[derive(Debug)]
pub(super) struct LiveThread {
    pub(super) thread: Thread,
    pub(super) shape: Shape,
    /// The first developer item, as injected.
    pub(super) instructions: Option<String>,
}

/// What a continuation needs of a warm thread.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) shape: &'a Shape,
    pub(super) instructions: Option<&'a str>,
    /// Whether the model may change along a thread (only on an app-server of ours).
    pub(super) any_model: bool,
    /// The current connection's.
    pub(super) generation: u64,
}

/// The idle threads.
#[derive(Debug)]
pub(super) struct Threads {
    config: ContinuationConfig,
    /// Never held across an await.
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// Oldest first: few, so that a scan is cheaper than an index.
    warm: Vec<Warm>,
    spares: HashMap<Shape, Spares>,
}

#[derive(Debug)]
struct Warm {
    tip: ResponseId,
    live: LiveThread,
    since: Instant,
}

/// The spare threads of one shape.
#[derive(Debug)]
struct Spares {
    ready: Vec<(Thread, Instant)>,
    /// Being started.
    starting: usize,
    /// How many are worth having: grows each time a call found none.
    target: usize,
    last_used: Instant,
}

/// Shapes remembered at once; past it the least recently used is forgotten with its spares.
const SHAPES: usize = 32;

impl Threads {
    pub(super) fn new(config: ContinuationConfig) -> Self {
        Self { config, idle: Mutex::default() }
    }

    /// The warm thread whose tip is `tip`, if it fits. One that does not fit is let go: its chain goes on
    /// elsewhere.
    pub(super) fn take_warm(&self, tip: &ResponseId, wanted: &Wanted<'_>) -> Option<LiveThread> {
        let warm = {
            let mut idle = self.lock();
            let at = idle.warm.iter().position(|warm| warm.tip == *tip)?;
            idle.warm.remove(at)
        };
        let live = warm.live;
        let fits = live.thread.connection().generation() == wanted.generation
            && !live.thread.connection().is_closed()
            && live.shape.does_for(wanted.shape)
            && (wanted.any_model || live.shape.model == wanted.shape.model)
            && live.instructions.as_deref() == wanted.instructions;
        fits.then_some(live)
    }

    /// Keeps a thread for the continuation of `tip`. Gives the one that made room, for the caller to let go
    /// when it suits: the oldest, or that of an earlier answer with the same id.
    pub(super) fn keep_warm(&self, tip: ResponseId, live: LiveThread) -> Option<LiveThread> {
        if self.config.warm_threads == 0 {
            return Some(live);
        }
        let mut idle = self.lock();
        let full = idle.warm.len() >= self.config.warm_threads;
        let room = idle.warm.iter().position(|warm| warm.tip == tip).or(full.then_some(0));
        let evicted = room.map(|at| idle.warm.remove(at).live);
        idle.warm.push(Warm { tip, live, since: Instant::now() });
        evicted
    }

    /// A thread of `shape` started ahead, on the connection of `generation`.
    pub(super) fn take_spare(&self, shape: &Shape, generation: u64) -> Option<Thread> {
        let mut idle = self.lock();
        let limit = self.config.spare_threads;
        let spares = idle.spares.entry(shape.clone()).or_insert_with(|| Spares {
            ready: Vec::new(),
            starting: 0,
            target: 0,
            last_used: Instant::now(),
        });
        spares.last_used = Instant::now();
        // The latest first: its connection is the likeliest to be the current one.
        while let Some((thread, _)) = spares.ready.pop() {
            if thread.connection().generation() == generation && !thread.connection().is_closed() {
                return Some(thread);
            }
        }
        spares.target = (spares.target + 1).min(limit);
        None
    }

    /// Whether another thread of `shape` should be started ahead now; if so it counts as being started until
    /// `spare_started`.
    pub(super) fn begin_spare(&self, shape: &Shape) -> bool {
        let mut idle = self.lock();
        let idle = &mut *idle;
        let total: usize = idle.spares.values().map(|spares| spares.ready.len() + spares.starting).sum();
        if total >= self.config.spare_threads && !idle.evict_spare_of_another(shape) {
            return false;
        }
        let Some(spares) = idle.spares.get_mut(shape) else { return false };
        let short = spares.ready.len() + spares.starting < spares.target;
        spares.starting += usize::from(short);
        short
    }

    /// The end of what `begin_spare` allowed.
    pub(super) fn spare_started(&self, shape: &Shape, thread: Option<Thread>) {
        let mut idle = self.lock();
        if let Some(spares) = idle.spares.get_mut(shape) {
            spares.starting = spares.starting.saturating_sub(1);
            spares.ready.extend(thread.map(|thread| (thread, Instant::now())));
        }
    }

    /// Lets go of what has expired or belongs to a connection that is not `generation`'s.
    pub(super) fn sweep(&self, generation: u64) {
        let Idle { warm, spares } = &mut *self.lock();
        let current = |thread: &Thread| {
            thread.connection().generation() == generation && !thread.connection().is_closed()
        };
        warm.retain(|warm| warm.since.elapsed() < self.config.warm_ttl && current(&warm.live.thread));
        for spares in spares.values_mut() {
            spares.ready.retain(|(thread, since)| since.elapsed() < self.config.spare_ttl && current(thread));
        }
        spares.retain(|_, spares| spares.starting > 0 || spares.last_used.elapsed() < self.config.spare_ttl);
        while spares.len() > SHAPES {
            let oldest = spares.iter().min_by_key(|(_, spares)| spares.last_used);
            let Some(shape) = oldest.map(|(shape, _)| shape.clone()) else { break };
            spares.remove(&shape);
        }
    }

    /// Lets go of every idle thread.
    pub(super) fn clear(&self) {
        *self.lock() = Idle::default();
    }

    /// Warm and spare threads, in this order.
    pub(super) fn counts(&self) -> (usize, usize) {
        let idle = self.lock();
        (idle.warm.len(), idle.spares.values().map(|spares| spares.ready.len()).sum())
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    /// Makes room for a spare of `shape`: the least recently used other shape gives one up.
    fn evict_spare_of_another(&mut self, shape: &Shape) -> bool {
        let other =
            self.spares.iter_mut().filter(|(other, spares)| *other != shape && !spares.ready.is_empty());
        let Some((_, spares)) = other.min_by_key(|(_, spares)| spares.last_used) else { return false };
        spares.ready.remove(0);
        spares.target = spares.target.saturating_sub(1);
        true
    }
}

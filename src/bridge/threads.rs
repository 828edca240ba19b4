//! Idle native threads: warm ones that wait for their continuation, spare ones started ahead of a call.
//!
//! Both are bounded and expire; what does not fit is dropped, which unsubscribes it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::affinity::{History, Trail};
use super::compaction::OnDisk;
use super::tools::Tools;
use crate::app_server::Thread;
use crate::config::ContinuationConfig;
use crate::model::{Item, KeyId, Rebuilt, ResponseId, SessionId, ThreadId, TurnRequest, WebSearch};

/// What belongs to a thread from its start and cannot change along it. The model could, under the lean catalogue; but
/// with some of its changes the app-server tells the model so, in a `<model_instructions>` message of its own, which a
/// rebuilt conversation would not have. So a change of the model is a rebuild: both give the model the same items.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Catalogue id.
    pub(super) model: String,
    pub(super) verbosity: Option<String>,
    pub(super) tools: Tools,
    pub(super) web_search: Option<WebSearch>,
    pub(super) image_generation: bool,
    /// The template it is a fork of. A fork tells no raw items.
    pub(super) template: Option<ThreadId>,
}

impl Shape {
    /// What the request needs of a thread for `model`, which is no fork.
    pub(super) fn of(request: &TurnRequest, model: &str) -> Self {
        Self {
            model: model.to_owned(),
            verbosity: request.verbosity.clone(),
            tools: Tools::offered(request),
            web_search: request.web_search.clone(),
            image_generation: request.image_generation,
            template: None,
        }
    }

    /// Whether its threads tell raw items, with the encrypted reasoning in them.
    pub(super) fn is_raw(&self) -> bool {
        self.template.is_none()
    }

    /// Whether a thread of this shape does where `other` is wanted, but for the model and the raw items.
    fn does_for(&self, other: &Self) -> bool {
        (&self.verbosity, &self.tools, &self.web_search, self.image_generation)
            == (&other.verbosity, &other.tools, &other.web_search, other.image_generation)
    }
}

/// A thread with the conversation it holds.
#[derive(Debug)]
pub(super) struct LiveThread {
    pub(super) thread: Thread,
    /// After the thread: what is let go can be deleted.
    pub(super) _disk: Option<OnDisk>,
    pub(super) shape: Shape,
    /// The first developer item, as injected.
    pub(super) instructions: Option<String>,
    /// All it has said; `None` where nobody would look for it.
    pub(super) history: Option<History>,
    /// It holds something that is no part of the conversation.
    pub(super) spoiled: bool,
}

impl LiveThread {
    /// More was said on it.
    pub(super) fn said<'a>(&mut self, items: impl IntoIterator<Item = &'a Item>) {
        if let Some(history) = &mut self.history {
            history.extend(items);
        }
    }
}

/// What a continuation needs of a warm thread.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) shape: &'a Shape,
    /// Whether its raw items are needed.
    pub(super) raw: bool,
    /// The generations of the connections that may be used.
    pub(super) current: &'a [u64],
}

impl Wanted<'_> {
    /// Whether the thread will do; else why not.
    fn check(&self, live: &LiveThread) -> Result<(), Rebuilt> {
        if !is_current(&live.thread, self.current) {
            Err(Rebuilt::Disconnected)
        } else if !live.shape.does_for(self.shape) || self.raw && !live.shape.is_raw() {
            Err(Rebuilt::SettingsChanged)
        } else if live.shape.model != self.shape.model {
            Err(Rebuilt::ModelChanged)
        } else {
            Ok(())
        }
    }

    /// The same for the thread of a chain.
    fn check_tip(
        &self,
        live: &LiveThread,
        earlier: &Owner,
        owner: &Owner,
        instructions: Option<&str>,
    ) -> Result<(), Rebuilt> {
        self.check(live)?;
        if !owner.shares_cache_with(earlier) {
            return Err(Rebuilt::SettingsChanged);
        }
        let same = live.instructions.as_deref() == instructions;
        if same { Ok(()) } else { Err(Rebuilt::InstructionsChanged) }
    }
}

/// Who may go on in a thread.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    key: KeyId,
    /// The login.
    account: Option<String>,
    /// The conversation, where the caller named it.
    scope: Option<SessionId>,
    /// Threads with different ones share no key upstream.
    prompt_cache_key: Option<String>,
}

impl Owner {
    /// Whoever asks, under the login `account`.
    pub(super) fn of(request: &TurnRequest, account: Option<&str>) -> Self {
        Self {
            key: request.key.clone(),
            account: account.map(str::to_owned),
            scope: request.session.scope().cloned(),
            prompt_cache_key: request.prompt_cache_key.clone(),
        }
    }

    pub(super) fn is_of_key(&self, key: &KeyId) -> bool {
        self.key == *key
    }

    pub(super) fn is_under_login_of(&self, other: &Self) -> bool {
        self.account == other.account
    }

    /// Whether no caller's name tells their conversations apart.
    pub(super) fn is_in_session_of(&self, other: &Self) -> bool {
        self.scope == other.scope
    }

    /// Whether they may share a key upstream.
    pub(super) fn shares_cache_with(&self, other: &Self) -> bool {
        self.prompt_cache_key == other.prompt_cache_key
    }
}

/// How likely a thread is to be continued; where there is no room, the lowest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// A first question of a client that names no response to continue: mostly it asks nothing more.
    OneShot,
    /// A first question whose response can be named.
    Named,
    /// It was continued before, or there are answers in what the client sent.
    Conversation,
}

/// A thread to be kept for what may follow.
#[derive(Debug)]
pub(super) struct Warm {
    /// The response it ends with.
    pub(super) tip: ResponseId,
    pub(super) owner: Owner,
    pub(super) rank: Rank,
    pub(super) live: LiveThread,
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
    warm: Vec<(Warm, Instant)>,
    spares: HashMap<Shape, Spares>,
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

/// One-shots take this part of the warm threads at most: many of them in a row cost no more memory and evict
/// no conversation, and the first answer of one that becomes a conversation is still there.
const ONE_SHOT_SHARE: usize = 4;
/// Shapes remembered at once; past it the least recently used is forgotten with its spares.
const SHAPES: usize = 32;

impl Threads {
    pub(super) fn new(config: ContinuationConfig) -> Self {
        Self { config, idle: Mutex::default() }
    }

    /// The warm thread whose tip is `tip`, if it fits. One that does not fit is let go: its chain goes on
    /// elsewhere. Whoever names the tip may have another session's name now, but no other cache key.
    pub(super) fn take_warm(
        &self,
        tip: &ResponseId,
        owner: &Owner,
        instructions: Option<&str>,
        wanted: &Wanted<'_>,
    ) -> Result<LiveThread, Rebuilt> {
        let Warm { live, owner: earlier, .. } = {
            let mut idle = self.lock();
            let found = idle.warm.iter().position(|(warm, _)| warm.tip == *tip);
            idle.warm.remove(found.ok_or(Rebuilt::NotLoaded)?).0
        };
        wanted.check_tip(&live, &earlier, owner, instructions)?;
        Ok(live)
    }

    /// Whether [`Threads::take_warm`] would give one.
    pub(super) fn would_take_warm(
        &self,
        tip: &ResponseId,
        owner: &Owner,
        instructions: Option<&str>,
        wanted: &Wanted<'_>,
    ) -> Result<(), Rebuilt> {
        let idle = self.lock();
        let (warm, _) = idle.warm.iter().find(|(warm, _)| warm.tip == *tip).ok_or(Rebuilt::NotLoaded)?;
        wanted.check_tip(&warm.live, &warm.owner, owner, instructions)
    }

    /// Lets go of the warm thread whose tip is `tip`.
    pub(super) fn forget(&self, tip: &ResponseId) {
        let mut idle = self.lock();
        let found = idle.warm.iter().position(|(warm, _)| warm.tip == *tip);
        let let_go = found.map(|at| idle.warm.remove(at));
        drop(idle);
        drop(let_go);
    }

    /// The owner's warm thread that has said the longest beginning of a conversation, and how many items that
    /// is. Threads that do not fit stay for whoever they do fit.
    pub(super) fn take_said(
        &self,
        trail: &Trail,
        owner: &Owner,
        wanted: &Wanted<'_>,
    ) -> Option<(LiveThread, usize)> {
        let mut idle = self.lock();
        let (items, at) = idle.has_said(trail, owner, wanted)?;
        Some((idle.warm.remove(at).0.live, items))
    }

    /// How many items the thread has said that [`Threads::take_said`] would give.
    pub(super) fn would_take_said(&self, trail: &Trail, owner: &Owner, wanted: &Wanted<'_>) -> Option<usize> {
        self.lock().has_said(trail, owner, wanted).map(|(items, _)| items)
    }

    /// Keeps a thread for what may follow. Gives the one that there is no room for, for the caller to let go
    /// when it suits: it may be this one.
    pub(super) fn keep_warm(&self, warm: Warm) -> Option<LiveThread> {
        let limit = self.config.warm_threads;
        if limit == 0 {
            return Some(warm.live);
        }
        let mut idle = self.lock();
        let idle = &mut idle.warm;
        let room = if let Some(earlier) = idle.iter().position(|(kept, _)| kept.tip == warm.tip) {
            Some(earlier)
        } else if warm.rank == Rank::OneShot && one_shots(idle) >= limit.div_ceil(ONE_SHOT_SHARE) {
            idle.iter().position(|(kept, _)| kept.rank == Rank::OneShot)
        } else if idle.len() >= limit {
            // Of the lowest rank the oldest, which comes first. A conversation that has gone idle makes room for
            // whatever can be named, not for what most likely ends here.
            let lowest = idle.iter().enumerate().min_by_key(|(_, (kept, _))| kept.rank);
            match lowest {
                Some((_, (kept, _))) if warm.rank == Rank::OneShot && kept.rank > warm.rank => {
                    return Some(warm.live);
                }
                lowest => lowest.map(|(at, _)| at),
            }
        } else {
            None
        };
        let evicted = room.map(|at| idle.remove(at).0.live);
        idle.push((warm, Instant::now()));
        evicted
    }

    /// A thread of `shape` started ahead: on the connection of `generation`, which has the least to do, else on
    /// another of the `current` ones.
    pub(super) fn take_spare(&self, shape: &Shape, generation: u64, current: &[u64]) -> Option<Thread> {
        let limit = self.config.spare_threads;
        if limit == 0 {
            return None;
        }
        let mut idle = self.lock();
        if !idle.spares.contains_key(shape) {
            idle.forget_shapes(SHAPES - 1);
        }
        let spares = idle.spares.entry(shape.clone()).or_insert_with(|| Spares {
            ready: Vec::new(),
            starting: 0,
            target: 0,
            last_used: Instant::now(),
        });
        spares.last_used = Instant::now();
        spares.ready.retain(|(thread, _)| is_current(thread, current));
        let there = |(thread, _): &(Thread, Instant)| thread.connection().generation() == generation;
        if let Some(at) = spares.ready.iter().rposition(there).or(spares.ready.len().checked_sub(1)) {
            return Some(spares.ready.remove(at).0);
        }
        spares.target = (spares.target + 1).min(limit);
        None
    }

    /// Whether another thread of `shape` should be started ahead now; if so it counts as being started until
    /// `spare_started`.
    pub(super) fn begin_spare(&self, shape: &Shape) -> bool {
        let mut idle = self.lock();
        let idle = &mut *idle;
        if idle.spares.get(shape).is_none_or(|spares| spares.count() >= spares.target) {
            return false;
        }
        let total: usize = idle.spares.values().map(Spares::count).sum();
        if total >= self.config.spare_threads && !idle.evict_spare_of_another(shape) {
            return false;
        }
        let Some(spares) = idle.spares.get_mut(shape) else { return false };
        spares.starting += 1;
        true
    }

    /// The end of what `begin_spare` allowed.
    pub(super) fn spare_started(&self, shape: &Shape, thread: Option<Thread>) {
        let mut idle = self.lock();
        if let Some(spares) = idle.spares.get_mut(shape) {
            spares.starting = spares.starting.saturating_sub(1);
            spares.ready.extend(thread.map(|thread| (thread, Instant::now())));
        }
    }

    /// Lets go of what has expired or belongs to a connection that is none of the `current` generations'.
    pub(super) fn sweep(&self, current: &[u64]) {
        let idle = &mut *self.lock();
        let Idle { warm, spares } = idle;
        let lasts =
            |thread: &Thread, since: &Instant, ttl| since.elapsed() < ttl && is_current(thread, current);
        warm.retain(|(warm, since)| lasts(&warm.live.thread, since, self.config.warm_ttl));
        for spares in spares.values_mut() {
            spares.ready.retain(|(thread, since)| lasts(thread, since, self.config.spare_ttl));
        }
        spares.retain(|_, spares| spares.starting > 0 || spares.last_used.elapsed() < self.config.spare_ttl);
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

impl Spares {
    /// There, or about to be.
    fn count(&self) -> usize {
        self.ready.len() + self.starting
    }
}

impl Idle {
    /// The longest beginning that a thread of the owner's has said, and where that is.
    fn has_said(&self, trail: &Trail, owner: &Owner, wanted: &Wanted<'_>) -> Option<(usize, usize)> {
        let said = |warm: &Warm| {
            let fits = warm.owner == *owner && wanted.check(&warm.live).is_ok();
            warm.live.history.as_ref().filter(|_| fits).and_then(|held| trail.goes_on_from(held))
        };
        self.warm.iter().enumerate().filter_map(|(at, (warm, _))| Some((said(warm)?, at))).max()
    }

    /// Forgets the least recently used shapes until there are no more than `most`.
    fn forget_shapes(&mut self, most: usize) {
        while self.spares.len() > most {
            let oldest = self.spares.iter().min_by_key(|(_, spares)| spares.last_used);
            let Some(shape) = oldest.map(|(shape, _)| shape.clone()) else { return };
            self.spares.remove(&shape);
        }
    }

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

/// Whether the thread lives on a connection of the `current` generations.
fn is_current(thread: &Thread, current: &[u64]) -> bool {
    current.contains(&thread.connection().generation()) && !thread.connection().is_closed()
}

fn one_shots(warm: &[(Warm, Instant)]) -> usize {
    warm.iter().filter(|(kept, _)| kept.rank == Rank::OneShot).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::tests::ask;

    #[tokio::test(start_paused = true)]
    async fn only_so_many_shapes_are_remembered() {
        let of = |spare_threads| {
            Threads::new(ContinuationConfig { spare_threads, ..ContinuationConfig::default() })
        };
        for (limit, expected) in [(0, 0), (1, SHAPES)] {
            let threads = of(limit);
            for n in 0..3 * SHAPES {
                let shape = Shape::of(&ask("a"), &format!("model-{n}"));
                assert!(threads.take_spare(&shape, 1, &[1]).is_none());
                tokio::time::advance(std::time::Duration::from_millis(1)).await;
            }
            let idle = threads.lock();
            assert_eq!(idle.spares.len(), expected);
            let last = Shape::of(&ask("a"), &format!("model-{}", 3 * SHAPES - 1));
            assert_eq!(idle.spares.contains_key(&last), limit > 0);
        }
    }
}

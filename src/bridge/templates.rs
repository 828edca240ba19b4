//! Templates: what many one-shot calls begin with, said once to a thread that is kept on disk, and forked for
//! each call. All forks have their template's prompt cache key, where threads of their own would have one each
//! and never meet in the provider's cache.
//!
//! A prefix is the shortest beginning that is long enough, so that what differs after it does not matter. It is worth
//! a template from its second use on. Templates are few, expire, and are deleted: the
//! file holds the client's words. One is made by a task of its own, while the calls that want it wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info};

use super::Inner;
use super::start::{Plan, instructions};
use super::threads::Shape;
use crate::app_server::AppServerError;
use crate::config::ContinuationConfig;
use crate::model::{Item, Retention, ThreadId, TurnRequest};

/// Prefixes remembered, the ones with a template among them; past it the least recently used is forgotten.
const PREFIXES: usize = 256;
/// A template that was used within this is not given up for another.
const BUSY: Duration = Duration::from_secs(60);
/// For so long from its beginning calls wait for a template that is being made; then they go without.
const MAKING: Duration = Duration::from_secs(5);
/// How long after a failure a template is made again.
const AGAIN: Duration = Duration::from_secs(30);
/// Parts that are no text.
const MEDIA: &[&str] = &["input_image", "input_audio", "input_file"];
/// The estimate of the app-server's own.
const BYTES_PER_TOKEN: usize = 4;

/// Stands for the id of a template that is not made yet.
pub(super) const UNMADE: &str = "";

type Key = [u8; 32];

/// A prefix that a call may share with others.
#[derive(Debug)]
pub(super) struct Prefix {
    /// Of everything that calls must have in common.
    pub(super) key: Key,
    pub(super) items: Vec<Item>,
}

/// A template to fork.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) thread: ThreadId,
    /// How many items it holds.
    pub(super) items: usize,
}

/// The templates, and the prefixes that may become some.
#[derive(Debug)]
pub(super) struct Templates {
    /// Never held across an await.
    known: Mutex<Known>,
    limit: usize,
    tokens: usize,
    ttl: Duration,
}

#[derive(Debug, Default)]
struct Known {
    prefixes: HashMap<Key, Entry>,
    /// To be deleted.
    doomed: Vec<ThreadId>,
}

#[derive(Debug)]
struct Entry {
    last_used: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Used once.
    Seen,
    /// Made, or being made since then.
    Wanted(watch::Receiver<Made>, Instant),
}

/// What has become of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Made {
    NotYet,
    Ready(ThreadId),
    /// And when.
    Failed(Instant),
}

/// A use of a prefix that has a template.
#[derive(Debug)]
struct Use {
    /// As it is, or will be.
    made: watch::Receiver<Made>,
    /// Until when it is waited for.
    until: Instant,
    /// What has to be told of it, where it is to be made now.
    tell: Option<watch::Sender<Made>>,
}

impl Templates {
    pub(super) fn new(config: &ContinuationConfig) -> Self {
        let (limit, tokens, ttl) = (config.templates, config.template_tokens, config.template_ttl);
        Self { known: Mutex::default(), limit, tokens, ttl }
    }

    /// What of the plan others may share: its first items, up to the one with which they are long, where the call is a
    /// one-shot that a fork can tell everything of. Messages of texts alone: what else there may be is not put on disk.
    pub(super) fn prefix(&self, plan: &Plan) -> Option<Prefix> {
        let request = &plan.request;
        if self.limit == 0 || plan.previous.is_some() || !tells_all(request) {
            return None;
        }
        let is_asked =
            |item: &Item| item.kind() == "message" && matches!(item.str("role"), Some("developer" | "user"));
        if !request.input.iter().all(is_asked) {
            return None;
        }
        let instructions = instructions(request);
        let mut rest = instructions.iter().chain(&request.input).peekable();
        let (mut items, mut bytes) = (Vec::new(), 0);
        while items.is_empty() || bytes / BYTES_PER_TOKEN < self.tokens {
            let item = rest.next().filter(|item| !MEDIA.iter().any(|kind| item.has_part(kind)))?;
            bytes += item.weight();
            items.push(item.clone());
        }
        // Something must be left to ask.
        rest.peek()?;
        let (key, account) = (request.key.as_str(), &plan.account);
        let (model, cache_key) = (&plan.model.id, &request.prompt_cache_key);
        let shared = (key, account, model, &request.verbosity, cache_key, &items);
        let key = Sha256::digest(serde_json::to_vec(&shared).ok()?).into();
        Some(Prefix { key, items })
    }

    /// The threads of all templates, those that are to be deleted included.
    pub(super) fn threads(&self) -> Vec<ThreadId> {
        let known = self.lock();
        known.prefixes.values().filter_map(Entry::thread).chain(known.doomed.iter().cloned()).collect()
    }

    /// Templates there are or are being made.
    pub(super) fn count(&self) -> usize {
        self.lock().prefixes.values().filter(|entry| entry.is_template()).count()
    }

    /// Notes the use of a prefix. `None` where it has no template now.
    fn used(&self, key: Key) -> Option<Use> {
        let known = &mut *self.lock();
        let now = Instant::now();
        let entry = known.prefixes.get_mut(&key).filter(|entry| entry.last_used.elapsed() < self.ttl);
        let Some(entry) = entry else {
            known.forget(&key);
            known.make_room(PREFIXES, |_| true);
            known.prefixes.insert(key, Entry { last_used: now, state: State::Seen });
            return None;
        };
        entry.last_used = now;
        match entry.standing() {
            Standing::Seen => {}
            Standing::Absent => return None,
            Standing::There(made, until) => return Some(Use { made, until, tell: None }),
        }
        let templates = known.prefixes.values().filter(|entry| entry.is_template()).count();
        let full = templates >= self.limit;
        if full && !known.make_room(0, |entry| entry.is_template() && entry.last_used.elapsed() >= BUSY) {
            return None;
        }
        let (tell, made) = watch::channel(Made::NotYet);
        let state = State::Wanted(made.clone(), now);
        known.prefixes.insert(key, Entry { last_used: now, state });
        Some(Use { made, until: now + MAKING, tell: Some(tell) })
    }

    /// The template that a use would get; [`UNMADE`] where it is still to be made. `None` where there is
    /// none.
    pub(super) fn would_use(&self, key: Key) -> Option<ThreadId> {
        let known = self.lock();
        let entry = known.prefixes.get(&key).filter(|entry| entry.last_used.elapsed() < self.ttl)?;
        let unmade = || ThreadId::new(UNMADE);
        match entry.standing() {
            Standing::Seen => {}
            Standing::Absent => return None,
            Standing::There(..) => return Some(entry.thread().unwrap_or_else(unmade)),
        }
        let templates = || known.prefixes.values().filter(|entry| entry.is_template());
        let room = templates().count() < self.limit;
        (room || templates().any(|entry| entry.last_used.elapsed() >= BUSY)).then(unmade)
    }

    /// The template is of no more use.
    pub(super) fn give_up(&self, template: &ThreadId) {
        let known = &mut *self.lock();
        let key = known.prefixes.iter().find(|(_, entry)| entry.thread().as_ref() == Some(template));
        if let Some(key) = key.map(|(key, _)| *key) {
            known.forget(&key);
        }
    }

    /// Forgets what has expired. Gives whether templates are to be deleted.
    pub(super) fn sweep(&self) -> bool {
        let known = &mut *self.lock();
        let old = known.prefixes.iter().filter(|(_, entry)| entry.last_used.elapsed() >= self.ttl);
        let old: Vec<Key> = old.map(|(key, _)| *key).collect();
        for key in &old {
            known.forget(key);
        }
        !known.doomed.is_empty()
    }

    /// Forgets every prefix.
    pub(super) fn clear(&self) {
        let known = &mut *self.lock();
        let all: Vec<Key> = known.prefixes.keys().copied().collect();
        for key in &all {
            known.forget(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn has(&self, key: &Key, thread: &ThreadId) -> bool {
        self.prefixes.get(key).and_then(Entry::thread).as_ref() == Some(thread)
    }

    fn forget(&mut self, key: &Key) {
        let entry = self.prefixes.remove(key);
        // One that is being made is deleted by its maker.
        self.doomed.extend(entry.and_then(|entry| entry.thread()));
    }

    /// Forgets the least recently used of the entries that `may` go, where there are at least `most` entries.
    /// Gives whether there is room now.
    fn make_room(&mut self, most: usize, may: impl Fn(&Entry) -> bool) -> bool {
        if self.prefixes.len() < most {
            return true;
        }
        let may_go = self.prefixes.iter().filter(|(_, entry)| may(entry));
        let oldest = may_go.min_by_key(|(_, entry)| entry.last_used).map(|(key, _)| *key);
        oldest.inspect(|key| self.forget(key)).is_some()
    }
}

/// What a prefix is to whoever uses it now.
enum Standing {
    /// It was used before, and its template is to be made.
    Seen,
    /// There is no template for it now.
    Absent,
    /// It has one, which is waited for until then.
    There(watch::Receiver<Made>, Instant),
}

impl Entry {
    fn standing(&self) -> Standing {
        let State::Wanted(made, since) = &self.state else { return Standing::Seen };
        match &*made.borrow() {
            Made::Failed(at) if at.elapsed() >= AGAIN => Standing::Seen,
            Made::Failed(_) => Standing::Absent,
            // Whoever comes now would wait for what is stuck.
            Made::NotYet if since.elapsed() >= MAKING => Standing::Absent,
            Made::NotYet | Made::Ready(_) => Standing::There(made.clone(), *since + MAKING),
        }
    }

    fn is_template(&self) -> bool {
        matches!(&self.state, State::Wanted(made, _) if !matches!(*made.borrow(), Made::Failed(_)))
    }

    fn thread(&self) -> Option<ThreadId> {
        match &self.state {
            State::Wanted(made, _) => match &*made.borrow() {
                Made::Ready(thread) => Some(thread.clone()),
                Made::NotYet | Made::Failed(_) => None,
            },
            State::Seen => None,
        }
    }
}

impl Inner {
    /// The template for the plan's turn, where there is one or it is worth one.
    pub(super) async fn template(self: &Arc<Self>, plan: &Plan) -> Option<Template> {
        if !self.app_server.can_fork() {
            return None;
        }
        let Prefix { key, items } = self.templates.prefix(plan)?;
        let count = items.len();
        let Use { mut made, until, tell } = self.templates.used(key)?;
        if let Some(tell) = tell {
            let (inner, shape) = (Arc::clone(self), Shape::of(&plan.request, &plan.model.id));
            let prefix = Prefix { key, items };
            self.tasks.spawn("template", async move { inner.make_template(&shape, &prefix, &tell).await });
        }
        let ready = made.wait_for(|made| *made != Made::NotYet);
        match tokio::time::timeout_at(until, ready).await.ok()?.ok()?.clone() {
            Made::Ready(thread) => Some(Template { thread, items: count }),
            Made::NotYet | Made::Failed(_) => None,
        }
    }

    /// Makes a template and tells of it; a call that leaves meanwhile leaves the making to go on.
    async fn make_template(&self, shape: &Shape, prefix: &Prefix, tell: &watch::Sender<Made>) {
        let options = self.thread_options(shape);
        match self.app_server.make_template(&options, &prefix.items).await {
            Ok(thread) => {
                info!(%thread, "a template was made");
                tell.send_replace(Made::Ready(thread.clone()));
                let forgotten = {
                    let mut known = self.templates.lock();
                    let forgotten = !known.has(&prefix.key, &thread);
                    known.doomed.extend(forgotten.then_some(thread));
                    forgotten
                };
                // Nobody else may come to delete it any more.
                if forgotten {
                    self.delete_templates().await;
                }
            }
            Err(error) => {
                info!(%error, "a template could not be made");
                tell.send_replace(Made::Failed(Instant::now()));
            }
        }
    }

    /// Deletes the templates that are of no more use. What fails is tried again, and what is left is deleted
    /// when the app-server stops or starts.
    pub(super) async fn delete_templates(&self) {
        let doomed = std::mem::take(&mut self.templates.lock().doomed);
        for thread in doomed {
            match self.app_server.delete_thread(&thread).await {
                Ok(()) => debug!(%thread, "a template was deleted"),
                // It is not there.
                Err(AppServerError::Refused { .. }) => debug!(%thread, "a template was gone"),
                Err(error) => {
                    debug!(%thread, %error, "a template could not be deleted");
                    self.templates.lock().doomed.push(thread);
                }
            }
        }
    }
}

/// Whether a fork can tell all that the request wants to know: raw items are what has calls, citations and
/// encrypted reasoning.
pub(super) fn tells_all(request: &TurnRequest) -> bool {
    request.tools.is_empty()
        && request.web_search.is_none()
        && !request.image_generation
        && request.retention != Retention::Stored
        && !request.encrypted_reasoning
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_could_not_be_made_is_made_again_after_a_while() {
        let templates = Templates::new(&ContinuationConfig::default());
        let key = [1; 32];
        assert!(templates.used(key).is_none(), "the first use");
        let tell = templates.used(key).unwrap().tell.unwrap();
        tell.send_replace(Made::Failed(Instant::now()));
        assert!(templates.used(key).is_none() && templates.would_use(key).is_none());
        tokio::time::advance(AGAIN).await;
        assert_eq!(templates.would_use(key), Some(ThreadId::new(UNMADE)));
        assert!(templates.used(key).unwrap().tell.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_long_to_make_is_waited_for_by_the_first_alone() {
        let templates = Templates::new(&ContinuationConfig::default());
        let key = [1; 32];
        templates.used(key);
        let tell = templates.used(key).unwrap().tell.unwrap();
        tokio::time::advance(MAKING / 2).await;
        let second = templates.used(key).unwrap();
        assert!(second.tell.is_none());
        assert_eq!(second.until, Instant::now() + MAKING / 2);
        tokio::time::advance(MAKING / 2).await;
        assert!(templates.used(key).is_none());
        // Ready at last, it is used.
        tell.send_replace(Made::Ready(ThreadId::new("t")));
        assert!(templates.used(key).is_some());
    }
}

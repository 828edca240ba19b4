//! Continuations: from a response id to what its chain said. What is recent is in memory; what is to be kept is
//! in the response store, from which a chain comes back after a restart or from another bridge.

mod counters;
mod gate;
mod recent;
mod step;

pub use counters::ContinuationCounts;
pub(super) use counters::Miss;
pub(super) use step::Step;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::{debug, info, warn};

use self::counters::Counters;
use self::gate::Gate;
use self::recent::{Recent, Record};
use super::BridgeError;
use crate::config::{ContinuationConfig, OnAccountChange};
use crate::model::{Item, Kept, KeyId, ResponseId, Retention, SessionIdentity};
use crate::store::{Chain, Lookup, ResponseStore, StoreError, StoredResponse};
use crate::tasks::Tasks;

/// Who wants to continue what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) id: &'a ResponseId,
    pub(super) key: &'a KeyId,
    /// The login of now.
    pub(super) account: Option<&'a str>,
    /// How many items follow.
    pub(super) more: usize,
    /// It is to repair an answer that was taken: its chain may be a little longer than others'.
    pub(super) is_repair: bool,
}

/// What there is to continue.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) step: Arc<Step>,
    /// The caller's conversation, inherited.
    pub(super) session: SessionIdentity,
    /// It was made under another login: nothing native of it may be used.
    pub(super) other_account: bool,
}

/// The continuations of one bridge. Two levels: the recent ones, and the store.
#[derive(Debug)]
pub(super) struct Continuations {
    recent: Recent,
    store: Gate,
    tasks: Tasks,
    counters: Counters,
    ttl: Duration,
    max_chain_items: usize,
    on_account_change: OnAccountChange,
}

impl Continuations {
    pub(super) fn new(config: &ContinuationConfig, store: Arc<dyn ResponseStore>, tasks: &Tasks) -> Self {
        Self {
            recent: Recent::new(config),
            store: Gate::new(store, config.store_timeout, tasks),
            tasks: tasks.clone(),
            counters: Counters::default(),
            ttl: config.ttl,
            max_chain_items: config.max_chain_items,
            on_account_change: config.on_account_change,
        }
    }

    /// The chain to continue; its time limit starts anew.
    pub(super) async fn find(&self, wanted: Wanted<'_>) -> Result<Found, BridgeError> {
        let found = match self.look_up(wanted.id, wanted.key).await {
            Ok(record) => self.for_account(record, wanted.account).await,
            Err(miss) => Err(miss),
        };
        let found = found.map_err(|miss| {
            self.counters.missed(miss);
            info!(previous = %wanted.id, key = %wanted.key, reason = miss.as_str(), "nothing to continue");
            match miss {
                Miss::OtherAccount => BridgeError::AccountMismatch { id: wanted.id.to_string() },
                Miss::StoreUnavailable => BridgeError::StoreUnavailable,
                Miss::Unknown | Miss::Expired | Miss::Deleted | Miss::OtherKey | Miss::Unreadable => {
                    BridgeError::PreviousNotFound { id: wanted.id.to_string() }
                }
            }
        })?;
        let items = found.step.total() + wanted.more;
        if items > self.max_chain_items && !wanted.is_repair {
            return Err(BridgeError::ChainTooLong { items, limit: self.max_chain_items });
        }
        Ok(found)
    }

    /// Keeps an answer as its request asks, so that it can be continued at once. How long, and what of its chain
    /// the record must hold, is decided here. `None` if it is not kept at all: nothing is to be, it was deleted
    /// meanwhile, or it is not in the store and its chain is too large for memory.
    pub(super) async fn record(
        &self,
        mut response: StoredResponse,
        step: Arc<Step>,
        retention: Retention,
    ) -> Option<Kept> {
        response.expires_at = response.last_used_at + self.ttl;
        let (id, expires_at) = (response.id.clone(), response.expires_at);
        let record = Record {
            key: response.key.clone(),
            account: response.account.clone(),
            session: SessionIdentity::inherited(response.session.clone(), response.session_by_caller),
            step: Arc::clone(&step),
        };
        if retention == Retention::Nothing {
            return None;
        }
        // Before it is in the store: a deletion that comes meanwhile finds it.
        let in_memory = self.recent.insert(id.clone(), record).then_some("memory");
        let stored = match retention {
            Retention::Stored => self.put(response, &step).await,
            Retention::Continuable | Retention::Nothing => None,
        };
        if self.is_deleted(&id) {
            if stored.is_some()
                && let Err(error) = self.bury(&id).await
            {
                warn!(response_id = %id, %error, "deleted while it was stored, and the store may still have it");
            }
            return None;
        }
        let Some(durability) = stored.or(in_memory) else {
            info!(response_id = %id, bytes = step.bytes(), "its chain is too large to be kept in memory");
            return None;
        };
        Some(Kept { durability, chain_length: step.length(), expires_at })
    }

    /// Forgets a response of `key` that no store has; what continues it goes on. Gives whether it was there.
    pub(super) fn forget(&self, id: &ResponseId, key: &KeyId) -> bool {
        self.recent.delete(id, key).is_ok()
    }

    /// Forgets a response of `key`; what continues it goes on. Gives whether it was there.
    pub(super) async fn delete(&self, id: &ResponseId, key: &KeyId) -> Result<bool, BridgeError> {
        let recent = self.recent.delete(id, key);
        // What memory has had may still be on its way into the store.
        let may_come = matches!(recent, Ok(()) | Err(Miss::Deleted));
        let stored = async {
            match self.store.ask(|store| store.get(id)).await? {
                Lookup::Found(record) if record.key != *key => Ok(Lookup::Unknown),
                Lookup::Found(_) | Lookup::Unknown if may_come => self.bury(id).await,
                Lookup::Found(_) => self.store.ask(|store| store.delete(id)).await,
                Lookup::Expired => Ok(Lookup::Expired),
                Lookup::Deleted => Ok(Lookup::Deleted),
                Lookup::Unknown => Ok(Lookup::Unknown),
            }
        };
        match stored.await {
            Ok(stored) => {
                // A look-up that read it before that has brought it back.
                let again = (stored == Lookup::Found(())).then(|| self.recent.delete(id, key));
                Ok(recent.is_ok() || again.is_some())
            }
            // Nobody knows whose it is.
            Err(StoreError::Unreadable { .. }) => Ok(recent.is_ok()),
            Err(_) => Err(BridgeError::StoreUnavailable),
        }
    }

    /// Whether it was deleted lately: what was made of it meanwhile is to go too.
    pub(super) fn is_deleted(&self, id: &ResponseId) -> bool {
        self.recent.is_deleted(id)
    }

    async fn bury(&self, id: &ResponseId) -> Result<Lookup<()>, StoreError> {
        let until = self.expires_at();
        self.store.ask(|store| store.bury(id, until)).await
    }

    /// The stored record of `id`, if it is `key`'s; its time limit starts anew.
    pub(super) async fn stored(
        &self,
        id: &ResponseId,
        key: &KeyId,
    ) -> Result<Option<StoredResponse>, BridgeError> {
        let found = self.store.ask(|store| store.get(id)).await;
        self.of_key(id, key, found, |record| &record.key).await
    }

    /// The same, with the items before it.
    pub(super) async fn stored_chain(
        &self,
        id: &ResponseId,
        key: &KeyId,
    ) -> Result<Option<Chain>, BridgeError> {
        let found = self.store.ask(|store| store.chain(id)).await;
        self.of_key(id, key, found, |chain| &chain.record.key).await
    }

    async fn of_key<T>(
        &self,
        id: &ResponseId,
        key: &KeyId,
        found: Result<Lookup<T>, StoreError>,
        owner: impl Fn(&T) -> &KeyId,
    ) -> Result<Option<T>, BridgeError> {
        match found {
            Ok(Lookup::Found(found)) if owner(&found) == key => {
                if let Err(error) = self.touch(id, self.expires_at()).await {
                    debug!(%id, %error, "the record's time limit did not start anew");
                }
                Ok(Some(found))
            }
            Ok(_) => Ok(None),
            Err(StoreError::Unreadable { reason }) => {
                warn!(%id, reason, "a stored response cannot be read");
                Ok(None)
            }
            Err(_) => Err(BridgeError::StoreUnavailable),
        }
    }

    /// Lets go of what has expired in memory. Gives how many records went.
    pub(super) fn sweep(&self) -> usize {
        self.recent.sweep()
    }

    /// Lets go of what has expired in the store, batch by batch. Gives how many records went.
    pub(super) async fn sweep_store(&self) -> usize {
        let mut swept = 0;
        while let Ok(some @ 1..) = self.store.unbounded().sweep(SystemTime::now()).await {
            swept += some;
        }
        swept
    }

    /// Records kept in memory, and about how many bytes their items take.
    pub(super) fn recent_size(&self) -> (usize, usize) {
        self.recent.size()
    }

    /// The same of the store, where it knows.
    pub(super) async fn stored_size(&self) -> Option<(u64, u64)> {
        self.store.unbounded().size().await.ok().flatten()
    }

    /// What the store's records survive.
    pub(super) fn durability(&self) -> &'static str {
        self.store.durability()
    }

    /// Why the store is not available, if it is not.
    pub(super) fn outage(&self) -> Option<String> {
        self.store.outage()
    }

    pub(super) fn counts(&self) -> ContinuationCounts {
        self.counters.read()
    }

    async fn look_up(&self, id: &ResponseId, key: &KeyId) -> Result<Record, Miss> {
        match self.recent.find(id, key) {
            Ok(record) => self.still_there(id, record).await,
            Err(Miss::Unknown) => self.fetch(id, key).await,
            // The store is asked all the same: while it is down, another key's is not to differ from an unknown one.
            Err(Miss::OtherKey) => self.fetch(id, key).await.map_err(|miss| match miss {
                Miss::StoreUnavailable => miss,
                _ => Miss::OtherKey,
            }),
            Err(miss) => Err(miss),
        }
    }

    /// A recent record, unless another bridge has deleted it meanwhile.
    async fn still_there(&self, id: &ResponseId, record: Record) -> Result<Record, Miss> {
        if record.step.is_stored() {
            self.used(id, &record.step).await?;
        }
        self.counters.found_recent.add();
        Ok(record)
    }

    /// A record that is in memory was used: its time limit in the store starts anew, unless its time is up there or
    /// it was deleted meanwhile. One that the store has lost goes on from memory.
    async fn used(&self, id: &ResponseId, step: &Step) -> Result<(), Miss> {
        let miss = match self.touch(id, self.expires_at()).await {
            Ok(Lookup::Found(())) => return Ok(()),
            Err(error) => {
                debug!(%id, %error, "the record's time limit did not start anew");
                return Ok(());
            }
            Ok(Lookup::Unknown) => {
                step.set_lost();
                return Ok(());
            }
            Ok(Lookup::Expired) => Miss::Expired,
            Ok(Lookup::Deleted) => Miss::Deleted,
        };
        // For what was said after it and is in memory alone.
        step.set_lost();
        self.recent.remove(id);
        Err(miss)
    }

    /// The record from the store, which makes it a recent one.
    async fn fetch(&self, id: &ResponseId, key: &KeyId) -> Result<Record, Miss> {
        let chain = match self.store.ask(|store| store.chain(id)).await {
            Ok(Lookup::Found(chain)) if chain.record.key == *key => chain,
            Ok(Lookup::Found(_)) => return Err(Miss::OtherKey),
            Ok(Lookup::Expired) => return Err(Miss::Expired),
            Ok(Lookup::Deleted) => return Err(Miss::Deleted),
            Ok(Lookup::Unknown) => return Err(Miss::Unknown),
            Err(StoreError::Unreadable { reason }) => {
                warn!(%id, reason, "a stored response cannot be read");
                return Err(Miss::Unreadable);
            }
            Err(_) => return Err(Miss::StoreUnavailable),
        };
        let Chain { record, before } = chain;
        let StoredResponse { key, account, session, session_by_caller, input, output, .. } = record;
        let bytes = before.iter().flatten().chain(&input).chain(&output).map(Item::weight).sum();
        let steps = move || {
            let mut previous = None;
            for items in before {
                previous = Some(Step::new(previous, &items));
            }
            let items: Vec<Item> = input.into_iter().chain(output).collect();
            Step::new(previous, &items)
        };
        let step = self.tasks.on_bytes(bytes, steps).await.ok_or(Miss::Unreadable)?;
        step.set_stored(id);
        let session = SessionIdentity::inherited(session, session_by_caller);
        let record = Record { key, account, session, step };
        self.recent.insert(id.clone(), record.clone());
        self.used(id, &record.step).await?;
        self.counters.found_stored.add();
        Ok(record)
    }

    fn expires_at(&self) -> SystemTime {
        SystemTime::now() + self.ttl
    }

    async fn touch(&self, id: &ResponseId, expires_at: SystemTime) -> Result<Lookup<()>, StoreError> {
        self.store.ask(|store| store.touch(id, expires_at)).await
    }

    /// The record for the login of now: another one's reasoning is closed to it.
    async fn for_account(&self, record: Record, account: Option<&str>) -> Result<Found, Miss> {
        let Record { step, session, account: earlier, .. } = record;
        if earlier.as_deref() == account {
            return Ok(Found { step, session, other_account: false });
        }
        if self.on_account_change == OnAccountChange::Fail {
            return Err(Miss::OtherAccount);
        }
        let bytes = step.bytes();
        let without_closed = move || {
            let mut items = step.transcript();
            items.retain(|item| item.kind() != "reasoning" || !is_account_bound(item));
            // What is left of them stands for what was said, and cannot be done without.
            (!items.iter().any(is_account_bound)).then(|| Step::new(None, &items))
        };
        let rebuilt = self.tasks.on_bytes(bytes, without_closed).await.flatten().ok_or(Miss::OtherAccount)?;
        self.counters.rebuilt_for_account.add();
        Ok(Found { step: rebuilt, session, other_account: true })
    }

    /// Puts a response into the store, with all that the store lacks of its chain.
    async fn put(&self, response: StoredResponse, step: &Arc<Step>) -> Option<&'static str> {
        let id = response.id.clone();
        let mut put = self.put_after_stem(response.clone(), step).await;
        // What it continues has expired, was evicted or deleted, by now or while the answer was made.
        if let (Ok(Lookup::Expired | Lookup::Deleted | Lookup::Unknown), Some((before, _))) =
            (&put, step.stem(&id))
        {
            before.set_lost();
            put = self.put_after_stem(response, step).await;
        }
        match put {
            Ok(_) => {
                step.set_stored(&id);
                Some(self.store.durability())
            }
            Err(error) => {
                self.counters.not_stored.add();
                debug!(response_id = %id, %error, "kept in memory only");
                None
            }
        }
    }

    /// Puts it as what follows the nearest step that the store has. Gives what was there of that.
    async fn put_after_stem(
        &self,
        mut response: StoredResponse,
        step: &Arc<Step>,
    ) -> Result<Lookup<()>, StoreError> {
        let stored = step.stem(&response.id);
        let previous = stored.map(|(_, id)| id.clone());
        let lacking = step.bytes_since(stored.map(|(before, _)| before));
        let said_since = {
            let (step, id) = (Arc::clone(step), response.id.clone());
            move || step.said_since(step.stem(&id).map(|(before, _)| before))
        };
        let broken = || StoreError::Unreadable { reason: "its chain could not be read".into() };
        let mut input = self.tasks.on_bytes(lacking, said_since).await.ok_or_else(broken)?;
        input.append(&mut response.input);
        // A repaired answer: what it repairs is part of what was asked.
        if response.previous.as_ref() == Some(&response.id) {
            response.own_input = input.len();
        }
        (response.previous, response.input) = (previous, input);
        self.store.put(response).await
    }
}

/// Whether no other login can read the item.
fn is_account_bound(item: &Item) -> bool {
    // A summary of ours is read by us, whoever is logged in.
    item.summary().is_none() && item.get("encrypted_content").is_some_and(|content| !content.is_null())
}

//! What was said lately, in memory: the first place to look, and the only one for what no store keeps.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Miss;
use super::step::{Gauge, Step};
use crate::config::ContinuationConfig;
use crate::model::{KeyId, ResponseId, SessionIdentity};

/// What is kept of one response.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Whose it is: another key's record is a missing one.
    pub(super) key: KeyId,
    /// The login it was made under; `None` where the provider wants none.
    pub(super) account: Option<String>,
    /// The caller's conversation, as what continues this inherits it.
    pub(super) session: SessionIdentity,
    /// What was said up to and including this response.
    pub(super) step: Arc<Step>,
}

#[derive(Debug)]
struct Entry {
    key: KeyId,
    /// `None` once it was deleted.
    record: Option<Record>,
    last_used: Instant,
    /// The same by the clock on the wall, which the store goes by too: the other one stands while the machine sleeps.
    used_at: SystemTime,
}

impl Entry {
    /// Whether its time is up by either clock.
    fn is_over(&self, ttl: Duration) -> bool {
        self.last_used.elapsed() >= ttl || self.used_at.elapsed().is_ok_and(|unused| unused >= ttl)
    }
}

/// The recent records. Past its limits the least recently used goes.
#[derive(Debug)]
pub(super) struct Recent {
    /// Locked for a look-up or a batch of a sweep; never across an await.
    kept: Mutex<Kept>,
    gauge: Gauge,
    ttl: Duration,
    max_records: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<ResponseId, Entry>,
    /// By last use, oldest first: one pair for each entry.
    order: BTreeSet<(Instant, ResponseId)>,
}

impl Recent {
    pub(super) fn new(config: &ContinuationConfig) -> Self {
        Self {
            kept: Mutex::default(),
            gauge: Gauge::default(),
            ttl: config.ttl,
            max_records: config.max_records,
            max_bytes: config.max_bytes,
        }
    }

    /// Keeps `record` under `id`, in place of an earlier one, evicting the least recently used past the limits.
    /// Not one whose chain takes more than half of the bytes on its own: no other record is to go for that, and
    /// the older ones of its chain would free nothing. Gives whether it is kept.
    pub(super) fn insert(&self, id: ResponseId, record: Record) -> bool {
        if record.step.bytes() > self.max_bytes / 2 {
            self.remove(&id);
            return false;
        }
        record.step.count(&self.gauge);
        let entry = Entry {
            key: record.key.clone(),
            record: Some(record),
            last_used: Instant::now(),
            used_at: SystemTime::now(),
        };
        let mut gone = Vec::new();
        let mut kept = self.lock();
        gone.extend(kept.remove(&id));
        kept.insert(id, entry);
        while kept.order.len() > self.max_records {
            gone.extend(kept.remove_oldest());
        }
        // What is still needed by a later response stays, so the bytes tell only after each drop.
        while self.gauge.bytes() > self.max_bytes && !kept.order.is_empty() {
            drop(kept.remove_oldest());
        }
        drop(kept);
        true
    }

    /// The record of `id` for `key`; its time limit starts anew. One that a store has is not here any more once
    /// its time is up: the store's clock decides.
    pub(super) fn find(&self, id: &ResponseId, key: &KeyId) -> Result<Record, Miss> {
        let mut kept = self.lock();
        let entry = kept.entries.get(id).ok_or(Miss::Unknown)?;
        if entry.key != *key {
            return Err(Miss::OtherKey);
        }
        let record = entry.record.clone().ok_or(Miss::Deleted)?;
        let stored = record.step.is_stored();
        if entry.is_over(self.ttl) {
            if stored {
                kept.remove(id);
            }
            return Err(if stored { Miss::Unknown } else { Miss::Expired });
        }
        kept.touch(id);
        Ok(record)
    }

    /// Forgets it: the store no longer has it.
    pub(super) fn remove(&self, id: &ResponseId) {
        let removed = self.lock().remove(id);
        drop(removed);
    }

    /// Forgets what `key` has under `id`, and remembers for a while that it was deleted.
    pub(super) fn delete(&self, id: &ResponseId, key: &KeyId) -> Result<(), Miss> {
        let record = {
            let mut kept = self.lock();
            let entry = kept.entries.get_mut(id).ok_or(Miss::Unknown)?;
            if entry.key != *key {
                return Err(Miss::OtherKey);
            }
            entry.record.take().ok_or(Miss::Deleted)?
        };
        // For what continues it at this moment.
        record.step.set_lost();
        Ok(())
    }

    /// Whether it was deleted, and is remembered so.
    pub(super) fn is_deleted(&self, id: &ResponseId) -> bool {
        self.lock().entries.get(id).is_some_and(|entry| entry.record.is_none())
    }

    /// Forgets what is past its time, in batches, so that no request waits for a whole sweep.
    pub(super) fn sweep(&self) -> usize {
        const BATCH: usize = 256;
        let mut swept = 0;
        loop {
            let mut gone = Vec::with_capacity(BATCH);
            let mut kept = self.lock();
            while gone.len() < BATCH
                && kept.order.first().is_some_and(|(last_used, _)| last_used.elapsed() >= self.ttl)
            {
                gone.extend(kept.remove_oldest());
            }
            drop(kept);
            swept += gone.len();
            if gone.len() < BATCH {
                return swept;
            }
        }
    }

    /// Records kept, and about how many bytes their items take.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.lock().entries.len(), self.gauge.bytes())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is removed is given back, to be dropped without the lock: a long chain takes its time.
impl Kept {
    fn insert(&mut self, id: ResponseId, entry: Entry) {
        self.order.insert((entry.last_used, id.clone()));
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: &ResponseId) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.order.remove(&(entry.last_used, id.clone()));
        Some(entry)
    }

    fn remove_oldest(&mut self) -> Option<Entry> {
        let (_, id) = self.order.pop_first()?;
        self.entries.remove(&id)
    }

    fn touch(&mut self, id: &ResponseId) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        self.order.remove(&(entry.last_used, id.clone()));
        (entry.last_used, entry.used_at) = (Instant::now(), SystemTime::now());
        self.order.insert((entry.last_used, id.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Item;

    fn registry(max_records: usize, max_bytes: usize) -> Recent {
        let config = ContinuationConfig {
            ttl: Duration::from_secs(60),
            max_records,
            max_bytes,
            ..ContinuationConfig::default()
        };
        Recent::new(&config)
    }

    fn record(key: &str, previous: Option<Arc<Step>>, texts: &[&str]) -> Record {
        let items: Vec<Item> = texts.iter().map(|text| Item::input_text("user", text)).collect();
        let session = SessionIdentity::fresh();
        Record { key: KeyId::new(key), account: None, session, step: Step::new(previous, &items) }
    }

    fn id(name: &str) -> ResponseId {
        ResponseId::new(name)
    }

    fn texts(step: &Arc<Step>) -> Vec<String> {
        let text = |item: &Item| item.get("content").and_then(|c| c[0]["text"].as_str().map(str::to_owned));
        step.transcript().iter().filter_map(text).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_chain_and_its_branches_share_their_stem() {
        let registry = registry(100, 1 << 20);
        let stem = record("k", None, &["a", "b"]);
        let left = record("k", Some(Arc::clone(&stem.step)), &["c"]);
        let right = record("k", Some(Arc::clone(&stem.step)), &["d"]);
        registry.insert(id("1"), stem);
        registry.insert(id("2"), left);
        registry.insert(id("3"), right);
        let find = |name: &str| texts(&registry.find(&id(name), &KeyId::new("k")).unwrap().step);
        assert_eq!(find("2"), ["a", "b", "c"]);
        assert_eq!(find("3"), ["a", "b", "d"]);
        assert_eq!(find("1"), ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_miss_has_its_reason_and_use_restarts_the_clock() {
        let registry = registry(100, 1 << 20);
        registry.insert(id("1"), record("k", None, &["a"]));
        let miss = |name: &str, key: &str| registry.find(&id(name), &KeyId::new(key)).err();
        assert_eq!(miss("2", "k"), Some(Miss::Unknown));
        assert_eq!(miss("1", "other"), Some(Miss::OtherKey));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(miss("1", "k"), None);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(miss("1", "k"), None);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(miss("1", "k"), Some(Miss::Expired));
        assert_eq!(registry.sweep(), 1);
        assert_eq!(miss("1", "k"), Some(Miss::Unknown));
        assert_eq!(registry.size(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_the_machine_slept_through_counts() {
        let registry = registry(100, 1 << 20);
        let stored = record("k", None, &["a"]);
        stored.step.set_stored(&id("1"));
        registry.insert(id("1"), stored);
        registry.insert(id("2"), record("k", None, &["a"]));
        let sleep = |for_how_long| {
            let mut kept = registry.lock();
            kept.entries.values_mut().for_each(|entry| entry.used_at -= for_how_long);
        };
        let miss = |name: &str| registry.find(&id(name), &KeyId::new("k")).err();
        sleep(Duration::from_secs(50));
        assert_eq!((miss("1"), miss("2")), (None, None));
        // Used just now.
        sleep(Duration::from_secs(50));
        assert_eq!((miss("1"), miss("2")), (None, None));
        sleep(Duration::from_secs(60));
        assert_eq!((miss("1"), miss("2")), (Some(Miss::Unknown), Some(Miss::Expired)));
        assert_eq!(registry.size().0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_of_a_stored_one_is_the_stores() {
        let registry = registry(100, 1 << 20);
        let stored = record("k", None, &["a"]);
        stored.step.set_stored(&id("1"));
        registry.insert(id("1"), stored);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(registry.find(&id("1"), &KeyId::new("k")).err(), Some(Miss::Unknown));
        assert_eq!(registry.size(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_deleted_is_gone_and_remembered_as_such() {
        let registry = registry(100, 1 << 20);
        registry.insert(id("1"), record("k", None, &["a"]));
        let key = KeyId::new("k");
        assert_eq!(registry.delete(&id("1"), &KeyId::new("other")), Err(Miss::OtherKey));
        assert_eq!(registry.delete(&id("2"), &key), Err(Miss::Unknown));
        assert_eq!(registry.delete(&id("1"), &key), Ok(()));
        assert_eq!(registry.delete(&id("1"), &key), Err(Miss::Deleted));
        assert_eq!(registry.find(&id("1"), &key).err(), Some(Miss::Deleted));
        assert_eq!(registry.size(), (1, 0));
        tokio::time::advance(Duration::from_secs(60)).await;
        registry.sweep();
        assert_eq!(registry.size(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn past_its_limits_the_least_recently_used_goes() {
        let registry = registry(2, 1 << 20);
        for name in ["1", "2"] {
            registry.insert(id(name), record("k", None, &["a"]));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        registry.find(&id("1"), &KeyId::new("k")).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        registry.insert(id("3"), record("k", None, &["a"]));
        let there = |name: &str| registry.find(&id(name), &KeyId::new("k")).is_ok();
        assert_eq!((there("1"), there("2"), there("3")), (true, false, true));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_bounded_too() {
        let text = "x".repeat(1000);
        let registry = registry(100, 2500);
        for name in ["1", "2", "3"] {
            registry.insert(id(name), record("k", None, &[&text]));
        }
        let (records, bytes) = registry.size();
        assert_eq!(records, 2);
        assert!(bytes <= 2500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_chain_too_large_to_be_kept_evicts_nobody() {
        let registry = registry(100, 10_000);
        assert!(registry.insert(id("other"), record("o", None, &["a"])));
        let text = "x".repeat(1000);
        let mut previous = None;
        let mut kept = Vec::new();
        for n in 0..20 {
            let next = record("k", previous, &[&text]);
            previous = Some(Arc::clone(&next.step));
            kept.push(registry.insert(id(&n.to_string()), next));
        }
        assert_eq!(kept, [[true; 4].as_slice(), &[false; 16]].concat());
        assert!(registry.find(&id("other"), &KeyId::new("o")).is_ok());
        assert!(registry.find(&id("3"), &KeyId::new("k")).is_ok());
        assert_eq!(registry.find(&id("19"), &KeyId::new("k")).err(), Some(Miss::Unknown));
        // Nor does an earlier one of its id stay in its place.
        assert!(!registry.insert(id("3"), record("k", previous, &[&text])));
        assert_eq!(registry.find(&id("3"), &KeyId::new("k")).err(), Some(Miss::Unknown));
    }
}

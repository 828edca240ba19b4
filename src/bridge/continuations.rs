//! The continuation registry: from a response id to what its chain said, in memory, bounded, with a time limit.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::ContinuationConfig;
use crate::model::{Item, KeyId, PackedItems, ResponseId};

/// One step of a chain: what came in and what came out. Steps point at their predecessor, so a chain of a
/// hundred responses holds each item once, and branches share their stem.
#[derive(Debug)]
pub(super) struct Step {
    previous: Option<Arc<Step>>,
    items: PackedItems,
}

impl Step {
    pub(super) fn new(previous: Option<Arc<Step>>, items: &[Item]) -> Arc<Self> {
        Arc::new(Self { previous, items: PackedItems::pack(items) })
    }

    /// Everything said so far, oldest first.
    pub(super) fn transcript(self: &Arc<Self>) -> Vec<Item> {
        let mut steps = Vec::new();
        let mut step = Some(self);
        while let Some(this) = step {
            steps.push(this);
            step = this.previous.as_ref();
        }
        steps.iter().rev().flat_map(|step| step.items.unpack()).collect()
    }
}

/// Unlinks step by step: dropping a long chain recursively would overflow the stack.
impl Drop for Step {
    fn drop(&mut self) {
        let mut next = self.previous.take();
        while let Some(step) = next {
            next = Arc::try_unwrap(step).ok().and_then(|mut step| step.previous.take());
        }
    }
}

/// What is kept of one response.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Whose it is: another key's record is a missing one.
    pub(super) key: KeyId,
    /// The login it was made under; `None` where the provider wants none.
    pub(super) account: Option<String>,
    /// What was said up to and including this response.
    pub(super) step: Arc<Step>,
}

/// Why there is nothing to continue. The caller sees one answer; logs and metrics tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    /// Never there, or gone for good.
    Unknown,
    /// There, but past its time.
    Expired,
    /// There, but another key's.
    OtherKey,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    weight: usize,
    last_used: Instant,
}

/// The registry. Past its limits the least recently used record goes.
#[derive(Debug)]
pub(super) struct Continuations {
    /// Locked for a look-up or a batch of a sweep; never across an await.
    kept: Mutex<Kept>,
    ttl: Duration,
    max_records: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<ResponseId, Entry>,
    /// By last use, oldest first: one pair for each entry.
    order: BTreeSet<(Instant, ResponseId)>,
    bytes: usize,
}

impl Continuations {
    pub(super) fn new(config: &ContinuationConfig) -> Self {
        Self {
            kept: Mutex::default(),
            ttl: config.ttl,
            max_records: config.max_records,
            max_bytes: config.max_bytes,
        }
    }

    /// Keeps `record` under `id`, in place of an earlier one, evicting the least recently used past the limits.
    pub(super) fn insert(&self, id: ResponseId, record: Record) {
        let weight = record.step.items.weight();
        let last_used = Instant::now();
        let kept = &mut *self.lock();
        if let Some(earlier) = kept.entries.remove(&id) {
            kept.order.remove(&(earlier.last_used, id.clone()));
            kept.bytes -= earlier.weight;
        }
        kept.bytes += weight;
        kept.order.insert((last_used, id.clone()));
        kept.entries.insert(id, Entry { record, weight, last_used });
        while kept.order.len() > self.max_records || kept.bytes > self.max_bytes {
            kept.forget_oldest();
        }
    }

    /// The record of `id` for `key`; its time limit starts anew.
    pub(super) fn find(&self, id: &ResponseId, key: &KeyId) -> Result<Record, Miss> {
        let kept = &mut *self.lock();
        let entry = kept.entries.get_mut(id).ok_or(Miss::Unknown)?;
        if entry.record.key != *key {
            return Err(Miss::OtherKey);
        }
        let now = Instant::now();
        if now.duration_since(entry.last_used) >= self.ttl {
            return Err(Miss::Expired);
        }
        kept.order.remove(&(entry.last_used, id.clone()));
        kept.order.insert((now, id.clone()));
        entry.last_used = now;
        Ok(entry.record.clone())
    }

    /// Forgets what is past its time, in batches, so that no request waits for a whole sweep.
    pub(super) fn sweep(&self) -> usize {
        const BATCH: usize = 256;
        let mut swept = 0;
        loop {
            let mut kept = self.lock();
            for _ in 0..BATCH {
                match kept.order.first() {
                    Some((last_used, _)) if last_used.elapsed() >= self.ttl => {}
                    _ => return swept,
                }
                kept.forget_oldest();
                swept += 1;
            }
        }
    }

    /// Records kept, and about how many bytes their items take.
    pub(super) fn size(&self) -> (usize, usize) {
        let kept = self.lock();
        (kept.entries.len(), kept.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget_oldest(&mut self) {
        let Some((_, id)) = self.order.pop_first() else { return };
        if let Some(entry) = self.entries.remove(&id) {
            self.bytes -= entry.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(max_records: usize, max_bytes: usize) -> Continuations {
        let config = ContinuationConfig {
            ttl: Duration::from_secs(60),
            max_records,
            max_bytes,
            ..ContinuationConfig::default()
        };
        Continuations::new(&config)
    }

    fn record(key: &str, previous: Option<Arc<Step>>, texts: &[&str]) -> Record {
        let items: Vec<Item> = texts.iter().map(|text| Item::input_text("user", text)).collect();
        Record { key: KeyId::new(key), account: None, step: Step::new(previous, &items) }
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
    async fn a_very_long_chain_is_dropped_without_overflowing_the_stack() {
        let mut step = Step::new(None, &[]);
        for _ in 0..200_000 {
            step = Step::new(Some(step), &[]);
        }
        drop(step);
    }
}

//! A store that a test can break.

pub(in crate::store) mod faulty;

pub(crate) use super::documents::testing::Server;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::model::{Item, ResponseId};
use crate::store::{Chain, Lookup, ResponseStore, StoreError, StoredResponse};

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mood {
    #[default]
    Works,
    /// Every call fails.
    Down,
    /// No call ends.
    Hangs,
    /// No chain comes; all else works.
    SlowToRead,
    /// Each chain that is read is deleted at once.
    DeletedMeanwhile,
    /// No put ends; what it brings comes when it is let in.
    Delayed,
    /// Every record is damaged.
    Garbled,
}

/// What is on it, shared by all its handles as two bridges share one store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    mood: Mood,
    records: HashMap<ResponseId, Slot>,
    /// Puts on their way.
    delayed: Vec<StoredResponse>,
    /// No put brings them back.
    buried: HashSet<ResponseId>,
    /// Calls so far, failed ones included.
    calls: usize,
}

#[derive(Debug)]
struct Slot {
    record: StoredResponse,
    deleted: bool,
}

impl Slot {
    fn state(&self) -> Lookup<()> {
        if self.deleted {
            Lookup::Deleted
        } else if self.record.expires_at <= SystemTime::now() {
            Lookup::Expired
        } else {
            Lookup::Found(())
        }
    }
}

impl Shelf {
    pub(crate) fn set(&self, mood: Mood) {
        self.inner(|inner| inner.mood = mood);
    }

    pub(crate) fn calls(&self) -> usize {
        self.inner(|inner| inner.calls)
    }

    pub(crate) fn record(&self, id: &ResponseId) -> Option<StoredResponse> {
        self.inner(|inner| inner.records.get(id).map(|slot| slot.record.clone()))
    }

    /// What was delayed comes.
    pub(crate) fn let_in(&self) {
        self.inner(|inner| {
            for record in std::mem::take(&mut inner.delayed) {
                if !inner.buried.contains(&record.id) {
                    inner.records.insert(record.id.clone(), Slot { record, deleted: false });
                }
            }
        });
    }

    /// Puts on their way.
    pub(crate) fn delayed(&self) -> usize {
        self.inner(|inner| inner.delayed.len())
    }

    /// Loses everything.
    pub(crate) fn clear(&self) {
        self.inner(|inner| inner.records.clear());
    }

    /// Makes its time be up.
    pub(crate) fn expire(&self, id: &ResponseId) {
        self.inner(|inner| {
            if let Some(slot) = inner.records.get_mut(id) {
                slot.record.expires_at = SystemTime::UNIX_EPOCH;
            }
        });
    }

    fn inner<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn answer<'a, T: Send + 'a>(
        &'a self,
        act: impl FnOnce(&mut HashMap<ResponseId, Slot>) -> Result<T, StoreError> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        let mood = self.inner(|inner| {
            inner.calls += 1;
            inner.mood
        });
        match mood {
            Mood::Works | Mood::SlowToRead | Mood::DeletedMeanwhile | Mood::Delayed => {
                std::future::ready(self.inner(|inner| act(&mut inner.records))).boxed()
            }
            Mood::Down => {
                std::future::ready(Err(StoreError::Unavailable { reason: "it is down".into() })).boxed()
            }
            Mood::Hangs => std::future::pending().boxed(),
            Mood::Garbled => {
                std::future::ready(Err(StoreError::Unreadable { reason: "damage".into() })).boxed()
            }
        }
    }
}

fn before(
    records: &HashMap<ResponseId, Slot>,
    record: &StoredResponse,
) -> Result<Vec<Vec<Item>>, StoreError> {
    let mut before = Vec::new();
    let mut previous = record.previous.as_ref();
    while let Some(id) = previous {
        let gone = || StoreError::Unreadable { reason: "a part of its chain is gone".into() };
        let StoredResponse { input, output, previous: earlier, .. } =
            &records.get(id).ok_or_else(gone)?.record;
        before.push([&input[..], output].concat());
        previous = earlier.as_ref();
    }
    before.reverse();
    Ok(before)
}

fn found<T>(slot: Option<&Slot>, give: impl FnOnce(&StoredResponse) -> T) -> Lookup<T> {
    let Some(slot) = slot else { return Lookup::Unknown };
    match slot.state() {
        Lookup::Found(()) => Lookup::Found(give(&slot.record)),
        Lookup::Expired => Lookup::Expired,
        Lookup::Deleted => Lookup::Deleted,
        Lookup::Unknown => Lookup::Unknown,
    }
}

impl ResponseStore for Shelf {
    fn durability(&self) -> &'static str {
        "shared"
    }

    fn put(&self, record: StoredResponse) -> BoxFuture<'_, Result<Lookup<()>, StoreError>> {
        if self.inner(|inner| inner.mood == Mood::Delayed) {
            self.inner(|inner| inner.delayed.push(record));
            return std::future::pending().boxed();
        }
        self.answer(move |records| {
            let previous = record.previous.as_ref();
            let previous = previous.map_or(Lookup::Found(()), |id| found(records.get(id), |_| ()));
            records.insert(record.id.clone(), Slot { record, deleted: false });
            Ok(previous)
        })
    }

    fn chain<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<Chain>, StoreError>> {
        if self.inner(|inner| inner.mood == Mood::SlowToRead) {
            return std::future::pending().boxed();
        }
        let deleted = self.inner(|inner| inner.mood == Mood::DeletedMeanwhile);
        let chain = self.answer(|records| {
            Ok(match found(records.get(id), StoredResponse::clone) {
                Lookup::Found(record) => Lookup::Found(Chain { before: before(records, &record)?, record }),
                Lookup::Expired => Lookup::Expired,
                Lookup::Deleted => Lookup::Deleted,
                Lookup::Unknown => Lookup::Unknown,
            })
        });
        if deleted {
            self.inner(|inner| {
                if let Some(slot) = inner.records.get_mut(id) {
                    slot.deleted = true;
                }
            });
        }
        chain
    }

    fn get<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<StoredResponse>, StoreError>> {
        self.answer(|records| Ok(found(records.get(id), StoredResponse::clone)))
    }

    fn touch<'a>(
        &'a self,
        id: &'a ResponseId,
        expires_at: SystemTime,
    ) -> BoxFuture<'a, Result<Lookup<()>, StoreError>> {
        self.answer(move |records| {
            let Some(slot) = records.get_mut(id) else { return Ok(Lookup::Unknown) };
            let state = slot.state();
            if state == Lookup::Found(()) {
                slot.record.expires_at = expires_at;
            }
            Ok(state)
        })
    }

    fn delete<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<()>, StoreError>> {
        self.answer(|records| {
            let Some(slot) = records.get_mut(id) else { return Ok(Lookup::Unknown) };
            let state = slot.state();
            slot.deleted = true;
            Ok(state)
        })
    }

    fn bury<'a>(
        &'a self,
        id: &'a ResponseId,
        _: SystemTime,
    ) -> BoxFuture<'a, Result<Lookup<()>, StoreError>> {
        self.inner(|inner| inner.buried.insert(id.clone()));
        self.delete(id)
    }

    fn sweep(&self, _: SystemTime) -> BoxFuture<'_, Result<usize, StoreError>> {
        self.answer(|_| Ok(0))
    }

    fn size(&self) -> BoxFuture<'_, Result<Option<(u64, u64)>, StoreError>> {
        self.answer(|records| Ok(Some((u64::try_from(records.len()).unwrap_or(u64::MAX), 0))))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

//! Documents beside the responses: conversations, stored chat completions, background calls, files and batches. By
//! kind and id, listed for their owner in the order they were made; each may hold entries, in an order of their own.
//!
//! One form for all stores: ordered keys and values ([`kv::Kv`]), of which there are three.

mod embedded;
mod kinds;
mod kv;
mod memory;
mod shared;

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, MutexGuard};

pub use self::kinds::{Document, DocumentKind, Entry, Listed, Page};

use self::embedded::EmbeddedKv;
use self::kv::{Change, Kv, Scan};
use self::memory::MemoryKv;
use self::shared::RedisKv;
use super::codec::{Codec, unreadable};
use super::node::micros;
use super::{OpenError, StoreError};
use crate::config::{StoreBackend, StoreConfig};
use crate::model::KeyId;
use crate::tasks::Tasks;

/// The embedded documents' file.
const FILE: &str = "documents.redb";
/// Keys that one change or look takes at most.
const BATCH: usize = 256;
/// Tries of a change that other bridges' changes of the same document come before.
const TRIES: usize = 32;
/// Documents that can be changed at once.
const LOCKS: usize = 16;
/// Longest id that is looked for, bytes.
const LONGEST_ID: usize = 256;

/// The documents of one bridge, or of several on one server. Cheap to share; every method may be called at once from
/// many tasks. Of two bridges that change one document at once, one does so after the other: each change is made to what
/// it was planned for, or planned anew.
#[derive(Debug)]
pub struct Documents {
    kv: Box<dyn Kv>,
    codec: Codec,
    /// Bytes kept at most, where the store is ours to bound; past it nothing is put.
    max_bytes: u64,
    /// The last place given in an order.
    last: AtomicU64,
    /// Held for a change, from its look at what is there to its end, so that those of one bridge do not come between
    /// each other; each is many documents'.
    changing: [Mutex<()>; LOCKS],
    hasher: RandomState,
}

/// A document as a change finds it.
struct Seen {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    /// Made anew by every change of the document and of its entries, and no smaller than any entry's place; `None`
    /// where there is no document.
    mark: Option<Vec<u8>>,
}

/// Whether a document is to be kept, by what is there.
enum When<'a> {
    Always,
    /// Only in place of an earlier one.
    There,
    /// The same, while its entry of this name is so.
    Entry(&'a str, &'a (dyn Fn(&[u8]) -> bool + Send + Sync)),
}

/// What is kept of a document beside its body.
struct Head {
    order: u64,
    /// 0 for never.
    expires_at: u64,
    owner: KeyId,
}

impl Documents {
    /// In memory, without a bound.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        testing::Server::default().documents()
    }

    /// Opens what `config` names. A server must answer within `limit`.
    pub(super) async fn open(
        config: &StoreConfig,
        limit: Duration,
        state_dir: &Path,
        tasks: &Tasks,
    ) -> Result<Self, OpenError> {
        let kv: Box<dyn Kv> = match config.backend {
            StoreBackend::Memory => Box::new(MemoryKv::default()),
            StoreBackend::Redis => Box::new(RedisKv::new(config, limit)?),
            StoreBackend::Embedded => {
                let beside = config.path.as_deref().and_then(Path::parent).unwrap_or(state_dir);
                let (path, open_with) = (beside.join(FILE), tasks.clone());
                let file = path.clone();
                let opened = tasks.blocking(move || EmbeddedKv::open(&file, &open_with)).await;
                Box::new(opened.unwrap_or_else(|| {
                    Err(OpenError::file("cannot open", &path, &"the database failed in opening it"))
                })?)
            }
        };
        Ok(Self {
            kv,
            codec: Codec::new(config.encryption_key.as_ref()),
            max_bytes: config.max_document_bytes as u64,
            last: AtomicU64::new(0),
            changing: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        })
    }

    /// Keeps `document`, in place of an earlier one of its kind and id, whose place in the list it takes.
    pub async fn put(&self, kind: DocumentKind, document: &Document) -> Result<(), StoreError> {
        self.put_with(kind, document, &[]).await
    }

    /// The same, with more entries: all of it or nothing.
    pub async fn put_with(
        &self,
        kind: DocumentKind,
        document: &Document,
        added: &[Entry],
    ) -> Result<(), StoreError> {
        self.keep(kind, document, added, When::Always).await.map(drop)
    }

    /// Keeps `document` in place of an earlier one. Gives whether there is one: if not, nothing is kept.
    pub async fn replace(&self, kind: DocumentKind, document: &Document) -> Result<bool, StoreError> {
        self.keep(kind, document, &[], When::There).await
    }

    /// The same, and only if the earlier one's `entry` is there and so.
    pub async fn replace_if(
        &self,
        kind: DocumentKind,
        document: &Document,
        entry: &str,
        is_so: impl Fn(&[u8]) -> bool + Send + Sync,
    ) -> Result<bool, StoreError> {
        self.keep(kind, document, &[], When::Entry(entry, &is_so)).await
    }

    /// Gives the document another time to go. Gives whether it is there.
    pub async fn touch(
        &self,
        kind: DocumentKind,
        id: &str,
        expires_at: Option<SystemTime>,
    ) -> Result<bool, StoreError> {
        let Some(key) = key(kind, id) else { return Ok(false) };
        let _one = self.lock(&key).await;
        for _ in 0..TRIES {
            let seen = self.seen(kind, id, &key).await?;
            let Some((old, body)) = seen.alive()? else { return Ok(false) };
            let (order, owner) = (old.order, old.owner.clone());
            let head = Head { order, expires_at: expires_at.map_or(0, micros), owner };
            let mut changes = head.moved(Some(&old), kind, id);
            changes.push(Change::Put(key.clone(), head.written(body)?));
            if self.commit(kind, id, &seen, Some(seen.next()), changes).await? {
                return Ok(true);
            }
        }
        Err(contended())
    }

    async fn keep(
        &self,
        kind: DocumentKind,
        document: &Document,
        added: &[Entry],
        when: When<'_>,
    ) -> Result<bool, StoreError> {
        let id = document.id.as_str();
        let key = key(kind, id).ok_or_else(|| unreadable(&"an id that is none"))?;
        let _one = self.lock(&key).await;
        for _ in 0..TRIES {
            let seen = self.seen(kind, id, &key).await?;
            match when {
                When::Always => {}
                _ if seen.alive()?.is_none() => return Ok(false),
                When::There => {}
                When::Entry(entry, is_so) => match self.entry(kind, id, entry).await? {
                    Some(entry) if is_so(&entry.body) => {}
                    _ => return Ok(false),
                },
            }
            let length = seen.value.as_ref().map_or(0, Vec::len);
            let more: usize = added.iter().map(|entry| entry.body.len()).sum();
            self.has_room((document.body.len() + more).saturating_sub(length))?;
            let old = seen.head()?;
            let head = Head {
                order: old.as_ref().map_or_else(|| self.next(), |old| old.order),
                expires_at: document.expires_at.map_or(0, micros),
                owner: document.owner.clone(),
            };
            let (mut changes, last) = self.adding(kind, id, added, seen.next()).await?;
            changes.extend(head.moved(old.as_ref(), kind, id));
            let value = head.written(&self.codec.wrap(&key, &document.body)?)?;
            changes.push(Change::Put(key.clone(), value));
            if self.commit(kind, id, &seen, Some(last), changes).await? {
                return Ok(true);
            }
        }
        Err(contended())
    }

    /// The document, unless its time is up.
    pub async fn get(&self, kind: DocumentKind, id: &str) -> Result<Option<Document>, StoreError> {
        let Some(key) = key(kind, id) else { return Ok(None) };
        match self.value(key.clone()).await? {
            Some(value) => self.read(&key, id, &value),
            None => Ok(None),
        }
    }

    /// Deletes the document with its entries. Gives whether it was there.
    pub async fn delete(&self, kind: DocumentKind, id: &str) -> Result<bool, StoreError> {
        Ok(self.delete_if(kind, id, |_| true).await?.is_some_and(|head| head.is_alive()))
    }

    /// Deletes the document if its head is so. Gives that of what was deleted.
    async fn delete_if(
        &self,
        kind: DocumentKind,
        id: &str,
        is_so: impl Fn(&Head) -> bool + Send + Sync,
    ) -> Result<Option<Head>, StoreError> {
        let Some(key) = key(kind, id) else { return Ok(None) };
        let _one = self.lock(&key).await;
        for _ in 0..TRIES {
            let seen = self.seen(kind, id, &key).await?;
            let Some(head) = seen.head()?.filter(&is_so) else { return Ok(None) };
            // Its entries first: what is broken off here is found again by the document.
            self.delete_entries(kind, id).await?;
            let mut changes: Vec<_> = head.index(kind, id).into_iter().map(Change::Remove).collect();
            changes.push(Change::Remove(key.clone()));
            if self.commit(kind, id, &seen, None, changes).await? {
                return Ok(Some(head));
            }
        }
        Err(contended())
    }

    async fn delete_entries(&self, kind: DocumentKind, id: &str) -> Result<(), StoreError> {
        let (prefix, entries) = (places(kind, id), entries(kind, id));
        loop {
            // By their places: the entries may be large.
            let found = self.kv.scan(Scan::of(prefix.clone(), BATCH)).await?;
            let done = found.len() < BATCH;
            let mut changes = Vec::with_capacity(2 * found.len());
            for (place, order) in found {
                let entry = place.strip_prefix(prefix.as_slice()).unwrap_or_default();
                if let Some(order) = order_of(&order) {
                    changes.push(Change::Remove([&entries, order.to_be_bytes().as_slice(), entry].concat()));
                }
                changes.push(Change::Remove(place));
            }
            if !changes.is_empty() {
                self.kv.write_if(Vec::new(), changes).await?;
            }
            if done {
                return Ok(());
            }
        }
    }

    /// The documents of `owner`, in the order they were first put; `None` if `page.after` is none of them. One that
    /// cannot be read is passed over.
    pub async fn list(
        &self,
        kind: DocumentKind,
        owner: &KeyId,
        page: Page<'_>,
    ) -> Result<Option<Listed<Document>>, StoreError> {
        let Some(prefix) = owned(kind, owner) else { return Ok(None) };
        let mut after = None;
        if let Some(id) = page.after {
            let Some(key) = key(kind, id) else { return Ok(None) };
            match self.head(&key).await? {
                Some(head) if head.owner == *owner => after = Some(head.listed(kind, id)),
                _ => return Ok(None),
            }
        }
        let mut found = Vec::new();
        // What has expired is still in the list until it is swept.
        loop {
            let wanted = page.limit + 1 - found.len();
            let keys = self.kv.scan(part(&prefix, after.as_deref(), wanted, page.descending)).await?;
            let ended = keys.len() < wanted;
            after = keys.last().map(|(key, _)| key.clone());
            let ids: Vec<String> = keys.iter().filter_map(|(listed, _)| id_in(&prefix, listed)).collect();
            let keys: Vec<_> = ids.iter().filter_map(|id| key(kind, id)).collect();
            let values = self.kv.get(keys.clone()).await?;
            for ((id, key), value) in ids.iter().zip(&keys).zip(values) {
                match value.map_or(Ok(None), |value| self.read(key, id, &value)) {
                    Ok(document) => found.extend(document),
                    Err(error) => tracing::warn!(id, %error, "a document is passed over"),
                }
            }
            if ended || found.len() > page.limit {
                let has_more = found.len() > page.limit;
                found.truncate(page.limit);
                return Ok(Some(Listed { found, has_more }));
            }
        }
    }

    /// The documents of a kind, whoever's, in the order of their ids: what follows `after`, which need not be there.
    /// One that cannot be read is passed over.
    pub async fn all(
        &self,
        kind: DocumentKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listed<Document>, StoreError> {
        let prefix = vec![b'd', kind.byte()];
        let mut after = after.and_then(|id| key(kind, id));
        let mut found = Vec::new();
        loop {
            let pairs = self.kv.scan(part(&prefix, after.as_deref(), limit + 1, false)).await?;
            let ended = pairs.len() <= limit;
            after = pairs.last().map(|(key, _)| key.clone());
            for (key, value) in pairs {
                let id = key.strip_prefix(prefix.as_slice()).and_then(|id| std::str::from_utf8(id).ok());
                let Some(id) = id else { continue };
                match self.read(&key, id, &value) {
                    Ok(document) => found.extend(document),
                    Err(error) => tracing::warn!(id, %error, "a document is passed over"),
                }
            }
            if ended || found.len() > limit {
                let has_more = found.len() > limit;
                found.truncate(limit);
                return Ok(Listed { found, has_more });
            }
        }
    }

    /// Adds entries at the document's end, in their order; one whose id is there takes the earlier one's place. Gives
    /// whether the document is there: if not, nothing is added.
    pub async fn append(&self, kind: DocumentKind, id: &str, added: Vec<Entry>) -> Result<bool, StoreError> {
        self.has_room(added.iter().map(|entry| entry.body.len()).sum())?;
        let Some(key) = key(kind, id) else { return Ok(false) };
        let _one = self.lock(&key).await;
        for _ in 0..TRIES {
            let seen = self.seen(kind, id, &key).await?;
            if seen.alive()?.is_none() {
                return Ok(false);
            }
            let (changes, last) = self.adding(kind, id, &added, seen.next()).await?;
            if self.commit(kind, id, &seen, Some(last), changes).await? {
                return Ok(true);
            }
        }
        Err(contended())
    }

    /// Changes one entry of a document that is there: `change` is given what it says, and says what it is to say;
    /// `None` leaves it. Gives whether it was changed.
    pub async fn change_entry(
        &self,
        kind: DocumentKind,
        id: &str,
        entry: &str,
        change: impl Fn(Option<&[u8]>) -> Option<Vec<u8>> + Send + Sync,
    ) -> Result<bool, StoreError> {
        let Some(key) = key(kind, id) else { return Ok(false) };
        let _one = self.lock(&key).await;
        for _ in 0..TRIES {
            let seen = self.seen(kind, id, &key).await?;
            if seen.alive()?.is_none() {
                return Ok(false);
            }
            let there = self.entry(kind, id, entry).await?;
            let Some(body) = change(there.as_ref().map(|there| there.body.as_slice())) else {
                return Ok(false);
            };
            let new = [Entry { id: entry.to_owned(), body }];
            let (changes, last) = self.adding(kind, id, &new, seen.next()).await?;
            if self.commit(kind, id, &seen, Some(last), changes).await? {
                return Ok(true);
            }
        }
        Err(contended())
    }

    /// One entry.
    pub async fn entry(
        &self,
        kind: DocumentKind,
        id: &str,
        entry: &str,
    ) -> Result<Option<Entry>, StoreError> {
        let Some(key) = self.entry_key(kind, id, entry).await? else { return Ok(None) };
        let Some(value) = self.value(key.clone()).await? else { return Ok(None) };
        Ok(Some(Entry { id: entry.to_owned(), body: self.codec.unwrap(&key, &value)? }))
    }

    /// Deletes an entry. Gives whether it was there.
    pub async fn remove_entry(&self, kind: DocumentKind, id: &str, entry: &str) -> Result<bool, StoreError> {
        let Some(key) = key(kind, id) else { return Ok(false) };
        let _one = self.lock(&key).await;
        for _ in 0..TRIES {
            let seen = self.seen(kind, id, &key).await?;
            let Some(removed) = self.entry_key(kind, id, entry).await? else { return Ok(false) };
            let mut changes = vec![Change::Remove(removed)];
            changes.extend(place(kind, id, entry).map(Change::Remove));
            if self.commit(kind, id, &seen, Some(seen.next()), changes).await? {
                return Ok(true);
            }
        }
        Err(contended())
    }

    /// The entries of a document, in order; `None` if `page.after` is none of them.
    pub async fn entries(
        &self,
        kind: DocumentKind,
        id: &str,
        page: Page<'_>,
    ) -> Result<Option<Listed<Entry>>, StoreError> {
        self.entries_as(kind, id, page, Some).await
    }

    /// The same of those that `read` makes something of: others do not count.
    pub async fn entries_as<T: Send>(
        &self,
        kind: DocumentKind,
        id: &str,
        page: Page<'_>,
        read: impl Fn(Entry) -> Option<T> + Send + Sync,
    ) -> Result<Option<Listed<T>>, StoreError> {
        if !is_id(id) {
            return Ok(None);
        }
        let prefix = entries(kind, id);
        let mut after = match page.after {
            None => None,
            Some(after) => match self.entry_key(kind, id, after).await? {
                Some(key) => Some(key),
                None => return Ok(None),
            },
        };
        let mut found = Vec::new();
        loop {
            let wanted = BATCH.min(page.limit + 1 - found.len());
            let pairs = self.kv.scan(part(&prefix, after.as_deref(), wanted, page.descending)).await?;
            let ended = pairs.len() < wanted;
            // By its place, and not by its id: it may be deleted before the next look.
            after = pairs.last().map(|(key, _)| key.clone());
            for (key, value) in pairs {
                let id = id_in(&prefix, &key).ok_or_else(|| unreadable(&"an entry has no id"))?;
                found.extend(read(Entry { id, body: self.codec.unwrap(&key, &value)? }));
            }
            if ended || found.len() > page.limit {
                let has_more = found.len() > page.limit;
                found.truncate(page.limit);
                return Ok(Some(Listed { found, has_more }));
            }
        }
    }

    /// Lets go of what has expired, a batch at a time. Gives how many documents went.
    pub async fn sweep(&self, now: SystemTime) -> Result<usize, StoreError> {
        let mut swept = 0;
        loop {
            let until = [b"x".as_slice(), &micros(now).to_be_bytes(), &[255]].concat();
            let due = Scan { keys: b"x".to_vec()..until, limit: BATCH, descending: false };
            let due = self.kv.scan(due).await?;
            let done = due.len() < BATCH;
            for (listed, _) in due {
                if let Some((kind, id)) = expiring(&listed) {
                    let before = micros(now);
                    let is_dead = |head: &Head| head.expires_at > 0 && head.expires_at <= before;
                    swept += usize::from(self.delete_if(kind, &id, is_dead).await?.is_some());
                }
                // It was put anew meanwhile, or is of a kind that this version does not know.
                self.kv.write_if(Vec::new(), vec![Change::Remove(listed)]).await?;
            }
            if done {
                return Ok(swept);
            }
        }
    }

    /// About how many bytes are kept, where that is known without a count.
    pub fn bytes(&self) -> Option<u64> {
        self.kv.bytes()
    }

    /// Later calls fail.
    pub async fn close(&self) {
        self.kv.close().await;
    }

    fn has_room(&self, more: usize) -> Result<(), StoreError> {
        match self.kv.bytes() {
            Some(bytes) if bytes + more as u64 > self.max_bytes => {
                Err(StoreError::Refused { reason: "store.max_document_bytes is reached".into() })
            }
            _ => Ok(()),
        }
    }

    /// The place after all that were given here, and after those of earlier processes.
    fn next(&self) -> u64 {
        let now = micros(SystemTime::now());
        let next = |last: u64| now.max(last + 1);
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        last.map_or(now, next)
    }

    async fn lock(&self, key: &[u8]) -> MutexGuard<'_, ()> {
        let at = usize::try_from(self.hasher.hash_one(key) % LOCKS as u64).unwrap_or_default();
        self.changing[at].lock().await
    }

    async fn seen(&self, kind: DocumentKind, id: &str, key: &[u8]) -> Result<Seen, StoreError> {
        let mut values = self.kv.get(vec![key.to_vec(), mark(kind, id)]).await?.into_iter();
        Ok(Seen { key: key.to_vec(), value: values.next().flatten(), mark: values.next().flatten() })
    }

    /// Makes changes that were planned for what was `seen`; `mark` is the next one, and `None` ends the document.
    /// Gives whether it was still so.
    async fn commit(
        &self,
        kind: DocumentKind,
        id: &str,
        seen: &Seen,
        next: Option<u64>,
        mut changes: Vec<Change>,
    ) -> Result<bool, StoreError> {
        let mark = mark(kind, id);
        let mut expected = vec![(mark.clone(), seen.mark.clone())];
        if seen.mark.is_none() {
            expected.push((seen.key.clone(), seen.value.clone()));
        }
        changes.push(match next {
            Some(next) => Change::Put(mark, next.to_be_bytes().to_vec()),
            None => Change::Remove(mark),
        });
        self.kv.write_if(expected, changes).await
    }

    /// What adds entries from the place `next` on: side by side, for they are added at once. Gives the last place too.
    async fn adding(
        &self,
        kind: DocumentKind,
        id: &str,
        added: &[Entry],
        next: u64,
    ) -> Result<(Vec<Change>, u64), StoreError> {
        let place =
            |entry: &Entry| place(kind, id, &entry.id).ok_or_else(|| unreadable(&"an id that is none"));
        let places: Vec<_> = added.iter().map(place).collect::<Result<_, _>>()?;
        let mut earlier = Vec::with_capacity(places.len());
        for places in places.chunks(BATCH) {
            earlier.extend(self.kv.get(places.to_vec()).await?);
        }
        let (mut changes, mut last) = (Vec::with_capacity(2 * added.len()), next);
        for (((entry, place), earlier), next) in added.iter().zip(places).zip(earlier).zip(next..) {
            last = next;
            let order = earlier.as_deref().and_then(order_of).unwrap_or(next);
            let key = ordered(&entries(kind, id), order, &entry.id);
            let body = self.codec.wrap(&key, &entry.body)?;
            changes.push(Change::Put(key, body));
            changes.push(Change::Put(place, order.to_be_bytes().to_vec()));
        }
        Ok((changes, last))
    }

    async fn value(&self, key: Vec<u8>) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.kv.get(vec![key]).await?.pop().flatten())
    }

    async fn head(&self, key: &[u8]) -> Result<Option<Head>, StoreError> {
        let value = self.value(key.to_vec()).await?;
        value.map(|value| Ok(Head::read(&value).ok_or_else(form)?.0)).transpose()
    }

    fn read(&self, key: &[u8], id: &str, value: &[u8]) -> Result<Option<Document>, StoreError> {
        let (head, body) = Head::read(value).ok_or_else(form)?;
        if !head.is_alive() {
            return Ok(None);
        }
        let expires_at = (head.expires_at > 0).then(|| super::node::time(head.expires_at));
        let body = self.codec.unwrap(key, body)?;
        Ok(Some(Document { id: id.to_owned(), owner: head.owner, expires_at, body }))
    }

    async fn entry_key(
        &self,
        kind: DocumentKind,
        id: &str,
        entry: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(place) = place(kind, id, entry) else { return Ok(None) };
        let order = self.value(place).await?.as_deref().and_then(order_of);
        Ok(order.map(|order| ordered(&entries(kind, id), order, entry)))
    }
}

impl Seen {
    /// The head, whether its time is up or not.
    fn head(&self) -> Result<Option<Head>, StoreError> {
        Ok(self.parts()?.map(|(head, _)| head))
    }

    /// The head and the body as it is written, unless its time is up.
    fn alive(&self) -> Result<Option<(Head, &[u8])>, StoreError> {
        Ok(self.parts()?.filter(|(head, _)| head.is_alive()))
    }

    fn parts(&self) -> Result<Option<(Head, &[u8])>, StoreError> {
        self.value.as_deref().map(|value| Head::read(value).ok_or_else(form)).transpose()
    }

    /// The place after all entries, and the next mark: whatever the clocks of those who have written say.
    fn next(&self) -> u64 {
        let last = self.mark.as_deref().and_then(order_of).unwrap_or_default();
        micros(SystemTime::now()).max(last.saturating_add(1))
    }
}

impl Head {
    fn is_alive(&self) -> bool {
        self.expires_at == 0 || micros(SystemTime::now()) < self.expires_at
    }

    /// The keys that lead to the document.
    fn index(&self, kind: DocumentKind, id: &str) -> Vec<Vec<u8>> {
        let mut keys = vec![self.listed(kind, id)];
        if self.expires_at > 0 {
            keys.push(
                [b"x", self.expires_at.to_be_bytes().as_slice(), &[kind.byte()], id.as_bytes()].concat(),
            );
        }
        keys
    }

    /// What makes its keys lead to the document, in place of the `old` one's. No key twice.
    fn moved(&self, old: Option<&Self>, kind: DocumentKind, id: &str) -> Vec<Change> {
        let keys = self.index(kind, id);
        let gone = old.map(|old| old.index(kind, id)).unwrap_or_default();
        let gone = gone.into_iter().filter(|key| !keys.contains(key)).map(Change::Remove);
        let mut changes: Vec<_> = gone.collect();
        changes.extend(keys.into_iter().map(|key| Change::Put(key, Vec::new())));
        changes
    }

    fn listed(&self, kind: DocumentKind, id: &str) -> Vec<u8> {
        ordered(&owned(kind, &self.owner).unwrap_or_default(), self.order, id)
    }

    fn written(&self, body: &[u8]) -> Result<Vec<u8>, StoreError> {
        let owner = self.owner.as_str().as_bytes();
        let length = u16::try_from(owner.len()).map_err(|error| unreadable(&error))?;
        let (order, expires_at) = (self.order.to_be_bytes(), self.expires_at.to_be_bytes());
        Ok([order.as_slice(), &expires_at, &length.to_be_bytes(), owner, body].concat())
    }

    fn read(value: &[u8]) -> Option<(Self, &[u8])> {
        let (order, rest) = value.split_first_chunk()?;
        let (expires_at, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (owner, body) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let head = Self {
            order: u64::from_be_bytes(*order),
            expires_at: u64::from_be_bytes(*expires_at),
            owner: KeyId::new(std::str::from_utf8(owner).ok()?),
        };
        Some((head, body))
    }
}

fn contended() -> StoreError {
    StoreError::Unavailable { reason: "others change the document all the time".into() }
}

fn form() -> StoreError {
    unreadable(&"its form is not known to this version")
}

/// Keys are parted by zero bytes.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= LONGEST_ID && !id.contains('\0')
}

/// `None` for what is no id.
fn key(kind: DocumentKind, id: &str) -> Option<Vec<u8>> {
    is_id(id).then(|| [&[b'd', kind.byte()], id.as_bytes()].concat())
}

fn mark(kind: DocumentKind, id: &str) -> Vec<u8> {
    [&[b'v', kind.byte()], id.as_bytes()].concat()
}

fn owned(kind: DocumentKind, owner: &KeyId) -> Option<Vec<u8>> {
    is_id(owner.as_str()).then(|| [&[b'o', kind.byte()], owner.as_str().as_bytes(), &[0]].concat())
}

fn entries(kind: DocumentKind, id: &str) -> Vec<u8> {
    [&[b'e', kind.byte()], id.as_bytes(), &[0]].concat()
}

fn places(kind: DocumentKind, id: &str) -> Vec<u8> {
    [&[b'p', kind.byte()], id.as_bytes(), &[0]].concat()
}

fn place(kind: DocumentKind, id: &str, entry: &str) -> Option<Vec<u8>> {
    (is_id(id) && is_id(entry)).then(|| [places(kind, id).as_slice(), entry.as_bytes()].concat())
}

fn ordered(prefix: &[u8], order: u64, id: &str) -> Vec<u8> {
    [prefix, order.to_be_bytes().as_slice(), id.as_bytes()].concat()
}

fn order_of(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

/// The id at the end of an ordered key.
fn id_in(prefix: &[u8], key: &[u8]) -> Option<String> {
    String::from_utf8(key.strip_prefix(prefix)?.get(size_of::<u64>()..)?.to_vec()).ok()
}

/// The kind and id at the end of a key by expiry.
fn expiring(key: &[u8]) -> Option<(DocumentKind, String)> {
    let (kind, id) = key.get(1 + size_of::<u64>()..)?.split_first()?;
    Some((DocumentKind::of(*kind)?, String::from_utf8(id.to_vec()).ok()?))
}

/// The keys of `prefix` beyond `after`.
fn part(prefix: &[u8], after: Option<&[u8]>, limit: usize, descending: bool) -> Scan {
    let mut scan = Scan { descending, ..Scan::of(prefix.to_vec(), limit) };
    if let Some(after) = after {
        if descending {
            scan.keys.end = after.to_vec();
        } else {
            // The next key there could be.
            scan.keys.start = [after, &[0]].concat();
        }
    }
    scan
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

//! Documents beside the responses: conversations, stored chat completions, background calls, files and batches. By
//! kind and id, listed for their owner in the order they were made; each may hold entries, in an order of their own.
//!
//! One form for all stores: ordered keys and values ([`kv::Kv`]), of which there are three.

mod embedded;
mod kv;
mod memory;
mod shared;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::Mutex;

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
/// Longest id that is looked for, bytes.
const LONGEST_ID: usize = 256;

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DocumentKind {
    /// A response that nobody waits for, until it is one of the response store's; or one that failed.
    Background,
    /// A conversation; its entries are its items.
    Conversation,
    /// A stored chat completion; its entries are its messages.
    Completion,
    /// An uploaded or written file.
    File,
    /// A batch of requests.
    Batch,
}

impl DocumentKind {
    /// Part of the written form.
    const fn byte(self) -> u8 {
        match self {
            Self::Background => b'g',
            Self::Conversation => b'c',
            Self::Completion => b'm',
            Self::File => b'f',
            Self::Batch => b'b',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::Background, Self::Conversation, Self::Completion, Self::File, Self::Batch]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }
}

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Unique within its kind.
    pub id: String,
    /// Whose it is; whether a caller may see it is for the caller's side to say.
    pub owner: KeyId,
    /// When it goes, with its entries; `None` stays.
    pub expires_at: Option<SystemTime>,
    /// What it says.
    pub body: Vec<u8>,
}

/// A part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Unique within its document.
    pub id: String,
    /// What it says.
    pub body: Vec<u8>,
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The id that it follows.
    pub after: Option<&'a str>,
    /// Most that is given.
    pub limit: usize,
    /// The latest first.
    pub descending: bool,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// In order.
    pub found: Vec<T>,
    /// Whether more follows.
    pub has_more: bool,
}

/// The documents of one bridge, or of several on one server. Cheap to share; every method may be called at once from
/// many tasks. Two bridges that change one document at once leave one of the changes.
#[derive(Debug)]
pub struct Documents {
    kv: Box<dyn Kv>,
    codec: Codec,
    /// Bytes kept at most, where the store is ours to bound; past it nothing is put.
    max_bytes: u64,
    /// The last place given in an order.
    last: AtomicU64,
    /// Held for a change, from its look at what is there to its end: documents change seldom.
    changing: Mutex<()>,
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
        let (kv, codec) = (Box::new(MemoryKv::default()), Codec::new(None));
        Self { kv, codec, max_bytes: u64::MAX, last: AtomicU64::new(0), changing: Mutex::default() }
    }

    /// Opens what `config` names.
    pub(super) async fn open(
        config: &StoreConfig,
        state_dir: &Path,
        tasks: &Tasks,
    ) -> Result<Self, OpenError> {
        let kv: Box<dyn Kv> = match config.backend {
            StoreBackend::Memory => Box::new(MemoryKv::default()),
            StoreBackend::Redis => Box::new(RedisKv::new(config)?),
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
            changing: Mutex::default(),
        })
    }

    /// Keeps `document`, in place of an earlier one of its kind and id, whose place in the list it takes.
    pub async fn put(&self, kind: DocumentKind, document: &Document) -> Result<(), StoreError> {
        let id = document.id.as_str();
        let key = key(kind, id).ok_or_else(|| unreadable(&"an id that is none"))?;
        let _one = self.changing.lock().await;
        let earlier = self.value(key.clone()).await?;
        let length = earlier.as_ref().map_or(0, Vec::len);
        self.has_room(document.body.len().saturating_sub(length))?;
        let old = earlier.map(|value| Ok(Head::read(&value).ok_or_else(form)?.0)).transpose()?;
        let head = Head {
            order: old.as_ref().map_or_else(|| self.next(1), |old| old.order),
            expires_at: document.expires_at.map_or(0, micros),
            owner: document.owner.clone(),
        };
        let mut changes = Vec::new();
        if let Some(old) = old {
            changes.extend(old.index(kind, id).into_iter().map(Change::Remove));
        }
        changes.extend(head.index(kind, id).into_iter().map(|key| Change::Put(key, Vec::new())));
        let value = head.written(&self.codec.wrap(&key, &document.body)?)?;
        changes.push(Change::Put(key, value));
        self.kv.write(changes).await
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
        is_so: impl FnOnce(&Head) -> bool,
    ) -> Result<Option<Head>, StoreError> {
        let Some(key) = key(kind, id) else { return Ok(None) };
        let _one = self.changing.lock().await;
        let Some(head) = self.head(&key).await?.filter(is_so) else { return Ok(None) };
        // Its entries first: what is broken off here is found again by the document.
        for prefix in [entries(kind, id), places(kind, id)] {
            loop {
                let found = self.kv.scan(Scan::of(prefix.clone(), BATCH)).await?;
                let done = found.len() < BATCH;
                if !found.is_empty() {
                    self.kv.write(found.into_iter().map(|(key, _)| Change::Remove(key)).collect()).await?;
                }
                if done {
                    break;
                }
            }
        }
        let mut changes: Vec<_> = head.index(kind, id).into_iter().map(Change::Remove).collect();
        changes.push(Change::Remove(key));
        self.kv.write(changes).await?;
        Ok(Some(head))
    }

    /// The documents of `owner`, in the order they were first put; `None` if `page.after` is none of them.
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
                if let Some(value) = value {
                    found.extend(self.read(key, id, &value)?);
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

    /// Adds entries at the document's end, in their order; one whose id is there takes the earlier one's place. Whether
    /// the document is there, the caller knows.
    pub async fn append(&self, kind: DocumentKind, id: &str, added: Vec<Entry>) -> Result<(), StoreError> {
        self.has_room(added.iter().map(|entry| entry.body.len()).sum())?;
        let place =
            |entry: &Entry| place(kind, id, &entry.id).ok_or_else(|| unreadable(&"an id that is none"));
        let places: Vec<_> = added.iter().map(place).collect::<Result<_, _>>()?;
        let _one = self.changing.lock().await;
        let mut earlier = Vec::with_capacity(places.len());
        for places in places.chunks(BATCH) {
            earlier.extend(self.kv.get(places.to_vec()).await?);
        }
        let mut changes = Vec::with_capacity(2 * added.len());
        // Together: what is added at once stands side by side.
        let orders = self.next(added.len() as u64)..;
        for (((entry, place), earlier), next) in added.into_iter().zip(places).zip(earlier).zip(orders) {
            let order = earlier.as_deref().and_then(order_of).unwrap_or(next);
            let key = ordered(&entries(kind, id), order, &entry.id);
            let body = self.codec.wrap(&key, &entry.body)?;
            changes.push(Change::Put(key, body));
            changes.push(Change::Put(place, order.to_be_bytes().to_vec()));
        }
        self.kv.write(changes).await
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
        let _one = self.changing.lock().await;
        let Some(key) = self.entry_key(kind, id, entry).await? else { return Ok(false) };
        let mut changes = vec![Change::Remove(key)];
        changes.extend(place(kind, id, entry).map(Change::Remove));
        self.kv.write(changes).await?;
        Ok(true)
    }

    /// The entries of a document, in order; `None` if `page.after` is none of them.
    pub async fn entries(
        &self,
        kind: DocumentKind,
        id: &str,
        page: Page<'_>,
    ) -> Result<Option<Listed<Entry>>, StoreError> {
        if !is_id(id) {
            return Ok(None);
        }
        let prefix = entries(kind, id);
        let after = match page.after {
            None => None,
            Some(after) => match self.entry_key(kind, id, after).await? {
                Some(key) => Some(key),
                None => return Ok(None),
            },
        };
        let mut pairs =
            self.kv.scan(part(&prefix, after.as_deref(), page.limit + 1, page.descending)).await?;
        let has_more = pairs.len() > page.limit;
        pairs.truncate(page.limit);
        let entry = |(key, value): (Vec<u8>, Vec<u8>)| {
            let id = id_in(&prefix, &key).ok_or_else(|| unreadable(&"an entry has no id"))?;
            Ok(Entry { id, body: self.codec.unwrap(&key, &value)? })
        };
        let found = pairs.into_iter().map(entry).collect::<Result<_, _>>()?;
        Ok(Some(Listed { found, has_more }))
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
                self.kv.write(vec![Change::Remove(listed)]).await?;
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

    /// The first of `count` places after all that were given here, and after those of earlier processes.
    fn next(&self, count: u64) -> u64 {
        let now = micros(SystemTime::now());
        let next = |last: u64| now.max(last + 1);
        self.last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last) + count))
            .map_or(now, next)
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

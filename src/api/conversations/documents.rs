//! Conversations as documents: one each, and an entry for each item, in the form that goes to the model.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};

use crate::api::error::ApiError;
use crate::model::{Item, KeyId};
use crate::store::{Document, DocumentKind, Documents, Entry, Listed, Page};

const KIND: DocumentKind = DocumentKind::Conversation;
/// Entries read at once.
const BATCH: usize = 256;
/// Conversations that can be changed at once.
const LOCKS: usize = 64;

/// All conversations. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Conversations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    documents: Arc<Documents>,
    /// Each lives this long after its last change.
    ttl: Duration,
    /// Most items that one may have to be gone on with.
    most_items: usize,
    /// Changes of one conversation come one after the other, so that none undoes another; a lock is shared by many.
    locks: Vec<Mutex<()>>,
    hasher: RandomState,
}

/// A conversation without its items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conversation {
    pub(crate) id: String,
    pub(crate) head: Head,
}

/// What the document says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Unix seconds.
    pub(crate) created_at: u64,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// An item with the id that it has in its conversation.
pub(crate) type Named = (String, Item);

/// What becomes of an item whose id another one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clash {
    /// Nothing is added.
    Refuse,
    /// It gets another id: what was said is not lost for it.
    Rename,
}

impl Conversations {
    pub(crate) fn new(documents: Arc<Documents>, ttl: Duration, most_items: usize) -> Self {
        let locks = (0..LOCKS).map(|_| Mutex::default()).collect();
        Self(Arc::new(Inner { documents, ttl, most_items, locks, hasher: RandomState::new() }))
    }

    /// Begins one with `items`.
    pub(crate) async fn create(
        &self,
        owner: &KeyId,
        metadata: BTreeMap<String, String>,
        items: Vec<Item>,
    ) -> Result<Conversation, ApiError> {
        let id = format!("conv_{}", uuid::Uuid::new_v4().simple());
        let created_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let conversation = Conversation { id, head: Head { created_at, metadata } };
        let items = named(items);
        // Before anything is kept.
        check_ids(&items, &HashSet::new())?;
        self.put(owner, &conversation).await?;
        self.add(&conversation.id, &items).await?;
        Ok(conversation)
    }

    /// The conversation of `owner`'s; that of another is not there.
    pub(crate) async fn find(&self, id: &str, owner: &KeyId) -> Result<Conversation, ApiError> {
        let found = self.0.documents.get(KIND, id).await?.filter(|found| found.owner == *owner);
        let head = found.and_then(|found| serde_json::from_slice(&found.body).ok());
        head.map(|head| Conversation { id: id.to_owned(), head }).ok_or_else(|| not_found(id))
    }

    /// Gives it other metadata.
    pub(crate) async fn update(
        &self,
        id: &str,
        owner: &KeyId,
        metadata: BTreeMap<String, String>,
    ) -> Result<Conversation, ApiError> {
        let _change = self.change(id).await;
        let mut conversation = self.find(id, owner).await?;
        conversation.head.metadata = metadata;
        self.put(owner, &conversation).await?;
        Ok(conversation)
    }

    pub(crate) async fn delete(&self, id: &str, owner: &KeyId) -> Result<(), ApiError> {
        let _change = self.change(id).await;
        self.find(id, owner).await?;
        self.0.documents.delete(KIND, id).await?;
        Ok(())
    }

    /// Adds items at the end, all of them or none; what `clash` says becomes of one whose id is there already.
    pub(crate) async fn append(
        &self,
        id: &str,
        owner: &KeyId,
        mut items: Vec<Named>,
        clash: Clash,
    ) -> Result<Vec<Named>, ApiError> {
        let _change = self.change(id).await;
        let conversation = self.find(id, owner).await?;
        let mut there = HashSet::new();
        for (name, _) in &items {
            if self.0.documents.entry(KIND, id, name).await?.is_some() {
                there.insert(name.clone());
            }
        }
        match clash {
            Clash::Refuse => check_ids(&items, &there)?,
            Clash::Rename => {
                for (name, item) in &mut items {
                    if !there.insert(name.clone()) {
                        *name = fresh_id(item);
                    }
                }
            }
        }
        self.add(id, &items).await?;
        // It lives anew.
        self.put(owner, &conversation).await?;
        Ok(items)
    }

    /// All items, oldest first; refused where they are too many for a request.
    pub(crate) async fn items(&self, id: &str, owner: &KeyId) -> Result<Vec<Named>, ApiError> {
        self.find(id, owner).await?;
        let mut items: Vec<Named> = Vec::new();
        loop {
            let after = items.last().map(|(id, _)| id.clone());
            let page = Page { after: after.as_deref(), limit: BATCH, descending: false };
            // The last one may just have been deleted: what follows it is not known any more.
            let listed = self.0.documents.entries(KIND, id, page).await?.ok_or_else(|| not_found(id))?;
            items.extend(listed.found.into_iter().filter_map(read));
            if items.len() > self.0.most_items {
                let message = format!(
                    "The conversation has more than {} items: delete some, or begin another one.",
                    self.0.most_items
                );
                return Err(ApiError::new("conversation_too_long", message));
            }
            if !listed.has_more {
                return Ok(items);
            }
        }
    }

    /// A page of them; `None` if what it is to follow is not there.
    pub(crate) async fn page(
        &self,
        id: &str,
        owner: &KeyId,
        page: Page<'_>,
    ) -> Result<Option<Listed<Named>>, ApiError> {
        self.find(id, owner).await?;
        let listed = self.0.documents.entries(KIND, id, page).await?;
        Ok(listed.map(|listed| Listed {
            found: listed.found.into_iter().filter_map(read).collect(),
            has_more: listed.has_more,
        }))
    }

    pub(crate) async fn item(&self, id: &str, owner: &KeyId, item: &str) -> Result<Named, ApiError> {
        self.find(id, owner).await?;
        let entry = self.0.documents.entry(KIND, id, item).await?;
        entry.and_then(read).ok_or_else(|| item_not_found(id, item))
    }

    /// Takes an item out of it.
    pub(crate) async fn remove(&self, id: &str, owner: &KeyId, item: &str) -> Result<Conversation, ApiError> {
        let _change = self.change(id).await;
        let conversation = self.find(id, owner).await?;
        if !self.0.documents.remove_entry(KIND, id, item).await? {
            return Err(item_not_found(id, item));
        }
        self.put(owner, &conversation).await?;
        Ok(conversation)
    }

    async fn change(&self, id: &str) -> MutexGuard<'_, ()> {
        let hash = self.0.hasher.hash_one(id);
        let at = usize::try_from(hash % self.0.locks.len() as u64).unwrap_or_default();
        self.0.locks[at].lock().await
    }

    async fn put(&self, owner: &KeyId, conversation: &Conversation) -> Result<(), ApiError> {
        let body = serde_json::to_vec(&conversation.head).unwrap_or_default();
        let expires_at = SystemTime::now().checked_add(self.0.ttl);
        let (id, owner) = (conversation.id.clone(), owner.clone());
        Ok(self.0.documents.put(KIND, &Document { id, owner, expires_at, body }).await?)
    }

    async fn add(&self, id: &str, items: &[Named]) -> Result<(), ApiError> {
        if items.is_empty() {
            return Ok(());
        }
        let entry =
            |(id, item): &Named| Entry { id: id.clone(), body: serde_json::to_vec(item).unwrap_or_default() };
        Ok(self.0.documents.append(KIND, id, items.iter().map(entry).collect()).await?)
    }
}

/// Items by the ids they have.
pub(crate) fn named(items: Vec<Item>) -> Vec<Named> {
    items.into_iter().map(|item| name(item.id().map(str::to_owned), item)).collect()
}

/// An item by `id`, or by a fresh one.
pub(crate) fn name(id: Option<String>, item: Item) -> Named {
    (id.unwrap_or_else(|| fresh_id(&item)), item)
}

fn fresh_id(item: &Item) -> String {
    format!("{}_{}", prefix(item), uuid::Uuid::new_v4().simple())
}

/// As the official ids of items begin.
fn prefix(item: &Item) -> &'static str {
    match item.kind() {
        "message" => "msg",
        "reasoning" => "rs",
        "function_call" => "fc",
        "function_call_output" => "fco",
        "custom_tool_call" => "ctc",
        "custom_tool_call_output" => "ctco",
        "web_search_call" => "ws",
        "image_generation_call" => "ig",
        "compaction" => "cmp",
        _ => "item",
    }
}

/// No two items of a conversation have one id.
pub(crate) fn check_ids(items: &[Named], there: &HashSet<String>) -> Result<(), ApiError> {
    let mut met = HashSet::new();
    for (id, _) in items {
        if there.contains(id) || !met.insert(id) {
            let message = format!(
                "Duplicate item found with id {id}. Remove duplicate items from your input and try again."
            );
            return Err(ApiError::invalid("input", message).with_code("duplicate_item"));
        }
    }
    Ok(())
}

fn read(entry: Entry) -> Option<Named> {
    Some((entry.id, Item::new(serde_json::from_slice(&entry.body).ok()?)))
}

fn not_found(id: &str) -> ApiError {
    ApiError::new("conversation_not_found", format!("Conversation with id '{id}' not found."))
}

fn item_not_found(id: &str, item: &str) -> ApiError {
    let message = format!("Item with id '{item}' not found in conversation '{id}'.");
    ApiError::new("item_not_found", message)
}

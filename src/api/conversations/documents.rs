//! Conversations as documents: one each, and an entry for each item, in the form that goes to the model.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};

use crate::api::error::ApiError;
use crate::model::{Item, KeyId, ResponseId};
use crate::store::{Document, DocumentKind, Documents, Entry, Listed, Page};

const KIND: DocumentKind = DocumentKind::Conversation;
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
    /// The background response that goes on with it, from its beginning on: another one that has ended has left it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) taken_by: Option<String>,
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
        let conversation = Conversation { id, head: Head { created_at, metadata, taken_by: None } };
        let items = named(items);
        // Before anything is kept.
        check_ids(&items, &HashSet::new())?;
        let (document, entries) = (self.document(owner, &conversation), entries(&items));
        self.0.documents.put_with(KIND, &document, &entries).await?;
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
        self.find(id, owner).await?;
        let mut there = HashSet::new();
        for (name, _) in &items {
            if self.0.documents.entry(KIND, id, name).await?.is_some() {
                there.insert(name.clone());
            }
        }
        match clash {
            Clash::Refuse => check_ids(&items, &there)?,
            Clash::Rename => {
                self.leave_answered_out(id, &mut items).await?;
                for (name, item) in &mut items {
                    if !there.insert(name.clone()) {
                        *name = fresh_id(item);
                    }
                }
            }
        }
        self.add(id, &items).await?;
        self.renew(id).await?;
        Ok(items)
    }

    /// Lets `response` alone go on with it. `over` is one that had it and has ended; any other one still has it.
    pub(crate) async fn take(
        &self,
        id: &str,
        owner: &KeyId,
        response: &ResponseId,
        over: Option<&ResponseId>,
    ) -> Result<(), ApiError> {
        let _change = self.change(id).await;
        let mut conversation = self.find(id, owner).await?;
        let holder = conversation.head.taken_by.as_deref().filter(|holder| *holder != response.as_str());
        if holder.is_some_and(|holder| Some(holder) != over.map(ResponseId::as_str)) {
            return Err(locked());
        }
        if conversation.head.taken_by.as_deref() == Some(response.as_str()) {
            return Ok(());
        }
        conversation.head.taken_by = Some(response.as_str().to_owned());
        self.put(owner, &conversation).await?;
        // Another bridge may have done the same: the later one has it.
        let now = self.find(id, owner).await?.head.taken_by;
        if now.as_deref() == Some(response.as_str()) { Ok(()) } else { Err(locked()) }
    }

    /// Gives it back, with nothing added.
    pub(crate) async fn give_back(
        &self,
        id: &str,
        owner: &KeyId,
        response: &ResponseId,
    ) -> Result<(), ApiError> {
        let _change = self.change(id).await;
        let mut conversation = self.find(id, owner).await?;
        if conversation.head.taken_by.as_deref() != Some(response.as_str()) {
            return Ok(());
        }
        conversation.head.taken_by = None;
        self.put(owner, &conversation).await
    }

    /// Adds at the end what `response` was given and has said, and gives the conversation back. What was added
    /// before, as far as this came then, is not added again.
    pub(crate) async fn append_once(
        &self,
        id: &str,
        owner: &KeyId,
        mut items: Vec<Named>,
        response: &ResponseId,
    ) -> Result<(), ApiError> {
        let _change = self.change(id).await;
        let mut conversation = self.find(id, owner).await?;
        self.leave_answered_out(id, &mut items).await?;
        let mut fresh: Vec<Named> = Vec::new();
        for (name, item) in items {
            // Another one of that id: what was said is not lost for it.
            for name in [name.clone(), format!("{name}_{response}")] {
                let there = self.0.documents.entry(KIND, id, &name).await?.and_then(read);
                let is_met = fresh.iter().any(|(met, _)| *met == name);
                match there {
                    Some((_, there)) if there == item => break,
                    None if !is_met => {
                        fresh.push((name, item));
                        break;
                    }
                    _ => {}
                }
            }
        }
        self.add(id, &fresh).await?;
        if conversation.head.taken_by.as_deref() == Some(response.as_str()) {
            conversation.head.taken_by = None;
        }
        self.put(owner, &conversation).await
    }

    /// Drops the outputs whose calls have one by now: another turn has given it meanwhile, and a call with two makes a
    /// conversation that nobody can go on with.
    async fn leave_answered_out(&self, id: &str, items: &mut Vec<Named>) -> Result<(), ApiError> {
        if !items.iter().any(|(_, item)| answered(item).is_some()) {
            return Ok(());
        }
        let all = Page { after: None, limit: usize::MAX - 1, descending: false };
        let call =
            |entry: Entry| answered(&read(entry)?.1).map(|(kind, call)| (kind.to_owned(), call.to_owned()));
        let listed = self.0.documents.entries_as(KIND, id, all, call).await?;
        let there: HashSet<(String, String)> =
            listed.map(|listed| listed.found).unwrap_or_default().into_iter().collect();
        items.retain(|(_, item)| {
            answered(item).is_none_or(|(kind, call)| !there.contains(&(kind.to_owned(), call.to_owned())))
        });
        Ok(())
    }

    /// All items, oldest first; refused where they are too many for a request.
    pub(crate) async fn items(&self, id: &str, owner: &KeyId) -> Result<Vec<Named>, ApiError> {
        self.find(id, owner).await?;
        let all = Page { after: None, limit: self.0.most_items, descending: false };
        let listed = self.0.documents.entries_as(KIND, id, all, read).await?.ok_or_else(|| not_found(id))?;
        if listed.has_more {
            let message = format!(
                "The conversation has more than {} items: delete some, or begin another one.",
                self.0.most_items
            );
            return Err(ApiError::new("conversation_too_long", message));
        }
        Ok(listed.found)
    }

    /// A page of what `show` makes of them; `None` if what it is to follow is not there.
    pub(crate) async fn page<T: Send>(
        &self,
        id: &str,
        owner: &KeyId,
        page: Page<'_>,
        show: impl Fn(&Named) -> Option<T> + Send + Sync,
    ) -> Result<Option<Listed<T>>, ApiError> {
        self.find(id, owner).await?;
        let shown = |entry: Entry| show(&read(entry)?);
        Ok(self.0.documents.entries_as(KIND, id, page, shown).await?)
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
        self.renew(id).await?;
        Ok(conversation)
    }

    async fn change(&self, id: &str) -> MutexGuard<'_, ()> {
        let hash = self.0.hasher.hash_one(id);
        let at = usize::try_from(hash % self.0.locks.len() as u64).unwrap_or_default();
        self.0.locks[at].lock().await
    }

    /// Keeps another head, unless somebody has deleted it meanwhile.
    async fn put(&self, owner: &KeyId, conversation: &Conversation) -> Result<(), ApiError> {
        let is_there = self.0.documents.replace(KIND, &self.document(owner, conversation)).await?;
        if is_there { Ok(()) } else { Err(not_found(&conversation.id)) }
    }

    /// It lives anew.
    async fn renew(&self, id: &str) -> Result<(), ApiError> {
        let is_there = self.0.documents.touch(KIND, id, self.expires_at()).await?;
        if is_there { Ok(()) } else { Err(not_found(id)) }
    }

    fn document(&self, owner: &KeyId, conversation: &Conversation) -> Document {
        let body = serde_json::to_vec(&conversation.head).unwrap_or_default();
        let (id, owner) = (conversation.id.clone(), owner.clone());
        Document { id, owner, expires_at: self.expires_at(), body }
    }

    fn expires_at(&self) -> Option<SystemTime> {
        SystemTime::now().checked_add(self.0.ttl)
    }

    async fn add(&self, id: &str, items: &[Named]) -> Result<(), ApiError> {
        if items.is_empty() || self.0.documents.append(KIND, id, entries(items)).await? {
            return Ok(());
        }
        Err(not_found(id))
    }
}

/// A background response goes on with it.
pub(crate) fn locked() -> ApiError {
    let message =
        "Another process is currently operating on this conversation. Please retry in a few seconds.";
    ApiError::invalid("conversation", message).with_code("conversation_locked")
}

/// Items by the ids they have; those without one by the same each time they are part of `response`.
pub(crate) fn named_in(items: Vec<Item>, response: &ResponseId) -> Vec<Named> {
    let response = response.as_str();
    let response = response.strip_prefix("resp_").unwrap_or(response);
    let name_of = |(index, item): (usize, Item)| {
        let id = item.id().map_or_else(|| format!("{}_{response}i{index:04x}", prefix(&item)), str::to_owned);
        (id, item)
    };
    items.into_iter().enumerate().map(name_of).collect()
}

fn entries(items: &[Named]) -> Vec<Entry> {
    let entry =
        |(id, item): &Named| Entry { id: id.clone(), body: serde_json::to_vec(item).unwrap_or_default() };
    items.iter().map(entry).collect()
}

/// The call that an output answers, and what kind of output it is.
fn answered(item: &Item) -> Option<(&str, &str)> {
    let kind = item.kind();
    kind.ends_with("_output").then(|| item.str("call_id")).flatten().map(|call| (kind, call))
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

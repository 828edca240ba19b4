//! Items that a client refers to by their id in place of sending them back, as it may with a service that stores
//! them: `item_reference`, and reasoning without its encrypted content.
//!
//! In memory, by key and login, bounded; past the bounds what was not used for longest goes. A restart forgets them
//! all, and the deletion of a response what it said.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::BridgeError;
use crate::model::{Item, KeyId, PackedItems, ResponseId};

/// Most bytes of items, about.
const MAX_BYTES: usize = 32 << 20;
/// What an entry takes beside its item, bytes, about.
const OVERHEAD: usize = 256;

/// Whose items they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Holder {
    pub(super) key: KeyId,
    /// The login they were said under.
    pub(super) account: Option<String>,
}

/// Whose item, and its id.
type Name = (Holder, Box<str>);

/// The items that can be referred to.
#[derive(Debug)]
pub(super) struct References {
    /// Never held across an await.
    kept: Mutex<Kept>,
    ttl: Duration,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<Name, Entry>,
    /// By last use, oldest first: one for each entry.
    order: BTreeMap<u64, Name>,
    next: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    item: PackedItems,
    /// What said it.
    response: ResponseId,
    place: u64,
    last_used: Instant,
}

impl References {
    /// Each item can be referred to for `ttl` after its last use.
    pub(super) fn new(ttl: Duration) -> Self {
        Self { kept: Mutex::default(), ttl }
    }

    /// Keeps what the model said to `owner` in `response`.
    pub(super) fn remember<'a>(
        &self,
        owner: &Holder,
        response: &ResponseId,
        output: impl Iterator<Item = &'a Item>,
    ) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.expire(self.ttl);
        for item in output {
            if let Some(id) = item.id() {
                let item = PackedItems::pack(std::slice::from_ref(item));
                kept.insert((owner.clone(), id.into()), item, response.clone());
            }
        }
    }

    /// Forgets what `response` has said to `key`, under whatever login.
    pub(super) fn forget(&self, key: &KeyId, response: &ResponseId) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let said = kept
            .entries
            .iter()
            .filter(|((owner, _), entry)| owner.key == *key && entry.response == *response);
        let said: Vec<Name> = said.map(|(name, _)| name.clone()).collect();
        for name in &said {
            kept.forget(name);
        }
    }

    /// Puts the items that `input` refers to in their places. Gives what stood there.
    pub(super) fn resolve(
        &self,
        owner: &Holder,
        input: &mut [Item],
    ) -> Result<Vec<(usize, Item)>, BridgeError> {
        let refers = |item: &Item| is_reference(item) || is_bare_reasoning(item);
        let mut replaced = Vec::new();
        if !input.iter().any(refers) {
            return Ok(replaced);
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.expire(self.ttl);
        for (index, item) in input.iter_mut().enumerate().filter(|(_, item)| refers(item)) {
            let id = item.id().unwrap_or_default();
            match kept.find(&(owner.clone(), id.into())) {
                Some(found) if is_reference(item) || found.kind() == "reasoning" => {
                    replaced.push((index, std::mem::replace(item, found)));
                }
                // Left where it is; whoever sends items on leaves it out.
                _ if !is_reference(item) => {}
                _ => {
                    return Err(BridgeError::InvalidRequest {
                        message: format!(
                            "Item with id '{id}' not found. Send the item itself, or `previous_response_id`."
                        ),
                        param: Some(format!("input[{index}]")),
                        code: None,
                    });
                }
            }
        }
        Ok(replaced)
    }
}

impl Kept {
    fn insert(&mut self, name: Name, item: PackedItems, response: ResponseId) {
        self.forget(&name);
        self.bytes += item.weight() + OVERHEAD;
        self.order.insert(self.next, name.clone());
        self.entries.insert(name, Entry { item, response, place: self.next, last_used: Instant::now() });
        self.next += 1;
        while self.bytes > MAX_BYTES {
            self.forget_oldest();
        }
    }

    fn find(&mut self, name: &Name) -> Option<Item> {
        let entry = self.entries.get_mut(name)?;
        self.order.remove(&entry.place);
        self.order.insert(self.next, name.clone());
        (entry.place, entry.last_used) = (self.next, Instant::now());
        self.next += 1;
        entry.item.unpack().next()
    }

    fn expire(&mut self, ttl: Duration) {
        while let Some(name) = self.order.values().next()
            && self.entries.get(name).is_none_or(|entry| entry.last_used.elapsed() >= ttl)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(name) = self.order.values().next().cloned() {
            self.forget(&name);
        }
    }

    fn forget(&mut self, name: &Name) {
        if let Some(entry) = self.entries.remove(name) {
            self.order.remove(&entry.place);
            self.bytes -= entry.item.weight() + OVERHEAD;
        }
    }
}

fn is_reference(item: &Item) -> bool {
    item.kind() == "item_reference"
}

/// Reasoning without its encrypted content: a client left that out, or a fork never told it. What is not found
/// again says nothing to a model, and is no part of what a thread is given or has said.
pub(super) fn is_bare_reasoning(item: &Item) -> bool {
    item.kind() == "reasoning" && item.str("encrypted_content").is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(value: serde_json::Value) -> Item {
        Item::from_value(value).unwrap()
    }

    fn thought() -> Item {
        item(json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e"}))
    }

    fn reference(id: &str) -> Item {
        item(json!({"type": "item_reference", "id": id}))
    }

    fn owner(key: &str, account: &str) -> Holder {
        Holder { key: KeyId::new(key), account: Some(account.to_owned()) }
    }

    fn kept() -> References {
        let references = References::new(Duration::from_secs(60));
        references.remember(&owner("k", "a"), &ResponseId::new("1"), [thought()].iter());
        references
    }

    fn resolved(references: &References, key: &str, given: Item) -> Result<Item, String> {
        resolved_for(references, &owner(key, "a"), given)
    }

    fn resolved_for(references: &References, owner: &Holder, given: Item) -> Result<Item, String> {
        let mut input = [Item::input_text("user", "hi"), given.clone()];
        let result = references.resolve(owner, &mut input);
        if let Ok(replaced) = &result {
            let is_other = input[1] != given;
            assert_eq!(*replaced, Vec::from_iter(is_other.then_some((1, given))));
        }
        result.map(|_| input[1].clone()).map_err(|error| match error {
            BridgeError::InvalidRequest { param, .. } => param.unwrap_or_default(),
            other => other.to_string(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_reference_becomes_its_item_for_the_key_it_was_said_to() {
        let references = kept();
        assert_eq!(resolved(&references, "k", reference("rs_1")), Ok(thought()));
        assert_eq!(resolved(&references, "other", reference("rs_1")), Err("input[1]".into()));
        assert_eq!(resolved(&references, "k", reference("rs_2")), Err("input[1]".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn reasoning_gets_back_what_its_client_left_out() {
        let references = kept();
        let bare =
            |id: &str| item(json!({"type": "reasoning", "id": id, "summary": [], "encrypted_content": null}));
        assert_eq!(resolved(&references, "k", bare("rs_1")), Ok(thought()));
        assert_eq!(resolved(&references, "k", bare("rs_2")), Ok(bare("rs_2")));
        let whole =
            item(json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "own"}));
        assert_eq!(resolved(&references, "k", whole.clone()), Ok(whole));
    }

    #[tokio::test(start_paused = true)]
    async fn another_login_is_given_nothing() {
        let references = kept();
        let other = owner("k", "b");
        assert_eq!(resolved_for(&references, &other, reference("rs_1")), Err("input[1]".into()));
        let bare = item(json!({"type": "reasoning", "id": "rs_1", "summary": []}));
        assert_eq!(resolved_for(&references, &other, bare.clone()), Ok(bare));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_response_takes_its_items_with_it() {
        let references = kept();
        references.forget(&KeyId::new("other"), &ResponseId::new("1"));
        references.forget(&KeyId::new("k"), &ResponseId::new("2"));
        assert!(resolved(&references, "k", reference("rs_1")).is_ok());
        references.forget(&KeyId::new("k"), &ResponseId::new("1"));
        assert!(resolved(&references, "k", reference("rs_1")).is_err());
        assert_eq!(references.kept.lock().unwrap().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_goes_after_its_last_use() {
        let references = kept();
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(resolved(&references, "k", reference("rs_1")).is_ok());
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(resolved(&references, "k", reference("rs_1")).is_ok());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(resolved(&references, "k", reference("rs_1")).is_err());
        assert_eq!(references.kept.lock().unwrap().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn past_the_bytes_the_least_recently_used_goes() {
        let references = kept();
        let text = "x".repeat(MAX_BYTES / 3);
        let message = |id: &str| {
            item(json!({"type": "message", "id": id, "role": "assistant", "content": [{"text": text}]}))
        };
        for id in ["a", "b"] {
            references.remember(&owner("k", "a"), &ResponseId::new("1"), [message(id)].iter());
        }
        assert!(resolved(&references, "k", reference("rs_1")).is_ok());
        references.remember(&owner("k", "a"), &ResponseId::new("1"), [message("c")].iter());
        let there = |id: &str| resolved(&references, "k", reference(id)).is_ok();
        assert_eq!((there("rs_1"), there("a"), there("b"), there("c")), (true, false, true, true));
        let kept = references.kept.lock().unwrap();
        assert_eq!(kept.order.len(), kept.entries.len());
    }
}

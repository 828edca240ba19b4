//! The continuation record.

use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{IncompleteReason, Item, KeyId, ResponseId, Route, SessionId, ThreadId, TurnId, Usage};

/// What is kept of one response.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredResponse {
    /// Its own id.
    pub id: ResponseId,
    /// The response it continues.
    pub previous: Option<ResponseId>,
    /// Whose it is: another key's record is a missing one.
    pub key: KeyId,
    /// The login it was made under; `None` where the provider wants none.
    pub account: Option<String>,
    /// The caller's conversation.
    pub session: SessionId,
    /// Whether the caller named it, rather than the bridge.
    pub session_by_caller: bool,
    /// Catalogue id of the model that answered.
    pub model: String,
    /// Where its turn ran.
    pub route: Route,
    /// The native thread.
    pub thread: ThreadId,
    /// The native turn.
    pub turn: TurnId,
    /// Of the app-server's connection.
    pub generation: u64,
    /// The upstream response's own id.
    pub upstream_response_id: Option<String>,
    /// New items in, this response's only; before them what the store lacks of the chain.
    pub input: Vec<Item>,
    /// How many of them are this response's own: the last ones.
    pub own_input: usize,
    /// Items out.
    pub output: Vec<Item>,
    /// Calls without an output yet, by call id.
    pub open_calls: Vec<String>,
    /// Figures of the upstream response.
    pub usage: Option<Usage>,
    /// Why the answer is not whole.
    pub incomplete: Option<IncompleteReason>,
    /// What the edge wants to have back with it.
    pub head: Option<Arc<str>>,
    /// Responses in the chain, this one included.
    pub chain_length: u32,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it was last continued or read.
    pub last_used_at: SystemTime,
    /// When it goes.
    pub expires_at: SystemTime,
}

/// A record with what was said before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    /// The record asked for.
    pub record: StoredResponse,
    /// The items of each earlier response, input then output, oldest first.
    pub before: Vec<Vec<Item>>,
}

/// What a look-up found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup<T> {
    /// It is there.
    Found(T),
    /// It was there, and its time is up.
    Expired,
    /// It was there, and was deleted.
    Deleted,
    /// It was never there, or is gone for good.
    Unknown,
}

impl<T> Lookup<T> {
    /// What was found, changed by `change`.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Lookup<U> {
        match self {
            Self::Found(found) => Lookup::Found(change(found)),
            Self::Expired => Lookup::Expired,
            Self::Deleted => Lookup::Deleted,
            Self::Unknown => Lookup::Unknown,
        }
    }

    /// What was found, changed by a `change` that may fail.
    pub fn try_map<U, E>(self, change: impl FnOnce(T) -> Result<U, E>) -> Result<Lookup<U>, E> {
        match self.map(change) {
            Lookup::Found(changed) => changed.map(Lookup::Found),
            Lookup::Expired => Ok(Lookup::Expired),
            Lookup::Deleted => Ok(Lookup::Deleted),
            Lookup::Unknown => Ok(Lookup::Unknown),
        }
    }
}

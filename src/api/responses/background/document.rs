//! What is kept of a background response while it is no stored one: enough to run it again.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::api::error::ApiError;
use crate::api::lease::Leased;
use crate::model::{Item, KeyId, Priority, RequestId, ResponseId};
use crate::store::{Document, DocumentKind, StoreError};

/// The document's body.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The body as given.
    pub(super) request: Map<String, Value>,
    /// What the request's head says, but secrets.
    head: Vec<(String, String)>,
    request_id: String,
    /// `interactive` or `batch`.
    priority: String,
    max_wait_ms: Option<u64>,
    /// Unix seconds.
    pub(super) created_at: u64,
    /// Whether its events can be streamed.
    pub(super) streamed: bool,
    /// How often it was begun.
    pub(super) attempts: u32,
    /// Whether a reader may have seen a part of the answer.
    pub(super) emitted: bool,
    /// The response object as it was last.
    pub(super) object: Value,
    /// What the model is given of the request's own, whatever had to be fetched for it.
    #[serde(default)]
    input: Vec<Map<String, Value>>,
}

/// How a request was asked, beside its body.
#[derive(Debug)]
pub(super) struct Manner {
    pub(super) head: Vec<(String, String)>,
    pub(super) request_id: RequestId,
    pub(super) priority: Priority,
    pub(super) max_wait: Option<std::time::Duration>,
}

impl Leased for Kept {
    const KIND: DocumentKind = DocumentKind::Background;

    fn of(document: &Document) -> Result<Self, StoreError> {
        serde_json::from_slice(&document.body)
            .map_err(|error| StoreError::Unreadable { reason: error.to_string() })
    }
}

impl Kept {
    pub(super) fn new(request: Map<String, Value>, manner: &Manner, created_at: u64) -> Self {
        let millis = |wait: std::time::Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self {
            request,
            head: manner.head.clone(),
            request_id: manner.request_id.as_str().to_owned(),
            priority: manner.priority.as_str().to_owned(),
            max_wait_ms: manner.max_wait.map(millis),
            created_at,
            streamed: false,
            attempts: 0,
            emitted: false,
            object: Value::Null,
            input: Vec::new(),
        }
    }

    pub(super) fn set_input(&mut self, items: &[Item]) {
        self.input = items.iter().map(|item| item.fields().clone()).collect();
    }

    /// The response that it goes on with.
    pub(super) fn previous(&self) -> Option<ResponseId> {
        self.request.get("previous_response_id").and_then(Value::as_str).map(ResponseId::new)
    }

    /// The conversation that it goes on with.
    pub(super) fn conversation(&self) -> Option<&str> {
        let conversation = self.request.get("conversation")?;
        conversation.as_str().or_else(|| conversation.get("id")?.as_str())
    }

    pub(super) fn input(self) -> Vec<Item> {
        self.input.into_iter().map(Item::new).collect()
    }

    /// The response object.
    pub(crate) fn object(&self) -> &Value {
        &self.object
    }

    pub(crate) fn is_streamed(&self) -> bool {
        self.streamed
    }

    pub(super) fn written(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn manner(&self) -> Manner {
        Manner {
            head: self.head.clone(),
            request_id: RequestId::new(self.request_id.as_str()),
            priority: Priority::named(&self.priority).unwrap_or(Priority::Batch),
            max_wait: self.max_wait_ms.map(std::time::Duration::from_millis),
        }
    }

    /// Whether the response has ended, one way or another.
    pub(super) fn is_over(&self) -> bool {
        is_over(&self.object)
    }

    /// The object of a response that has failed before its answer had begun.
    pub(super) fn failed(&mut self, error: &ApiError) {
        self.object["status"] = "failed".into();
        self.object["error"] = json!({ "code": error.response_code(), "message": error.named_message() });
    }

    /// The same of one that waits, again.
    pub(super) fn queued(&mut self) {
        self.object["status"] = "queued".into();
    }

    /// The same of one that was cancelled.
    pub(super) fn cancelled(&mut self) {
        self.object["status"] = "cancelled".into();
    }
}

impl Manner {
    pub(super) fn headers(&self) -> HeaderMap {
        let pair = |(name, value): &(String, String)| {
            Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in self.head.iter().filter_map(pair) {
            headers.append(name, value);
        }
        headers
    }
}

/// Whether the response of this object has ended.
pub(super) fn is_over(object: &Value) -> bool {
    !matches!(object["status"].as_str(), Some("queued" | "in_progress"))
}

/// Whose it is, and what it says.
pub(super) fn of_key(document: &Document, key: &KeyId) -> Result<Option<Kept>, StoreError> {
    (document.owner == *key).then(|| Kept::of(document)).transpose()
}

//! The answer to an open tool call, which the model's turn waits for.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::exchange::at;
use super::shared::Shared;
use crate::app_server::error::{AppServerError, DisconnectReason};
use crate::app_server::transport::MESSAGE_BYTES;
use crate::app_server::{server_requests, wire};

const METHOD: &str = "item/tool/call";

/// Takes the answer to one tool call. When the last clone is dropped without one, the call is answered as
/// failed, so that no turn waits for what will never come.
#[derive(Clone)]
pub struct ToolCallReply(Arc<Inner>);

struct Inner {
    /// Weak: an event in a thread's queue must not keep the connection that owns the queue.
    shared: Weak<Shared>,
    /// The request's id, as it came; taken by the answer.
    id: Mutex<Option<Box<RawValue>>>,
}

/// The answer to one call, as it is sent.
#[derive(Debug)]
pub struct PreparedReply(Option<Bytes>);

impl ToolCallReply {
    pub(super) fn new(shared: &Arc<Shared>, id: wire::RequestId<'_>) -> Self {
        Self(Arc::new(Inner { shared: Arc::downgrade(shared), id: Mutex::new(Some(id.to_owned())) }))
    }

    /// An answer with content items in the app-server's form, ready to be sent. Fails where it is too large; nothing
    /// is answered by that.
    pub fn prepare(&self, content: &[Value]) -> Result<PreparedReply, AppServerError> {
        let result = json!({"contentItems": content, "success": true});
        let message = match &*self.0.id() {
            Some(id) => wire::encode_result(id, &result)
                .map_err(|error| AppServerError::Unreadable { method: METHOD, reason: at(&error) })?,
            // Answered before.
            None => return Ok(PreparedReply(None)),
        };
        let bytes = message.len();
        if bytes > MESSAGE_BYTES {
            return Err(AppServerError::TooLarge { method: METHOD, bytes, limit: MESSAGE_BYTES });
        }
        Ok(PreparedReply(Some(message)))
    }

    /// Answers. A second answer is none.
    pub async fn send(&self, reply: PreparedReply) -> Result<(), AppServerError> {
        let closed = || AppServerError::Disconnected(DisconnectReason::ClosedByUs);
        let shared = self.0.shared.upgrade().ok_or_else(closed)?;
        let is_first = self.0.id().take().is_some();
        match reply.0 {
            Some(message) if is_first => shared.send(vec![message]).await,
            _ => Ok(()),
        }
    }
}

impl Inner {
    fn id(&self) -> MutexGuard<'_, Option<Box<RawValue>>> {
        self.id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let (Some(id), Some(shared)) = (self.id().take(), self.shared.upgrade()) {
            shared.answer_unanswered(&id);
        }
    }
}

impl Shared {
    fn answer_unanswered(&self, id: wire::RequestId<'_>) {
        match wire::encode_result(id, &server_requests::unanswered_call()) {
            Ok(message) => {
                // The connection is not ended here: whoever drops the call may hold the thread's queue.
                if !self.send_now(vec![message]) {
                    tracing::warn!("no room to answer a tool call: its turn waits until it is interrupted");
                }
            }
            Err(error) => tracing::warn!(error = at(&error), "an answer cannot be written"),
        }
    }
}

/// The same call.
impl PartialEq for ToolCallReply {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for ToolCallReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ToolCallReply")
    }
}

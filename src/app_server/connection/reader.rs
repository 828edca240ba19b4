//! The task that does nothing but read: it never waits for anyone, since the app-server drops a peer that
//! takes nothing for 3 s.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{Stream, StreamExt};
use jsonrpsee_types::Id;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::exchange::{Subscription, Trouble, Waiter, at};
use super::shared::Shared;
use super::tool_reply::ToolCallReply;
use crate::app_server::convert::{self, Notification};
use crate::app_server::error::DisconnectReason;
use crate::app_server::server_requests;
use crate::app_server::subscriptions::Early;
use crate::app_server::thread::ThreadEvent;
use crate::app_server::wire::{self, Incoming};
use crate::model::ThreadId;

/// Reads until the connection ends.
pub(super) async fn read<S>(mut stream: S, shared: Arc<Shared>)
where
    S: Stream<Item = Result<Message, WsError>> + Unpin,
{
    let mut reader = Reader { shared: Arc::clone(&shared), early: Early::default() };
    let mut down = std::pin::pin!(shared.down.cancelled());
    loop {
        // Both cancel-safe: a message is taken only when it is complete.
        let message = tokio::select! {
            biased;
            () = &mut down => return,
            message = stream.next() => message,
        };
        shared.seen();
        let reason = match message {
            Some(Ok(Message::Text(text))) => {
                reader.message(&text);
                continue;
            }
            // Pongs and pings need no more than to have been seen.
            Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                continue;
            }
            Some(Ok(Message::Close(frame))) => DisconnectReason::ClosedByPeer {
                code: frame.as_ref().map(|frame| frame.code.into()),
                reason: frame.map(|frame| frame.reason.to_string()).unwrap_or_default(),
            },
            Some(Err(error)) => DisconnectReason::Socket(error.to_string()),
            None => DisconnectReason::ClosedByPeer { code: None, reason: String::new() },
        };
        shared.disconnect(reason);
        return;
    }
}

struct Reader {
    shared: Arc<Shared>,
    early: Early,
}

impl Reader {
    fn message(&mut self, text: &str) {
        match Incoming::parse(text) {
            Ok(Incoming::Notification { method, params }) => self.notification(&method, params),
            Ok(Incoming::Reply { id: Id::Number(id), outcome }) => self.reply(id, outcome),
            Ok(Incoming::Reply { .. }) => tracing::debug!("a reply to a request that was never made"),
            Ok(Incoming::Request { id, method, params }) => self.request(id, &method, params),
            Err(error) => tracing::warn!(error = at(&error), "a message of the app-server cannot be read"),
        }
    }

    fn notification(&mut self, method: &str, params: &RawValue) {
        match convert::notification(method, params.get()) {
            Ok(Notification::Thread { thread, event }) => self.deliver(&thread, event),
            // Nobody listens now and then.
            Ok(Notification::Notice(notice)) => drop(self.shared.notices.send(notice)),
            Ok(Notification::Ignored) => {}
            Err(error) => tracing::warn!(method, error = at(&error), "a notification cannot be read"),
        }
    }

    fn deliver(&mut self, thread: &str, event: ThreadEvent) {
        if let Some(event) = self.shared.routes.deliver(thread, event) {
            if self.shared.starting.load(Ordering::Relaxed) > 0 {
                self.early.keep(thread, event);
            } else {
                self.early.clear();
            }
        }
    }

    fn reply(&mut self, id: u64, outcome: Result<&RawValue, wire::Refusal>) {
        // Its own statement: the lock is not held while the waiter is served.
        let waiter = self.shared.pending().take(id);
        let outcome = outcome.map_err(|refusal| Trouble::Refused(refusal.error));
        // A waiter that has left wants nothing: a thread sent to it is let go as it is dropped.
        match waiter {
            Some(Waiter::Value(waiter)) => drop(waiter.send(outcome.map(RawValue::to_owned))),
            Some(Waiter::Thread(waiter)) => {
                drop(waiter.send(outcome.and_then(|result| self.subscribe(result))));
            }
            None => {
                let abandoned = self.shared.pending().take_abandoned(id);
                if abandoned && let Ok(Ok(thread)) = outcome.map(thread_id) {
                    self.shared.let_go(&thread, false);
                }
            }
        }
    }

    fn subscribe(&mut self, result: &RawValue) -> Result<Subscription, Trouble> {
        let thread = thread_id(result).map_err(|error| Trouble::Unreadable(at(&error)))?;
        let queue = self.shared.routes.register(&thread, self.early.take(&thread));
        if self.shared.is_down() {
            // The end may have passed over the queue while it was being registered.
            queue.push(ThreadEvent::Closed(self.shared.reason()));
        }
        let shared = Arc::clone(&self.shared);
        Ok(Subscription { thread: ThreadId::new(thread), queue, shared, released: false })
    }

    fn request(&mut self, id: wire::RequestId<'_>, method: &str, params: &RawValue) {
        tracing::debug!(method, "a server request");
        if method == "item/tool/call" {
            // Dropped, the reply answers by itself: when the call cannot be read, or nobody owns its thread.
            let reply = ToolCallReply::new(&self.shared, id);
            match convert::tool_call(params.get(), reply) {
                Ok((thread, event)) => self.deliver(&thread, event),
                Err(error) => tracing::warn!(method, error = at(&error), "a tool call cannot be read"),
            }
            return;
        }
        let message = match server_requests::answer(method) {
            Ok(result) => wire::encode_result(id, &result),
            Err(error) => wire::encode_refusal(id, &error),
        };
        match message {
            Ok(message) => {
                if !self.shared.send_now(vec![message]) {
                    self.shared.disconnect(DisconnectReason::TooManyServerRequests);
                }
            }
            Err(error) => tracing::warn!(method, error = at(&error), "an answer cannot be written"),
        }
    }
}

fn thread_id(result: &RawValue) -> Result<String, serde_json::Error> {
    serde_json::from_str::<wire::ThreadResponse>(result.get()).map(|response| response.thread.id)
}

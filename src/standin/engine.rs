//! What both faces ask: a request comes in, is kept, and gets its reply.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::account::{Account, AccountChange, PLAN, RESETS_IN};
use super::answer::{Failure, Planned};
use super::conversation::Conversation;
use super::requests::{Arrival, RequestLog};
use super::script::{self, Script, Stamp};
use super::{directives, rules, unix_seconds};
use crate::tasks::Tasks;

/// Conversations that have failed `once` and not yet come back; past it the oldest is forgotten and fails again.
const MAX_FAILED_ONCE: usize = 1024;

/// One stand-in's state, shared by its connections.
pub(crate) struct Engine {
    pub(crate) requests: RequestLog,
    pub(crate) account: Account,
    /// Waited once per round trip, as if the network were that far.
    pub(crate) delay: Duration,
    /// Ends every connection.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: Tasks,
    failed_once: Mutex<VecDeque<String>>,
    open: Arc<AtomicUsize>,
}

/// An answer on its way, counted for as long as this lives.
pub(crate) struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request gets.
pub(crate) enum Reply {
    Refused(Refusal),
    Streamed(Script),
}

/// An error before anything is streamed.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// Seconds.
    pub(crate) retry_after: Option<u64>,
    /// What goes under `error`.
    pub(crate) error: Value,
}

impl Engine {
    pub(crate) fn new(delay: Duration, tasks: &Tasks) -> Self {
        let stop = tasks.stop_token().child_token();
        Self {
            requests: RequestLog::default(),
            account: Account::default(),
            delay,
            stop,
            tasks: tasks.clone(),
            failed_once: Mutex::default(),
            open: Arc::default(),
        }
    }

    /// Keeps the request and answers it. `whole` is the body with the whole conversation as its input, where
    /// `body` itself carries only what is new.
    pub(crate) fn reply(&self, arrival: Arrival, body: &Arc<Value>, whole: Option<&Value>) -> Reply {
        let whole_input = whole.map(|whole| Arc::new(whole["input"].clone()));
        self.requests.add(arrival, Arc::clone(body), whole_input);
        if self.account.is_revoked() {
            return Reply::Refused(Refusal::revoked());
        }
        let request = whole.unwrap_or(body);
        let stamp = Stamp::now();
        if request["generate"] == false {
            return Reply::Streamed(script::warm_up(request, &stamp));
        }
        if let Some(resets_at) = self.account.used_up_until() {
            return Reply::Refused(Refusal::usage_limit(resets_at));
        }
        let conversation = Conversation::read(request);
        if let Some(primary) = directives::window(conversation.last_user_text()) {
            self.account.change(AccountChange { primary: Some(primary), ..AccountChange::default() });
        }
        let answer = rules::answer(&conversation);
        let failure = answer.failure.filter(|planned| self.is_due(*planned, &conversation));
        match failure.map(|planned| planned.failure) {
            Some(Failure::Status { status, retry_after, code }) => {
                Reply::Refused(Refusal::status(status, retry_after, code))
            }
            Some(Failure::Quote) => {
                let message = format!("Invalid value: '{}'.", conversation.last_user_text());
                Reply::Refused(Refusal::malformed(&message, Some("invalid_value")))
            }
            Some(Failure::UsageLimit) => Reply::Refused(Refusal::usage_limit(unix_seconds() + RESETS_IN)),
            failure => Reply::Streamed(script::play(request, answer, failure, &stamp)),
        }
    }

    /// Counts an answer that begins now.
    pub(crate) fn begin(&self) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(&self.open))
    }

    /// Answers that have begun and not ended.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Waits one round trip.
    pub(crate) async fn travel(&self) {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
    }

    /// A failure `once` is due on every other attempt of the same user texts, beginning with the first.
    fn is_due(&self, planned: Planned, conversation: &Conversation<'_>) -> bool {
        if !planned.once {
            return true;
        }
        let key = conversation.user_texts.join("\0");
        // The lock is never held across an await.
        let mut failed = self.failed_once.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = failed.iter().position(|one| *one == key) {
            failed.remove(at);
            return false;
        }
        if failed.len() == MAX_FAILED_ONCE {
            failed.pop_front();
        }
        failed.push_back(key);
        true
    }
}

impl Refusal {
    /// The error of a plain status, with the code that goes with it unless another one is given.
    pub(crate) fn status(status: u16, retry_after: Option<u64>, code: Option<&'static str>) -> Self {
        let (kind, usual) = match status {
            401 => ("invalid_request_error", Some("invalid_api_key")),
            404 => ("invalid_request_error", Some("model_not_found")),
            429 => ("requests", Some("rate_limit_exceeded")),
            503 => ("server_error", Some("server_is_overloaded")),
            500.. => ("server_error", None),
            _ => ("invalid_request_error", None),
        };
        let message = format!("The stand-in was asked to fail with status {status}.");
        Self {
            status,
            retry_after,
            error: json!({"message": message, "type": kind, "param": null, "code": code.or(usual)}),
        }
    }

    /// A request that cannot be read.
    pub(crate) fn malformed(message: &str, code: Option<&str>) -> Self {
        let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": code});
        Self { status: 400, retry_after: None, error }
    }

    /// A token that is good no more.
    pub(crate) fn revoked() -> Self {
        let message = "Your authentication token has been invalidated. Please try signing in again.";
        let error = json!({
            "message": message, "type": "invalid_request_error", "param": null, "code": "token_invalidated",
        });
        Self { status: 401, retry_after: None, error }
    }

    fn usage_limit(resets_at: u64) -> Self {
        let error = json!({
            "type": "usage_limit_reached",
            "message": "The usage limit has been reached",
            "plan_type": PLAN,
            "resets_at": resets_at,
            "resets_in_seconds": resets_at.saturating_sub(unix_seconds()),
        });
        Self { status: 429, retry_after: None, error }
    }
}

#[cfg(test)]
mod tests {
    use super::super::requests::Transport;
    use super::*;

    fn status(engine: &Engine, text: &str) -> u16 {
        let arrival =
            Arrival { transport: Transport::Http, path: String::new(), headers: Arc::default(), bytes: 0 };
        match engine.reply(arrival, &Arc::new(json!({"input": text})), None) {
            Reply::Refused(refusal) => refusal.status,
            Reply::Streamed(_) => 200,
        }
    }

    #[test]
    fn once_is_every_other_attempt_of_the_same_texts() {
        let engine = Engine::new(Duration::ZERO, &Tasks::new());
        let outcomes =
            ["a", "a", "b", "a", "b"].map(|name| status(&engine, &format!("FAIL once 503 SAY {name}")));
        assert_eq!(outcomes, [503, 200, 503, 503, 200]);
        assert_eq!([status(&engine, "FAIL 418"), status(&engine, "FAIL 418")], [418, 418]);
        assert_eq!(status(&engine, "FAIL usage"), 429);
    }

    #[test]
    fn failures_once_are_bounded() {
        let engine = Engine::new(Duration::ZERO, &Tasks::new());
        for number in 0..=MAX_FAILED_ONCE {
            assert_eq!(status(&engine, &format!("FAIL once 500 SAY {number}")), 500);
        }
        assert_eq!(status(&engine, "FAIL once 500 SAY 0"), 500);
        assert_eq!(status(&engine, "FAIL once 500 SAY 9"), 200);
    }
}

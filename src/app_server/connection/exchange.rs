//! A request and its reply: time limit, retries after an overload, and nothing left behind by whoever gives
//! up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use jsonrpsee_types::ErrorObjectOwned;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::shared::Shared;
use crate::app_server::error::{AppServerError, DisconnectReason};
use crate::app_server::subscriptions::EventQueue;
use crate::app_server::transport::MESSAGE_BYTES;
use crate::app_server::wire;
use crate::app_server::wire::OVERLOADED;
use crate::model::ThreadId;

/// A request as it goes out. Cheap to clone: a retry sends the same bytes under the same id, whose first reply
/// has come by then.
#[derive(Debug, Clone)]
pub(in crate::app_server) struct Prepared {
    id: u64,
    method: &'static str,
    bytes: Bytes,
}

/// Who waits for a reply.
#[derive(Debug)]
pub(super) enum Waiter {
    /// For its result.
    Value(oneshot::Sender<Result<Box<RawValue>, Trouble>>),
    /// For the thread it starts, subscribed by the reading task so that no event of it is missed.
    Thread(oneshot::Sender<Result<Subscription, Trouble>>),
}

/// Why a reply holds no result.
#[derive(Debug)]
pub(super) enum Trouble {
    Refused(ErrorObjectOwned),
    Disconnected(DisconnectReason),
    Unreadable(String),
}

/// A thread's events; dropped, the thread is let go.
#[derive(Debug)]
pub(in crate::app_server) struct Subscription {
    pub(in crate::app_server) thread: ThreadId,
    pub(in crate::app_server) queue: Arc<EventQueue>,
    pub(super) shared: Arc<Shared>,
    /// The app-server has confirmed that it let the thread go.
    pub(in crate::app_server) released: bool,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.routes.remove(self.thread.as_str());
        if !self.released {
            self.shared.let_go(self.thread.as_str(), self.queue.is_running());
        }
    }
}

impl Waiter {
    pub(super) fn disconnected(self, reason: &DisconnectReason) {
        let trouble = Trouble::Disconnected(reason.clone());
        // A waiter that has left wants nothing.
        match self {
            Self::Value(waiter) => drop(waiter.send(Err(trouble))),
            Self::Thread(waiter) => drop(waiter.send(Err(trouble))),
        }
    }
}

impl Shared {
    /// Writes a request down; one that is too large is refused here.
    pub(in crate::app_server) fn prepare<P: Serialize>(
        &self,
        method: &'static str,
        params: &P,
    ) -> Result<Prepared, AppServerError> {
        let id = self.next_id();
        let bytes = wire::encode_request(id, method, params).map_err(|error| unreadable(method, &error))?;
        if bytes.len() > MESSAGE_BYTES {
            return Err(AppServerError::TooLarge { method, bytes: bytes.len(), limit: MESSAGE_BYTES });
        }
        Ok(Prepared { id, method, bytes })
    }

    /// One request within the connection's time limit.
    pub(in crate::app_server) async fn call<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &P,
    ) -> Result<R, AppServerError> {
        self.call_within(method, params, self.request_timeout).await
    }

    /// One request within `limit`.
    pub(in crate::app_server) async fn call_within<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &P,
        limit: Duration,
    ) -> Result<R, AppServerError> {
        let request = self.prepare(method, params)?;
        let mut retries = Retries::new(method, limit);
        loop {
            let attempt = async {
                let waiting = self.expect(&request, Waiter::Value)?;
                self.send(vec![request.bytes.clone()]).await?;
                waiting.reply().await
            };
            match retries.limit(attempt).await? {
                Ok(result) => return read(method, &result),
                Err(trouble) if trouble.is_overload() => retries.pause().await?,
                Err(trouble) => return Err(trouble.into_error(method)),
            }
        }
    }

    /// Starts a thread by `method`; the reading task subscribes to it.
    pub(super) async fn start_thread<P: Serialize>(
        &self,
        method: &'static str,
        params: &P,
    ) -> Result<Subscription, AppServerError> {
        let request = self.prepare(method, params)?;
        let mut retries = Retries::new(method, self.request_timeout);
        loop {
            let attempt = async {
                let waiting = self.expect(&request, Waiter::Thread)?;
                let _starting = Starting::new(self);
                self.send(vec![request.bytes.clone()]).await?;
                waiting.reply().await
            };
            match retries.limit(attempt).await? {
                Ok(subscription) => return Ok(subscription),
                Err(trouble) if trouble.is_overload() => retries.pause().await?,
                Err(trouble) => return Err(trouble.into_error(method)),
            }
        }
    }

    /// `inject` and `start` in one write; what is said to `start`.
    pub(in crate::app_server) async fn start_turn<R: DeserializeOwned>(
        &self,
        mut inject: Option<Prepared>,
        start: Prepared,
        thread: &ThreadId,
    ) -> Result<R, AppServerError> {
        let mut retries = Retries::new(start.method, self.request_timeout);
        loop {
            let attempt = async {
                let injecting =
                    inject.as_ref().map(|inject| self.expect(inject, Waiter::Value)).transpose()?;
                let starting = self.expect(&start, Waiter::Value)?;
                let both = inject.iter().chain([&start]).map(|request| request.bytes.clone());
                self.send(both.collect()).await?;
                let injected = match injecting {
                    Some(injecting) => injecting.reply().await?,
                    None => Ok(RawValue::NULL.to_owned()),
                };
                Ok((injected, starting.reply().await?))
            };
            match retries.limit(attempt).await? {
                (Ok(_), Ok(started)) => return read(start.method, &started),
                (Err(injected), Err(started)) if injected.is_overload() && started.is_overload() => {
                    retries.pause().await?;
                }
                (Ok(_), Err(started)) if started.is_overload() => {
                    inject = None;
                    retries.pause().await?;
                }
                (Err(injected), started) => {
                    if started.is_ok() {
                        // It runs without its items: nobody wants its answer.
                        self.interrupt_now(thread);
                    }
                    return Err(injected.into_error("thread/inject_items"));
                }
                (Ok(_), Err(started)) => return Err(started.into_error(start.method)),
            }
        }
    }

    fn interrupt_now(&self, thread: &ThreadId) {
        let whatever_runs = wire::Interrupt { thread_id: thread.as_str(), turn_id: "" };
        if let Ok(message) = wire::encode_request(self.next_id(), "turn/interrupt", &whatever_runs) {
            self.send_now(vec![message]);
        }
    }

    fn expect<T>(
        &self,
        request: &Prepared,
        waiter: impl FnOnce(oneshot::Sender<Result<T, Trouble>>) -> Waiter,
    ) -> Result<Waiting<'_, T>, AppServerError> {
        let (sender, receiver) = oneshot::channel();
        let waiter = waiter(sender);
        let abandon = matches!(waiter, Waiter::Thread(_));
        self.pending().insert(request.id, waiter).map_err(AppServerError::Disconnected)?;
        self.asks();
        Ok(Waiting { shared: self, id: request.id, abandon, receiver })
    }
}

/// A registered wait. Dropped early (time limit, cancelled caller), it leaves no entry behind.
#[derive(Debug)]
struct Waiting<'a, T> {
    shared: &'a Shared,
    id: u64,
    /// The reply brings a thread, to be let go if it comes too late.
    abandon: bool,
    receiver: oneshot::Receiver<Result<T, Trouble>>,
}

impl<T> Waiting<'_, T> {
    async fn reply(mut self) -> Result<Result<T, Trouble>, AppServerError> {
        (&mut self.receiver).await.map_err(|_| AppServerError::Disconnected(self.shared.reason()))
    }
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        let mut pending = self.shared.pending();
        if self.abandon { pending.abandon(self.id) } else { pending.forget(self.id) }
    }
}

/// Counts a `thread/start` on its way: meanwhile the reading task keeps events of unknown threads.
struct Starting<'a>(&'a Shared);

impl<'a> Starting<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.starting.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.starting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The time limit of one call over all its attempts.
struct Retries {
    method: &'static str,
    limit: Duration,
    deadline: Instant,
    delays: <ExponentialBuilder as BackoffBuilder>::Backoff,
    overloaded: bool,
}

impl Retries {
    fn new(method: &'static str, limit: Duration) -> Self {
        let delays = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(Duration::from_millis(20))
            .with_max_delay(Duration::from_secs(1))
            .without_max_times()
            .build();
        Self { method, limit, deadline: Instant::now() + limit, delays, overloaded: false }
    }

    async fn limit<T>(
        &self,
        attempt: impl Future<Output = Result<T, AppServerError>>,
    ) -> Result<T, AppServerError> {
        timeout_at(self.deadline, attempt).await.unwrap_or_else(|_| Err(self.passed()))
    }

    /// Waits before the next attempt.
    async fn pause(&mut self) -> Result<(), AppServerError> {
        self.overloaded = true;
        let delay = self.delays.next().unwrap_or(Duration::from_secs(1));
        let next = Instant::now() + delay;
        sleep_until(next.min(self.deadline)).await;
        if next < self.deadline { Ok(()) } else { Err(self.passed()) }
    }

    fn passed(&self) -> AppServerError {
        if self.overloaded {
            AppServerError::Overloaded { method: self.method }
        } else {
            AppServerError::Timeout { method: self.method, limit: self.limit }
        }
    }
}

impl Trouble {
    fn is_overload(&self) -> bool {
        matches!(self, Self::Refused(error) if error.code() == OVERLOADED)
    }

    fn into_error(self, method: &'static str) -> AppServerError {
        match self {
            Self::Refused(error) if error.code() == OVERLOADED => AppServerError::Overloaded { method },
            Self::Refused(error) => AppServerError::Refused {
                method,
                code: error.code(),
                message: error.message().to_owned(),
                input_error: error.data().and_then(input_error),
            },
            Self::Disconnected(reason) => AppServerError::Disconnected(reason),
            Self::Unreadable(reason) => AppServerError::Unreadable { method, reason },
        }
    }
}

fn input_error(data: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Data {
        input_error_code: Option<String>,
    }
    serde_json::from_str::<Data>(data.get()).ok()?.input_error_code
}

fn read<R: DeserializeOwned>(method: &'static str, result: &RawValue) -> Result<R, AppServerError> {
    serde_json::from_str(result.get()).map_err(|error| unreadable(method, &error))
}

fn unreadable(method: &'static str, error: &serde_json::Error) -> AppServerError {
    AppServerError::Unreadable { method, reason: at(error) }
}

/// What kind of mistake and where; `serde_json`'s own words may quote content.
pub(super) fn at(error: &serde_json::Error) -> String {
    format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column())
}

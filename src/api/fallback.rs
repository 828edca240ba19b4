//! Another OpenAI-compatible server, for calls that the native path cannot take. Off by default, clearly secondary:
//! the native path is always tried first, and its error is what the client gets where the fallback fails too.
//!
//! The body goes there as the client wrote it but for `model`; no header of the caller's goes along. The answer
//! comes back byte for byte as it arrives, and a client that leaves ends it.

mod request;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use reqwest::Client;
use reqwest::redirect::Policy;
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use self::request::{Refused, Wanted};
use super::edge::Edge;
use super::error::ApiError;
use super::identity::X_TRACE;
use super::observe::{Call, FALLBACK_FAILED};
use crate::config::{FallbackConfig, FallbackReason};
use crate::model::KeyId;

/// Why the fallback answered, or `failed` where it should have and could not.
pub(crate) const X_FALLBACK: HeaderName = HeaderName::from_static("x-codex-bridge-fallback");

/// The configured one.
#[derive(Debug)]
pub(crate) struct Fallback {
    base: Url,
    config: FallbackConfig,
    client: Client,
    room: Arc<Room>,
    counters: Counters,
}

/// Who has a call there, until its answer has been passed on.
#[derive(Debug)]
struct Room {
    calls: Arc<Semaphore>,
    /// How many each key has; none is not in it. Locked for a moment only.
    of_keys: Mutex<HashMap<KeyId, usize>>,
}

/// Room for one call; given back by drop.
#[derive(Debug)]
struct Place {
    room: Arc<Room>,
    key: KeyId,
    _call: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct Counters {
    down: AtomicU64,
    logged_out: AtomicU64,
    used_up: AtomicU64,
    failed: AtomicU64,
    full: AtomicU64,
}

/// For `/v1/health`.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Report {
    on: Vec<&'static str>,
    running: usize,
    max_calls: usize,
    answered: Answered,
    /// It was asked, and failed.
    failed: u64,
    /// It had no room, and was not asked.
    full: u64,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Answered {
    down: u64,
    logged_out: u64,
    used_up: u64,
}

impl Fallback {
    /// The one that is configured, if one is. Fails if there is no TLS to reach it with.
    pub(crate) fn new(config: &FallbackConfig) -> Result<Option<Self>, reqwest::Error> {
        let Some(base) = config.base_url.clone() else { return Ok(None) };
        // The client takes the process's provider; whoever set one first chose well enough.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            // Its key goes to the configured server and nowhere else.
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .timeout(config.timeout)
            .pool_max_idle_per_host(config.max_calls)
            .user_agent(concat!("codex-bridge/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let room =
            Arc::new(Room { calls: Arc::new(Semaphore::new(config.max_calls)), of_keys: Mutex::default() });
        Ok(Some(Self { base, config: config.clone(), client, room, counters: Counters::default() }))
    }

    pub(crate) fn report(&self) -> Report {
        let told = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Report {
            on: self.config.on.iter().map(|reason| reason.as_str()).collect(),
            running: self.config.max_calls.saturating_sub(self.room.calls.available_permits()),
            max_calls: self.config.max_calls,
            answered: Answered {
                down: told(&self.counters.down),
                logged_out: told(&self.counters.logged_out),
                used_up: told(&self.counters.used_up),
            },
            failed: told(&self.counters.failed),
            full: told(&self.counters.full),
        }
    }

    /// Why the call that failed so is one for it; `None` where it is not.
    fn reason(&self, error: &ApiError) -> Option<FallbackReason> {
        let reason = match error.code.as_deref()? {
            "app_server_unavailable" | "app_server_connection_lost" | "upstream_unavailable" => {
                FallbackReason::Down
            }
            "login_required" => FallbackReason::LoggedOut,
            "usage_limit_reached" => FallbackReason::UsedUp,
            _ => return None,
        };
        self.config.on.contains(&reason).then_some(reason)
    }

    /// Asks it. What went wrong is for the log: nothing of it may hold what the client wrote.
    async fn ask(&self, path: &str, body: Vec<u8>, place: Place) -> Result<Response, String> {
        let url = format!("{}/{path}", self.base.as_str().trim_end_matches('/'));
        let mut request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .body(body);
        if let Some(key) = &self.config.api_key {
            request = request.bearer_auth(key.expose_secret());
        }
        let answer = request.send().await.map_err(|error| error.without_url().to_string())?;
        if !answer.status().is_success() {
            return Err(format!("it answered {}", answer.status()));
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status();
        for name in [CONTENT_TYPE, CONTENT_ENCODING, CACHE_CONTROL] {
            if let Some(value) = answer.headers().get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        let chunks = answer.bytes_stream().map(move |chunk| {
            let _held = &place;
            chunk.map_err(reqwest::Error::without_url)
        });
        *response.body_mut() = Body::from_stream(chunks);
        Ok(response)
    }

    fn count(&self, reason: FallbackReason) {
        let counter = match reason {
            FallbackReason::Down => &self.counters.down,
            FallbackReason::LoggedOut => &self.counters.logged_out,
            FallbackReason::UsedUp => &self.counters.used_up,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Room {
    /// Room for one more call of `key`, which may have `concurrency` at once: what it has here are none of the native
    /// path's, which took none of them. Fails where there is none, with why.
    fn enter(self: &Arc<Self>, key: KeyId, concurrency: Option<usize>) -> Result<Place, &'static str> {
        let Ok(call) = Arc::clone(&self.calls).try_acquire_owned() else {
            return Err("it has as many calls as it may have (`fallback.max_calls`)");
        };
        let mut of_keys = self.of_keys.lock().unwrap_or_else(PoisonError::into_inner);
        let running = of_keys.get(&key).copied().unwrap_or_default();
        if concurrency.is_some_and(|bound| running >= bound) {
            return Err("the key has as many calls there as it may have (its `concurrency`)");
        }
        of_keys.insert(key.clone(), running + 1);
        drop(of_keys);
        Ok(Place { room: Arc::clone(self), key, _call: call })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of_keys = self.room.of_keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = of_keys.get_mut(&self.key) {
            *running -= 1;
            if *running == 0 {
                of_keys.remove(&self.key);
            }
        }
    }
}

/// What became of a call that was one for the fallback.
pub(crate) enum Instead {
    /// It was not, or it is none there.
    Native,
    Answered(Response),
    Failed,
}

/// Lets the fallback answer a call that has failed so, where it is one for it. `path` is that of the call, below `/v1/`.
pub(crate) async fn instead(edge: &Edge, call: &Call, path: &str, error: &ApiError) -> Instead {
    let Some(fallback) = &edge.fallback else { return Instead::Native };
    let Some(reason) = fallback.reason(error).filter(|_| !call.stays_here()) else { return Instead::Native };
    let Some(body) = call.body() else { return Instead::Native };
    let wanted = Wanted { config: &fallback.config, class: call.task_class() };
    let body = match wanted.rewrite(body) {
        Ok(body) => body,
        Err(refused @ (Refused::Chain | Refused::Class)) => {
            tracing::debug!(?refused, "the call is none for the fallback");
            return Instead::Native;
        }
    };
    let asked = match fallback.room.enter(call.key(), call.limits().concurrency) {
        Ok(place) => fallback.ask(path, body, place).await.inspect_err(|_| {
            fallback.counters.failed.fetch_add(1, Ordering::Relaxed);
        }),
        Err(full) => {
            fallback.counters.full.fetch_add(1, Ordering::Relaxed);
            Err(full.to_owned())
        }
    };
    match asked {
        Ok(mut response) => {
            fallback.count(reason);
            call.note_fallback(reason.as_str());
            call.note_error(error);
            if let Some(trace) = call.trace_of_fallback(reason.as_str(), Some(error)) {
                response.headers_mut().insert(X_TRACE, trace);
            }
            response.headers_mut().insert(X_FALLBACK, HeaderValue::from_static(reason.as_str()));
            Instead::Answered(response)
        }
        Err(error) => {
            tracing::warn!(request_id = %call.request_id, reason = reason.as_str(), error, "the fallback failed");
            call.note_fallback(FALLBACK_FAILED);
            Instead::Failed
        }
    }
}

/// Around the routes that call a model: lets the fallback answer what the native path could not take.
pub(crate) async fn around(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    if edge.fallback.is_none() {
        return next.run(request).await;
    }
    let call = request.extensions().get::<Call>().cloned();
    let path = request.uri().path().trim_start_matches("/v1/").to_owned();
    let mut native = next.run(request).await;
    let (Some(call), Some(error)) = (call, native.extensions().get::<ApiError>()) else { return native };
    match instead(&edge, &call, &path, error).await {
        Instead::Native => native,
        Instead::Answered(response) => response,
        Instead::Failed => {
            native.headers_mut().insert(X_FALLBACK, HeaderValue::from_static(FALLBACK_FAILED));
            native
        }
    }
}

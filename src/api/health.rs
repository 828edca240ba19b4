//! `GET /v1/health` for people and scripts, `/healthz` and `/readyz` for supervisors.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::auth::KeyHealth;
use super::classes;
use super::edge::Edge;
use super::openapi::{self, Group};
use super::responses::SocketHealth;
use super::router::routes;
use super::{batches, fallback, usage};
use crate::bridge::{BreakerHealth, ContinuationCounts, FaultCounts, Health, ProcessStatus};
use crate::model::LoginState;

/// `GET /healthz`: the process answers.
pub(crate) async fn alive() -> Json<Status> {
    std::future::ready(Json(Status { status: "ok", reason: None })).await
}

/// `GET /readyz`: whether a call made now would be tried.
pub(crate) async fn ready(State(edge): State<Edge>) -> Response {
    let health = edge.bridge.health().await;
    if health.ready {
        return Json(Status { status: "ready", reason: None }).into_response();
    }
    // Open to everyone: the state's name, and never the reason in full.
    let reason = if health.draining {
        "draining"
    } else if health.login == Some(LoginState::LoggedOut) {
        "login_required"
    } else {
        "app_server_not_ready"
    };
    let body = Json(Status { status: "not_ready", reason: Some(reason) });
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

/// `GET /v1/health`: 200 whenever it can be told; what it says is in the body.
pub(crate) async fn report(State(edge): State<Edge>) -> Json<Report> {
    let fallback = edge.fallback.as_ref().map(|fallback| fallback.report());
    let task_classes = edge.classes.report();
    let told = Report::new(edge.bridge.health().await, edge.keys.health());
    let mut report = Report { fallback, task_classes, websockets: edge.sockets.health(), ..told };
    report.batches = Some(edge.batches.report());
    report.continuation.store.document_bytes = edge.documents.bytes();
    Json(report)
}

#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Status {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Report {
    object: &'static str,
    /// `ready`, `draining` or `not_ready`.
    status: &'static str,
    reason: Option<String>,
    version: &'static str,
    login: Login,
    app_server: AppServer,
    slots: Slots,
    keys: Keys,
    account: usage::Account,
    breaker: Breaker,
    /// Where one is configured.
    fallback: Option<fallback::Report>,
    continuation: Continuation,
    batches: Option<batches::Report>,
    /// Of `GET /v1/responses`.
    websockets: SocketHealth,
    /// By name; only the ones that are configured.
    task_classes: BTreeMap<String, classes::Report>,
    routes: Vec<Route>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Login {
    /// `logged_in`, `logged_out`, `not_needed` or `unknown`.
    state: &'static str,
    account: Option<Account>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Account {
    kind: String,
    plan: Option<String>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct AppServer {
    state: &'static str,
    mode: &'static str,
    alive: bool,
    version: Option<String>,
    generation: u64,
    pid: Option<u32>,
    /// Resident, of our own child, as last looked at.
    memory_bytes: Option<u64>,
    last_disconnect: Option<String>,
    /// Turns run again because it was lost under them: each may have been paid for twice.
    reruns: u64,
    /// Turns of ours that nobody waited for, found and interrupted.
    orphans_interrupted: u64,
    /// On the connections that may be used.
    bytes_sent: u64,
    processes: Vec<Process>,
}

/// One of the app-servers that share the load.
#[derive(Debug, JsonSchema, Serialize)]
struct Process {
    state: &'static str,
    reason: Option<String>,
    generation: u64,
    pid: Option<u32>,
    memory_bytes: Option<u64>,
    database_bytes: Option<u64>,
    turns: usize,
    threads: usize,
    last_disconnect: Option<String>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Slots {
    total: usize,
    in_use: usize,
    queued: usize,
    /// Of these, of class `batch`.
    queued_batch: usize,
    queue_limit: usize,
    granted_interactive: u64,
    granted_batch: u64,
    refused_full: u64,
    refused_share: u64,
    timed_out: u64,
    left: u64,
}

/// How many there are, and whether they are those of the file; not whose.
#[derive(Debug, JsonSchema, Serialize)]
struct Keys {
    /// `ok`, or `stale` while the last reload could not be taken over.
    state: &'static str,
    reason: Option<String>,
    /// `None` where everyone may call.
    count: Option<usize>,
    reloads: u64,
    refused_requests: u64,
    refused_tokens: u64,
}

/// The circuit breaker over the backend's failures.
#[derive(Debug, JsonSchema, Serialize)]
struct Breaker {
    mode: &'static str,
    /// `closed`, `open` or `half_open`.
    state: &'static str,
    next_probe_seconds: Option<u64>,
    recent_calls: usize,
    recent_failures: usize,
    opened: u64,
    /// In `observe`, those that would have been.
    refused: u64,
    failures: Failures,
}

/// By what the backend did, counted since the start.
#[derive(Debug, JsonSchema, Serialize)]
struct Failures {
    error: u64,
    cut: u64,
    overloaded: u64,
    timeout: u64,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Continuation {
    durability: &'static str,
    records: usize,
    bytes: usize,
    warm_threads: usize,
    spare_threads: usize,
    templates: usize,
    held_turns: usize,
    store: Store,
    lookups: Lookups,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Store {
    /// `ok` or `unavailable`.
    state: &'static str,
    reason: Option<String>,
    records: Option<u64>,
    bytes: Option<u64>,
    /// Of what is kept beside the responses.
    document_bytes: Option<u64>,
    /// Answers that it was to keep and did not.
    not_stored: u64,
}

/// What became of `previous_response_id`s, counted since the start.
#[derive(Debug, JsonSchema, Serialize)]
struct Lookups {
    found_recent: u64,
    found_stored: u64,
    rebuilt_for_account: u64,
    unknown: u64,
    expired: u64,
    deleted: u64,
    other_key: u64,
    other_account: u64,
    unreadable: u64,
    store_unavailable: u64,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Route {
    /// Method and path.
    route: String,
    capabilities: &'static [&'static str],
}

impl Report {
    fn new(health: Health, keys: KeyHealth) -> Self {
        let status = match (health.ready, health.draining) {
            (_, true) => "draining",
            (true, false) => "ready",
            (false, false) => "not_ready",
        };
        let (app_server, slots, continuation) = (health.app_server, health.slots, health.continuation);
        Self {
            object: "health",
            status,
            reason: health.reason,
            version: env!("CARGO_PKG_VERSION"),
            login: Login::new(health.login),
            app_server: AppServer {
                state: app_server.state,
                mode: app_server.mode,
                alive: app_server.alive,
                version: app_server.version,
                generation: app_server.generation,
                pid: app_server.pid,
                memory_bytes: app_server.memory,
                last_disconnect: app_server.last_disconnect,
                reruns: app_server.reruns,
                orphans_interrupted: app_server.orphans,
                bytes_sent: app_server.bytes_sent,
                processes: app_server.processes.into_iter().map(Process::from).collect(),
            },
            slots: Slots {
                total: slots.total,
                in_use: slots.in_use,
                queued: slots.queued,
                queued_batch: slots.queued_batch,
                queue_limit: slots.queue_limit,
                granted_interactive: slots.counts.granted_interactive,
                granted_batch: slots.counts.granted_batch,
                refused_full: slots.counts.refused_full,
                refused_share: slots.counts.refused_share,
                timed_out: slots.counts.timed_out,
                left: slots.counts.left,
            },
            keys: Keys {
                state: if keys.refused.is_none() { "ok" } else { "stale" },
                reason: keys.refused,
                count: keys.count,
                reloads: keys.reloads,
                refused_requests: keys.refused_requests,
                refused_tokens: keys.refused_tokens,
            },
            account: usage::Account::new(&health.account),
            breaker: Breaker::new(&health.breaker),
            fallback: None,
            batches: None,
            continuation: Continuation {
                durability: continuation.durability,
                records: continuation.records,
                bytes: continuation.bytes,
                warm_threads: continuation.warm_threads,
                spare_threads: continuation.spare_threads,
                templates: continuation.templates,
                held_turns: continuation.held_turns,
                store: Store {
                    state: if continuation.store.outage.is_none() { "ok" } else { "unavailable" },
                    reason: continuation.store.outage,
                    records: continuation.store.records,
                    bytes: continuation.store.bytes,
                    document_bytes: None,
                    not_stored: continuation.counts.not_stored,
                },
                lookups: Lookups::new(&continuation.counts),
            },
            websockets: SocketHealth::default(),
            task_classes: BTreeMap::new(),
            routes: routes().iter().filter(|route| route.group != Group::Open).map(Route::new).collect(),
        }
    }
}

impl Route {
    fn new(route: &openapi::Route) -> Self {
        Self { route: format!("{} {}", route.method, route.template()), capabilities: route.capabilities }
    }
}

impl Breaker {
    fn new(breaker: &BreakerHealth) -> Self {
        let (recent_calls, recent_failures) = breaker.recent;
        let FaultCounts { error, cut, overloaded, timeout } = breaker.faults;
        Self {
            mode: breaker.mode,
            state: breaker.state,
            next_probe_seconds: breaker.next_probe.map(|wait| wait.as_secs()),
            recent_calls,
            recent_failures,
            opened: breaker.opened,
            refused: breaker.refused,
            failures: Failures { error, cut, overloaded, timeout },
        }
    }
}

impl From<ProcessStatus> for Process {
    fn from(status: ProcessStatus) -> Self {
        Self {
            state: status.state.as_str(),
            reason: status.reason,
            generation: status.generation,
            pid: status.pid,
            memory_bytes: status.memory,
            database_bytes: status.databases,
            turns: status.turns,
            threads: status.threads,
            last_disconnect: status.last_disconnect,
        }
    }
}

impl Lookups {
    fn new(counts: &ContinuationCounts) -> Self {
        Self {
            found_recent: counts.found_recent,
            found_stored: counts.found_stored,
            rebuilt_for_account: counts.rebuilt_for_account,
            unknown: counts.unknown,
            expired: counts.expired,
            deleted: counts.deleted,
            other_key: counts.other_key,
            other_account: counts.other_account,
            unreadable: counts.unreadable,
            store_unavailable: counts.store_unavailable,
        }
    }
}

impl Login {
    /// The account's kind and plan; not who it is.
    fn new(login: Option<LoginState>) -> Self {
        match login {
            Some(LoginState::LoggedIn(account)) => {
                let account = Account { kind: account.kind, plan: account.plan };
                Self { state: "logged_in", account: Some(account) }
            }
            Some(LoginState::LoggedOut) => Self { state: "logged_out", account: None },
            Some(LoginState::NotNeeded) => Self { state: "not_needed", account: None },
            None => Self { state: "unknown", account: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Account as ModelAccount;

    fn keys() -> KeyHealth {
        crate::api::auth::Keys::new(&crate::config::AuthConfig::default()).health()
    }

    #[test]
    fn the_account_is_described_and_not_identified() {
        let account =
            ModelAccount { identity: "secret-id".into(), kind: "chatgpt".into(), plan: Some("plus".into()) };
        let health = Health { ready: true, login: Some(LoginState::LoggedIn(account)), ..Health::default() };
        let report = serde_json::to_value(Report::new(health, keys())).unwrap();
        assert_eq!(report["status"], "ready");
        assert_eq!(
            report["login"],
            json!({"state": "logged_in", "account": {"kind": "chatgpt", "plan": "plus"}})
        );
        assert!(!report.to_string().contains("secret-id"));
    }

    #[test]
    fn draining_wins_over_ready() {
        let status =
            |ready, draining| Report::new(Health { ready, draining, ..Health::default() }, keys()).status;
        assert_eq!(status(true, true), "draining");
        assert_eq!(status(false, false), "not_ready");
    }
}

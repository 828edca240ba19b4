//! `GET /v1/health` for people and scripts, `/healthz` and `/readyz` for supervisors.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;

use super::edge::Edge;
use crate::bridge::{ContinuationCounts, Health};
use crate::model::LoginState;

/// What is served, as `METHOD path: what of it`; a new route or ability is named here.
const CAPABILITIES: &[(&str, &[&str])] = &[
    ("POST /v1/responses", &["stream", "images", "reasoning", "previous_response_id"]),
    ("POST /v1/chat/completions", &["stream", "images", "reasoning", "n", "json_schema"]),
    ("GET /v1/models", &["details"]),
    ("GET /v1/models/{id}", &["details"]),
    ("GET /v1/health", &[]),
];

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
    Json(Report::new(edge.bridge.health().await))
}

#[derive(Debug, Serialize)]
pub(crate) struct Status {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    object: &'static str,
    /// `ready`, `draining` or `not_ready`.
    status: &'static str,
    reason: Option<String>,
    version: &'static str,
    login: Login,
    app_server: AppServer,
    slots: Slots,
    continuation: Continuation,
    routes: Vec<Route>,
}

#[derive(Debug, Serialize)]
struct Login {
    /// `logged_in`, `logged_out`, `not_needed` or `unknown`.
    state: &'static str,
    account: Option<Account>,
}

#[derive(Debug, Serialize)]
struct Account {
    kind: String,
    plan: Option<String>,
}

#[derive(Debug, Serialize)]
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
}

#[derive(Debug, Serialize)]
struct Slots {
    total: usize,
    in_use: usize,
    queued: usize,
    queue_limit: usize,
}

#[derive(Debug, Serialize)]
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

#[derive(Debug, Serialize)]
struct Store {
    /// `ok` or `unavailable`.
    state: &'static str,
    reason: Option<String>,
    records: Option<u64>,
    bytes: Option<u64>,
    /// Answers that it was to keep and did not.
    not_stored: u64,
}

/// What became of `previous_response_id`s, counted since the start.
#[derive(Debug, Serialize)]
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

#[derive(Debug, Serialize)]
struct Route {
    route: &'static str,
    capabilities: &'static [&'static str],
}

impl Report {
    fn new(health: Health) -> Self {
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
            },
            slots: Slots {
                total: slots.total,
                in_use: slots.in_use,
                queued: slots.queued,
                queue_limit: slots.queue_limit,
            },
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
                    not_stored: continuation.counts.not_stored,
                },
                lookups: Lookups::new(&continuation.counts),
            },
            routes: CAPABILITIES.iter().map(|(route, capabilities)| Route { route, capabilities }).collect(),
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

    #[test]
    fn the_account_is_described_and_not_identified() {
        let account =
            ModelAccount { identity: "secret-id".into(), kind: "chatgpt".into(), plan: Some("plus".into()) };
        let health = Health { ready: true, login: Some(LoginState::LoggedIn(account)), ..Health::default() };
        let report = serde_json::to_value(Report::new(health)).unwrap();
        assert_eq!(report["status"], "ready");
        assert_eq!(
            report["login"],
            json!({"state": "logged_in", "account": {"kind": "chatgpt", "plan": "plus"}})
        );
        assert!(!report.to_string().contains("secret-id"));
    }

    #[test]
    fn draining_wins_over_ready() {
        let status = |ready, draining| Report::new(Health { ready, draining, ..Health::default() }).status;
        assert_eq!(status(true, true), "draining");
        assert_eq!(status(false, false), "not_ready");
    }
}

//! `GET /v1/usage`: how full the account's windows are, and what this bridge has used; the windows also in the head
//! of each answer.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Serialize;

use super::edge::Edge;
use super::observe::Call;
use super::time::unix_seconds;
use crate::app_server::{Credits as KnownCredits, RateLimitWindow};
use crate::bridge::{AccountHealth, Spent};

pub(crate) const PRIMARY: [HeaderName; 2] = [
    HeaderName::from_static("x-codex-bridge-account-primary-used-percent"),
    HeaderName::from_static("x-codex-bridge-account-primary-reset"),
];
pub(crate) const SECONDARY: [HeaderName; 2] = [
    HeaderName::from_static("x-codex-bridge-account-secondary-used-percent"),
    HeaderName::from_static("x-codex-bridge-account-secondary-reset"),
];

/// Around the routes that call a model: tells the windows as they are known once the answer begins.
pub(crate) async fn tell(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let Some(known) = edge.bridge.account_health().known else { return response };
    for (names, window) in [(PRIMARY, known.limits.primary), (SECONDARY, known.limits.secondary)] {
        let Some(window) = window.filter(is_running) else { continue };
        let [used, reset] = names;
        if let Ok(percent) = HeaderValue::try_from(window.used_percent.to_string()) {
            response.headers_mut().insert(used, percent);
        }
        if let Some(at) = window.resets_at {
            response.headers_mut().insert(reset, HeaderValue::from(unix_seconds(at)));
        }
    }
    response
}

/// `GET /v1/usage`. A key sees what it has used itself; where none is wanted, everybody sees everything.
pub(crate) async fn report(State(edge): State<Edge>, call: Call) -> Json<Report> {
    let (since, spent) = edge.bridge.spent();
    let own = (!edge.keys.is_empty()).then(|| call.key());
    let mut report = Report {
        object: "usage",
        account: Account::new(&edge.bridge.account_now().await),
        since: unix_seconds(since),
        total: Tally::default(),
        by_model: BTreeMap::new(),
        by_key: BTreeMap::new(),
    };
    for (key, model, spent) in spent {
        if own.as_ref().is_none_or(|own| *own == key) {
            report.total.add(&spent);
            report.by_model.entry(model).or_default().add(&spent);
            report.by_key.entry(key.to_string()).or_default().add(&spent);
        }
    }
    Json(report)
}

#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Report {
    object: &'static str,
    account: Account,
    /// From when on it is counted: the start of the bridge, Unix seconds.
    since: u64,
    total: Tally,
    by_model: BTreeMap<String, Tally>,
    by_key: BTreeMap<String, Tally>,
}

/// The account's windows, as `/v1/usage` and `/v1/health` tell them.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Account {
    /// `open`, `used_up`, `reserved`, or `unknown`.
    state: &'static str,
    /// When new calls are let through again, Unix seconds.
    blocked_until: Option<u64>,
    plan: Option<String>,
    primary: Option<Window>,
    secondary: Option<Window>,
    credits: Option<Credits>,
    reserve_percent: u8,
    /// How old this is.
    age_seconds: Option<u64>,
    refused: Refused,
    reads: u64,
    failed_reads: u64,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Window {
    used_percent: f64,
    #[serde(rename = "window_minutes")]
    minutes: Option<u64>,
    /// Unix seconds.
    resets_at: Option<u64>,
    /// Whether it has been reset since this was told.
    reset: bool,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Credits {
    #[serde(rename = "has_credits")]
    some: bool,
    unlimited: bool,
    balance: Option<String>,
}

/// Calls that the windows left no room for.
#[derive(Debug, JsonSchema, Serialize)]
struct Refused {
    used_up: u64,
    reserve: u64,
}

#[derive(Debug, Default, JsonSchema, Serialize)]
struct Tally {
    calls: u64,
    failed: u64,
    abandoned: u64,
    input_tokens: u64,
    cached_input_tokens: u64,
    output_tokens: u64,
    reasoning_tokens: u64,
}

impl Account {
    pub(crate) fn new(health: &AccountHealth) -> Self {
        let limits = health.known.as_ref().map(|known| &known.limits);
        let state = match (health.block, limits) {
            (Some(block), _) if block.reserve => "reserved",
            (Some(_), _) => "used_up",
            (None, Some(limits)) if limits.primary.is_some() || limits.secondary.is_some() => "open",
            (None, _) => "unknown",
        };
        let age = health.known.as_ref().and_then(|known| SystemTime::now().duration_since(known.at).ok());
        let window = |window: &RateLimitWindow| Window {
            used_percent: window.used_percent,
            minutes: window.minutes,
            resets_at: window.resets_at.map(unix_seconds),
            reset: !is_running(window),
        };
        let credits = |credits: &KnownCredits| Credits {
            some: credits.has_credits,
            unlimited: credits.unlimited,
            balance: credits.balance.clone(),
        };
        Self {
            state,
            blocked_until: health.block.map(|block| unix_seconds(block.window.resets_at)),
            plan: limits.and_then(|limits| limits.plan.clone()),
            primary: limits.and_then(|limits| limits.primary.as_ref()).map(window),
            secondary: limits.and_then(|limits| limits.secondary.as_ref()).map(window),
            credits: limits.and_then(|limits| limits.credits.as_ref()).map(credits),
            reserve_percent: health.reserve_percent,
            age_seconds: age.map(|age| age.as_secs()),
            refused: Refused { used_up: health.used_up, reserve: health.reserved },
            reads: health.reads,
            failed_reads: health.failed_reads,
        }
    }
}

impl Tally {
    fn add(&mut self, spent: &Spent) {
        self.calls += spent.calls;
        self.failed += spent.failed;
        self.abandoned += spent.abandoned;
        self.input_tokens += spent.input_tokens;
        self.cached_input_tokens += spent.cached_input_tokens;
        self.output_tokens += spent.output_tokens;
        self.reasoning_tokens += spent.reasoning_tokens;
    }
}

/// Whether what was told of the window still holds: it has not been reset since.
fn is_running(window: &RateLimitWindow) -> bool {
    window.resets_at.is_none_or(|at| at > SystemTime::now())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::app_server::{KnownRateLimits, RateLimits};

    #[test]
    fn a_window_that_was_reset_since_is_said_to_be() {
        let now = SystemTime::now();
        let window = |used_percent, resets_at| {
            Some(RateLimitWindow { used_percent, minutes: Some(300), resets_at: Some(resets_at) })
        };
        let limits = RateLimits {
            primary: window(100.0, now - Duration::from_secs(5)),
            secondary: window(17.5, now + Duration::from_secs(500)),
            plan: Some("plus".into()),
            ..RateLimits::default()
        };
        let known = Some(KnownRateLimits { limits, at: now - Duration::from_secs(30) });
        let account =
            serde_json::to_value(Account::new(&AccountHealth { known, ..AccountHealth::default() })).unwrap();
        assert_eq!((&account["state"], &account["primary"]["reset"]), (&json!("open"), &json!(true)));
        assert_eq!(
            (&account["secondary"]["used_percent"], &account["secondary"]["reset"]),
            (&json!(17.5), &json!(false))
        );
        assert!(account["age_seconds"].as_u64().is_some_and(|age| (30..35).contains(&age)), "{account}");
        let nothing = serde_json::to_value(Account::new(&AccountHealth::default())).unwrap();
        assert_eq!((&nothing["state"], &nothing["primary"]), (&json!("unknown"), &json!(null)));
    }
}

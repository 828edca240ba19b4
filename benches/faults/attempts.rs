//! How often each call reached the model: no more often than it has to, and once where nothing went wrong.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use codex_bridge::standin::{SeenRequest, StandIn};
use serde_json::Value;
use tokio::time::sleep;

use crate::client::{Call, End};
use crate::dialogue::Trouble;

/// Between two looks at the stand-in, which keeps the last requests only: far fewer than those come meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// An app-server tries a failing request so often at most: six times, and each of them six times.
const MOST: u64 = 36;

/// The count. Read as they come: [`Attempts::watch`] runs beside the calls.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// The number of the last request that was looked at.
    last: u64,
    /// Requests that were forgotten before they were looked at.
    missed: u64,
    /// By tag: what a call says and no other.
    of_tags: HashMap<String, u64>,
}

/// A call, and what the bridge says of it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) tag: String,
    pub(crate) trouble: Option<Trouble>,
    /// The answer came, and was right.
    pub(crate) is_right: bool,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// `None` where the client left, or the bridge told nothing.
    pub(crate) trace: Option<Told>,
}

/// Of a call's trace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    retries: u64,
    reruns: u64,
}

impl Told {
    /// What the end of a call tells, wherever it stands there.
    pub(crate) fn of(call: &Call) -> Option<Self> {
        let told = |text: &str| {
            let value: Value = serde_json::from_str(text).ok()?;
            let places = ["/bridge/trace", "/response/bridge/trace", "/error/bridge/trace"];
            let trace = places.iter().find_map(|place| value.pointer(place))?;
            Some(Self { retries: trace["retries"].as_u64()?, reruns: trace["reruns"].as_u64()? })
        };
        match &call.end {
            End::Whole { body, .. } => told(body),
            End::Stream(events) => events.iter().rev().find_map(|event| told(event)),
            End::Left | End::Broken(_) | End::Late => None,
        }
    }
}

impl Attempts {
    /// Counts until it is dropped; one last look is the caller's.
    pub(crate) async fn watch(&self, standin: &StandIn) -> Infallible {
        loop {
            self.look(&standin.requests());
            sleep(LOOK).await;
        }
    }

    /// Counts those that are new.
    pub(crate) fn look(&self, requests: &[SeenRequest]) {
        let mut counted = self.lock();
        for request in requests {
            if request.number <= counted.last {
                continue;
            }
            counted.missed += request.number - counted.last - 1;
            counted.last = request.number;
            // What opens a connection to the model asks it for nothing.
            if request.body["generate"] == false {
                continue;
            }
            if let Some(tag) = tag(&request.input) {
                *counted.of_tags.entry(tag).or_default() += 1;
            }
        }
    }

    /// What must not be. `felt` tells whether the app-server was at fault in that time.
    pub(crate) fn violations(&self, asked: &[Asked], felt: impl Fn(Instant, Instant) -> bool) -> Vec<String> {
        let counted = self.lock();
        let mut violations = Vec::new();
        if counted.missed > 0 {
            violations.push(format!("{} model requests went by uncounted", counted.missed));
        }
        for call in asked {
            let seen = counted.of_tags.get(&call.tag).copied().unwrap_or_default();
            let (least, most) = call.bounds(felt(call.began, call.ended));
            if !(least..=most).contains(&seen) {
                violations.push(format!(
                    "{}: {seen} model requests in place of {least} to {most} ({:?}, {:?})",
                    call.tag, call.trouble, call.trace
                ));
            }
        }
        violations
    }

    /// Calls that reached it, and requests.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let counted = self.lock();
        (counted.of_tags.len() as u64, counted.of_tags.values().sum())
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    /// How many requests it may have been, where the app-server was at fault meanwhile or was not.
    fn bounds(&self, felt: bool) -> (u64, u64) {
        // What the model itself made of it.
        let attempts = match self.trouble {
            None => 1,
            Some(trouble) if trouble.is_once() => 2,
            Some(_) => MOST,
        };
        let least = self.is_right.into();
        if !felt {
            return if self.is_right { (attempts, attempts) } else { (least, attempts) };
        }
        // A call of which nothing was told may have been run again, once.
        match self.trace {
            Some(Told { retries, reruns }) => (least, attempts * (1 + reruns.min(1)) + retries),
            None => (least, attempts * 2),
        }
    }
}

/// The tag of the call that a request is an attempt at: what was said last, by the user or a tool.
fn tag(input: &Value) -> Option<String> {
    let items = match input {
        Value::Array(items) => items.as_slice(),
        // A plain text is one message.
        text => std::slice::from_ref(text),
    };
    let is_new =
        |item: &&Value| item.is_string() || item["role"] == "user" || item["type"] == "function_call_output";
    items.iter().rev().filter(is_new).find_map(|item| first_word(&item.to_string()))
}

/// `a` of the first `a.0`, as each call's words begin.
fn first_word(text: &str) -> Option<String> {
    let mut words = text.split(|sign: char| !sign.is_ascii_alphanumeric() && !matches!(sign, '-' | '.'));
    words.find_map(|word| word.strip_suffix(".0").map(str::to_owned))
}

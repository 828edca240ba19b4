//! What the calls of one class came to, counted since the start.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::model::Usage;

/// Upper bounds of the latency's buckets, milliseconds; one more has no bound.
const BOUNDS_MS: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000];

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    calls: AtomicU64,
    failures: AtomicU64,
    abandoned: AtomicU64,
    input_tokens: AtomicU64,
    cached_input_tokens: AtomicU64,
    output_tokens: AtomicU64,
    latency_ms: AtomicU64,
    /// Calls by latency, each counted once.
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
}

/// How a call ended, as far as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered,
    Failed,
    /// Its client left.
    Abandoned,
}

/// What they come to.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Report {
    calls: u64,
    failures: u64,
    /// Clients that left before the end.
    abandoned: u64,
    input_tokens: u64,
    cached_input_tokens: u64,
    output_tokens: u64,
    latency_ms_sum: u64,
    latency_ms: Vec<Bucket>,
}

/// How many calls took at most so long, those of the buckets before it included.
#[derive(Debug, JsonSchema, Serialize)]
struct Bucket {
    /// `null` for the last one, which has no bound.
    le: Option<u64>,
    count: u64,
}

impl Figures {
    /// One call has ended.
    pub(crate) fn add(&self, fate: Fate, usage: impl Iterator<Item = Usage>, took: Duration) {
        let add = |counter: &AtomicU64, more| counter.fetch_add(more, Ordering::Relaxed);
        add(&self.calls, 1);
        match fate {
            Fate::Answered => {}
            Fate::Failed => drop(add(&self.failures, 1)),
            Fate::Abandoned => drop(add(&self.abandoned, 1)),
        }
        for usage in usage {
            add(&self.input_tokens, usage.input_tokens);
            add(&self.cached_input_tokens, usage.cached_input_tokens);
            add(&self.output_tokens, usage.output_tokens);
        }
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        add(&self.latency_ms, took);
        add(&self.buckets[BOUNDS_MS.iter().filter(|bound| took > **bound).count()], 1);
    }

    /// As they stand.
    pub(crate) fn report(&self) -> Report {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let bounds = BOUNDS_MS.iter().copied().map(Some).chain([None]);
        let mut count = 0;
        let latency_ms = bounds.zip(&self.buckets).map(|(le, bucket)| {
            count += read(bucket);
            Bucket { le, count }
        });
        Report {
            latency_ms: latency_ms.collect(),
            calls: read(&self.calls),
            failures: read(&self.failures),
            abandoned: read(&self.abandoned),
            input_tokens: read(&self.input_tokens),
            cached_input_tokens: read(&self.cached_input_tokens),
            output_tokens: read(&self.output_tokens),
            latency_ms_sum: read(&self.latency_ms),
        }
    }
}

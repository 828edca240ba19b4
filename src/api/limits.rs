//! What a key may ask for in a minute: requests, and tokens by an estimate that is corrected with what was used.

mod bucket;
mod headers;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;

use self::bucket::{Bucket, Standing};
pub(crate) use self::headers::{REQUESTS, TOKENS};
use super::error::ApiError;
use crate::config::KeyLimits;
use crate::model::Trace;

/// What an answer is taken to be before there was any, tokens.
const FIRST_OUTPUT: u64 = 500;

/// The rates of one key. They last as long as its limits stay the same.
#[derive(Debug)]
pub(super) struct Rates {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    /// Moving average of what an answer takes, tokens.
    output: AtomicU64,
    counts: RefusalCounts,
}

/// Requests that were refused, since the limits are as they are.
#[derive(Debug, Default)]
struct RefusalCounts {
    requests: AtomicU64,
    tokens: AtomicU64,
}

/// What a request is likely to take; by default nothing but that it is one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Tokens of its input.
    pub(crate) input: u64,
    /// Most tokens of an answer, where that was said.
    pub(crate) output: Option<u64>,
    /// How many answers.
    pub(crate) answers: usize,
}

/// What was taken for one request, until it is known what it used.
#[derive(Debug)]
pub(crate) struct Charge {
    rates: Arc<Rates>,
    answers: u64,
    /// Tokens taken for each answer.
    each: u64,
}

impl Rates {
    pub(super) fn new(limits: &KeyLimits) -> Self {
        let bucket = |limit: Option<u32>| limit.and_then(NonZeroU32::new).map(Bucket::per_minute);
        Self {
            requests: bucket(limits.requests_per_minute),
            tokens: bucket(limits.tokens_per_minute),
            output: AtomicU64::new(FIRST_OUTPUT),
            counts: RefusalCounts::default(),
        }
    }

    /// Takes what the request is likely to use. Refused, it costs nothing.
    pub(super) fn charge(self: &Arc<Self>, cost: Cost) -> Result<Charge, ApiError> {
        if let Some(requests) = &self.requests
            && let Err(wait) = requests.take(1)
        {
            self.counts.requests.fetch_add(1, Ordering::Relaxed);
            return Err(refusal("requests per min (RPM)", requests.standing(), 1, wait));
        }
        let output = cost.output.unwrap_or_else(|| self.output.load(Ordering::Relaxed));
        let each = cost.input.saturating_add(output);
        let answers = u64::try_from(cost.answers).unwrap_or(u64::MAX);
        let all = u32::try_from(each.saturating_mul(answers)).unwrap_or(u32::MAX);
        if let Some(tokens) = &self.tokens
            && let Err(wait) = tokens.take(all)
        {
            if let Some(requests) = &self.requests {
                requests.give_back(1);
            }
            self.counts.tokens.fetch_add(1, Ordering::Relaxed);
            return Err(refusal("tokens per min (TPM)", tokens.standing(), all, wait));
        }
        Ok(Charge { rates: Arc::clone(self), answers, each: u64::from(all) / answers.max(1) })
    }

    /// Says how the key stands, where it has limits.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        for (names, bucket) in [(REQUESTS, &self.requests), (TOKENS, &self.tokens)] {
            if let Some(bucket) = bucket {
                headers::write(headers, names, bucket.standing());
            }
        }
    }

    /// How many were refused for the requests' sake, and for the tokens'.
    pub(super) fn refused(&self) -> (u64, u64) {
        (self.counts.requests.load(Ordering::Relaxed), self.counts.tokens.load(Ordering::Relaxed))
    }
}

impl Charge {
    /// Corrects the estimate. An answer that never began has used nothing; one whose figures never came, because its
    /// client left, is taken to have used what was estimated.
    pub(crate) fn settle(self, answers: &[Trace]) {
        let used = answers.iter().map(|answer| match answer.usage {
            Some(usage) => {
                self.learn(usage.output_tokens);
                usage.total_tokens
            }
            None if answer.turns > 0 => self.each,
            None => 0,
        });
        let (used, taken) = (used.sum::<u64>(), self.each * self.answers);
        if let Some(tokens) = &self.rates.tokens {
            tokens.give_back(taken.saturating_sub(used));
            tokens.owe(used.saturating_sub(taken));
        }
    }

    /// A lost update between two answers only makes an estimate a little older.
    fn learn(&self, output: u64) {
        let average = self.rates.output.load(Ordering::Relaxed);
        self.rates.output.store((average * 7 + output) / 8, Ordering::Relaxed);
    }
}

/// In the words of the official API.
fn refusal(what: &str, standing: Standing, requested: u32, wait: Duration) -> ApiError {
    let Standing { limit, remaining, .. } = standing;
    let used = limit - remaining;
    let again = headers::span(wait);
    let mut error = ApiError::new(
        "rate_limit_exceeded",
        format!(
            "Rate limit reached for this API key on {what}: Limit {limit}, Used {used}, Requested {requested}. \
             Please try again in {again}."
        ),
    );
    error.retry_after = Some(wait);
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Usage;

    fn rates(requests: Option<u32>, tokens: Option<u32>) -> Arc<Rates> {
        let limits =
            KeyLimits { requests_per_minute: requests, tokens_per_minute: tokens, ..KeyLimits::default() };
        Arc::new(Rates::new(&limits))
    }

    fn cost(input: u64, output: Option<u64>, answers: usize) -> Cost {
        Cost { input, output, answers }
    }

    fn told(rates: &Rates) -> Vec<String> {
        let mut headers = HeaderMap::new();
        rates.tell(&mut headers);
        let kinds = ["limit", "remaining", "reset"];
        let names = kinds
            .iter()
            .flat_map(|kind| ["requests", "tokens"].map(|what| format!("x-ratelimit-{kind}-{what}")));
        names.filter_map(|name| Some(headers.get(name)?.to_str().unwrap().to_owned())).collect()
    }

    fn answer(turns: u32, used: Option<(u64, u64)>) -> Trace {
        let usage = used.map(|(input_tokens, output_tokens)| Usage {
            input_tokens,
            output_tokens,
            total_tokens: input_tokens + output_tokens,
            ..Usage::default()
        });
        Trace { turns, usage, ..Trace::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn headers_are_there_for_limits_that_are() {
        assert_eq!(told(&rates(None, None)), Vec::<String>::new());
        assert_eq!(told(&rates(Some(3), None)), ["3", "3", "0s"]);
        let both = rates(Some(3), Some(6000));
        both.charge(cost(100, Some(200), 2)).unwrap();
        assert_eq!(told(&both), ["3", "6000", "2", "5400", "20s", "6s"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_request_costs_nothing() {
        let rates = rates(Some(3), Some(1000));
        rates.charge(cost(900, Some(0), 1)).unwrap();
        let before = told(&rates);
        let error = rates.charge(cost(200, Some(0), 1)).unwrap_err();
        assert_eq!((error.status.as_u16(), error.code.as_deref()), (429, Some("rate_limit_exceeded")));
        assert_eq!(error.retry_after.unwrap().as_secs(), 6);
        assert_eq!(
            error.message,
            "Rate limit reached for this API key on tokens per min (TPM): Limit 1000, Used 900, Requested 200. \
             Please try again in 6s."
        );
        assert_eq!((told(&rates), rates.refused()), (before, (0, 1)));
        rates.charge(cost(1, Some(0), 1)).unwrap();
        rates.charge(cost(1, Some(0), 1)).unwrap();
        let error = rates.charge(cost(1, Some(0), 1)).unwrap_err();
        assert!(error.message.contains("requests per min (RPM): Limit 3, Used 3, Requested 1"));
        assert_eq!(rates.refused(), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_estimate_is_corrected_with_what_was_used() {
        let remaining = |rates: &Rates| told(rates)[1].parse::<u32>().unwrap();
        let rates = rates(None, Some(10_000));
        // The prompt was shorter, and so was the answer.
        let charge = rates.charge(cost(1000, Some(1000), 1)).unwrap();
        assert_eq!(remaining(&rates), 8000);
        charge.settle(&[answer(1, Some((500, 100)))]);
        assert_eq!(remaining(&rates), 9400);
        // A chain's earlier items count too: a debt.
        let charge = rates.charge(cost(10, Some(10), 1)).unwrap();
        charge.settle(&[answer(1, Some((12_000, 100)))]);
        assert_eq!(remaining(&rates), 0);
        assert!(rates.charge(cost(10, Some(10), 1)).unwrap_err().retry_after.unwrap().as_secs() >= 16);
        tokio::time::advance(Duration::from_secs(60)).await;
        // One of three never began, one left no figures.
        let before = remaining(&rates);
        let charge = rates.charge(cost(100, Some(100), 3)).unwrap();
        charge.settle(&[answer(1, Some((100, 50))), answer(1, None), answer(0, None)]);
        assert_eq!(remaining(&rates), before - 150 - 200);
        let before = remaining(&rates);
        rates.charge(cost(100, Some(100), 3)).unwrap().settle(&[]);
        assert_eq!(remaining(&rates), before);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_word_an_answer_is_taken_for_an_average_one() {
        let rates = rates(None, Some(1_000_000));
        assert_eq!(rates.charge(cost(0, None, 1)).unwrap().each, FIRST_OUTPUT);
        for _ in 0..40 {
            rates.charge(cost(0, None, 1)).unwrap().settle(&[answer(1, Some((1, 20)))]);
        }
        let each = rates.charge(cost(0, None, 1)).unwrap().each;
        assert!((20..30).contains(&each), "{each}");
    }
}

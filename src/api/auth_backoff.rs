//! Wrong tokens cost their sender time, and nobody else.
//!
//! An address may fail a few times at once, and as often again as its failures are forgotten. Past that:
//! - From this machine, where every caller has one address, a right token is answered at once all the same; the
//!   answers to wrong ones wait, a bounded number of them together.
//! - From elsewhere, tokens are not even looked at until some failures are forgotten, but for those that were right
//!   there before: a guesser behind the same router does not lock anybody out who works.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::edge::Edge;
use super::error::ApiError;
use super::server::Peer;
use crate::config;

/// Failures without consequence.
const FREE: u32 = 10;
/// How long until one failure is forgotten.
const FORGET: Duration = Duration::from_secs(6);
/// Failures remembered of one address: it is looked at again within two minutes, whatever it did.
const MOST: u32 = FREE + 20;
/// What each failure past the free ones adds to the wait.
const STEP: Duration = Duration::from_millis(250);
/// Answers that wait at once; more are refused.
const WAITING: usize = 16;
/// Addresses remembered; past it the one that is forgiven first goes.
const ADDRESSES: usize = 1024;
/// Right tokens remembered of one address.
const KNOWN: usize = 8;

/// Who has failed, and how often.
#[derive(Debug)]
pub(crate) struct Backoff {
    /// Never held across an await.
    addresses: Mutex<HashMap<IpAddr, Record>>,
    waiting: Semaphore,
}

#[derive(Debug)]
struct Record {
    /// When its last failure is forgotten.
    clean_at: Instant,
    /// Digests of headers that were right.
    known: Vec<[u8; 32]>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { addresses: Mutex::default(), waiting: Semaphore::new(WAITING) }
    }
}

impl Backoff {
    /// How long until a token from `address` is looked at; `None` if it is at once.
    fn closed(&self, address: IpAddr, token: &[u8; 32]) -> Option<Duration> {
        let addresses = self.lock();
        let record = addresses.get(&address)?;
        if record.known.iter().any(|known| bool::from(known.ct_eq(token))) {
            return None;
        }
        let owed = record.clean_at.saturating_duration_since(Instant::now());
        owed.checked_sub(FORGET * FREE).filter(|wait| !wait.is_zero())
    }

    /// Counts a failure; gives how long its answer is to wait.
    fn failed(&self, address: IpAddr) -> Duration {
        let now = Instant::now();
        let mut addresses = self.lock();
        let record = entry(&mut addresses, address, now);
        record.clean_at = (record.clean_at.max(now) + FORGET).min(now + FORGET * MOST);
        let failures = (record.clean_at - now).as_secs().div_ceil(FORGET.as_secs());
        STEP * u32::try_from(failures).unwrap_or(MOST).saturating_sub(FREE)
    }

    /// Remembers a right token.
    fn passed(&self, address: IpAddr, token: [u8; 32]) {
        let mut addresses = self.lock();
        let known = &mut entry(&mut addresses, address, Instant::now()).known;
        if !known.contains(&token) {
            known.truncate(KNOWN - 1);
            known.insert(0, token);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Record>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry(addresses: &mut HashMap<IpAddr, Record>, address: IpAddr, now: Instant) -> &mut Record {
    if addresses.len() >= ADDRESSES && !addresses.contains_key(&address) {
        let first = addresses.iter().min_by_key(|(_, record)| record.clean_at).map(|(address, _)| *address);
        addresses.remove(&first.unwrap_or(address));
    }
    addresses.entry(address).or_insert_with(|| Record { clean_at: now, known: Vec::new() })
}

/// Around the check of the key.
pub(crate) async fn slow_down(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    // A request without a token guesses nothing.
    let Some(token) = request.headers().get(AUTHORIZATION) else { return next.run(request).await };
    let token = config::digest(token.as_bytes());
    let peer = request.extensions().get::<Peer>().map_or(Ipv4Addr::LOCALHOST.into(), |peer| peer.0);
    let (address, backoff) = (counted_as(peer), &edge.backoff);
    if !address.is_loopback()
        && let Some(wait) = backoff.closed(address, &token)
    {
        return refused(wait);
    }
    let response = next.run(request).await;
    let code = response.extensions().get::<ApiError>().and_then(|error| error.code.as_deref());
    if code != Some("invalid_api_key") {
        if !address.is_loopback() {
            backoff.passed(address, token);
        }
        return response;
    }
    let wait = backoff.failed(address);
    if wait.is_zero() {
        return response;
    }
    let Ok(_place) = backoff.waiting.try_acquire() else { return refused(wait) };
    tokio::time::sleep(wait).await;
    response
}

/// One subscriber has a whole IPv6 network of addresses.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

fn refused(wait: Duration) -> Response {
    let message =
        "Too many wrong API keys were sent. Wait as long as `Retry-After` says, and send a right one.";
    let mut error = ApiError::new("too_many_failed_keys", message);
    error.retry_after = Some(wait);
    error.into_response()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use futures_util::future::join_all;
    use http::StatusCode;
    use tower::ServiceExt as _;

    use super::*;
    use crate::api::testing::{KEY, config, routes};

    const NEAR: &str = "127.0.0.1";
    const FAR: &str = "192.0.2.7";

    /// What a request without a body comes to, past the check of its key.
    const LET_IN: StatusCode = StatusCode::BAD_REQUEST;

    /// Sends `key`; gives the status, how long it took, and `Retry-After`.
    async fn ask(router: &Router, from: &str, key: &str) -> (StatusCode, Duration, Option<String>) {
        let mut request = Request::post("/v1/responses")
            .header("host", "localhost")
            .header(AUTHORIZATION, format!("Bearer {key}"))
            .body(Body::empty())
            .unwrap();
        request.extensions_mut().insert(Peer(from.parse().unwrap()));
        let started = Instant::now();
        let response = router.clone().oneshot(request).await.unwrap();
        let after = response.headers().get("retry-after").map(|wait| wait.to_str().unwrap().to_owned());
        (response.status(), started.elapsed(), after)
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_tokens_from_this_machine_wait_ever_longer_and_right_ones_never() {
        let router = routes(&config());
        for _ in 0..FREE {
            let (status, waited, _) = ask(&router, NEAR, "wrong").await;
            assert_eq!((status, waited.as_millis()), (StatusCode::UNAUTHORIZED, 0));
        }
        let mut before = Duration::ZERO;
        for _ in 0..4 {
            let (status, waited, _) = ask(&router, NEAR, "wrong").await;
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            assert!(waited > before, "{waited:?} after {before:?}");
            before = waited;
            let (status, waited, _) = ask(&router, NEAR, KEY).await;
            assert_eq!((status, waited.as_millis()), (LET_IN, 0));
        }
        tokio::time::advance(FORGET * MOST).await;
        assert_eq!(ask(&router, NEAR, "wrong").await.1.as_millis(), 0, "forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_wrong_tokens_wait_at_once() {
        let router = routes(&config());
        for _ in 0..MOST {
            ask(&router, NEAR, "wrong").await;
        }
        let answers = join_all((0..100).map(|_| ask(&router, NEAR, "wrong"))).await;
        let waited = answers.iter().filter(|(status, ..)| *status == StatusCode::UNAUTHORIZED).count();
        let refused = answers.iter().filter(|(status, ..)| *status == StatusCode::TOO_MANY_REQUESTS);
        assert_eq!((waited, refused.clone().count()), (WAITING, 100 - WAITING));
        assert!(refused.clone().all(|(_, waited, after)| waited.is_zero() && after.is_some()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_far_address_that_guesses_is_shut_out_and_no_other_one() {
        let router = routes(&config());
        assert_eq!(ask(&router, "192.0.2.8", KEY).await.0, LET_IN);
        for _ in 0..=FREE {
            assert_eq!(ask(&router, FAR, "wrong").await.0, StatusCode::UNAUTHORIZED);
            ask(&router, "192.0.2.8", "wrong").await;
        }
        let (status, _, after) = ask(&router, FAR, KEY).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "a guess may be right and is not told so");
        let after: u64 = after.unwrap().parse().unwrap();
        for other in [NEAR, "192.0.2.9"] {
            assert_eq!(ask(&router, other, KEY).await.0, LET_IN);
        }
        assert_eq!(ask(&router, "192.0.2.8", KEY).await.0, LET_IN, "it was right there before");
        tokio::time::advance(Duration::from_secs(after)).await;
        assert_eq!(ask(&router, FAR, KEY).await.0, LET_IN);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let backoff = Backoff::default();
        for n in 0..5000_u32 {
            backoff.failed(Ipv4Addr::from_bits(n).into());
        }
        assert_eq!(backoff.lock().len(), ADDRESSES);
        let network = |address: &str| counted_as(address.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::2:3"));
        assert_eq!(network("::ffff:127.0.0.1"), network(NEAR));
        for n in 0..100 {
            backoff.passed(network(FAR), [n; 32]);
        }
        assert_eq!(backoff.lock()[&network(FAR)].known.len(), KNOWN);
    }
}

//! The account's usage windows, as admission sees them: a call that the backend would refuse anyway, or that would
//! use up the owner's reserve, is refused at once, with the time of the reset.
//!
//! What is known may be old: a window blocks nobody past its reset, and is asked for again while calls come. What
//! cannot be understood blocks nobody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{debug, info};

use super::{BridgeError, Inner, calls};
use crate::app_server::{FullWindow, KnownRateLimits};
use crate::config::UpstreamConfig;
use crate::model::{Item, LoginState};

/// While calls are refused the windows are asked for at least this often: they may have been reset early, or paid
/// for.
const BLOCKED_REFRESH: Duration = Duration::from_secs(60);

/// Two questions of one kind are at least this far apart, whatever happens.
const APART: Duration = Duration::from_secs(1);

/// How long those who ask about the windows, and the end of a call that they explain, wait for them.
const EXPLANATION: Duration = Duration::from_secs(1);

/// What admission knows of the account. Owned by the engine.
#[derive(Debug)]
pub(super) struct Upstream {
    config: UpstreamConfig,
    /// When the windows were last asked for, and of which connection.
    // A std mutex: held for a copy, never across an await.
    asked: Mutex<Option<(Instant, u64)>>,
    /// When they were last asked for because of the backend's refusal; held while they are.
    learned: tokio::sync::Mutex<Option<Instant>>,
    used_up: AtomicU64,
    reserved: AtomicU64,
    reads: AtomicU64,
    failed_reads: AtomicU64,
}

/// The account as it is known, and what it was refused for.
#[derive(Debug, Clone, Default)]
pub struct AccountHealth {
    /// The windows, where they are known.
    pub known: Option<KnownRateLimits>,
    /// Why new calls are refused now.
    pub block: Option<Block>,
    /// `upstream.reserve_percent`.
    pub reserve_percent: u8,
    /// Calls refused for a used-up window.
    pub used_up: u64,
    /// Calls refused for the reserve.
    pub reserved: u64,
    /// How often the windows were asked for.
    pub reads: u64,
    /// How often that failed.
    pub failed_reads: u64,
}

/// Why new calls are refused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Block {
    /// What is left is the owner's; else nothing is left.
    pub reserve: bool,
    /// The window that says so.
    pub window: FullWindow,
}

impl Upstream {
    pub(super) fn new(config: UpstreamConfig) -> Self {
        Self {
            config,
            asked: Mutex::new(None),
            learned: tokio::sync::Mutex::new(None),
            used_up: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            failed_reads: AtomicU64::new(0),
        }
    }

    /// Refuses a call that the windows leave no room for. Outputs of tools go on with what was begun: the reserve
    /// is not kept from them.
    pub(super) fn check(&self, known: Option<&KnownRateLimits>, input: &[Item]) -> Result<(), BridgeError> {
        let Some(block) = self.refusing(known, input) else { return Ok(()) };
        let counter = if block.reserve { &self.reserved } else { &self.used_up };
        counter.fetch_add(1, Ordering::Relaxed);
        Err(self.refusal(block))
    }

    /// The same, for whom it is told only: counts nothing.
    pub(super) fn would_pass(
        &self,
        known: Option<&KnownRateLimits>,
        input: &[Item],
    ) -> Result<(), BridgeError> {
        self.refusing(known, input).map_or(Ok(()), |block| Err(self.refusal(block)))
    }

    fn refusing(&self, known: Option<&KnownRateLimits>, input: &[Item]) -> Option<Block> {
        let block = self.block(known, SystemTime::now());
        block.filter(|block| !(block.reserve && calls::ends_in_outputs(input)))
    }

    fn refusal(&self, Block { reserve, window }: Block) -> BridgeError {
        let length = window.minutes.map(|minutes| format!("{} ", in_words(minutes))).unwrap_or_default();
        let mut message = if reserve {
            format!(
                "{:.0} % of the account's {length}usage window is used, and {} % is kept for its owner's own Codex \
                 (`upstream.reserve_percent`).",
                window.used_percent, self.config.reserve_percent
            )
        } else {
            format!("The account's {length}usage window is used up.")
        };
        if let Ok(at) = Timestamp::try_from(window.resets_at) {
            message = format!("{message} The limit resets at {}.", at.strftime("%Y-%m-%dT%H:%M:%SZ"));
        }
        BridgeError::UsageLimit { message, resets_at: Some(window.resets_at) }
    }

    pub(super) fn health(&self, known: Option<KnownRateLimits>) -> AccountHealth {
        AccountHealth {
            block: self.block(known.as_ref(), SystemTime::now()),
            known,
            reserve_percent: self.config.reserve_percent,
            used_up: self.used_up.load(Ordering::Relaxed),
            reserved: self.reserved.load(Ordering::Relaxed),
            reads: self.reads.load(Ordering::Relaxed),
            failed_reads: self.failed_reads.load(Ordering::Relaxed),
        }
    }

    fn block(&self, known: Option<&KnownRateLimits>, now: SystemTime) -> Option<Block> {
        let limits = &known?.limits;
        // The backend knows better than a percentage, and what is paid for is not used up.
        let goes_on = limits.allowed == Some(true) || limits.is_paid_for();
        if let Some(window) = limits.full(100.0, now).filter(|_| !goes_on) {
            return Some(Block { reserve: false, window });
        }
        if self.config.reserve_percent == 0 {
            return None;
        }
        let window = limits.full(100.0 - f64::from(self.config.reserve_percent), now)?;
        Some(Block { reserve: true, window })
    }

    /// Whether the windows are to be asked for now, by a call on connection `generation`; if so, nobody else asks
    /// for a moment.
    fn begin_read(&self, known: Option<&KnownRateLimits>, generation: u64) -> bool {
        let now = SystemTime::now();
        let blocked = self.block(known, now).is_some();
        let patience = if blocked { self.config.refresh.min(BLOCKED_REFRESH) } else { self.config.refresh };
        let age = known.map(|known| now.duration_since(known.at).unwrap_or_default());
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = asked.is_none_or(|(asked, of)| {
            let is_old = asked.elapsed() >= patience && age.is_none_or(|age| age >= patience);
            asked.elapsed() >= APART && (of != generation || is_old)
        });
        if due {
            *asked = Some((Instant::now(), generation));
        }
        due
    }
}

impl Inner {
    /// Refuses a call that the account's windows leave no room for; has them read again where they are old.
    pub(super) fn check_account(self: &Arc<Self>, input: &[Item]) -> Result<(), BridgeError> {
        if self.windows_are_due() {
            let inner = Arc::clone(self);
            self.tasks.spawn("usage windows", async move { inner.read_windows().await });
        }
        self.upstream.check(self.app_server.rate_limits().as_ref(), input)
    }

    /// Has the windows read where they are old, and waits for them within a bound.
    pub(super) async fn refresh_windows(&self) {
        if self.windows_are_due() {
            let _ = tokio::time::timeout(EXPLANATION, self.read_windows()).await;
        }
    }

    /// Whether this call is to read them.
    fn windows_are_due(&self) -> bool {
        let generation = self.app_server.status().generation;
        self.has_windows() && self.upstream.begin_read(self.app_server.rate_limits().as_ref(), generation)
    }

    /// The backend says that a window is used up: which, and until when. For its own call's error and for the next;
    /// of several calls that are told so at once, one asks.
    pub(super) async fn learn_of_limit(&self) {
        let learn = async {
            let mut learned = self.upstream.learned.lock().await;
            let is_known = self.account_health().block.is_some();
            if !is_known && self.has_windows() && learned.is_none_or(|learned| learned.elapsed() >= APART) {
                *learned = Some(Instant::now());
                self.read_windows().await;
            }
        };
        let _ = tokio::time::timeout(EXPLANATION, learn).await;
    }

    /// The account as it is known.
    pub(super) fn account_health(&self) -> AccountHealth {
        self.upstream.health(self.app_server.rate_limits())
    }

    async fn read_windows(&self) {
        self.upstream.reads.fetch_add(1, Ordering::Relaxed);
        match self.app_server.read_rate_limits().await {
            Ok(known) => {
                let block = self.upstream.block(Some(&known), SystemTime::now());
                debug!(?block, "the usage windows were read");
                if let Some(Block { reserve, window }) = block {
                    info!(reserve, ?window, "new calls are refused until the usage window starts anew");
                }
            }
            Err(error) => {
                self.upstream.failed_reads.fetch_add(1, Ordering::Relaxed);
                debug!(%error, "the usage windows could not be read");
            }
        }
    }

    /// Only a login with a plan has windows.
    fn has_windows(&self) -> bool {
        let login = self.app_server.known_login().map(|known| known.state);
        matches!(login, Some(LoginState::LoggedIn(account)) if account.kind != "apiKey")
    }
}

/// A window's length, as people say it.
fn in_words(minutes: u64) -> String {
    const HOUR: u64 = 60;
    const DAY: u64 = 24 * HOUR;
    match minutes {
        _ if minutes >= DAY && minutes.is_multiple_of(DAY) => format!("{}-day", minutes / DAY),
        _ if minutes >= HOUR && minutes.is_multiple_of(HOUR) => format!("{}-hour", minutes / HOUR),
        _ => format!("{minutes}-minute"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::app_server::{Credits, RateLimitWindow, RateLimits};

    fn upstream(reserve_percent: u8) -> Upstream {
        Upstream::new(UpstreamConfig { reserve_percent, ..UpstreamConfig::default() })
    }

    fn known(used_percent: f64, resets_in: i64) -> KnownRateLimits {
        let now = SystemTime::now();
        let wait = Duration::from_secs(resets_in.unsigned_abs());
        let resets_at = Some(if resets_in < 0 { now - wait } else { now + wait });
        let primary = Some(RateLimitWindow { used_percent, minutes: Some(300), resets_at });
        KnownRateLimits { limits: RateLimits { primary, ..RateLimits::default() }, at: now }
    }

    fn refusal(upstream: &Upstream, known: &KnownRateLimits, input: &[Item]) -> Option<String> {
        upstream.check(Some(known), input).err().map(|error| error.to_string())
    }

    fn output() -> Item {
        Item::from_value(json!({"type": "function_call_output", "call_id": "c", "output": "x"})).unwrap()
    }

    #[test]
    fn a_used_up_window_refuses_until_it_resets() {
        let upstream = upstream(0);
        assert!(upstream.check(None, &[]).is_ok());
        assert_eq!(refusal(&upstream, &known(99.0, 60), &[]), None);
        let said = refusal(&upstream, &known(100.0, 60), &[]).unwrap();
        assert!(
            said.starts_with("The account's 5-hour usage window is used up. The limit resets at 2"),
            "{said}"
        );
        assert!(refusal(&upstream, &known(100.0, 60), &[output()]).is_some());
        assert_eq!(refusal(&upstream, &known(100.0, -1), &[]), None);
        assert!(upstream.would_pass(Some(&known(100.0, 60)), &[]).is_err());
        assert_eq!((upstream.health(None).used_up, upstream.health(None).reserved), (2, 0));
    }

    #[test]
    fn the_reserve_is_kept_from_new_calls_and_not_from_tools() {
        let upstream = upstream(20);
        assert_eq!(refusal(&upstream, &known(79.0, 60), &[]), None);
        let said = refusal(&upstream, &known(81.0, 60), &[]).unwrap();
        assert!(said.starts_with("81 % of the account's 5-hour usage window is used, and 20 %"), "{said}");
        assert_eq!(refusal(&upstream, &known(81.0, 60), &[output()]), None);
        assert_eq!(refusal(&upstream, &known(81.0, 60), &[output(), Item::input_text("user", "and?")]), None);
        let later = [output(), Item::input_text("assistant", "so"), Item::input_text("user", "and?")];
        assert!(refusal(&upstream, &known(81.0, 60), &later).is_some());
        assert_eq!((upstream.health(None).used_up, upstream.health(None).reserved), (0, 2));
    }

    #[test]
    fn what_is_paid_for_or_allowed_goes_on() {
        let mut paid = known(100.0, 60);
        paid.limits.credits = Some(Credits { has_credits: true, ..Credits::default() });
        let mut allowed = known(100.0, 60);
        allowed.limits.allowed = Some(true);
        for known in [&paid, &allowed] {
            assert_eq!(refusal(&upstream(0), known, &[]), None);
            assert!(refusal(&upstream(10), known, &[]).is_some(), "the reserve is the owner's all the same");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_windows_are_asked_for_on_connect_when_old_and_oftener_while_they_block() {
        let upstream = upstream(0);
        let (free, full) = (known(10.0, 9000), known(100.0, 9000));
        assert!(upstream.begin_read(None, 1));
        assert!(!upstream.begin_read(None, 2), "too soon");
        tokio::time::advance(APART).await;
        assert!(upstream.begin_read(Some(&free), 2) && !upstream.begin_read(Some(&free), 2));
        tokio::time::advance(BLOCKED_REFRESH).await;
        let old =
            |known: &KnownRateLimits, age| KnownRateLimits { at: SystemTime::now() - age, ..known.clone() };
        assert!(!upstream.begin_read(Some(&old(&free, BLOCKED_REFRESH)), 2));
        assert!(!upstream.begin_read(Some(&full), 2), "told just now");
        assert!(upstream.begin_read(Some(&old(&full, BLOCKED_REFRESH)), 2));
        tokio::time::advance(UpstreamConfig::default().refresh).await;
        assert!(upstream.begin_read(Some(&old(&free, UpstreamConfig::default().refresh)), 2));
    }

    #[test]
    fn lengths_are_said_as_people_say_them() {
        assert_eq!([300, 10_080, 90, 1440].map(in_words), ["5-hour", "7-day", "90-minute", "1-day"]);
    }
}

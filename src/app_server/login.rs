//! The login: never a start-up snapshot, yet rarely asked for.
//!
//! A running app-server takes up a login that appears (an `account/read` or two later), but notices neither
//! a logout nor a switch to another account. So each call looks at the login file's stamp, which costs
//! microseconds; a new stamp has the file read, and another account in it replaces our child.
//!
//! A login whose renewal the backend has refused shows as none, though its file is there. The app-server that
//! met the refusal never tries that account again, not even with a new login: a new file, or a backend that
//! takes the old one again, replaces our child too.

mod auth_file;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::launch::Live;
use super::runtime::AppServer;
use super::{AppServerError, home};
use crate::model::{Account, LoginState};

pub(crate) use auth_file::{AuthMark, AuthStamp, mark};

/// Where no file can be looked at, the account is read again after this long.
const UNSEEN_AGE: Duration = Duration::from_secs(5);

/// After a failed read the last known state serves for this long before the next try.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What is said of a login that the backend no longer takes.
const REJECTED: &str = "The Codex login is there, but the backend no longer takes it: it has expired or was \
                        revoked. Run `codex login` on the machine of the bridge; it is taken up by itself.";

/// While calls come, a login that the backend did not take is tried again this often.
const REJECTED_CHECK: Duration = Duration::from_secs(10);

/// Looks at a login that changes under our eyes before a call is refused.
const LOOKS: usize = 4;

/// The login as last read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownLogin {
    /// What was read.
    pub state: LoginState,
    /// Why it could not be read again since, where that is so.
    pub stale: Option<String>,
    /// There is a login, and the backend does not take it.
    pub rejected: bool,
}

/// What is known, and the one read at a time that renews it. Owned by the runtime's shared part.
#[derive(Debug, Default)]
pub(super) struct LoginCache {
    // A std mutex: held for a copy, never across an await.
    known: Mutex<Option<Known>>,
    /// Held by whoever reads the account; the others wait and take what it found.
    flight: tokio::sync::Mutex<()>,
    /// When a rejected login was last tried.
    // A std mutex: held for a copy, never across an await.
    tried: Mutex<Option<Instant>>,
}

#[derive(Debug, Clone)]
struct Known {
    login: KnownLogin,
    generation: u64,
    stamp: Option<AuthStamp>,
    /// Not to be used past it.
    until: Option<Instant>,
}

impl LoginCache {
    /// Has the account read again by the next call.
    pub(super) fn expire(&self) {
        if let Some(known) = &mut *self.known() {
            known.until = Some(Instant::now());
        }
    }

    pub(super) fn last(&self) -> Option<KnownLogin> {
        self.known().as_ref().map(|known| known.login.clone())
    }

    fn current(&self, generation: u64, stamp: Option<AuthStamp>) -> Option<LoginState> {
        self.known()
            .as_ref()
            .filter(|known| known.generation == generation && known.stamp == stamp)
            .filter(|known| known.until.is_none_or(|until| Instant::now() < until))
            .map(|known| known.login.state.clone())
    }

    /// Whether the login that was rejected in this generation has been written anew since.
    fn is_mended(&self, generation: u64, stamp: Option<AuthStamp>) -> bool {
        self.known().as_ref().is_some_and(|known| {
            known.login.rejected && known.generation == generation && known.stamp != stamp
        })
    }

    /// Whether a rejected login is to be tried now; then nobody else tries it for a while.
    fn begin_trial(&self) -> bool {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let due = tried.is_none_or(|tried| tried.elapsed() >= REJECTED_CHECK);
        if due {
            *tried = Some(Instant::now());
        }
        due
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppServer {
    /// The login as it is now. Where the account cannot be read (the backend may be out of reach), the last
    /// known state of the same login stands in, or what the login file says:
    /// [`AppServer::known_login`] tells.
    pub async fn login(&self) -> Result<LoginState, AppServerError> {
        let cache = &self.shared().login;
        for look in 1..=LOOKS {
            let live = self.live().await?;
            let stamp = self.stamp();
            if let Some(state) = cache.current(live.generation, stamp) {
                return Ok(state);
            }
            let flight = cache.flight.lock().await;
            if let Some(state) = cache.current(live.generation, stamp) {
                return Ok(state);
            }
            let now = match self.auth_file() {
                Some(file) => mark(file).await,
                None => None,
            };
            let outdated = self.with_another_login(now.as_ref());
            if !outdated.is_empty() {
                drop(flight);
                for generation in outdated {
                    self.replace(generation, "the login changed").await?;
                }
                continue;
            }
            let is_there = matches!(now, Some(AuthMark::Account { .. }));
            if is_there && cache.is_mended(live.generation, stamp) {
                drop(flight);
                self.replace(live.generation, "there is a new login").await?;
                continue;
            }
            // Half a file has no mark yet: nothing found now may be kept.
            let being_written = live.auth.is_some() && now.is_none();
            match self.unless_silent(&live, live.connection.account(false)).await {
                Ok(state) => {
                    let state = named(state, live.auth.as_ref());
                    let rejected = state == LoginState::LoggedOut && is_there;
                    if rejected {
                        self.try_rejected(&live);
                    }
                    let until = match (&live.auth, being_written) {
                        (Some(_), false) if rejected => Some(Instant::now() + RETRY_AFTER),
                        (Some(_), false) => None,
                        (Some(_), true) => Some(Instant::now()),
                        (None, _) => Some(Instant::now() + UNSEEN_AGE),
                    };
                    self.learned(&state);
                    let login = KnownLogin { state: state.clone(), stale: None, rejected };
                    *cache.known() = Some(Known { login, generation: live.generation, stamp, until });
                    return Ok(state);
                }
                // Asked again of the one that takes its place.
                Err(AppServerError::Disconnected(reason)) if reason.is_loss() && look < LOOKS => {}
                Err(error) => return self.stand_in(&live, stamp, error),
            }
        }
        Err(AppServerError::Unavailable { reason: "the login keeps changing".into() })
    }

    /// Those that were started with another login than `now`.
    fn with_another_login(&self, now: Option<&AuthMark>) -> Vec<u64> {
        let Some(now) = now else { return Vec::new() };
        let mut ready = self.ready();
        ready.retain(|live| live.auth.as_ref().is_some_and(|started_with| started_with != now));
        ready.iter().map(|live| live.generation).collect()
    }

    /// The login as last read, whatever its age; never waits.
    pub fn known_login(&self) -> Option<KnownLogin> {
        self.shared().login.last()
    }

    /// The backend has refused a call for its login: the next call looks again.
    pub fn doubt_login(&self) {
        self.shared().login.expire();
    }

    /// Why a login that people believe to have does not show, where we can tell.
    pub async fn login_hint(&self) -> Option<String> {
        if self.known_login().is_some_and(|known| known.rejected) {
            return Some(REJECTED.to_owned());
        }
        let home = self.user_home()?.to_owned();
        let hint = self.tasks().blocking(move || home::keyring_login(&home)).await.flatten();
        hint.map(|hint| format!("Nobody is logged in. {hint}"))
    }

    /// What is said of the login when the account could not be read.
    fn stand_in(
        &self,
        live: &Live,
        stamp: Option<AuthStamp>,
        error: AppServerError,
    ) -> Result<LoginState, AppServerError> {
        let mut known = self.shared().login.known();
        let last = known.take().map(|known| known.login);
        let was_stale = last.as_ref().is_some_and(|last| last.stale.is_some());
        let state = match (&live.auth, last.map(|last| last.state)) {
            // Another account's state, or none at all, says nothing about this one.
            (Some(AuthMark::Account { identity, kind }), last) => match last {
                Some(LoginState::LoggedIn(account)) if account.identity == *identity => {
                    LoginState::LoggedIn(account)
                }
                _ => LoginState::LoggedIn(Account {
                    identity: identity.clone(),
                    kind: kind.clone(),
                    plan: None,
                }),
            },
            (Some(AuthMark::Absent | AuthMark::Unreadable), _) | (None, None) => return Err(error),
            (None, Some(last)) => last,
        };
        if !was_stale {
            tracing::warn!(%error, "the account cannot be read; the last known login stands in");
        }
        let login = KnownLogin { state: state.clone(), stale: Some(error.to_string()), rejected: false };
        let until = Some(Instant::now() + RETRY_AFTER);
        *known = Some(Known { login, generation: live.generation, stamp, until });
        Ok(state)
    }

    /// Asks the backend, beside whatever waits, whether it takes the login after all; then a new app-server takes
    /// it up. Now and then only.
    fn try_rejected(&self, live: &Arc<Live>) {
        if !self.shared().login.begin_trial() {
            return;
        }
        let (app_server, live) = (self.clone(), Arc::clone(live));
        self.tasks().spawn("login trial", async move {
            match live.connection.rate_limits().await {
                Ok(_) => {
                    if let Err(error) = app_server.replace(live.generation, "the login is good again").await {
                        tracing::warn!(%error, "the login is good again and could not be taken up");
                    }
                }
                Err(error) => tracing::debug!(%error, "the login is still not taken"),
            }
        });
    }

    fn stamp(&self) -> Option<AuthStamp> {
        match self.auth_file() {
            Some(file) => auth_file::stamp(file),
            None => None,
        }
    }
}

/// The account under the identity its file gives it, which tells API keys apart too.
fn named(state: LoginState, auth: Option<&AuthMark>) -> LoginState {
    match (state, auth) {
        (LoginState::LoggedIn(mut account), Some(AuthMark::Account { identity, .. })) => {
            account.identity.clone_from(identity);
            LoginState::LoggedIn(account)
        }
        (state, _) => state,
    }
}

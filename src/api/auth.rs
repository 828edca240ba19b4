//! Bearer keys: named, compared in constant time, read anew while requests run.

mod reload;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};
use secrecy::ExposeSecret;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

pub(crate) use self::reload::KeyHealth;

use self::reload::Reloads;
use super::edge::Edge;
use super::error::ApiError;
use super::limits::Rates;
use super::observe::Call;
use crate::config::{self, AuthConfig, KeyLimits};
use crate::model::KeyId;

/// The keys that open `/v1`; with none configured, everyone who reaches the address may call.
pub(crate) struct Keys {
    /// Replaced as a whole. A request keeps the key it came with.
    table: RwLock<Arc<Table>>,
    reloads: Reloads,
}

/// The keys as they were read at one time.
struct Table {
    keys: Vec<Arc<Key>>,
    /// Whose request it is that has no key, where none is wanted.
    everyone: Option<Arc<Key>>,
}

/// One key, and what it has left of its rates.
pub(crate) struct Key {
    pub(crate) id: KeyId,
    /// Digests are all of one length, so that a comparison tells nothing about the key's.
    digest: [u8; 32],
    pub(crate) limits: KeyLimits,
    pub(super) rates: Arc<Rates>,
}

impl Keys {
    pub(crate) fn new(config: &AuthConfig) -> Self {
        Self { table: RwLock::new(Arc::new(Table::new(config, None))), reloads: Reloads::default() }
    }

    /// Whether none is wanted.
    pub(crate) fn is_empty(&self) -> bool {
        self.table().everyone.is_some()
    }

    /// Whose request this is.
    pub(crate) fn owner(&self, headers: &HeaderMap) -> Result<Arc<Key>, ApiError> {
        let table = self.table();
        if let Some(everyone) = &table.everyone {
            return Ok(Arc::clone(everyone));
        }
        let Some(token) = bearer(headers) else {
            return Err(ApiError::new(
                "invalid_api_key",
                "No API key was given. Send one of this bridge's keys as `Authorization: Bearer KEY`.",
            ));
        };
        match table.find(token) {
            Some(key) => Ok(Arc::clone(key)),
            None => Err(ApiError::new("invalid_api_key", explain(token))),
        }
    }

    /// The key of that name, for what goes on after its request.
    pub(crate) fn of_id(&self, id: &KeyId) -> Option<Arc<Key>> {
        let table = self.table();
        table.everyone.iter().chain(&table.keys).find(|key| key.id == *id).cloned()
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Table {
    /// The keys of `config`. One that was there `before` with the same rates has used of them what it has.
    fn new(config: &AuthConfig, before: Option<&Self>) -> Self {
        let key = |name: &str, digest, limits: KeyLimits| Key::new(KeyId::new(name), digest, limits, before);
        let tokens = config.tokens.iter().map(|token| {
            let digest = config::digest(token.token.expose_secret().as_bytes());
            key(&token.name, digest, config.limits.get(&token.name).cloned().unwrap_or_default())
        });
        let file = config.keys.iter().flatten().map(|kept| key(&kept.name, kept.digest, kept.limits.clone()));
        let keys = tokens.chain(file).collect();
        let everyone =
            config.is_open().then(|| Key::new(KeyId::anonymous(), [0; 32], KeyLimits::default(), None));
        Self { keys, everyone }
    }

    /// Compares against every key, whichever one fits.
    fn find(&self, token: &[u8]) -> Option<&Arc<Key>> {
        let given = config::digest(token);
        let mut found = Choice::from(0);
        let mut place = 0_u64;
        for (index, key) in (0_u64..).zip(&self.keys) {
            let equal = key.digest.ct_eq(&given);
            place.conditional_assign(&index, equal);
            found |= equal;
        }
        if bool::from(found) { self.keys.get(usize::try_from(place).ok()?) } else { None }
    }
}

impl Key {
    fn new(id: KeyId, digest: [u8; 32], limits: KeyLimits, before: Option<&Table>) -> Arc<Self> {
        let same = |key: &&Arc<Self>| key.id == id && key.limits.has_rates_of(&limits);
        let kept = before.and_then(|table| table.keys.iter().find(same)).map(|key| Arc::clone(&key.rates));
        let rates = kept.unwrap_or_else(|| Arc::new(Rates::new(&limits)));
        Arc::new(Self { id, digest, limits, rates })
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Keys").field(&self.table().keys).finish()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.id.fmt(f)
    }
}

/// Lets a request through if its key is one of ours, notes whose it is, and tells how its rates stand.
pub(crate) async fn require_key(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    match edge.keys.owner(request.headers()) {
        Ok(key) => {
            let call = request.extensions().get::<Call>().cloned();
            if let Some(call) = &call {
                call.set_key(Arc::clone(&key));
            }
            let mut response = next.run(request).await;
            if let Some(call) = call {
                call.settle_ended();
            }
            key.rates.tell(response.headers_mut());
            response
        }
        Err(error) => {
            let mut response = error.into_response();
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
    }
}

/// The same for a request of the bridge's own, which brings the key it is made with and comes from no client.
pub(crate) async fn as_owner(request: Request, next: Next) -> Response {
    let call = request.extensions().get::<Call>().cloned();
    if let (Some(call), Some(key)) = (&call, request.extensions().get::<Arc<Key>>()) {
        call.set_key(Arc::clone(key));
    }
    let response = next.run(request).await;
    if let Some(call) = call {
        call.settle_ended();
    }
    response
}

/// The token of `Authorization: Bearer …`; the scheme's case does not matter.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// Why `token` is no key of ours, without repeating any of it.
fn explain(token: &[u8]) -> &'static str {
    let is_jwt = token.starts_with(b"eyJ") && token.split(|byte| *byte == b'.').count() == 3;
    if token.starts_with(b"sk-") {
        "This looks like an OpenAI API key. codex-bridge wants one of its own keys (`codex-bridge keys`) and never \
         passes yours on; the upstream login is the Codex one. Treat the key you sent as exposed to this host."
    } else if is_jwt {
        "This looks like a ChatGPT access token. codex-bridge wants one of its own keys (`codex-bridge keys`) and \
         never passes yours on; the upstream login is the Codex one."
    } else {
        "Incorrect API key provided. Use one of the keys this bridge is configured with (`codex-bridge keys`, `auth.tokens`)."
    }
}

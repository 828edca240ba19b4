//! Bearer keys: named, compared in constant time.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::edge::Edge;
use super::error::ApiError;
use super::observe::Call;
use crate::config::AuthConfig;
use crate::model::KeyId;

/// The keys that open `/v1`; none configured, everyone who reaches the address may call.
#[derive(Debug)]
pub(crate) struct Keys(Vec<Key>);

struct Key {
    id: KeyId,
    /// Digests are all of one length, so that a comparison tells nothing about the key's.
    digest: [u8; 32],
}

impl Keys {
    pub(crate) fn new(config: &AuthConfig) -> Self {
        let key = |token: &crate::config::NamedToken| Key {
            id: KeyId::new(token.name.as_str()),
            digest: digest(token.token.expose_secret().as_bytes()),
        };
        Self(config.tokens.iter().map(key).collect())
    }

    /// Whose request this is.
    pub(crate) fn owner(&self, headers: &HeaderMap) -> Result<KeyId, ApiError> {
        if self.0.is_empty() {
            return Ok(KeyId::anonymous());
        }
        let Some(token) = bearer(headers) else {
            return Err(ApiError::new(
                "invalid_api_key",
                "No API key was given. Send one of this bridge's keys as `Authorization: Bearer KEY`.",
            ));
        };
        match self.find(token) {
            Some(key) => Ok(key.id.clone()),
            None => Err(ApiError::new("invalid_api_key", explain(token))),
        }
    }

    /// Compares against every key, whichever one fits.
    fn find(&self, token: &[u8]) -> Option<&Key> {
        let given = digest(token);
        let mut found = Choice::from(0);
        let mut place = 0_u64;
        for (index, key) in (0_u64..).zip(&self.0) {
            let equal = key.digest.ct_eq(&given);
            place.conditional_assign(&index, equal);
            found |= equal;
        }
        if bool::from(found) { self.0.get(usize::try_from(place).ok()?) } else { None }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.id.fmt(f)
    }
}

/// Lets a request through if its key is one of ours, and notes whose it is.
pub(crate) async fn require_key(State(edge): State<Edge>, mut request: Request, next: Next) -> Response {
    match edge.keys.owner(request.headers()) {
        Ok(key) => {
            if let Some(call) = request.extensions_mut().get_mut::<Call>() {
                call.set_key(key);
            }
            next.run(request).await
        }
        Err(error) => {
            let mut response = error.into_response();
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
    }
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
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
        "This looks like an OpenAI API key. codex-bridge wants one of its own keys (`auth.tokens`) and never \
         passes yours on; the upstream login is the Codex one. Treat the key you sent as exposed to this host."
    } else if is_jwt {
        "This looks like a ChatGPT access token. codex-bridge wants one of its own keys (`auth.tokens`) and \
         never passes yours on; the upstream login is the Codex one."
    } else {
        "Incorrect API key provided. Use one of the keys this bridge is configured with (`auth.tokens`)."
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NamedToken;

    fn keys(tokens: &[(&str, &str)]) -> Keys {
        let named = |&(name, token): &(&str, &str)| NamedToken { name: name.into(), token: token.into() };
        Keys::new(&AuthConfig { tokens: tokens.iter().map(named).collect() })
    }

    fn owner(keys: &Keys, authorization: Option<&str>) -> Result<String, ApiError> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        keys.owner(&headers).map(|key| key.to_string())
    }

    #[test]
    fn each_key_has_its_owner() {
        let keys = keys(&[("first", "one"), ("second", "two")]);
        assert_eq!(owner(&keys, Some("Bearer one")).unwrap(), "first");
        assert_eq!(owner(&keys, Some("bearer  two ")).unwrap(), "second");
    }

    #[test]
    fn without_keys_everyone_is_anonymous() {
        assert_eq!(owner(&keys(&[]), None).unwrap(), "anonymous");
        assert_eq!(owner(&keys(&[]), Some("Bearer whatever")).unwrap(), "anonymous");
    }

    #[test]
    fn anything_else_is_refused() {
        let keys = keys(&[("first", "one")]);
        for given in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic one"), Some("one")] {
            let error = owner(&keys, given).unwrap_err();
            assert_eq!((error.status.as_u16(), error.code.as_deref()), (401, Some("invalid_api_key")));
            assert!(error.message.starts_with("No API key"), "{given:?}");
        }
        for given in ["Bearer on", "Bearer onee", "Bearer One", "Bearer one two"] {
            assert!(owner(&keys, Some(given)).unwrap_err().message.starts_with("Incorrect"), "{given}");
        }
    }

    #[test]
    fn somebody_elses_credentials_are_named_but_never_repeated() {
        let keys = keys(&[("first", "one")]);
        let openai = owner(&keys, Some("Bearer sk-proj-abcdef")).unwrap_err().message;
        assert!(openai.contains("OpenAI API key") && !openai.contains("abcdef"));
        let jwt = owner(&keys, Some("Bearer eyJhbGciOi.eyJzdWIi.c2ln")).unwrap_err().message;
        assert!(jwt.contains("ChatGPT access token") && !jwt.contains("c2ln"));
        // A key of ours may look like one of theirs.
        let keys = self::keys(&[("first", "sk-mine")]);
        assert_eq!(owner(&keys, Some("Bearer sk-mine")).unwrap(), "first");
    }

    #[test]
    fn keys_stay_out_of_debug_output() {
        assert_eq!(format!("{:?}", keys(&[("first", "one")])), "Keys([first])");
    }
}

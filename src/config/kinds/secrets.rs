//! Values that are never shown, logged or quoted in a mistake.

use std::collections::BTreeSet;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use url::Url;

use super::{Kind, MASK, Place, all};
use crate::config::value::Value;
use crate::config::{EncryptionKey, NamedToken};

/// One secret that may be absent.
pub(in crate::config) struct Secret;

impl Kind for Secret {
    type Value = Option<SecretString>;

    fn read(value: &Value, _: &Place<'_>) -> Result<Self::Value, String> {
        let text = value.text().ok_or("wants a text")?;
        sendable(text).map(|()| Some(text.to_owned().into()))
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        json!(value.as_ref().map(|_| MASK))
    }
}

/// Where a Redis or Valkey server is; its password may be in it.
pub(in crate::config) struct RedisUrl;

impl Kind for RedisUrl {
    type Value = Option<SecretString>;

    fn read(value: &Value, _: &Place<'_>) -> Result<Self::Value, String> {
        let wants = "wants \"redis://[user:password@]host[:port][/db]\", the same with rediss:// (TLS), \
                     or \"unix:///path/of/socket\"";
        let text = value.text().ok_or(wants)?.trim();
        let url = Url::parse(text).map_err(|_| wants)?;
        let right = match url.scheme() {
            "redis" | "rediss" => url.has_host(),
            "unix" | "redis+unix" => url.path().len() > 1,
            _ => false,
        };
        if right { Ok(Some(text.to_owned().into())) } else { Err(wants.into()) }
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        Secret::show(value)
    }
}

/// A key of 32 bytes, in hex or base64.
pub(in crate::config) struct CipherKey;

impl Kind for CipherKey {
    type Value = Option<EncryptionKey>;

    fn read(value: &Value, _: &Place<'_>) -> Result<Self::Value, String> {
        let key = value.text().and_then(|text| EncryptionKey::parse(text.trim()));
        let wants = "wants 32 bytes in hex (64 digits) or base64; `openssl rand -hex 32` makes some";
        key.map(Some).ok_or_else(|| wants.into())
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        json!(value.as_ref().map(|_| MASK))
    }
}

/// Bearer tokens by name. A variable holds `name:secret,name2:secret2`; one bare secret has the name `default`.
pub(in crate::config) struct Tokens;

impl Kind for Tokens {
    type Value = Vec<NamedToken>;

    fn read(value: &Value, place: &Place<'_>) -> Result<Self::Value, String> {
        let wants = "wants a table of names and secrets: name = \"secret\" or name = {file = \"path\"} \
                     (in a variable: name:secret,name2:secret2)";
        let pairs = value.pairs(':').ok_or(wants)?;
        let mut seen: Vec<NamedToken> = Vec::new();
        let mut names = BTreeSet::new();
        all(pairs.into_iter().map(|(name, value)| {
            if name.is_empty() {
                return Err("a token has no name".into());
            }
            if !names.insert(name.clone()) {
                return Err(format!("two tokens are named {name:?}"));
            }
            let secret = secret(&value, place).map_err(|problem| format!("token {name:?}: {problem}"))?;
            if let Some(twin) = seen.iter().find(|token| token.token.expose_secret() == secret) {
                return Err(format!("tokens {:?} and {name:?} have the same secret", twin.name));
            }
            let token = NamedToken { name, token: secret.into() };
            seen.push(token.clone());
            Ok(token)
        }))
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        value.iter().map(|token| (token.name.clone(), json!(MASK))).collect()
    }
}

/// The text itself, or that of the file it names.
fn secret(value: &Value, place: &Place<'_>) -> Result<String, String> {
    let secret = match value {
        Value::Table(pairs) => match pairs.as_slice() {
            [(key, path)] if key == "file" => {
                place.secret_file(&place.path(path.text().ok_or("file wants a path")?)?)?
            }
            _ => return Err("wants \"secret\" or {file = \"path\"}".into()),
        },
        _ => value.text().ok_or("wants \"secret\" or {file = \"path\"}")?.to_owned(),
    };
    sendable(&secret).map(|()| secret)
}

/// Whether the secret can stand in an HTTP header at all.
pub(super) fn sendable(secret: &str) -> Result<(), String> {
    if secret.is_empty() {
        Err("is empty".into())
    } else if secret.bytes().any(|byte| !byte.is_ascii_graphic()) {
        Err("holds white space or other characters that no client can send in a header".into())
    } else {
        Ok(())
    }
}

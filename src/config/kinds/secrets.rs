//! Values that are never shown, logged or quoted in a mistake.

use std::collections::BTreeSet;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::{Kind, MASK, Place, all};
use crate::config::NamedToken;
use crate::config::value::Value;

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

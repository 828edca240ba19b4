//! The login file: has it changed, and whose is it. Tokens are looked at here and nowhere kept.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// A file that cannot be read may be in the middle of being written; after this long it is not.
const WRITING: Duration = Duration::from_secs(2);

/// Changes whenever the file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AuthStamp {
    modified: Option<SystemTime>,
    inode: u64,
    size: u64,
}

/// Whose login the file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AuthMark {
    /// There is no file.
    Absent,
    /// A file nobody can read as a login.
    Unreadable,
    /// Somebody's.
    Account {
        /// A digest that stays as long as the account (or the API key) does, through token renewals.
        identity: String,
        /// `chatgpt`, `apiKey`, …: the app-server's word for it.
        kind: String,
    },
}

/// The stamp of the file behind `path`, links followed; `None` where there is none.
///
/// Each call asks: looked at in place, since a hop to a blocking thread costs up to a millisecond and this
/// some microseconds.
pub(crate) fn stamp(path: &Path) -> Option<AuthStamp> {
    let found = std::fs::metadata(path).ok()?;
    Some(AuthStamp { modified: found.modified().ok(), inode: found.ino(), size: found.size() })
}

/// Whose login the file holds now; `None` while it is being written.
pub(crate) async fn mark(path: &Path) -> Option<AuthMark> {
    let content = match tokio::fs::read(path).await {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(AuthMark::Absent),
        Err(_) => return Some(AuthMark::Unreadable),
    };
    if let Ok(Value::Object(auth)) = serde_json::from_slice(&content) {
        return Some(AuthMark::Account { identity: identity(&auth), kind: kind(&auth) });
    }
    let age = stamp(path).and_then(|stamp| stamp.modified?.elapsed().ok());
    if age.is_some_and(|age| age < WRITING) { None } else { Some(AuthMark::Unreadable) }
}

/// A digest of what names the account: everything but the tokens themselves and the time of their renewal.
fn identity(auth: &Map<String, Value>) -> String {
    let tokens = auth.get("tokens");
    let account = tokens.and_then(|tokens| tokens.get("account_id")).and_then(Value::as_str);
    let user = tokens.and_then(|tokens| tokens.get("id_token")).and_then(Value::as_str).and_then(user_of);
    let mut named: Vec<(&str, String)> = auth
        .iter()
        .filter(|(field, value)| !matches!(field.as_str(), "tokens" | "last_refresh") && !value.is_null())
        .map(|(field, value)| (field.as_str(), value.to_string()))
        .collect();
    named.extend(account.map(|account| ("account_id", account.to_owned())));
    named.extend(user.map(|user| ("user_id", user)));
    named.sort();
    let mut digest = Sha256::new();
    for (field, value) in named {
        for part in [field, &value] {
            digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(part);
        }
    }
    // Half of it is more than enough to tell accounts apart.
    digest.finalize().iter().take(16).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn kind(auth: &Map<String, Value>) -> String {
    match auth.get("auth_mode").and_then(Value::as_str) {
        Some("apikey") => "apiKey",
        Some(mode) => mode,
        // Older logins do not say.
        None if auth.get("OPENAI_API_KEY").is_some_and(Value::is_string) => "apiKey",
        None => "chatgpt",
    }
    .to_owned()
}

/// The user in an id token's claims; an unreadable token names none.
fn user_of(token: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let of_openai = claims.get("https://api.openai.com/auth").and_then(|auth| auth.get("chatgpt_user_id"));
    of_openai.or_else(|| claims.get("sub"))?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chatgpt(account: &str, user: &str, token: &str) -> Vec<u8> {
        let claims = json!({
            "email": "someone@example.com",
            "exp": token.len(),
            "https://api.openai.com/auth": {"chatgpt_user_id": user},
        });
        let id_token = format!("e30.{}.{token}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        json!({
            "auth_mode": "chatgpt",
            "OPENAI_API_KEY": null,
            "tokens": {"id_token": id_token, "access_token": token, "refresh_token": token, "account_id": account},
            "last_refresh": token,
        })
        .to_string()
        .into_bytes()
    }

    fn key(key: &str) -> Vec<u8> {
        json!({"auth_mode": "apikey", "OPENAI_API_KEY": key}).to_string().into_bytes()
    }

    fn identity_of(content: &[u8]) -> String {
        identity(serde_json::from_slice::<Value>(content).unwrap().as_object().unwrap())
    }

    #[test]
    fn the_kind_is_the_app_servers_word() {
        for (auth, expected) in [
            (json!({"auth_mode": "apikey", "OPENAI_API_KEY": "sk"}), "apiKey"),
            (json!({"auth_mode": "chatgpt", "tokens": {}}), "chatgpt"),
            (json!({"auth_mode": "other"}), "other"),
            (json!({"OPENAI_API_KEY": "sk"}), "apiKey"),
            (json!({"OPENAI_API_KEY": null, "tokens": {}}), "chatgpt"),
        ] {
            assert_eq!(kind(auth.as_object().unwrap()), expected, "{auth}");
        }
    }

    #[test]
    fn an_identity_outlives_its_tokens_and_no_other_account_has_it() {
        let first = identity_of(&chatgpt("a", "u", "t1"));
        assert_eq!(identity_of(&chatgpt("a", "u", "renewed")), first);
        let others =
            [chatgpt("b", "u", "t1"), chatgpt("a", "v", "t1"), key("sk-1"), key("sk-2"), b"{}".into()];
        let mut all: Vec<_> = others.iter().map(|auth| identity_of(auth)).collect();
        all.push(first.clone());
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6);
        assert!(first.len() == 32 && first.bytes().all(|byte| byte.is_ascii_hexdigit()), "{first}");
    }

    #[tokio::test]
    async fn the_file_is_told_from_its_absence_and_from_half_of_it() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("auth.json");
        assert_eq!((mark(&file).await, stamp(&file)), (Some(AuthMark::Absent), None));
        std::fs::write(&file, b"{\"tokens\": {").unwrap();
        assert_eq!(mark(&file).await, None, "being written");
        let old = std::fs::File::open(&file).unwrap();
        old.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        assert_eq!(mark(&file).await, Some(AuthMark::Unreadable));
        let before = stamp(&file);
        std::fs::write(&file, key("sk")).unwrap();
        assert!(matches!(mark(&file).await, Some(AuthMark::Account { .. })));
        assert_ne!(stamp(&file), before);
    }
}

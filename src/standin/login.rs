//! A made-up ChatGPT login: what `codex login` would have left in a Codex home.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::account::PLAN;
use super::{StandInError, unix_seconds};

/// The account that the login, and the backend, speak of.
pub(crate) const ACCOUNT: &str = "stand-in-account";
const USER: &str = "stand-in-user";
const EMAIL: &str = "stand-in@example.com";
/// Tokens live this long, seconds: longer than any stand-in.
const LIFETIME: u64 = 365 * 24 * 3600;

/// Writes `auth.json` and `ca.pem` into `folder`, making it if need be; gives the latter's path.
pub(crate) async fn write(folder: &Path, ca_pem: &str) -> Result<PathBuf, StandInError> {
    let failed = |source| StandInError::Folder { folder: folder.to_owned(), source };
    tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).await.map_err(failed)?;
    let folder = tokio::fs::canonicalize(folder).await.map_err(failed)?;
    let (login, ca) = (folder.join("auth.json"), folder.join("ca.pem"));
    match tokio::fs::read_to_string(&login).await {
        Ok(existing) if !existing.contains(ACCOUNT) => {
            return Err(StandInError::ForeignLogin { path: login });
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(_) | Err(_) => {}
    }
    write_private(&login, &auth_json().to_string()).await.map_err(failed)?;
    write_private(&ca, ca_pem).await.map_err(failed)?;
    Ok(ca)
}

/// New tokens, as a refresh answers.
pub(crate) fn tokens() -> Value {
    json!({
        "id_token": jwt(),
        "access_token": jwt(),
        "refresh_token": "stand-in-refresh",
    })
}

fn auth_json() -> Value {
    let mut tokens = tokens();
    tokens["account_id"] = ACCOUNT.into();
    json!({
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": null,
        "tokens": tokens,
        "last_refresh": rfc3339(unix_seconds()),
    })
}

/// Unsigned: whoever reads it must not check.
fn jwt() -> String {
    let now = unix_seconds();
    let header = json!({"alg": "none", "typ": "JWT"});
    let claims = json!({
        "iss": "https://auth.openai.com",
        "sub": USER,
        "email": EMAIL,
        "iat": now,
        "exp": now + LIFETIME,
        "https://api.openai.com/auth": {
            "chatgpt_account_id": ACCOUNT,
            "chatgpt_plan_type": PLAN,
            "chatgpt_user_id": USER,
            "user_id": USER,
        },
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(&header), part(&claims), URL_SAFE_NO_PAD.encode("unsigned"))
}

/// Owner-only, whole or not at all.
async fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut options = tokio::fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&partial).await?;
    file.write_all(text.as_bytes()).await?;
    file.flush().await?;
    tokio::fs::rename(&partial, path).await
}

/// UTC, to the second.
fn rfc3339(unix: u64) -> String {
    let (days, rest) = (unix / 86_400, unix % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The Gregorian date, days after 1970-01-01: 400-year eras that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn times_are_written_as_dates() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(unix), text);
        }
    }

    #[tokio::test]
    async fn a_login_is_private_and_never_replaces_another() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("new");
        let ca = write(&folder, "PEM").await.unwrap();
        assert_eq!(std::fs::read_to_string(ca).unwrap(), "PEM");
        let login = folder.join("auth.json");
        assert_eq!(std::fs::metadata(&login).unwrap().permissions().mode() & 0o777, 0o600);
        let written: Value = serde_json::from_str(&std::fs::read_to_string(&login).unwrap()).unwrap();
        let claims = written["tokens"]["id_token"].as_str().unwrap().split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        assert_eq!(
            claims["https://api.openai.com/auth"]["chatgpt_account_id"],
            written["tokens"]["account_id"]
        );

        write(&folder, "NEW").await.unwrap();
        std::fs::write(&login, r#"{"tokens":{"account_id":"mine"}}"#).unwrap();
        assert!(matches!(write(&folder, "PEM").await, Err(StandInError::ForeignLogin { .. })));
        assert!(std::fs::read_to_string(&login).unwrap().contains("mine"));
    }
}

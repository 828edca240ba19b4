//! Values of `upstream.*`, `breaker.*` and `fallback.*`.

use serde_json::json;
use url::Url;

use super::{Kind, Place, all};
use crate::config::value::Value;
use crate::config::{BreakerMode, FallbackReason};

/// A share, in percent.
pub(in crate::config) struct Percent;

impl Kind for Percent {
    type Value = u8;

    fn read(value: &Value, _: &Place<'_>) -> Result<u8, String> {
        let percent = value.integer().and_then(|number| u8::try_from(number).ok());
        percent.filter(|percent| *percent <= 100).ok_or_else(|| "wants a whole number from 0 to 100".into())
    }

    fn show(value: &u8) -> serde_json::Value {
        json!(value)
    }
}

/// `observe`, `enforce` or `off`.
pub(in crate::config) struct BreakerModeName;

impl Kind for BreakerModeName {
    type Value = BreakerMode;

    fn read(value: &Value, _: &Place<'_>) -> Result<BreakerMode, String> {
        match value.text() {
            Some("off") => Ok(BreakerMode::Off),
            Some("observe") => Ok(BreakerMode::Observe),
            Some("enforce") => Ok(BreakerMode::Enforce),
            _ => Err("wants \"observe\", \"enforce\" or \"off\"".into()),
        }
    }

    fn show(value: &BreakerMode) -> serde_json::Value {
        match value {
            BreakerMode::Off => json!("off"),
            BreakerMode::Observe => json!("observe"),
            BreakerMode::Enforce => json!("enforce"),
        }
    }
}

/// Where an OpenAI-compatible server is.
pub(in crate::config) struct BaseUrl;

impl Kind for BaseUrl {
    type Value = Option<Url>;

    fn read(value: &Value, _: &Place<'_>) -> Result<Self::Value, String> {
        let wants =
            "wants an address such as \"http://127.0.0.1:11434/v1\", without user, query and fragment";
        let url = Url::parse(value.text().ok_or(wants)?.trim()).map_err(|_| wants)?;
        let plain = url.username().is_empty() && url.password().is_none();
        let bare = url.query().is_none() && url.fragment().is_none();
        let http = matches!(url.scheme(), "http" | "https") && url.has_host();
        if plain && bare && http { Ok(Some(url)) } else { Err(wants.into()) }
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        json!(value.as_ref().map(Url::as_str))
    }
}

/// A list of names.
pub(in crate::config) struct Names;

impl Kind for Names {
    type Value = Vec<String>;

    fn read(value: &Value, _: &Place<'_>) -> Result<Self::Value, String> {
        let names = value.texts(',').ok_or("wants a list of names")?;
        all(names.into_iter().map(|name| match name.trim() {
            "" => Err("a name is empty".into()),
            name => Ok(name.to_owned()),
        }))
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        json!(value)
    }
}

/// When the fallback takes a call.
pub(in crate::config) struct Reasons;

impl Kind for Reasons {
    type Value = Vec<FallbackReason>;

    fn read(value: &Value, _: &Place<'_>) -> Result<Self::Value, String> {
        let wants = "wants some of \"down\", \"logged_out\" and \"used_up\"";
        let words = value.texts(',').filter(|words| !words.is_empty()).ok_or(wants)?;
        let reason = |word: String| {
            FallbackReason::ALL
                .into_iter()
                .find(|reason| reason.as_str() == word.trim())
                .ok_or(wants.to_owned())
        };
        words.into_iter().map(reason).collect()
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        value.iter().map(|reason| reason.as_str()).collect()
    }
}

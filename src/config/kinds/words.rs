//! Names, addresses, paths and choices.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;
use tracing_subscriber::EnvFilter;
use url::{Host as UrlHost, Url};

use super::{Kind, MASK, Place, all};
use crate::config::value::Value;
use crate::config::{Endpoint, LogFormat, OnAccountChange, Scaffold, StoreBackend, UnknownTools};

/// A text that may be absent.
pub(in crate::config) struct OptionalText;

impl Kind for OptionalText {
    type Value = Option<String>;

    fn read(value: &Value, _: &Place<'_>) -> Result<Self::Value, String> {
        match value.text().map(str::trim) {
            Some(text) if !text.is_empty() => Ok(Some(text.to_owned())),
            _ => Err("wants a text that is not empty".into()),
        }
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        json!(value)
    }
}

/// An address to bind, without its port; the brackets of IPv6 may be there.
pub(in crate::config) struct Host;

impl Kind for Host {
    type Value = String;

    fn read(value: &Value, _: &Place<'_>) -> Result<String, String> {
        let text = value.text().unwrap_or_default().trim();
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let is_v6 = bare.parse::<std::net::Ipv6Addr>().is_ok();
        if is_v6 || (!bare.contains(':') && UrlHost::parse(bare).is_ok()) {
            Ok(bare.to_owned())
        } else {
            Err("wants an address or a host name without scheme and port, such as \"127.0.0.1\"".into())
        }
    }

    fn show(value: &String) -> serde_json::Value {
        json!(value)
    }
}

/// Web origins, written as a browser sends them.
pub(in crate::config) struct Origins;

impl Kind for Origins {
    type Value = Vec<String>;

    fn read(value: &Value, _: &Place<'_>) -> Result<Self::Value, String> {
        let origins = value.texts(',').ok_or("wants a list of origins, such as [\"https://app.example\"]")?;
        all(origins.into_iter().map(|origin| {
            let sent = Url::parse(&origin).ok().map(|url| url.origin().ascii_serialization());
            match sent.as_deref() {
                Some("null") | None => Err(format!(
                    "{origin:?} is no origin; name each as a browser sends it, such as \"https://app.example\""
                )),
                Some(sent) if sent != origin => Err(format!("{origin:?} is sent as {sent:?}; write that")),
                Some(_) => Ok(origin),
            }
        }))
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        json!(value)
    }
}

/// Host names.
pub(in crate::config) struct Hosts;

impl Kind for Hosts {
    type Value = Vec<String>;

    fn read(value: &Value, place: &Place<'_>) -> Result<Self::Value, String> {
        let hosts = value.texts(',').ok_or("wants a list of host names, such as [\"bridge.lan\"]")?;
        all(hosts.into_iter().map(|host| {
            Host::read(&Value::Text(host.clone()), place)
                .map(|host| host.to_ascii_lowercase())
                .map_err(|_| format!("{host:?} is no host name (write it without scheme and port)"))
        }))
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        json!(value)
    }
}

/// A program: a bare name is looked up on PATH, anything else is a path.
pub(in crate::config) struct Program;

impl Kind for Program {
    type Value = Option<PathBuf>;

    fn read(value: &Value, place: &Place<'_>) -> Result<Self::Value, String> {
        let text = value.text().ok_or("wants a path")?;
        if !text.is_empty() && !text.contains('/') {
            Ok(Some(text.into()))
        } else {
            place.path(text).map(Some)
        }
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        json!(value)
    }
}

/// A file that may be absent.
pub(in crate::config) struct OptionalFile;

impl Kind for OptionalFile {
    type Value = Option<PathBuf>;

    fn read(value: &Value, place: &Place<'_>) -> Result<Self::Value, String> {
        place.path(value.text().ok_or("wants a path")?).map(Some)
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        json!(value)
    }
}

/// A folder.
pub(in crate::config) struct Folder;

impl Kind for Folder {
    type Value = PathBuf;

    fn read(value: &Value, place: &Place<'_>) -> Result<PathBuf, String> {
        place.path(value.text().ok_or("wants a path")?)
    }

    fn show(value: &PathBuf) -> serde_json::Value {
        json!(value)
    }
}

/// `KEY=VALUE` settings; in a variable, separated by `;` (their values hold commas).
pub(in crate::config) struct Settings;

impl Kind for Settings {
    type Value = Vec<String>;

    fn read(value: &Value, _: &Place<'_>) -> Result<Self::Value, String> {
        let settings = value.texts(';').ok_or("wants a list of KEY=VALUE texts")?;
        let named = |setting: &str| setting.split_once('=').is_some_and(|(key, _)| !key.trim().is_empty());
        all((1..).zip(settings).map(|(place, setting)| {
            if named(&setting) { Ok(setting) } else { Err(format!("entry {place} is not KEY=VALUE")) }
        }))
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        value.iter().map(|setting| mask_setting(setting)).collect()
    }
}

/// Names and what they stand for; in a variable `name=value,name2=value2`.
pub(in crate::config) struct Map;

impl Kind for Map {
    type Value = BTreeMap<String, String>;

    fn read(value: &Value, _: &Place<'_>) -> Result<Self::Value, String> {
        let wants = || "wants a table of texts (in a variable: name=value,name2=value2)".to_owned();
        let pairs = value.pairs('=').ok_or_else(wants)?;
        pairs
            .into_iter()
            .map(|(name, value)| match value.text() {
                Some(text) if !name.is_empty() && !text.is_empty() => Ok((name, text.to_owned())),
                _ => Err(wants()),
            })
            .collect()
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        json!(value)
    }
}

/// Where an app-server listens.
pub(in crate::config) struct Address;

impl Kind for Address {
    type Value = Option<Endpoint>;

    fn read(value: &Value, _: &Place<'_>) -> Result<Self::Value, String> {
        let wants = "wants \"ws://host:port\" or \"unix:///path/of/socket\"";
        let text = value.text().ok_or(wants)?.trim();
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Some(Endpoint::Unix(path.into())))
            } else {
                Err(wants.into())
            };
        }
        let url = Url::parse(text).map_err(|_| wants)?;
        let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        match url.scheme() {
            "ws" if plain && url.has_host() && url.port().is_some() => {
                Ok(Some(Endpoint::Tcp(text.to_owned())))
            }
            "wss" => Err(format!("{wants}; the app-server speaks no TLS itself")),
            _ => Err(wants.into()),
        }
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        match value {
            Some(Endpoint::Tcp(address)) => json!(address),
            Some(Endpoint::Unix(path)) => json!(format!("unix://{}", path.display())),
            None => serde_json::Value::Null,
        }
    }
}

/// `none` or `codex`.
pub(in crate::config) struct ScaffoldName;

impl Kind for ScaffoldName {
    type Value = Scaffold;

    fn read(value: &Value, _: &Place<'_>) -> Result<Scaffold, String> {
        match value.text() {
            Some("none") => Ok(Scaffold::None),
            Some("codex") => Ok(Scaffold::Codex),
            _ => Err("wants \"none\" or \"codex\"".into()),
        }
    }

    fn show(value: &Scaffold) -> serde_json::Value {
        match value {
            Scaffold::None => json!("none"),
            Scaffold::Codex => json!("codex"),
        }
    }
}

/// `refuse` or `ignore`.
pub(in crate::config) struct OnUnknownTools;

impl Kind for OnUnknownTools {
    type Value = UnknownTools;

    fn read(value: &Value, _: &Place<'_>) -> Result<UnknownTools, String> {
        match value.text() {
            Some("refuse") => Ok(UnknownTools::Refuse),
            Some("ignore") => Ok(UnknownTools::Ignore),
            _ => Err("wants \"refuse\" or \"ignore\"".into()),
        }
    }

    fn show(value: &UnknownTools) -> serde_json::Value {
        match value {
            UnknownTools::Refuse => json!("refuse"),
            UnknownTools::Ignore => json!("ignore"),
        }
    }
}

/// `fail` or `rebuild`.
pub(in crate::config) struct AccountChange;

impl Kind for AccountChange {
    type Value = OnAccountChange;

    fn read(value: &Value, _: &Place<'_>) -> Result<OnAccountChange, String> {
        match value.text() {
            Some("fail") => Ok(OnAccountChange::Fail),
            Some("rebuild") => Ok(OnAccountChange::Rebuild),
            _ => Err("wants \"fail\" or \"rebuild\"".into()),
        }
    }

    fn show(value: &OnAccountChange) -> serde_json::Value {
        match value {
            OnAccountChange::Fail => json!("fail"),
            OnAccountChange::Rebuild => json!("rebuild"),
        }
    }
}

/// `memory`, `embedded` or `redis`.
pub(in crate::config) struct BackendName;

impl Kind for BackendName {
    type Value = StoreBackend;

    fn read(value: &Value, _: &Place<'_>) -> Result<StoreBackend, String> {
        match value.text() {
            Some("memory") => Ok(StoreBackend::Memory),
            Some("embedded") => Ok(StoreBackend::Embedded),
            Some("redis") => Ok(StoreBackend::Redis),
            _ => Err("wants \"memory\", \"embedded\" or \"redis\"".into()),
        }
    }

    fn show(value: &StoreBackend) -> serde_json::Value {
        match value {
            StoreBackend::Memory => json!("memory"),
            StoreBackend::Embedded => json!("embedded"),
            StoreBackend::Redis => json!("redis"),
        }
    }
}

/// What keys on a Redis server begin with.
pub(in crate::config) struct RedisPrefix;

impl Kind for RedisPrefix {
    type Value = String;

    fn read(value: &Value, _: &Place<'_>) -> Result<String, String> {
        match value.text() {
            Some(text)
                if !text.is_empty() && text.len() <= 200 && text.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(text.to_owned())
            }
            _ => {
                Err("wants 1 to 200 printable characters without white space, such as \"codex-bridge:\""
                    .into())
            }
        }
    }

    fn show(value: &String) -> serde_json::Value {
        json!(value)
    }
}

/// `text` or `json`.
pub(in crate::config) struct Format;

impl Kind for Format {
    type Value = LogFormat;

    fn read(value: &Value, _: &Place<'_>) -> Result<LogFormat, String> {
        match value.text() {
            Some("text") => Ok(LogFormat::Text),
            Some("json") => Ok(LogFormat::Json),
            _ => Err("wants \"text\" or \"json\"".into()),
        }
    }

    fn show(value: &LogFormat) -> serde_json::Value {
        match value {
            LogFormat::Text => json!("text"),
            LogFormat::Json => json!("json"),
        }
    }
}

/// A `tracing` filter.
pub(in crate::config) struct Filter;

impl Kind for Filter {
    type Value = String;

    fn read(value: &Value, _: &Place<'_>) -> Result<String, String> {
        let text = value.text().ok_or("wants a filter such as \"info\" or \"info,codex_bridge=debug\"")?;
        match EnvFilter::try_new(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(format!("is no filter: {error}; an example is \"info,codex_bridge=debug\"")),
        }
    }

    fn show(value: &String) -> serde_json::Value {
        json!(value)
    }
}

/// A provider's key or headers may be among the settings.
fn mask_setting(setting: &str) -> String {
    let telling = ["token", "secret", "password", "key", "authorization", "header"];
    match setting.split_once('=') {
        Some((key, _)) if telling.iter().any(|word| setting.to_ascii_lowercase().contains(word)) => {
            format!("{key}={MASK}")
        }
        _ => setting.to_owned(),
    }
}

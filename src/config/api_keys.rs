//! The file of API keys: a table for each, with the hash of its secret and its limits.
//!
//! A secret is 256 random bits: no dictionary has it, so that a plain SHA-256 keeps it as safe as a slow hash would,
//! and a request pays nothing for it.

use std::fmt;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest, Sha256};
use toml::de::{DeTable, DeValue};

use super::error::{Mistake, Mistakes, Source};
use super::file;
use super::sections::{Config, KeyLimits, NamedKey};
use super::value::Value;
use crate::model::{KeyId, Priority};

/// Its name in the state folder.
const FILE: &str = "keys.toml";
/// What a secret of ours begins with: a scanner for leaked secrets can tell it.
const PREFIX: &str = "cxb_";
const HASH: &str = "sha256:";
/// Longest name; it stands in logs and records.
const LONGEST_NAME: usize = 64;
/// Most tokens a minute; more is no limit.
const MOST: i64 = 1_000_000_000;

/// What a key may have beside its hash.
const FIELDS: &str =
    "requests_per_minute, tokens_per_minute, concurrency, models, default_model and priority";

impl NamedKey {
    /// A key with a fresh secret, which is given back and kept nowhere.
    pub fn generate(name: &str, limits: KeyLimits) -> (Self, String) {
        let secret = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        (Self { name: name.to_owned(), digest: digest(secret.as_bytes()), limits }, secret)
    }
}

/// What is kept and compared of a secret.
pub fn digest(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// The hash stays out of it: it is nobody's business either.
impl fmt::Debug for NamedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedKey")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Where the keys are.
pub fn keys_file(config: &Config) -> PathBuf {
    config.auth.keys_file.clone().unwrap_or_else(|| config.state_dir.join(FILE))
}

/// Reads the keys where there is a file, or where one is named: that closes `/v1`, also while it has no key.
pub(super) fn load(
    config: &mut Config,
    read: &dyn Fn(&Path) -> io::Result<String>,
    mistakes: &mut Vec<Mistake>,
) {
    let path = keys_file(config);
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            config.auth.keys = config.auth.keys_file.is_some().then(Vec::new);
            return;
        }
        Err(error) => {
            mistakes.push(at(&path, None, "auth.keys_file".into(), format!("cannot be read: {error}")));
            return;
        }
    };
    config.auth.keys = Some(entries(&path, &text, mistakes));
    against_tokens(config, &path, mistakes);
}

/// The keys of the file's text, or every mistake in it.
pub fn parse_keys(path: &Path, text: &str) -> Result<Vec<NamedKey>, Mistakes> {
    let mut mistakes = Vec::new();
    let keys = entries(path, text, &mut mistakes);
    if mistakes.is_empty() { Ok(keys) } else { Err(Mistakes(mistakes)) }
}

fn entries(path: &Path, text: &str, mistakes: &mut Vec<Mistake>) -> Vec<NamedKey> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        mistakes.extend(errors.iter().map(|error| {
            let line = error.span().map(|span| file::line_at(text, span.start));
            at(path, line, file::SYNTAX.into(), error.message().to_owned())
        }));
        return Vec::new();
    }
    let mut keys: Vec<NamedKey> = Vec::new();
    // In the file's order; the document's is the names'.
    let mut tables: Vec<_> = document.get_ref().iter().collect();
    tables.sort_by_key(|(name, _)| name.span().start);
    for (name, content) in tables {
        let line = Some(file::line_at(text, name.span().start));
        let name = name.get_ref().as_ref();
        let mut wrong = |line, field: &str, problem: String| {
            let key = if field.is_empty() { format!("[{name}]") } else { format!("{name}.{field}") };
            mistakes.push(at(path, line, key, problem));
        };
        if let Err(problem) = check_key_name(name) {
            wrong(line, "", problem);
        }
        let DeValue::Table(fields) = content.get_ref() else {
            wrong(line, "", "wants a table: [name], and below it hash = \"sha256:…\"".into());
            continue;
        };
        let (mut hash, mut limits, mut has_hash) = (None, KeyLimits::default(), false);
        for (field, value) in fields {
            let line = Some(file::line_at(text, field.span().start));
            let (field, value) = (field.get_ref().as_ref(), file::convert(value.get_ref()));
            if field == "hash" {
                has_hash = true;
                hash = value.text().and_then(parse_hash);
                if hash.is_none() {
                    wrong(line, field, "wants \"sha256:\" and 64 hex digits".into());
                }
            } else if let Err(problem) = set(&mut limits, field, &value) {
                wrong(line, field, problem);
            }
        }
        if !has_hash {
            wrong(line, "", "has no hash; `codex-bridge keys add` writes one".into());
        }
        let Some(digest) = hash else { continue };
        if let Some(twin) = keys.iter().find(|key| key.digest == digest) {
            let problem = format!("has the same secret as {:?}", twin.name);
            wrong(line, "hash", problem);
            continue;
        }
        keys.push(NamedKey { name: name.to_owned(), digest, limits });
    }
    keys
}

/// A name or a secret that a token of the configuration has too would be two keys in one.
fn against_tokens(config: &Config, path: &Path, mistakes: &mut Vec<Mistake>) {
    use secrecy::ExposeSecret as _;
    for key in config.auth.keys.iter().flatten() {
        for token in &config.auth.tokens {
            let mut twice = |what: &str| {
                let problem = format!("has the {what} of the token {:?} of auth.tokens", token.name);
                mistakes.push(at(path, None, format!("[{}]", key.name), problem));
            };
            if token.name == key.name {
                twice("name");
            }
            if digest(token.token.expose_secret().as_bytes()) == key.digest {
                twice("secret");
            }
        }
    }
}

/// Whether a key may have this name.
pub fn check_key_name(name: &str) -> Result<(), String> {
    let fits = (1..=LONGEST_NAME).contains(&name.len());
    if !fits || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte)) {
        return Err(format!("wants a name of 1 to {LONGEST_NAME} letters, digits, '-', '_', '.' or '@'"));
    }
    if name == KeyId::anonymous().as_str() {
        return Err("is the name of callers without a key".into());
    }
    Ok(())
}

/// Sets one limit.
pub(super) fn set(limits: &mut KeyLimits, field: &str, value: &Value) -> Result<(), String> {
    match field {
        "requests_per_minute" => limits.requests_per_minute = Some(number(value)?),
        "tokens_per_minute" => limits.tokens_per_minute = Some(number(value)?),
        "concurrency" => limits.concurrency = usize::try_from(number(value)?).ok(),
        "models" => {
            let wants = "wants a list of models or aliases, at least one";
            let models = value.texts(',').ok_or(wants)?;
            if models.is_empty() || models.iter().any(String::is_empty) {
                return Err(wants.into());
            }
            limits.models = Some(models);
        }
        "default_model" => {
            let model = value.text().filter(|model| !model.is_empty());
            limits.default_model = Some(model.ok_or("wants a model or an alias")?.to_owned());
        }
        "priority" => {
            let priority = value.text().and_then(Priority::named);
            limits.priority = priority.ok_or("wants \"interactive\" or \"batch\"")?;
        }
        _ => return Err(format!("is unknown; a key can have {FIELDS}")),
    }
    Ok(())
}

fn number(value: &Value) -> Result<u32, String> {
    let number = value.integer().filter(|number| (1..=MOST).contains(number));
    number
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| format!("wants a whole number from 1 to {MOST}"))
}

/// The limits that are set, as the file has them.
pub fn limits_json(limits: &KeyLimits) -> serde_json::Value {
    let mut shown = serde_json::Map::new();
    let mut put = |name: &str, value: Option<serde_json::Value>| {
        shown.extend(value.map(|value| (name.to_owned(), value)));
    };
    put("requests_per_minute", limits.requests_per_minute.map(Into::into));
    put("tokens_per_minute", limits.tokens_per_minute.map(Into::into));
    put("concurrency", limits.concurrency.map(Into::into));
    put("models", limits.models.as_ref().map(|models| json!(models)));
    put("default_model", limits.default_model.clone().map(Into::into));
    put("priority", (limits.priority != Priority::default()).then(|| limits.priority.as_str().into()));
    shown.into()
}

/// The file's text with `key` at its end; what stands there stays as it is.
pub fn with_key(text: &str, key: &NamedKey) -> String {
    let mut text = text.to_owned();
    if !text.is_empty() {
        text.truncate(text.trim_end().len());
        text.push_str("\n\n");
    }
    let _ = writeln!(text, "[{}]\nhash = \"{HASH}{}\"", quoted(&key.name), hex(&key.digest));
    // JSON's numbers, texts and lists of texts are TOML's.
    for (field, value) in limits_json(&key.limits).as_object().into_iter().flatten() {
        let _ = writeln!(text, "{field} = {value}");
    }
    text
}

/// The file's text without the key: its table goes, comments and all other tables stay. `None` where the file is
/// laid out in a way that only a person can take it out of.
pub fn without_key(path: &Path, text: &str, name: &str) -> Option<String> {
    let before = parse_keys(path, text).ok()?;
    let (document, _) = DeTable::parse_recoverable(text);
    let starts = |of: &str| {
        document.get_ref().iter().find(|(key, _)| key.get_ref() == of).map(|(key, _)| key.span().start)
    };
    let first = file::line_at(text, starts(name)?) - 1;
    let next = before.iter().filter_map(|key| starts(&key.name)).map(|start| file::line_at(text, start) - 1);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut end = next.filter(|line| *line > first).min().unwrap_or(lines.len());
    // A comment before the next table is about that one.
    while end > first + 1 && end < lines.len() && is_apart(lines[end - 1]) {
        end -= 1;
    }
    let left = [&lines[..first], &lines[end..]].concat().concat();
    let after = parse_keys(path, &left).ok()?;
    let rest = before.iter().filter(|key| key.name != name);
    after.iter().eq(rest).then_some(left)
}

/// A comment or an empty line.
fn is_apart(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn quoted(name: &str) -> String {
    let bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if bare { name.to_owned() } else { format!("\"{name}\"") }
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix(HASH)?.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let digit =
            |at: usize| char::from(*pair.get(at)?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(digest)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn at(path: &Path, line: Option<usize>, key: String, problem: String) -> Mistake {
    Mistake { key, value: None, source: Source::File { path: path.to_owned(), line }, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static Path {
        Path::new("/state/keys.toml")
    }

    fn wrong(text: &str) -> String {
        parse_keys(path(), text).unwrap_err().to_string()
    }

    fn limited() -> KeyLimits {
        KeyLimits {
            requests_per_minute: Some(60),
            tokens_per_minute: Some(100_000),
            concurrency: Some(2),
            models: Some(vec!["gpt-x".into(), "an \"alias\"".into()]),
            default_model: Some("gpt-x".into()),
            priority: Priority::Batch,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (one, secret) = NamedKey::generate("one", limited());
        let (two, other) = NamedKey::generate("two@home.example", KeyLimits::default());
        assert_ne!(secret, other);
        assert!(secret.starts_with("cxb_") && secret.len() == 4 + 43);
        assert_eq!(one.digest, digest(secret.as_bytes()));
        let text = with_key(&with_key("# ours\n", &one), &two);
        assert!(!text.contains(&secret) && text.starts_with("# ours\n\n[one]\nhash = \"sha256:"));
        assert_eq!(parse_keys(path(), &text).unwrap(), [one, two]);
        assert_eq!(parse_keys(path(), "").unwrap(), []);
    }

    #[test]
    fn a_key_goes_and_the_rest_stays_as_it_was() {
        let keys = ["a", "b.c", "d"].map(|name| NamedKey::generate(name, limited()).0);
        let text = keys
            .iter()
            .fold("# all\n".to_owned(), |text, key| with_key(&format!("{text}\n# of {}\n", key.name), key));
        let left = without_key(path(), &text, "b.c").unwrap();
        assert_eq!(parse_keys(path(), &left).unwrap(), [keys[0].clone(), keys[2].clone()]);
        assert!(left.contains("# all\n") && left.contains("# of a\n") && left.contains("# of d\n"), "{left}");
        let left = without_key(path(), &without_key(path(), &left, "a").unwrap(), "d").unwrap();
        assert_eq!(parse_keys(path(), &left).unwrap(), []);
        assert_eq!(without_key(path(), &text, "none"), None);
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_no_hash() {
        let hash = "0123456789abcdef".repeat(4);
        let text = format!(
            "[one]\nhash = \"sha256:{hash}\"\nrequests = 5\n[two]\nconcurrency = 0\n[three]\nhash = \"{hash}\"\n\
             [four]\nhash = \"sha256:{hash}\"\npriority = \"urgent\"\nmodels = []\n[\"a b\"]\nhash = \"sha256:{hash}\"\n\
             [anonymous]\nhash = 5\n"
        );
        let told = wrong(&text);
        for expected in [
            "one.requests (/state/keys.toml:3): is unknown",
            "two.concurrency (/state/keys.toml:5): wants a whole number",
            "[two] (/state/keys.toml:4): has no hash",
            "three.hash (/state/keys.toml:7): wants \"sha256:\"",
            "four.hash (/state/keys.toml:8): has the same secret as \"one\"",
            "four.priority (/state/keys.toml:10): wants \"interactive\"",
            "four.models (/state/keys.toml:11): wants a list",
            "[a b] (/state/keys.toml:12): wants a name",
            "[anonymous] (/state/keys.toml:14): is the name of callers without a key",
        ] {
            assert!(told.contains(expected), "{expected}\n{told}");
        }
        assert!(!told.contains(&hash));
        assert!(wrong("[one]\nhash = 1\n[one]\n").contains("duplicate key"));
        assert!(wrong("one = 5").contains("wants a table"));
        assert!(!format!("{:?}", NamedKey::generate("one", limited()).0).contains("digest"));
    }
}

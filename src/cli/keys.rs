//! `codex-bridge keys add | list | remove`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::flags::Flags;
use crate::app_server::{private_dir, write_private};
use crate::config::{self, Config, KeyLimits, Mistakes, NamedKey, Profile};
use crate::model::Priority;

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Make a key, print its secret (once), and keep its hash
    Add(Add),
    /// Print all keys and what they may do
    List(List),
    /// Remove a key; responses made with it stay its own
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// By which its requests are accounted
    name: String,
    /// Requests a minute; more is a 429
    #[arg(long, value_name = "N", value_parser = limit())]
    requests_per_minute: Option<u32>,
    /// Tokens a minute, of input and output; more is a 429
    #[arg(long, value_name = "N", value_parser = limit())]
    tokens_per_minute: Option<u32>,
    /// Turns at once; more wait
    #[arg(long, value_name = "N", value_parser = limit())]
    concurrency: Option<u32>,
    /// Models and aliases it may use, with commas between them [default: all]
    #[arg(long, value_name = "MODELS", value_delimiter = ',')]
    models: Option<Vec<String>>,
    /// For its requests that name none
    #[arg(long, value_name = "MODEL")]
    default_model: Option<String>,
    /// interactive or batch: the best class its requests can have
    #[arg(long, value_name = "CLASS", value_parser = priority, default_value = "interactive")]
    priority: Priority,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// One JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// Of the key
    name: String,
    #[command(flatten)]
    place: Place,
}

/// Where the keys are, as the daemon is told.
#[derive(Debug, Args)]
struct Place {
    /// Configuration file [default: $XDG_CONFIG_HOME/codex-bridge/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// State folder [default: $XDG_STATE_HOME/codex-bridge]
    #[arg(long, value_name = "DIR")]
    state: Option<String>,
}

impl Place {
    fn flags(&self) -> Flags {
        Flags::of_place(self.config.clone(), self.state.clone())
    }
}

impl Keys {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Add(add) => add.run()?,
            Self::List(list) => list.run()?,
            Self::Remove(remove) => remove.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Add {
    fn run(self) -> anyhow::Result<()> {
        config::check_key_name(&self.name).map_err(|problem| anyhow::anyhow!("the name {problem}"))?;
        if self.models.iter().flatten().any(String::is_empty) {
            bail!("--models wants models with commas between them");
        }
        let file = KeysFile::open(&self.place.flags())?;
        if file.names().any(|name| name == self.name) {
            bail!("there is a key named {:?} already", self.name);
        }
        let limits = KeyLimits {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            concurrency: self.concurrency.and_then(|bound| usize::try_from(bound).ok()),
            models: self.models,
            default_model: self.default_model,
            priority: self.priority,
        };
        let (key, secret) = NamedKey::generate(&self.name, limits);
        file.write(&config::with_key(&file.text, &key))?;
        super::complain(&format!(
            "{} is in {}. Its secret is shown this once; a daemon that runs takes it at SIGHUP.",
            key.name,
            file.path.display()
        ));
        super::say(&secret)
    }
}

impl List {
    fn run(self) -> anyhow::Result<()> {
        let config = self.place.flags().load(Profile::Keys)?.config;
        let tokens = config.auth.tokens.iter().map(|token| {
            (&token.name, "auth.tokens", config.auth.limits.get(&token.name).cloned().unwrap_or_default())
        });
        let kept = config.auth.keys.iter().flatten().map(|key| (&key.name, "file", key.limits.clone()));
        let keys: Vec<serde_json::Value> = tokens
            .chain(kept)
            .map(|(name, from, limits)| {
                serde_json::json!({"name": name, "from": from, "limits": config::limits_json(&limits)})
            })
            .collect();
        if self.json {
            let file = config::keys_file(&config);
            return super::say(&format!("{:#}", serde_json::json!({"file": file, "keys": keys})));
        }
        let text = keys.iter().fold(String::new(), |mut text, key| {
            let of = |field: &str| key[field].as_str().unwrap_or_default();
            let _ = write!(text, "{:24} {:12}", of("name"), of("from"));
            for (limit, value) in key["limits"].as_object().into_iter().flatten() {
                let _ = write!(text, " {limit}={value}");
            }
            text.truncate(text.trim_end().len());
            text + "\n"
        });
        super::say(&if text.is_empty() { "There is no key.".into() } else { text })
    }
}

impl Remove {
    fn run(self) -> anyhow::Result<()> {
        let file = KeysFile::open(&self.place.flags())?;
        let name = &self.name;
        if file.config.auth.tokens.iter().any(|token| token.name == *name) {
            bail!("{name:?} is a token of auth.tokens: take it out of the configuration");
        }
        if !file.names().any(|known| known == name) {
            bail!("there is no key named {name:?} in {}", file.path.display());
        }
        let text = config::without_key(&file.path, &file.text, name)
            .with_context(|| format!("take {name:?} out of {} by hand", file.path.display()))?;
        file.write(&text)?;
        super::complain(&format!("{name} is gone; a daemon that runs refuses it from the next SIGHUP on."));
        Ok(())
    }
}

/// The file as it is, and nobody else's to change.
struct KeysFile {
    config: Config,
    path: PathBuf,
    text: String,
    /// Of its folder: the file itself is replaced.
    _lock: File,
}

impl KeysFile {
    fn open(flags: &Flags) -> anyhow::Result<Self> {
        let path = config::keys_file(&flags.load(Profile::Keys)?.config);
        let folder = path.parent().unwrap_or(Path::new("/"));
        if !folder.exists() {
            private_dir(folder)?;
        }
        let lock = File::open(folder).and_then(|folder| folder.lock().map(|()| folder));
        let lock = lock.with_context(|| format!("cannot lock {}", folder.display()))?;
        // Read under the lock.
        let config = flags.load(Profile::Keys)?.config;
        let text = match config::read_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        Ok(Self { config, path, text, _lock: lock })
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let tokens = self.config.auth.tokens.iter().map(|token| token.name.as_str());
        tokens.chain(self.config.auth.keys.iter().flatten().map(|key| key.name.as_str()))
    }

    /// Replaces it as a whole, by what can be read again.
    fn write(&self, text: &str) -> anyhow::Result<()> {
        config::parse_keys(&self.path, text)
            .map_err(|mistakes: Mistakes| io::Error::other(mistakes.to_string()))?;
        Ok(write_private(&self.path, text.as_bytes())?)
    }
}

fn limit() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1_000_000_000)
}

fn priority(word: &str) -> Result<Priority, String> {
    Priority::named(word).ok_or_else(|| "interactive or batch".into())
}

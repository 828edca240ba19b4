//! `codex-bridge batch`: the rows of a file, each a call of a bridge that runs, each with one line of result.

mod client;
mod output;
mod progress;
mod source;
mod template;
#[cfg(test)]
mod tests;
mod work;

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use self::client::Client;
use self::output::Output;
use self::source::{Columns, Settings, Source};
use self::template::Template;
use self::work::{End, Work};
use super::flags::Flags;
use crate::config::{self, Config, Profile};

/// Some rows have failed, or it could not be done at all.
const FAILED: u8 = super::FAILURE;
/// `EX_TEMPFAIL` of sysexits: the bridge or the account takes nothing now; later `--resume` goes on.
const LATER: u8 = 75;
/// Stopped by a signal.
const INTERRUPTED: u8 = 130;
/// Mistakes of the input that are shown.
const SHOWN: usize = 20;

/// Exit codes: 0 every row has succeeded, 1 some have failed (or nothing could be begun), 2 the command line is wrong,
/// 75 the bridge or the account takes no more now, 78 the configuration is wrong, 130 interrupted.
#[derive(Debug, Args)]
pub(super) struct Batch {
    /// The requests: JSONL as for /v1/batches; with --template a CSV file or JSONL of rows
    input: PathBuf,
    /// Where a line is added for each row that has ended
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Rows that run at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Go on with an output that is there: rows that have a line are left out
    #[arg(long)]
    resume: bool,
    /// Where the bridge listens, up to and with /v1 [default: the configured address]
    #[arg(long, value_name = "URL")]
    base_url: Option<Url>,
    /// API key; visible to other users of the machine [default: the first of auth.tokens]
    #[arg(long, value_name = "KEY", conflicts_with = "key_file")]
    key: Option<String>,
    /// File that holds the API key
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The prompt, with {{column}} where a row's value goes; a .json file is a whole request body
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// JSON schema of the answers; each result then has its object as `parsed`
    #[arg(long, value_name = "FILE", requires = "template")]
    schema: Option<PathBuf>,
    /// Model of the rows
    #[arg(long, value_name = "MODEL", requires = "template")]
    model: Option<String>,
    /// Reasoning effort of the rows
    #[arg(long, value_name = "EFFORT", requires = "template")]
    effort: Option<String>,
    /// Instructions of the rows
    #[arg(long, value_name = "TEXT", requires = "template")]
    instructions: Option<String>,
    /// How often a row is tried again
    #[arg(long, value_name = "N", default_value_t = 5)]
    retries: u32,
    /// Longest wait that the bridge may ask for; at a longer one it stops
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = span)]
    max_wait: std::time::Duration,
    /// Configuration file [default: $XDG_CONFIG_HOME/codex-bridge/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Batch {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let source = self.source()?;
        // Before the first call, and before anything is written.
        let total = check(&source)?;
        let client = self.client(&source)?;
        let output = Output::open(&self.output, self.resume)?;
        let work = Work { client, concurrency: self.concurrency.into(), total };
        let (end, summary) = super::runtime()?.block_on(work.run(&source, output))?;
        super::complain(&summary.to_string());
        let left = total - summary.rows();
        let (code, why) = match end {
            End::Done if summary.failed > 0 => return Ok(ExitCode::from(FAILED)),
            End::Done => return Ok(ExitCode::SUCCESS),
            End::Interrupted => (INTERRUPTED, "interrupted".to_owned()),
            End::Stopped(why) => (LATER, why),
        };
        super::complain(&format!(
            "{why}; {left} rows are left: the same command with --resume goes on with them"
        ));
        Ok(ExitCode::from(code))
    }

    fn source(&self) -> anyhow::Result<Source> {
        let Some(path) = &self.template else { return Ok(Source::requests(self.input.clone())) };
        let text = read(path)?;
        let template = if is(path, "json") { Template::body(&text) } else { Template::prompt(&text) };
        let template = template.with_context(|| path.display().to_string())?;
        let schema = self.schema.as_deref().map(schema).transpose()?;
        let settings = Settings {
            model: self.model.clone(),
            effort: self.effort.clone(),
            instructions: self.instructions.clone(),
            schema,
        };
        let columns = if is(&self.input, "csv") { Columns::Csv } else { Columns::JsonLines };
        Source::rows(self.input.clone(), columns, template, settings)
    }

    fn client(&self, source: &Source) -> anyhow::Result<Client> {
        let config = Flags::of_place(self.config.clone(), None).load(Profile::Keys)?.config;
        let base = match &self.base_url {
            Some(base) => base.clone(),
            None => listening(&config)?,
        };
        ensure!(matches!(base.scheme(), "http" | "https"), "--base-url is no http address");
        let key = match (&self.key, &self.key_file) {
            (Some(key), _) => Some(SecretString::from(key.trim())),
            (None, Some(file)) => Some(SecretString::from(read(file)?.trim())),
            // Ours is for our own bridge alone.
            (None, None) if self.base_url.is_none() => {
                config.auth.tokens.first().map(|token| SecretString::from(token.token.expose_secret()))
            }
            (None, None) => None,
        };
        Client::new(&base, key, source.wants_object(), self.retries, self.max_wait)
    }
}

/// Reads all rows, and counts them.
fn check(source: &Source) -> anyhow::Result<u64> {
    // Of the ids: every row's would be much.
    let mut ids: HashSet<[u8; 32]> = HashSet::new();
    let (mut rows, mut wrong) = (0, Vec::new());
    for row in source.open()? {
        rows += 1;
        match row {
            Ok(row) if !ids.insert(config::digest(row.custom_id.as_bytes())) => {
                wrong.push(format!("line {}: its custom_id is another row's too", row.line));
            }
            Ok(_) => {}
            Err(error) => wrong.push(format!("{error:#}")),
        }
        if wrong.len() >= SHOWN {
            wrong.push("…".into());
            break;
        }
    }
    if !wrong.is_empty() {
        bail!("nothing was sent; {} has mistakes:\n  {}", source.path().display(), wrong.join("\n  "));
    }
    ensure!(rows > 0, "{} has no rows", source.path().display());
    Ok(rows)
}

/// Where a bridge with this configuration is reached from here.
fn listening(config: &Config) -> anyhow::Result<Url> {
    let (host, port) = (config.server.host.trim_matches(['[', ']']), config.server.port);
    ensure!(port != 0, "the configured port is 0: say --base-url");
    let host = match host.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() && address.is_ipv6() => "[::1]".to_owned(),
        Ok(address) if address.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    };
    Ok(Url::parse(&format!("http://{host}:{port}/v1"))?)
}

/// `text.format` of answers with this schema.
fn schema(path: &Path) -> anyhow::Result<Value> {
    let schema: Value =
        serde_json::from_str(&read(path)?).with_context(|| format!("{} is no JSON", path.display()))?;
    ensure!(schema.is_object(), "{} is no JSON schema: it is no object", path.display());
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
    let name: String =
        stem.chars().map(|letter| if allowed(letter) { letter } else { '_' }).take(64).collect();
    let name = if name.is_empty() { "answer".to_owned() } else { name };
    Ok(serde_json::json!({ "type": "json_schema", "name": name, "schema": schema, "strict": true }))
}

fn read(path: &Path) -> anyhow::Result<String> {
    config::read_file(path).with_context(|| format!("cannot read {}", path.display()))
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|given| given.eq_ignore_ascii_case(extension))
}

fn span(text: &str) -> Result<std::time::Duration, String> {
    config::duration(text).ok_or_else(|| "expected a duration such as 30s, 5m or 1h".into())
}

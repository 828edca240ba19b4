//! The layers, one on top of the other: defaults < file < environment < flags.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::error::{Mistake, Mistakes, Source};
use super::keys::{KEYS, Key, NATIVE_TOKEN, PREFIX};
use super::kinds::{CipherKey, Kind, Place, Secret};
use super::sections::{Config, Machine, NamedToken};
use super::show::Setting;
use super::value::Value;
use super::{api_keys, check, classes, file, keys};

/// Everything a load depends on, beside the files it reads.
#[derive(Debug, Clone)]
pub struct Request {
    /// `--config`; it must exist then. Otherwise the standard place is looked at.
    pub file: Option<PathBuf>,
    /// As [`super::environment()`] gives it.
    pub environment: BTreeMap<String, String>,
    /// In the order given.
    pub flags: Vec<Flag>,
    /// Relative paths of flags and variables start here.
    pub working_dir: PathBuf,
    /// The project's own codex, looked at after PATH.
    pub project_install: Option<PathBuf>,
    /// Our own program.
    pub program: Option<PathBuf>,
    /// What the configuration is for.
    pub profile: Profile,
}

/// What the configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The user's own daemon.
    Serve,
    /// The demo: no file unless one is named, a state folder of its own, key `demo` unless there is another.
    Demo,
    /// To look after the keys, which may be what it still lacks.
    Keys,
}

/// One flag as given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// With its dashes.
    pub name: &'static str,
    /// The key it sets.
    pub key: &'static str,
    /// What was given.
    pub value: FlagValue,
}

/// What a flag was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagValue {
    /// Of a flag that stands once.
    One(String),
    /// Of a flag that may be repeated.
    Many(Vec<String>),
}

/// A configuration without mistakes.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// For the daemon.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// For `config show`: every key, in the order of the key table.
    pub settings: Vec<Setting>,
}

/// One value of one layer.
pub(super) struct Given {
    pub(super) key: &'static Key,
    pub(super) value: Value,
    pub(super) source: Source,
}

/// Where each key's value came from; a key that is absent has its default.
pub(super) type Origins = BTreeMap<&'static str, Source>;

/// Builds the configuration, or reports every mistake of every layer.
pub fn load(request: &Request, read: &dyn Fn(&Path) -> io::Result<String>) -> Result<Loaded, Mistakes> {
    let variable = |name: &str| request.environment.get(name).filter(|value| !value.is_empty());
    let home = variable("HOME").map(PathBuf::from);
    let mut mistakes = Vec::new();
    let mut origins = Origins::new();
    let mut config = defaults(request, home.as_deref(), &mut origins);

    let file = config_file(request, home.as_deref(), read, &mut mistakes);
    let mut given =
        file.as_ref().map_or_else(Vec::new, |(path, text)| file::entries(path, text, &mut mistakes));
    variables(&request.environment, &mut given, &mut mistakes);
    flags(&request.flags, &mut given);

    let file_base = file.as_ref().and_then(|(path, _)| path.parent()).unwrap_or(&request.working_dir);
    for Given { key, value, source } in given {
        let base = if matches!(source, Source::File { .. }) { file_base } else { &request.working_dir };
        let place = Place { home: home.as_deref(), base, read };
        match (key.read)(&mut config, &value, &place) {
            Ok(()) => {
                origins.insert(key.name, source);
            }
            Err(problem) => mistakes.push(key.mistake(&value, source, problem)),
        }
    }

    read_secret_files(&mut config, &origins, read, &mut mistakes);
    if request.profile == Profile::Demo {
        for_demo(&mut config);
    }
    api_keys::load(&mut config, read, &mut mistakes);
    // What is to be encrypted is not to lie beside it in plain text, unless that is asked for.
    if config.store.encryption_key.is_some() && !origins.contains_key("continuation.templates") {
        config.continuation.templates = 0;
    }
    check::check(&config, &origins, request.profile, &mut mistakes);
    if !mistakes.is_empty() {
        mistakes.sort_by_key(|mistake| layer(&mistake.source));
        return Err(Mistakes(mistakes));
    }
    let settings = KEYS.iter().map(|key| Setting::of(key, &config, &origins)).collect();
    Ok(Loaded { config, file: file.map(|(path, _)| path), settings })
}

/// The defaults that depend on the machine, on top of the fixed ones.
fn defaults(request: &Request, home: Option<&Path>, origins: &mut Origins) -> Config {
    let mut config = Config::default();
    let (state, source) = xdg(request, home, "XDG_STATE_HOME", ".local/state");
    if let Some(state) = state {
        config.state_dir = state.join("codex-bridge");
    }
    if source != Source::Default {
        origins.insert("state.dir", source);
    }
    if let Some(home) = home {
        config.app_server.user_codex_home = home.join(".codex");
    }
    config.machine = machine(request);
    config
}

fn machine(request: &Request) -> Machine {
    let environment = &request.environment;
    Machine {
        path: environment.get("PATH").map(Into::into),
        project_install: request.project_install.clone(),
        program: request.program.clone(),
        runtime_dir: environment.get("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute()),
        environment: environment.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        watchdog: watchdog(environment),
    }
}

/// How often the service manager wants to hear from us, where it is us that it means.
fn watchdog(environment: &BTreeMap<String, String>) -> Option<Duration> {
    let meant = environment.get("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    let micros = environment.get("WATCHDOG_USEC")?.parse().ok().filter(|micros| *micros > 0)?;
    meant.then(|| Duration::from_micros(micros))
}

/// A base folder by its variable (relative ones do not count), else below the home.
fn xdg(request: &Request, home: Option<&Path>, variable: &str, below: &str) -> (Option<PathBuf>, Source) {
    match request.environment.get(variable).map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(path) => (Some(path), Source::Variable(variable.into())),
        None => (home.map(|home| home.join(below)), Source::Default),
    }
}

/// The named file, which must be there, or the standard one, which need not.
fn config_file(
    request: &Request,
    home: Option<&Path>,
    read: &dyn Fn(&Path) -> io::Result<String>,
    mistakes: &mut Vec<Mistake>,
) -> Option<(PathBuf, String)> {
    let path = match (&request.file, request.profile) {
        (Some(path), _) => request.working_dir.join(path),
        (None, Profile::Demo) => return None,
        (None, Profile::Serve | Profile::Keys) => {
            xdg(request, home, "XDG_CONFIG_HOME", ".config").0?.join("codex-bridge/config.toml")
        }
    };
    match read(&path) {
        Ok(text) => Some((path, text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && request.file.is_none() => None,
        Err(error) => {
            let source = if request.file.is_some() {
                Source::Flag("--config")
            } else {
                Source::File { path: path.clone(), line: None }
            };
            let problem = format!("cannot be read: {error}");
            mistakes.push(Mistake { key: path.display().to_string(), value: None, source, problem });
            None
        }
    }
}

/// Variables of ours and those we honour; an empty one counts as not set.
fn variables(environment: &BTreeMap<String, String>, given: &mut Vec<Given>, mistakes: &mut Vec<Mistake>) {
    let mut take = |key: &'static Key, name: &str| {
        let Some(words) = environment.get(name).filter(|words| !words.is_empty()) else { return };
        let words = Value::Words(words.clone());
        let value = if name == NATIVE_TOKEN { Value::Table(vec![("default".into(), words)]) } else { words };
        given.push(Given { key, value, source: Source::Variable(name.to_owned()) });
    };
    for key in KEYS {
        if let Some(also) = key.also {
            take(key, also);
        }
        take(key, &key.variable());
    }
    for name in environment.keys().filter(|name| name.starts_with(PREFIX)) {
        if let Some((key, value)) = classes::of_variable(name, &environment[name]) {
            if !environment[name].is_empty() {
                given.push(Given { key, value, source: Source::Variable(name.clone()) });
            }
        } else if !KEYS.iter().any(|key| key.variable() == *name) {
            let source = Source::Variable(name.clone());
            let problem = keys::unknown_variable(name);
            mistakes.push(Mistake { key: name.clone(), value: None, source, problem });
        }
    }
}

fn flags(flags: &[Flag], given: &mut Vec<Given>) {
    for flag in flags {
        let Some(key) = keys::find(flag.key) else { continue };
        let value = match &flag.value {
            FlagValue::One(value) => Value::Words(value.clone()),
            FlagValue::Many(values) => Value::List(values.iter().cloned().map(Value::Text).collect()),
        };
        given.push(Given { key, value, source: Source::Flag(flag.name) });
    }
}

/// Mistakes are told in the order of the layers, and within the file line by line.
fn layer(source: &Source) -> (u8, usize) {
    match source {
        Source::Default => (0, 0),
        Source::File { line, .. } => (1, line.unwrap_or(0)),
        Source::Variable(_) => (2, 0),
        Source::Flag(_) => (3, 0),
    }
}

/// Reads the secrets that are given by file. Where both are given, `check` says so.
fn read_secret_files(
    config: &mut Config,
    origins: &Origins,
    read: &dyn Fn(&Path) -> io::Result<String>,
    mistakes: &mut Vec<Mistake>,
) {
    let place = Place { home: None, base: Path::new("/"), read };
    let text = |path: &Path| place.secret_file(path).map(Value::Text);
    if let Some(path) = config.app_server.connect_token_file.clone() {
        match text(&path).and_then(|text| Secret::read(&text, &place)) {
            Ok(token) => config.app_server.connect_token = config.app_server.connect_token.take().or(token),
            Err(problem) => {
                mistakes.push(check::mistake("app_server.connect_token_file", config, origins, problem));
            }
        }
    }
    if let Some(path) = config.fallback.api_key_file.clone() {
        match text(&path).and_then(|text| Secret::read(&text, &place)) {
            Ok(key) => config.fallback.api_key = config.fallback.api_key.take().or(key),
            Err(problem) => mistakes.push(check::mistake("fallback.api_key_file", config, origins, problem)),
        }
    }
    if let Some(path) = config.store.encryption_key_file.clone() {
        match text(&path).and_then(|text| CipherKey::read(&text, &place)) {
            Ok(key) => config.store.encryption_key = config.store.encryption_key.take().or(key),
            Err(problem) => {
                mistakes.push(check::mistake("store.encryption_key_file", config, origins, problem));
            }
        }
    }
}

fn for_demo(config: &mut Config) {
    if !config.state_dir.as_os_str().is_empty() {
        config.state_dir.push("demo");
    }
    if config.auth.tokens.is_empty() {
        config.auth.tokens.push(NamedToken { name: "demo".into(), token: SecretString::from("demo") });
    }
}

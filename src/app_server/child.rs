//! Our own `codex app-server`: one process group, its log, its end.

mod log;
mod name;
mod orphans;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::SetupError;
use crate::tasks::Tasks;
use crate::tasks::tether::{self, Tethered};

pub(crate) use log::LogTail;
pub(crate) use name::{Name, Names};
pub(crate) use orphans::end_orphans;

/// Settings every child starts with: nothing that calls home on the side.
const SETTINGS: [&str; 4] = [
    "features.apps=false",
    "features.plugins=false",
    "analytics.enabled=false",
    "check_for_update_on_startup=false",
];

/// What the child inherits of our environment: how to find programs, how to write, how to reach the network.
/// Anything else comes by `child_environment`.
const INHERITED: [&str; 22] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CODEX_CA_CERTIFICATE",
    "NIX_SSL_CERT_FILE",
];

/// How a child is started.
#[derive(Debug, Clone)]
pub(crate) struct ChildSpec {
    /// The codex binary.
    pub(crate) codex: PathBuf,
    /// Our own program, which becomes codex once it is tied to our life; `None` starts codex itself.
    pub(crate) tether: Option<PathBuf>,
    /// Where it listens.
    pub(crate) socket: PathBuf,
    /// The lean catalogue; `None` keeps the stock one.
    pub(crate) catalogue: Option<PathBuf>,
    /// Where it keeps its databases: no other child's, so that they can be deleted when it ends.
    pub(crate) databases: PathBuf,
    /// Further `KEY=VALUE` settings; they win over ours.
    pub(crate) codex_config: Vec<String>,
    /// Its whole environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Its working folder.
    pub(crate) cwd: PathBuf,
    /// Where it is recorded while it runs.
    pub(crate) record: PathBuf,
}

/// A running child. Dropped, it is killed with its group.
#[derive(Debug)]
pub(crate) struct Child {
    process: Tethered,
    record: PathBuf,
    log: LogTail,
    /// Given back once it has ended.
    _name: Option<Name>,
}

impl Child {
    /// Starts it; it is not ready yet. It has `name` to its end.
    pub(crate) fn spawn(spec: &ChildSpec, name: Option<Name>, tasks: &Tasks) -> Result<Self, SetupError> {
        let mut command = tether::command(&spec.codex, spec.tether.as_deref());
        command
            .args(arguments(spec))
            .env_clear()
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&spec.cwd)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = Tethered::spawn(command)
            .map_err(|error| SetupError::Child(format!("{}: {error}", spec.codex.display())))?;
        let log = LogTail::default();
        if let Some(stderr) = process.stderr() {
            tasks.spawn("app-server log", log::forward(stderr, log.clone(), tasks.stop_token().clone()));
        }
        let record = spec.record.join(process.pid().to_string());
        // Only serves to end the child after a crash of ours: not worth failing for.
        if let Err(error) = std::fs::write(&record, b"") {
            tracing::warn!(path = %record.display(), %error, "the child could not be recorded");
        }
        Ok(Self { process, record, log, _name: name })
    }

    /// Its process id, which is its group's too.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it said last, for the reason of a failed start.
    pub(crate) fn log(&self) -> &LogTail {
        &self.log
    }

    /// Waits for its end and tells how it came. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> String {
        match self.process.ended().await {
            Ok(status) => describe(status),
            Err(error) => format!("it cannot be waited for: {error}"),
        }
    }

    /// Asks it to end, waits for `limit`, then kills what is left of the group.
    pub(crate) async fn stop(mut self, limit: Duration) {
        if !self.process.has_ended() {
            self.process.signal(Signal::SIGTERM);
            if tokio::time::timeout(limit, self.process.ended()).await.is_err() {
                tracing::warn!(pid = self.pid(), ?limit, "codex app-server did not end when asked; killed");
            }
        }
        // The leader may be gone and its helpers not.
        self.process.signal(Signal::SIGKILL);
        let _ = self.process.ended().await;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // While it is recorded.
        self.process.signal(Signal::SIGKILL);
        let _ = std::fs::remove_file(&self.record);
    }
}

/// The command line.
fn arguments(spec: &ChildSpec) -> Vec<OsString> {
    let mut listen = OsString::from("unix://");
    listen.push(&spec.socket);
    let mut arguments: Vec<OsString> = vec!["app-server".into(), "--listen".into(), listen];
    let mut path = |name: &str, path: &Path| {
        let path = toml::Value::String(path.display().to_string());
        arguments.extend(["-c".into(), format!("{name}={path}").into()]);
    };
    if let Some(file) = &spec.catalogue {
        path("model_catalog_json", file);
    }
    path("sqlite_home", &spec.databases);
    for setting in settings(&spec.codex_config) {
        arguments.extend(["-c".into(), setting.into()]);
    }
    arguments
}

/// All settings but the catalogue: ours, then the user's, of which the later one wins.
pub(crate) fn settings(codex_config: &[String]) -> Vec<String> {
    SETTINGS.iter().map(|&setting| setting.to_owned()).chain(codex_config.iter().cloned()).collect()
}

/// The child's whole environment.
pub(crate) fn environment(
    ours: &[(OsString, OsString)],
    codex_home: &Path,
    extra: &BTreeMap<String, String>,
) -> Vec<(OsString, OsString)> {
    let mut all: BTreeMap<OsString, OsString> = ours
        .iter()
        .filter(|(name, _)| INHERITED.iter().any(|inherited| name == inherited))
        .cloned()
        .collect();
    all.extend(extra.iter().map(|(name, value)| (name.into(), value.into())));
    all.insert("CODEX_HOME".into(), codex_home.into());
    all.into_iter().collect()
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("codex app-server exited with code {code}"),
        (None, Some(signal)) => format!("codex app-server was ended by signal {signal}"),
        (None, None) => "codex app-server ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(temp: &Path, script: &str) -> ChildSpec {
        // The arguments go to a shell, which takes the first as the script's name and ignores the rest.
        let file = temp.join("app-server");
        std::fs::write(&file, script).unwrap();
        ChildSpec {
            codex: "/bin/sh".into(),
            tether: None,
            socket: temp.join("socket"),
            catalogue: None,
            databases: temp.join("databases"),
            codex_config: Vec::new(),
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            cwd: temp.to_owned(),
            record: temp.to_owned(),
        }
    }

    async fn within<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), future).await.expect("in time")
    }

    /// Waits until nobody holds the child's standard error any more: the log task ends with the last one.
    async fn whole_group_gone(tasks: &Tasks) {
        within(async {
            while tasks.running() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Waits until the child has said `word`.
    async fn said(child: &Child, word: &str) {
        within(async {
            while !child.log().lines().iter().any(|line| line.contains(word)) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    #[test]
    fn the_command_line_carries_every_setting() {
        let temp = tempfile::tempdir().unwrap();
        let spec = ChildSpec {
            socket: "/run/a.sock".into(),
            catalogue: Some("/state/odd \"name\".json".into()),
            codex_config: vec!["model=\"x\"".to_owned(), "features.apps=true".to_owned()],
            databases: "/state/databases".into(),
            ..spec(temp.path(), "")
        };
        let built = arguments(&spec);
        let built: Vec<_> = built.iter().map(|argument| argument.to_str().unwrap()).collect();
        assert_eq!(
            built,
            [
                "app-server",
                "--listen",
                "unix:///run/a.sock",
                "-c",
                "model_catalog_json='/state/odd \"name\".json'",
                "-c",
                "sqlite_home=\"/state/databases\"",
                "-c",
                "features.apps=false",
                "-c",
                "features.plugins=false",
                "-c",
                "analytics.enabled=false",
                "-c",
                "check_for_update_on_startup=false",
                "-c",
                "model=\"x\"",
                "-c",
                "features.apps=true",
            ]
        );
        assert!(
            !arguments(&ChildSpec { catalogue: None, ..spec })
                .iter()
                .any(|argument| argument.to_str().unwrap().contains("catalog")),
            "the stock catalogue needs no setting"
        );
    }

    #[test]
    fn only_the_named_part_of_our_environment_is_inherited() {
        let ours =
            [("PATH", "/bin"), ("CODEX_HOME", "/theirs"), ("OPENAI_API_KEY", "sk"), ("HTTPS_PROXY", "p")]
                .map(|(name, value)| (name.into(), value.into()));
        let extra = [("SSL_CERT_FILE".to_owned(), "/ca".to_owned()), ("PATH".to_owned(), "/opt".to_owned())];
        assert_eq!(
            environment(&ours, Path::new("/private"), &extra.into()),
            [("CODEX_HOME", "/private"), ("HTTPS_PROXY", "p"), ("PATH", "/opt"), ("SSL_CERT_FILE", "/ca")]
                .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        );
    }

    #[tokio::test]
    async fn a_child_that_ignores_the_request_is_killed_with_its_group() {
        let temp = tempfile::tempdir().unwrap();
        let spec = spec(temp.path(), "trap '' TERM\nsleep 1000 &\necho ready >&2\nwait\nsleep 1000\n");
        let tasks = Tasks::new();
        let child = Child::spawn(&spec, None, &tasks).unwrap();
        let pid = child.pid();
        assert!(temp.path().join(pid.to_string()).exists(), "recorded while it runs");
        said(&child, "ready").await;
        within(child.stop(Duration::from_millis(20))).await;
        whole_group_gone(&tasks).await;
        assert!(!temp.path().join(pid.to_string()).exists());
    }

    #[tokio::test]
    async fn the_end_of_a_child_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let mut child = Child::spawn(&spec(temp.path(), "exit 3\n"), None, &tasks).unwrap();
        assert_eq!(within(child.ended()).await, "codex app-server exited with code 3");
        let mut child = Child::spawn(&spec(temp.path(), "kill -9 $$\n"), None, &tasks).unwrap();
        assert_eq!(within(child.ended()).await, "codex app-server was ended by signal 9");
    }

    #[tokio::test]
    async fn a_dropped_child_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let child =
            Child::spawn(&spec(temp.path(), "sleep 1000 &\necho up >&2\nwait\n"), None, &tasks).unwrap();
        said(&child, "up").await;
        drop(child);
        whole_group_gone(&tasks).await;
    }
}

//! `codex-bridge serve` as a process of its own, before a stand-in of the test's: it can be killed.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use codex_bridge::standin::{Face, SeenRequest, StandIn, StandInOptions};
use codex_bridge::tasks::Tasks;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::http::{Client, PATIENCE, until};
use crate::support::{Place, bounded, codex};
use crate::world::{On, processes_of};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_codex-bridge");

/// A stand-in, and a place for the bridges before it.
pub(crate) struct Stage {
    pub(crate) place: Place,
    pub(crate) standin: StandIn,
    tasks: Tasks,
}

/// A running bridge.
pub(crate) struct Process {
    pub(crate) client: Client,
    child: Child,
}

impl Stage {
    pub(crate) async fn new(face: On) -> Self {
        let (place, tasks) = (Place::new(), Tasks::new());
        let face = match face {
            On::Plain => Face::Plain,
            On::LoggedIn => Face::Chatgpt { folder: place.user_home() },
        };
        let options = StandInOptions { face, ..StandInOptions::default() };
        let standin = StandIn::start(options, &tasks).await.expect("the stand-in starts");
        Self { place, standin, tasks }
    }

    /// A bridge on the state folder `state`, with further settings by variable.
    pub(crate) async fn serve(&self, state: &str, settings: &[(&str, &str)]) -> Process {
        let mut command = Command::new(PROGRAM);
        command.stdin(Stdio::null());
        self.start(command, state, settings).await
    }

    /// The same on a socket that the test holds, passed as systemd does.
    pub(crate) async fn serve_on(&self, socket: &TcpListener, state: &str) -> Process {
        // The socket comes as standard input: only the shell can give it its number.
        let mut command = Command::new("sh");
        let passed = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\" 3<&0 </dev/null";
        command.args(["-c", passed, "sh", PROGRAM]);
        command.stdin(OwnedFd::from(socket.try_clone().expect("the socket")));
        self.start(command, state, &[]).await
    }

    async fn start(&self, mut command: Command, state: &str, settings: &[(&str, &str)]) -> Process {
        command.arg("serve").args(["--port", "0"]).arg("--state").arg(self.state(state));
        command.arg("--codex-bin").arg(codex().await);
        for setting in self.standin.codex_config() {
            command.args(["--codex-config", &setting]);
        }
        let home = self.place.temp.path();
        command.env("HOME", home).env("XDG_CONFIG_HOME", home.join("config"));
        command.env("CODEX_HOME", self.place.user_home());
        command.envs(self.standin.child_environment());
        command.envs(settings.iter().copied().collect::<BTreeMap<_, _>>());
        let log = std::fs::File::options().create(true).append(true).open(self.log(state)).expect("a log");
        command.stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().expect("the binary runs");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let address = loop {
            let line = bounded(lines.next_line()).await.expect("its output can be read");
            let line = line.unwrap_or_else(|| panic!("it listens before it ends: {}", self.words(state)));
            if let Some(address) = line.strip_prefix("listening on http://") {
                break address.trim().parse().expect("an address");
            }
        };
        Process { client: Client::new(address, None), child }
    }

    /// What the bridge on `state` has logged.
    pub(crate) fn words(&self, state: &str) -> String {
        std::fs::read_to_string(self.log(state)).unwrap_or_default()
    }

    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.place.temp.path().join(name)
    }

    fn log(&self, state: &str) -> PathBuf {
        self.place.temp.path().join(Path::new(state).with_extension("log"))
    }

    /// What the model was asked with `mark` in it; warm-ups left out.
    pub(crate) fn seen_with(&self, mark: &str) -> Vec<SeenRequest> {
        let mark = Value::from(mark).to_string();
        let mark = mark.trim_matches('"');
        let seen = self.standin.requests().into_iter().filter(|seen| seen.body["generate"] != false);
        seen.filter(|seen| seen.input.to_string().contains(mark)).collect()
    }

    /// Nothing of any bridge may be left.
    pub(crate) async fn end(self) {
        until("its codex is gone", async || processes_of(&self.place).is_empty().then_some(())).await;
        drop(self.standin);
        assert!(self.tasks.shut_down(PATIENCE).await, "a task is left");
    }
}

impl Process {
    /// A response, unless the bridge is gone.
    pub(crate) async fn try_respond(&self, body: &Value) -> Option<Value> {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        let url = format!("http://{}/v1/responses", self.client.address());
        let request = http.post(url).header("content-type", "application/json").body(body.to_string());
        let response = request.send().await.ok().filter(|response| response.status() == 200)?;
        serde_json::from_str(&response.text().await.ok()?).ok()
    }

    /// `kill -9`.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("it is killed");
    }

    /// The same, without waiting.
    pub(crate) fn kill_hard(&self) {
        let pid = self.child.id().expect("it runs");
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("it is killed");
    }

    /// The same for its app-server.
    pub(crate) async fn kill_app_server(&self) {
        let pid = self.health().await["app_server"]["pid"].as_i64().expect("a child");
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("it is killed");
    }

    pub(crate) async fn health(&self) -> Value {
        self.client.get("/v1/health").await.ok()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Ends it by SIGTERM, as it should.
    pub(crate) async fn stop(mut self) {
        let pid = self.pid();
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGTERM).expect("the signal is sent");
        let status = bounded(self.child.wait()).await.expect("it ends");
        assert_eq!(status.code(), Some(0));
    }
}

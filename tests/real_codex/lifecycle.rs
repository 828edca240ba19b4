//! The process: signals, the child, the state folder. The binary itself, with the demo's model.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::http::{Client, until};
use crate::support::{Place, bounded, codex};
use crate::world::{FACES, On, processes_of};

/// `codex-bridge demo` in a place of its own.
struct Demo {
    client: Client,
    child: Child,
    place: Place,
}

impl Demo {
    async fn start(face: On) -> Self {
        Self::start_in(Place::new(), face).await
    }

    async fn start_in(place: Place, face: On) -> Self {
        let command = command(&place, face).await;
        Self::run(place, command).await
    }

    async fn run(place: Place, mut command: Command) -> Self {
        let mut child = command.spawn().expect("the binary runs");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let address = loop {
            let line = bounded(lines.next_line()).await.expect("its output can be read");
            let line = line.expect("it listens before it ends");
            if let Some(address) = line.strip_prefix("listening on http://") {
                break address.trim().parse().expect("an address");
            }
        };
        Self { client: Client::new(address, Some("demo")), child, place }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it runs");
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal).expect("the signal is sent");
    }

    async fn health(&self) -> Value {
        self.client.get("/v1/health").await.ok()
    }

    /// How it ended; nothing of it may be left.
    async fn ended(self) -> ExitStatus {
        self.ended_in().await.0
    }

    /// How it ended, and its place.
    async fn ended_in(mut self) -> (ExitStatus, Place) {
        let status = bounded(self.child.wait()).await.expect("it ends");
        until("its codex is gone", async || processes_of(&self.place).is_empty().then_some(())).await;
        (status, self.place)
    }

    /// Ends it by a first SIGTERM, as it should.
    async fn stop(self) {
        self.signal(Signal::SIGTERM);
        assert_eq!(self.ended().await.code(), Some(0));
    }
}

async fn command(place: &Place, face: On) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_codex-bridge"));
    command.arg("demo").args(["--port", "0"]).arg("--state").arg(place.state());
    command.arg("--codex-bin").arg(codex().await);
    if face == On::LoggedIn {
        command.arg("--chatgpt");
    }
    command.env("HOME", place.temp.path()).env("XDG_CONFIG_HOME", place.temp.path().join("config"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn a_first_signal_lets_a_stream_finish() {
    for face in FACES {
        let demo = Demo::start(face).await;
        let mut events = demo.client.stream("/v1/responses", &json!({"input": "SLOW 30 50"})).await;
        events.until("response.output_text.delta").await;
        demo.signal(Signal::SIGTERM);
        let completed = events.until("response.completed").await;
        let text =
            completed["response"]["output"][0]["content"][0]["text"].as_str().expect("text").to_owned();
        assert!(text.ends_with("w29"), "{text}");
        assert_eq!(events.next().await, Some("[DONE]".into()));
        assert_eq!(demo.ended().await.code(), Some(0), "{face:?}");
    }
}

/// The signal itself, under a stream: nothing is dropped, and the key that was made meanwhile counts.
#[tokio::test]
async fn a_hang_up_reads_the_keys_again_and_stops_nothing() {
    for face in FACES {
        let demo = Demo::start(face).await;
        let mut events = demo.client.stream("/v1/responses", &json!({"input": "SLOW 30 50"})).await;
        events.until("response.output_text.delta").await;
        let mut keys = Command::new(env!("CARGO_BIN_EXE_codex-bridge"));
        keys.args(["keys", "add", "late", "--requests-per-minute", "5", "--state"]);
        keys.arg(demo.place.state().join("demo"));
        keys.env("HOME", demo.place.temp.path())
            .env("XDG_CONFIG_HOME", demo.place.temp.path().join("config"));
        let output = bounded(keys.output()).await.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        let secret = String::from_utf8(output.stdout).expect("text");
        let late = Client::new(demo.client.address(), Some(secret.trim()));
        assert_eq!(late.get("/v1/models").await.status, 401);
        demo.signal(Signal::SIGHUP);
        until("the new key counts", async || (late.get("/v1/models").await.status == 200).then_some(()))
            .await;
        let answer = late.post("/v1/responses", &json!({"input": "SAY hello"})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("4"));
        let completed = events.until("response.completed").await;
        let text =
            completed["response"]["output"][0]["content"][0]["text"].as_str().expect("text").to_owned();
        assert!(text.ends_with("w29"), "{text}");
        assert_eq!(demo.health().await["keys"]["reloads"], 1);
        demo.stop().await;
    }
}

#[tokio::test]
async fn logs_hold_no_word_of_a_call_and_no_key() {
    for face in FACES {
        let place = Place::new();
        let log = place.temp.path().join("log");
        let mut command = command(&place, face).await;
        command.args(["--log-filter", "info,codex_bridge=trace"]);
        command.env("CODEX_BRIDGE_AUTH__TOKENS", "laptop:a-key-of-the-client");
        command.stderr(std::fs::File::create(&log).expect("a log"));
        let mut demo = Demo::run(place, command).await;
        demo.client = Client::new(demo.client.address(), Some("a-key-of-the-client"));
        let secret = "a-word-of-the-client";
        let steered = ["SAY", "FAIL usage", "FAIL 400", "FAIL quote", "FAIL stream"];
        for input in steered.map(|steering| format!("{steering} {secret}")) {
            demo.client.post("/v1/responses", &json!({"instructions": secret, "input": input})).await;
            demo.client
                .post("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": input}]}))
                .await;
        }
        demo.client
            .post("/v1/responses", &json!({"input": [{"role": secret, "content": secret}]}))
            .await
            .error();
        demo.client.post_bytes("/v1/responses", format!("{{\"{secret}").into_bytes()).await.error();
        demo.client.get(&format!("/v1/models/{secret}")).await.error();
        Client::new(demo.client.address(), Some("a-wrong-key")).get("/v1/models").await.error();
        demo.signal(Signal::SIGTERM);
        let (status, _place) = demo.ended_in().await;
        assert_eq!(status.code(), Some(0));
        let text = std::fs::read_to_string(&log).expect("a log");
        assert!(
            text.contains("/v1/chat/completions") && text.contains("laptop"),
            "nothing was logged: {text}"
        );
        for word in [secret, "a-key-of-the-client", "a-wrong-key"] {
            let line = text.lines().find(|line| line.contains(word));
            assert_eq!(line, None, "{face:?}");
        }
    }
}

#[tokio::test]
async fn an_idle_one_ends_at_once() {
    let demo = Demo::start(On::Plain).await;
    demo.client.post("/v1/responses", &json!({"input": "hi"})).await.ok();
    demo.signal(Signal::SIGINT);
    let status = tokio::time::timeout(Duration::from_secs(5), demo.ended()).await.expect("within 5 s");
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_forces() {
    let demo = Demo::start(On::Plain).await;
    let mut events = demo.client.stream("/v1/responses", &json!({"input": "SLOW 10000 50"})).await;
    events.until("response.output_text.delta").await;
    demo.signal(Signal::SIGTERM);
    // It no longer listens: the first signal was taken.
    until("it drains", async || {
        tokio::net::TcpStream::connect(demo.client.address()).await.is_err().then_some(())
    })
    .await;
    demo.signal(Signal::SIGTERM);
    let status = tokio::time::timeout(Duration::from_secs(5), demo.ended()).await.expect("within 5 s");
    assert_ne!(status.code(), Some(0));
}

#[tokio::test]
async fn a_killed_child_fails_what_was_told_by_name_and_the_rest_is_run_again() {
    for face in FACES {
        let demo = Demo::start(face).await;
        let mut events = demo.client.stream("/v1/responses", &json!({"input": "SLOW 10000 50"})).await;
        events.until("response.output_text.delta").await;
        // Its client has seen nothing yet, whatever the model has said.
        let (client, slow) =
            (demo.client.clone(), json!({"input": "SLOW 40 50", "include": ["bridge.trace"]}));
        let whole = client.post("/v1/responses", &slow);
        let kill_it = async {
            until("both run", async || (demo.health().await["slots"]["in_use"] == 2).then_some(())).await;
            let pid = demo.health().await["app_server"]["pid"].as_i64().expect("a child");
            kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("it is killed");
            pid
        };
        let (whole, pid) = tokio::join!(whole, kill_it);
        let whole = whole.ok();
        let text = whole["output"][0]["content"][0]["text"].as_str().expect("text");
        assert!(text.starts_with("w0 w1") && text.ends_with("w39"), "{text}");
        let trace = &whole["bridge"]["trace"];
        assert_eq!(trace["reruns"], 1, "{trace}");
        let failed = events.until("response.failed").await;
        assert!(failed["response"]["error"]["message"].as_str().is_some_and(|words| !words.is_empty()));

        let again = demo.client.post("/v1/responses", &json!({"input": "SAY here"})).await.ok();
        assert_eq!(again["output"][0]["content"][0]["text"], "here");
        let health = demo.health().await;
        assert_ne!(health["app_server"]["pid"], pid);
        assert!(health["app_server"]["last_disconnect"].is_string(), "{health}");
        assert_eq!(health["app_server"]["reruns"], 1, "{health}");
        demo.stop().await;
    }
}

#[tokio::test]
async fn a_killed_bridge_leaves_no_child_and_no_lock() {
    let mut demo = Demo::start(On::Plain).await;
    demo.client.post("/v1/responses", &json!({"input": "hi"})).await.ok();
    let child = demo.health().await["app_server"]["pid"].as_i64().expect("a child").to_string();
    demo.child.kill().await.expect("it is killed");
    #[cfg(target_os = "linux")]
    until("its codex goes with it", async || {
        let left = processes_of(&demo.place);
        (!left.iter().any(|line| line.starts_with(&format!("{child}: ")))).then_some(())
    })
    .await;
    let demo = Demo::start_in(demo.place, On::Plain).await;
    demo.client.post("/v1/responses", &json!({"input": "hi"})).await.ok();
    let pid = demo.health().await["app_server"]["pid"].as_i64().expect("a child");
    until("the first one's codex is gone", async || {
        let own = [demo.child.id().expect("it runs").to_string(), pid.to_string()];
        let others = processes_of(&demo.place);
        let is_own = |line: &String| own.iter().any(|pid| line.starts_with(&format!("{pid}: ")));
        others.iter().all(is_own).then_some(())
    })
    .await;
    demo.stop().await;
}

#[tokio::test]
async fn no_file_of_it_is_anybody_elses_to_read() {
    use std::os::unix::fs::MetadataExt;

    for face in FACES {
        let demo = Demo::start(face).await;
        demo.client.post("/v1/responses", &json!({"input": "hi"})).await.ok();
        let mut folders = vec![demo.place.state()];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
                // It may be gone again, or be a link, whose mode means nothing; codex opens its own id itself.
                let Ok(found) = entry.metadata() else { continue };
                if found.is_symlink() || entry.file_name() == "installation_id" {
                    continue;
                }
                assert_eq!(found.mode() & 0o077, 0, "{face:?}: {}", entry.path().display());
                files += 1;
                if found.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        assert!(files > 5, "{files}");
        demo.stop().await;
    }
}

#[tokio::test]
async fn a_second_bridge_on_the_folder_is_refused() {
    for face in FACES {
        let demo = Demo::start(face).await;
        let mut second = command(&demo.place, face).await;
        let mut second = second.stderr(Stdio::piped()).spawn().expect("the binary runs");
        let mut words = String::new();
        bounded(second.stderr.take().expect("its words").read_to_string(&mut words)).await.expect("text");
        let status = bounded(second.wait()).await.expect("it ends");
        assert_ne!(status.code(), Some(0));
        let state: PathBuf = demo.place.state();
        assert!(words.contains(&*state.to_string_lossy()), "{words}");
        demo.client.post("/v1/responses", &json!({"input": "hi"})).await.ok();
        demo.stop().await;
    }
}

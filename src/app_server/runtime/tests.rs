//! The runtime and its supervisor against scripted peers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::*;
use crate::app_server::DisconnectReason;
use crate::app_server::testing::{FakeAppServer, bounded};

/// Opens in-memory streams for the app-server under test and hands their other ends to the test.
struct Stage {
    temp: tempfile::TempDir,
    tasks: Tasks,
    app_server: AppServer,
    streams: mpsc::UnboundedReceiver<DuplexStream>,
    /// While set, nobody listens.
    down: Arc<AtomicBool>,
}

/// Nothing is asked but what a test asks.
fn quiet() -> AppServerConfig {
    AppServerConfig {
        probe_interval: Duration::ZERO,
        orphan_sweep: Duration::ZERO,
        ..AppServerConfig::default()
    }
}

impl Stage {
    fn new() -> Self {
        Self::with(&quiet())
    }

    fn with(config: &AppServerConfig) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let down = Arc::new(AtomicBool::new(false));
        let (opened, streams) = mpsc::unbounded_channel();
        let listening = Arc::clone(&down);
        let open = move || {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let stream = if listening.load(Ordering::SeqCst) {
                Err(io::Error::from(io::ErrorKind::ConnectionRefused))
            } else {
                opened.send(theirs).map(|()| ours).map_err(io::Error::other)
            };
            std::future::ready(stream)
        };
        let auth = temp.path().join("auth.json");
        let cwd = temp.path().join("ours");
        let app_server = AppServer::over_streams(config, &cwd, Some(&auth), open, &tasks);
        Self { temp, tasks, app_server, streams, down }
    }

    /// The peer of the next connection.
    async fn accept(&mut self) -> FakeAppServer {
        let stream = bounded(self.streams.recv()).await.expect("a stream");
        let mut fake = FakeAppServer::accept(stream).await;
        fake.serve_initialize().await;
        fake
    }

    fn log_in(&self, key: &str) {
        let auth = json!({"auth_mode": "apikey", "OPENAI_API_KEY": key}).to_string();
        let fresh = self.temp.path().join("fresh");
        std::fs::write(&fresh, auth).unwrap();
        std::fs::rename(fresh, self.temp.path().join("auth.json")).unwrap();
    }

    /// Waits until the current generations, in order, are as `wanted`.
    async fn until_current(&self, wanted: impl Fn(&Vec<u64>) -> bool) {
        let mut snapshots: Vec<_> =
            self.app_server.inner.members.iter().map(|member| member.snapshot.clone()).collect();
        bounded(async {
            loop {
                let mut current = self.app_server.current();
                current.sort_unstable();
                if wanted(&current) {
                    return;
                }
                let changed = select_all(snapshots.iter_mut().map(|snapshot| Box::pin(snapshot.changed())));
                changed.await.0.unwrap();
            }
        })
        .await;
    }

    async fn state(&self, wanted: AppServerState) -> AppServerStatus {
        let mut snapshot = self.app_server.inner.members[0].snapshot.clone();
        bounded(async {
            while self.app_server.status().state != wanted {
                snapshot.changed().await.unwrap();
            }
        })
        .await;
        self.app_server.status()
    }
}

async fn serve_account(fake: &mut FakeAppServer, account: serde_json::Value) {
    let request = fake.expect("account/read").await;
    let answer =
        json!({"account": account, "userId": null, "requiresOpenaiAuth": true, "workspaceRouting": null});
    fake.reply(&request, answer).await;
}

async fn serve_models(fake: &mut FakeAppServer, ids: &[&str]) {
    let request = fake.expect("model/list").await;
    let models: Vec<_> = ids
        .iter()
        .map(|id| {
            json!({"id": id, "model": id, "displayName": id, "description": "", "hidden": false,
            "supportedReasoningEfforts": [], "defaultReasoningEffort": "low", "inputModalities": ["text"],
            "serviceTiers": [], "isDefault": false})
        })
        .collect();
    fake.reply(&request, json!({"data": models, "nextCursor": null})).await;
}

fn ids(models: &[crate::model::ModelInfo]) -> Vec<&str> {
    models.iter().map(|model| model.id.as_str()).collect()
}

fn identity(state: &LoginState) -> String {
    match state {
        LoginState::LoggedIn(account) => account.identity.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_the_start() {
    let mut stage = Stage::new();
    assert_eq!(stage.app_server.status().state, AppServerState::Starting);
    assert!(!stage.app_server.probe(Duration::from_secs(1)).await, "nothing to ask yet");
    let app_server = stage.app_server.clone();
    let (connection, _fake) = tokio::join!(app_server.connection(), stage.accept());
    assert_eq!(connection.unwrap().generation(), 1);
    let status = stage.app_server.status();
    assert_eq!((status.state, status.generation), (AppServerState::Ready, 1));
    assert_eq!(status.version.as_deref(), Some("0.169.0"));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_takes_too_long_is_not_waited_for() {
    let stage = Stage::new();
    // The stream is open, and nobody answers on it.
    let error = bounded(stage.app_server.connection()).await.unwrap_err();
    assert!(matches!(&error, AppServerError::Unavailable { reason } if reason.contains("30s")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_had_again_and_its_reason_kept() {
    let mut stage = Stage::new();
    let mut generations = stage.app_server.generations();
    let first = stage.accept().await;
    assert_eq!(generations.changed(0).await, Some(1));
    first.close(1001, "restarting").await;
    let status = stage.state(AppServerState::Reconnecting).await;
    assert!(status.last_disconnect.as_deref().unwrap().contains("restarting"), "{status:?}");
    let app_server = stage.app_server.clone();
    let (connection, _second) = tokio::join!(app_server.connection(), stage.accept());
    assert_eq!(connection.unwrap().generation(), 2);
    assert_eq!(generations.changed(1).await, Some(2));
    assert!(stage.app_server.status().last_disconnect.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_keeps_failing_is_told_at_once_and_still_mends_itself() {
    let mut stage = Stage::new();
    stage.down.store(true, Ordering::SeqCst);
    let failed = stage.state(AppServerState::Failed).await;
    assert!(failed.reason.as_deref().unwrap().contains("refused"), "{failed:?}");
    let before = Instant::now();
    let error = stage.app_server.connection().await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(before.elapsed(), Duration::ZERO);
    stage.down.store(false, Ordering::SeqCst);
    let _fake = stage.accept().await;
    stage.state(AppServerState::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_keeps_ending_is_a_crash_loop() {
    let mut stage = Stage::new();
    for round in 1..=5 {
        let fake = stage.accept().await;
        let ready = stage.state(AppServerState::Ready).await;
        assert_eq!(ready.generation, round);
        fake.close(1011, "crash").await;
        let wanted = if round < 5 { AppServerState::Reconnecting } else { AppServerState::Failed };
        stage.state(wanted).await;
    }
    let error = stage.app_server.connection().await.unwrap_err();
    assert!(error.to_string().contains("keeps ending"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn stopping_closes_the_connection_and_ends_the_task() {
    let mut stage = Stage::new();
    let mut fake = stage.accept().await;
    let connection = stage.app_server.connection().await.unwrap();
    tokio::join!(stage.app_server.stop(Duration::from_secs(1)), fake.closed());
    assert!(connection.is_closed());
    assert_eq!(stage.app_server.status().state, AppServerState::Stopped);
    let error = stage.app_server.connection().await.unwrap_err();
    assert!(error.to_string().contains("stopped"), "{error}");
    assert!(stage.tasks.shut_down(Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn the_account_is_read_once_until_the_login_file_changes() {
    let mut stage = Stage::new();
    stage.log_in("sk-1");
    let mut fake = stage.accept().await;
    let key = json!({"type": "apiKey"});
    let (first, ()) = tokio::join!(stage.app_server.login(), serve_account(&mut fake, key.clone()));
    let first = first.unwrap();
    assert_eq!(stage.app_server.login().await.unwrap(), first, "nothing asked");
    // Written anew for the same account: the account is read again, and that is all.
    stage.log_in("sk-1");
    let (again, ()) = tokio::join!(stage.app_server.login(), serve_account(&mut fake, key));
    assert_eq!(again.unwrap(), first);
    assert_eq!(stage.app_server.status().generation, 1);
}

#[tokio::test(start_paused = true)]
async fn another_login_replaces_the_app_server_and_the_old_one_finishes() {
    let mut stage = Stage::new();
    stage.log_in("sk-1");
    let mut old = stage.accept().await;
    let key = json!({"type": "apiKey"});
    let (first, ()) = tokio::join!(stage.app_server.login(), serve_account(&mut old, key.clone()));
    let connection = stage.app_server.connection().await.unwrap();
    let thread = old.start_thread(&connection, "old-thread").await;
    drop(connection);

    stage.log_in("sk-2");
    let app_server = stage.app_server.clone();
    let (second, mut new) = tokio::join!(app_server.login(), async {
        let mut new = stage.accept().await;
        serve_account(&mut new, key).await;
        new
    });
    assert_ne!(identity(&first.unwrap()), identity(&second.unwrap()));
    assert_eq!(stage.app_server.connection().await.unwrap().generation(), 2);
    assert!(!thread.connection().is_closed(), "it still has its thread");
    drop(thread);
    let unsubscribe = old.expect("thread/unsubscribe").await;
    assert_eq!(unsubscribe["params"]["threadId"], "old-thread");
    bounded(old.closed()).await;

    // A logout is another login too.
    std::fs::remove_file(stage.temp.path().join("auth.json")).unwrap();
    let app_server = stage.app_server.clone();
    let (out, _newest) = tokio::join!(app_server.login(), async {
        let mut newest = stage.accept().await;
        serve_account(&mut newest, json!(null)).await;
        newest
    });
    assert_eq!(out.unwrap(), LoginState::LoggedOut);
    bounded(new.closed()).await;
    assert_eq!(stage.app_server.status().generation, 3);
}

#[tokio::test(start_paused = true)]
async fn a_replaced_app_server_is_ended_when_its_threads_never_are() {
    let mut stage = Stage::new();
    let mut old = stage.accept().await;
    let connection = stage.app_server.connection().await.unwrap();
    let replaced = async {
        let (replaced, new) = tokio::join!(stage.app_server.replace(1, "test"), async {
            let stream = bounded(stage.streams.recv()).await.unwrap();
            let mut fake = FakeAppServer::accept(stream).await;
            fake.serve_initialize().await;
            fake
        });
        replaced.unwrap();
        new
    };
    let mut new = replaced.await;
    assert!(!connection.is_closed());
    // Both peers answer pings meanwhile; the limit is a quarter of an hour.
    tokio::join!(new.idle(Duration::from_secs(16 * 60)), old.idle(Duration::from_secs(14 * 60)), async {
        tokio::time::sleep(Duration::from_secs(14 * 60)).await;
        assert!(!connection.is_closed());
    });
    bounded(connection.closed()).await;
}

#[tokio::test(start_paused = true)]
async fn a_replacement_for_a_generation_that_is_gone_is_no_work() {
    let mut stage = Stage::new();
    let _fake = stage.accept().await;
    stage.state(AppServerState::Ready).await;
    bounded(stage.app_server.replace(0, "test")).await.unwrap();
    assert_eq!(stage.app_server.status().generation, 1);
}

#[tokio::test(start_paused = true)]
async fn an_account_that_cannot_be_read_is_the_last_known_one() {
    let mut stage = Stage::new();
    stage.log_in("sk-1");
    let mut fake = stage.accept().await;
    let refuse = async |fake: &mut FakeAppServer| {
        let request = fake.expect("account/read").await;
        fake.refuse(&request, -32603, "backend unreachable").await;
    };
    // Nothing was read yet: the file says whose login it is.
    let (of_file, ()) = tokio::join!(stage.app_server.login(), refuse(&mut fake));
    let of_file = of_file.unwrap();
    assert!(matches!(&of_file, LoginState::LoggedIn(account) if account.kind == "apiKey"), "{of_file:?}");
    tokio::time::advance(Duration::from_secs(5)).await;

    let key = json!({"type": "apiKey"});
    let (known, ()) = tokio::join!(stage.app_server.login(), serve_account(&mut fake, key.clone()));
    assert_eq!(known.as_ref().unwrap(), &of_file);
    stage.log_in("sk-1");
    let (stood_in, ()) = tokio::join!(stage.app_server.login(), refuse(&mut fake));
    assert_eq!(stood_in.unwrap(), known.unwrap());
    let told = stage.app_server.known_login().unwrap();
    assert!(told.stale.unwrap().contains("unreachable"));
    // Not asked again for a moment, then it is.
    stage.app_server.login().await.unwrap();
    tokio::time::advance(Duration::from_secs(5)).await;
    let (fresh, ()) = tokio::join!(stage.app_server.login(), serve_account(&mut fake, key));
    fresh.unwrap();
    assert_eq!(stage.app_server.known_login().unwrap().stale, None);
}

#[tokio::test(start_paused = true)]
async fn models_are_kept_for_a_minute_or_until_the_account_changes() {
    let mut stage = Stage::new();
    let mut fake = stage.accept().await;
    let app_server = stage.app_server.clone();
    let (models, ()) = tokio::join!(app_server.models(), serve_models(&mut fake, &["a", "b"]));
    assert_eq!(ids(&models.unwrap()), ["a", "b"]);
    assert_eq!(app_server.models().await.unwrap().len(), 2, "nothing asked");
    assert_eq!(app_server.models_fresh().await.unwrap().len(), 2, "young enough");

    tokio::time::advance(Duration::from_secs(2)).await;
    let (fresh, ()) = tokio::join!(app_server.models_fresh(), serve_models(&mut fake, &["c"]));
    assert_eq!(ids(&fresh.unwrap()), ["c"]);

    let mut notices = app_server.connection().await.unwrap().notices();
    fake.notify("account/updated", json!({"authMode": null, "planType": null})).await;
    bounded(notices.recv()).await.unwrap();
    // The supervisor hears it as well; it is not waited for, so the list is asked for until it has.
    let expired = async {
        while !app_server.shared().models.is_expired() {
            tokio::task::yield_now().await;
        }
    };
    bounded(expired).await;
    let (updated, ()) = tokio::join!(app_server.models(), serve_models(&mut fake, &["d"]));
    assert_eq!(ids(&updated.unwrap()), ["d"]);

    tokio::time::advance(Duration::from_secs(61)).await;
    let refuse = async {
        let request = fake.expect("model/list").await;
        fake.refuse(&request, -32603, "no").await;
    };
    let (last, ()) = tokio::join!(app_server.models(), refuse);
    assert_eq!(ids(&last.unwrap()), ["d"], "the last list stands in");
}

#[tokio::test(start_paused = true)]
async fn a_model_list_that_cannot_be_read_is_asked_for_once_for_all_who_wait() {
    let mut stage = Stage::new();
    let mut fake = stage.accept().await;
    let app_server = stage.app_server.clone();
    let refuse = async |fake: &mut FakeAppServer| {
        let request = fake.expect("model/list").await;
        fake.refuse(&request, -32603, "no").await;
    };
    let (first, second, ()) = tokio::join!(app_server.models(), app_server.models(), refuse(&mut fake));
    assert!(first.is_err() && second.is_err(), "nothing stands in: {first:?}, {second:?}");

    tokio::time::advance(Duration::from_millis(1)).await;
    let (known, ()) = tokio::join!(app_server.models(), serve_models(&mut fake, &["a"]));
    assert_eq!(ids(&known.unwrap()), ["a"]);
    tokio::time::advance(Duration::from_secs(61)).await;
    let (first, second, ()) = tokio::join!(app_server.models(), app_server.models(), refuse(&mut fake));
    assert_eq!(
        (ids(&first.unwrap()), ids(&second.unwrap())),
        (vec!["a"], vec!["a"]),
        "it stands in for both"
    );
}

#[tokio::test(start_paused = true)]
async fn usage_windows_are_taken_from_notices() {
    let mut stage = Stage::new();
    let mut fake = stage.accept().await;
    stage.state(AppServerState::Ready).await;
    assert_eq!(stage.app_server.rate_limits(), None);
    let window = json!({"usedPercent": 42, "windowDurationMins": 300, "resetsAt": 1_800_000_000});
    fake.notify("account/rateLimits/updated", json!({"rateLimits": {"primary": window}})).await;
    let told = bounded(async {
        loop {
            if let Some(known) = stage.app_server.rate_limits() {
                return known;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(told.limits.primary.unwrap().minutes, Some(300));
}

#[tokio::test(start_paused = true)]
async fn a_thread_starts_lean_in_the_empty_folder() {
    let stage = Stage::new();
    let options = stage.app_server.thread_options("gpt-test", Some("low"));
    assert!(stage.app_server.owns_app_server());
    assert_eq!(options.cwd, stage.temp.path().join("ours"));
    assert_eq!(options.verbosity.as_deref(), Some("low"));
    assert_eq!(options.tool_output_token_limit, None, "the lean catalogue has no limit");
}

#[tokio::test(start_paused = true)]
async fn without_a_login_a_failed_read_is_an_error() {
    let mut stage = Stage::new();
    let mut fake = stage.accept().await;
    let refuse = async {
        let request = fake.expect("account/read").await;
        fake.refuse(&request, -32603, "odd").await;
    };
    let (error, ()) = tokio::join!(stage.app_server.login(), refuse);
    assert!(error.unwrap_err().to_string().contains("odd"));
    assert_eq!(stage.app_server.known_login(), None);
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_nothing_twice_in_a_row_is_given_up() {
    let (interval, limit) = (Duration::from_secs(5), Duration::from_secs(8));
    let mut stage =
        Stage::with(&AppServerConfig { probe_interval: interval, probe_timeout: limit, ..quiet() });
    let mut fake = stage.accept().await;
    let connection = stage.app_server.connection().await.unwrap();
    let thread = fake.start_thread(&connection, "thread").await;
    let began = Instant::now();
    // The first probe is not answered, the second one is, late but in time: it was only busy.
    let late = fake.expect("thread/loaded/list").await;
    let asked_again = fake.expect("thread/loaded/list").await;
    assert!(began.elapsed() >= interval + limit);
    fake.refuse(&late, -32603, "late").await;
    fake.refuse(&asked_again, -32603, "busy").await;
    for _ in 0..2 {
        fake.expect("thread/loaded/list").await;
        assert!(!connection.is_closed());
    }
    let reason = bounded(connection.closed()).await;
    assert_eq!(reason, DisconnectReason::Hung(limit));
    assert!(reason.is_loss(), "its turns may be run again");
    drop(thread);
    let _next = stage.accept().await;
    let status = stage.state(AppServerState::Ready).await;
    assert_eq!(status.generation, 2);
    assert!(status.last_disconnect.unwrap().contains("hangs"));
}

#[tokio::test(start_paused = true)]
async fn one_that_still_speaks_is_slow_and_is_kept() {
    let (interval, limit) = (Duration::from_secs(5), Duration::from_secs(8));
    let mut stage =
        Stage::with(&AppServerConfig { probe_interval: interval, probe_timeout: limit, ..quiet() });
    let mut fake = stage.accept().await;
    let connection = stage.app_server.connection().await.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(limit / 2).await;
        fake.notify("account/rateLimits/updated", json!({"rateLimits": {}})).await;
        assert!(!connection.is_closed());
    }
    let silent = Instant::now();
    assert_eq!(bounded(connection.closed()).await, DisconnectReason::Hung(limit));
    assert!(silent.elapsed() >= limit);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_stopped_and_no_thread_of_another() {
    let mut stage = Stage::with(&AppServerConfig { orphan_sweep: Duration::from_secs(60), ..quiet() });
    let mut fake = stage.accept().await;
    let serve_list = async |fake: &mut FakeAppServer, threads: &[&str]| {
        let request = fake.expect("thread/loaded/list").await;
        fake.reply(&request, json!({"data": threads, "nextCursor": null})).await;
    };
    // At the start already. What has an owner by the second look is left alone.
    serve_list(&mut fake, &["held", "odd", "left", "idle", "theirs", "gone"]).await;
    let connection = stage.app_server.connection().await.unwrap();
    let held = fake.start_thread(&connection, "held").await;
    let look = async |fake: &mut FakeAppServer, cwd: &str, status: &str| {
        let request = fake.expect("thread/read").await;
        let id = request["params"]["threadId"].as_str().unwrap().to_owned();
        let thread = json!({"id": id, "cwd": cwd, "originator": "codex_bridge", "status": {"type": status}});
        fake.reply(&request, json!({"thread": thread})).await;
        id
    };
    // One that cannot be read keeps none of the others from being looked at.
    let request = fake.expect("thread/read").await;
    fake.refuse(&request, -32603, "rollout is damaged").await;
    assert_eq!(look(&mut fake, "/elsewhere/ours", "active").await, "left");
    let interrupt = fake.expect("turn/interrupt").await;
    assert_eq!(interrupt["params"], json!({"threadId": "left", "turnId": ""}));
    assert_eq!(fake.expect("thread/unsubscribe").await["params"]["threadId"], "left");
    look(&mut fake, "/elsewhere/ours", "active").await;
    assert_eq!(look(&mut fake, "/elsewhere/ours", "idle").await, "idle");
    assert_eq!(fake.expect("thread/unsubscribe").await["params"]["threadId"], "idle");
    look(&mut fake, "/elsewhere/ours", "idle").await;
    assert_eq!(look(&mut fake, "/elsewhere/not-ours", "active").await, "theirs");
    let request = fake.expect("thread/read").await;
    fake.refuse(&request, -32600, "thread not loaded: gone").await;
    // The next message is the next sweep's.
    serve_list(&mut fake, &["held"]).await;
    assert_eq!(stage.app_server.status().orphans, 1);
    drop(held);
}

/// The message that comes next to any of `fakes`, and to which.
async fn next_of(fakes: &mut [FakeAppServer; 2]) -> (usize, serde_json::Value) {
    let [one, two] = fakes;
    // A cancelled receive took nothing.
    tokio::select! {
        message = one.recv() => (0, message),
        message = two.recv() => (1, message),
    }
}

/// Which of `fakes` is `connection`'s peer.
async fn peer_of(connection: &Connection, fakes: &mut [FakeAppServer; 2]) -> usize {
    let answer = async {
        let (at, ping) = next_of(fakes).await;
        fakes[at].reply(&ping, json!({"data": [], "nextCursor": null})).await;
        at
    };
    let (answered, at) = tokio::join!(connection.ping(Duration::from_secs(5)), answer);
    answered.unwrap();
    at
}

/// Two app-servers, both ready.
async fn two(stage: &mut Stage) -> [FakeAppServer; 2] {
    let fakes = [stage.accept().await, stage.accept().await];
    stage.until_current(|current| current.len() == 2).await;
    fakes
}

#[tokio::test(start_paused = true)]
async fn several_share_the_load_and_one_that_ends_takes_nothing_else_along() {
    let mut stage = Stage::with(&AppServerConfig { processes: 2, ..quiet() });
    let mut fakes = two(&mut stage).await;
    let app_server = stage.app_server.clone();
    // Equal ones take turns.
    let first = app_server.connection().await.unwrap();
    let second = app_server.connection().await.unwrap();
    assert_ne!(first.generation(), second.generation());
    // What all know alike is asked of one.
    let lead = app_server.live().await.unwrap().generation;
    for _ in 0..3 {
        assert_eq!(app_server.live().await.unwrap().generation, lead);
    }
    let status = app_server.status();
    assert_eq!((status.state, status.generation, status.processes.len()), (AppServerState::Ready, 2, 2));

    // A turn on one: all new ones go to the other.
    let at = peer_of(&first, &mut fakes).await;
    let mut thread = fakes[at].start_thread(&first, "busy").await;
    let options = crate::app_server::TurnOptions::default();
    let items = [crate::model::Item::input_text("user", "hi")];
    let (turn, _) = tokio::join!(thread.start_turn(&items, &options), fakes[at].serve_turn_start("turn"));
    turn.unwrap();
    assert_eq!(first.running_turns(), 1);
    for _ in 0..4 {
        assert_eq!(app_server.connection().await.unwrap().generation(), second.generation());
    }

    // Its end leaves the other one as it was, and another comes in its place under a number of its own.
    let [one, two] = fakes;
    let (ending, _staying) = if at == 0 { (one, two) } else { (two, one) };
    ending.close(1011, "crash").await;
    bounded(first.closed()).await;
    assert_eq!(app_server.connection().await.unwrap().generation(), second.generation());
    assert_eq!(app_server.status().state, AppServerState::Ready);
    let _third = stage.accept().await;
    stage.until_current(|current| *current == [second.generation(), 3]).await;
    assert!(!second.is_closed());
}

#[tokio::test(start_paused = true)]
async fn one_of_several_that_falls_silent_holds_up_no_call() {
    let mut stage = Stage::with(&AppServerConfig { processes: 2, ..quiet() });
    let mut fakes = two(&mut stage).await;
    let app_server = stage.app_server.clone();
    let lead = app_server.live().await.unwrap();
    let hung = peer_of(&lead.connection, &mut fakes).await;
    let [one, two] = fakes;
    let (mut hung, mut other) = if hung == 0 { (one, two) } else { (two, one) };
    let began = Instant::now();
    let (login, again, ()) = tokio::join!(app_server.login(), app_server.login(), async {
        hung.expect("account/read").await;
        serve_account(&mut other, json!({"type": "apiKey"})).await;
    });
    assert_eq!(login.unwrap(), again.unwrap());
    assert!(began.elapsed() < 2 * SILENCE, "{:?}", began.elapsed());
    // From then on nothing waits for it.
    let began = Instant::now();
    let (models, ()) = tokio::join!(app_server.models(), serve_models(&mut other, &["a"]));
    assert_eq!(ids(&models.unwrap()), ["a"]);
    for _ in 0..3 {
        assert_ne!(app_server.connection().await.unwrap().generation(), lead.generation);
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    // One that was only busy is asked again, once it has said something.
    hung.notify("account/rateLimits/updated", json!({"rateLimits": {}})).await;
    bounded(async {
        while app_server.live().await.unwrap().generation != lead.generation {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_login_replaces_each_of_several() {
    let mut stage = Stage::with(&AppServerConfig { processes: 2, ..quiet() });
    stage.log_in("sk-1");
    let mut old = two(&mut stage).await;
    let app_server = stage.app_server.clone();
    let serve = async |fakes: &mut [FakeAppServer; 2]| {
        let (at, request) = next_of(fakes).await;
        assert_eq!(request["method"], "account/read");
        let account = json!({"account": {"type": "apiKey"}, "requiresOpenaiAuth": true});
        fakes[at].reply(&request, account).await;
    };
    let (first, ()) = tokio::join!(app_server.login(), serve(&mut old));
    stage.log_in("sk-2");
    let (second, _new) = tokio::join!(app_server.login(), async {
        let mut new = [stage.accept().await, stage.accept().await];
        serve(&mut new).await;
        new
    });
    assert_ne!(identity(&first.unwrap()), identity(&second.unwrap()));
    assert_eq!(app_server.current().iter().filter(|generation| **generation > 2).count(), 2);
    let [mut one, mut two] = old;
    tokio::join!(one.closed(), two.closed());
}

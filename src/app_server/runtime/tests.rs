//! The runtime and its supervisor against scripted peers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::*;
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

impl Stage {
    fn new() -> Self {
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
        let config = AppServerConfig::default();
        let app_server = AppServer::over_streams(&config, temp.path(), Some(&auth), open, &tasks);
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

    async fn state(&self, wanted: AppServerState) -> AppServerStatus {
        let mut snapshot = self.app_server.inner.snapshot.clone();
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
    assert_eq!(options.cwd, stage.temp.path());
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

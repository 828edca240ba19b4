//! The supervised child, and the one somebody else runs.
#![expect(clippy::unwrap_used, reason = "a test's own helper: what fails here fails the test")]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use codex_bridge::app_server::{AppServer, AppServerState, DisconnectReason, SetupError, StateFolder};
use codex_bridge::config::{AppServerConfig, Endpoint, Scaffold};
use codex_bridge::model::LoginState;
use codex_bridge::tasks::Tasks;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Place, bounded, codex, machine, until};
use crate::world::{On, World};

/// A bridge's app-server, started and ready.
struct Started {
    app_server: AppServer,
    tasks: Tasks,
    _state: StateFolder,
}

impl Started {
    async fn ready(place: &Place, config: &AppServerConfig) -> Self {
        let state = StateFolder::open(&place.state()).unwrap();
        let tasks = Tasks::new();
        codex().await;
        let app_server = AppServer::start(config, &machine(), &state, &tasks).unwrap();
        bounded(app_server.connection()).await.unwrap();
        Self { app_server, tasks, _state: state }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.app_server.status().pid.unwrap()).unwrap())
    }

    /// Stops, and sees that nothing is left.
    async fn stop(self) {
        let pid = self.app_server.status().pid;
        bounded(self.app_server.stop(Duration::from_secs(5))).await;
        if let Some(pid) = pid {
            assert!(!alive(Pid::from_raw(i32::try_from(pid).unwrap())), "the child is left");
        }
        assert!(self.tasks.shut_down(Duration::from_secs(5)).await, "a task is left");
    }
}

fn alive(pid: Pid) -> bool {
    kill(pid, None).is_ok()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

#[tokio::test]
async fn a_child_is_ready_comes_back_when_killed_and_leaves_nothing() {
    let place = Place::new();
    let started = Started::ready(&place, &place.config_without_login()).await;
    let app_server = &started.app_server;
    assert!(app_server.probe(Duration::from_secs(5)).await);
    assert_eq!(bounded(app_server.login()).await.unwrap(), LoginState::NotNeeded);
    let models = bounded(app_server.models()).await.unwrap();
    assert!(models.iter().any(|model| model.hidden), "hidden models are listed too");
    for model in models.iter() {
        // The stock window, not the lean catalogue's.
        assert!(model.context_window.is_some_and(|window| window < 10_000_000), "{model:?}");
    }
    for folder in ["", "codex-home", "cwd", "run", "children"] {
        assert_eq!(mode(&place.state().join(folder)), 0o700, "{folder}");
    }
    assert_eq!(mode(&place.state().join("codex-home/catalogue-0.json")), 0o600);

    let second = StateFolder::open(&place.state()).unwrap_err();
    assert!(matches!(second, SetupError::StateInUse { .. }), "{second}");

    let before = started.pid();
    let mut generations = app_server.generations();
    kill(before, Signal::SIGKILL).unwrap();
    assert_eq!(bounded(generations.changed(1)).await, Some(2));
    let status = app_server.status();
    assert_eq!(status.last_disconnect.as_deref(), Some("codex app-server was ended by signal 9"));
    assert_ne!(started.pid(), before);
    assert!(app_server.probe(Duration::from_secs(5)).await);
    started.stop().await;
    assert_eq!(std::fs::read_dir(place.state().join("children")).unwrap().count(), 0);
    for folder in std::fs::read_dir(place.state().join("cwd")).unwrap().flatten() {
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{folder:?}");
    }
    StateFolder::open(&place.state()).unwrap();
}

#[tokio::test]
async fn login_switch_and_logout_show_without_a_restart() {
    let place = Place::new();
    // Nothing may be asked of the real backend.
    let mut config = place.config();
    config.codex_config.push("openai_base_url=\"http://127.0.0.1:9/v1\"".into());
    config.codex_config.push("chatgpt_base_url=\"http://127.0.0.1:9/backend-api\"".into());
    let started = Started::ready(&place, &config).await;
    let login = async || bounded(started.app_server.login()).await.unwrap();
    assert_eq!(login().await, LoginState::LoggedOut);
    let mut seen = Vec::new();
    for key in ["sk-test-1", "sk-test-2"] {
        let auth = format!(r#"{{"auth_mode":"apikey","OPENAI_API_KEY":"{key}"}}"#);
        std::fs::write(place.user("auth.json"), auth).unwrap();
        match login().await {
            LoginState::LoggedIn(account) => {
                assert!(!account.identity.contains(key));
                seen.push(account.identity);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_ne!(seen[0], seen[1]);
    std::fs::remove_file(place.user("auth.json")).unwrap();
    assert_eq!(login().await, LoginState::LoggedOut);
    started.stop().await;
}

#[tokio::test]
async fn a_changed_catalogue_replaces_the_child_and_the_same_one_does_not() {
    let place = Place::new();
    let real = codex().await;
    let models = place.temp.path().join("models.json");
    let looks = place.temp.path().join("looks");
    let printed = std::process::Command::new(&real)
        .args(["debug", "models"])
        .env("CODEX_HOME", place.user(""))
        .output()
        .unwrap();
    std::fs::write(&models, &printed.stdout).unwrap();
    // The real binary, with a catalogue that the test can change.
    let wrapper = place.temp.path().join("codex");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = debug ]; then echo >> '{}'; exec cat '{}'; fi\nexec '{}' \"$@\"\n",
        looks.display(),
        models.display(),
        real.display()
    );
    std::fs::write(&wrapper, script).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = AppServerConfig {
        codex_bin: Some(wrapper),
        catalogue_check: Duration::from_millis(50),
        ..place.config_without_login()
    };
    let started = Started::ready(&place, &config).await;
    until(|| std::fs::metadata(&looks).is_ok_and(|found| found.len() >= 4)).await;
    assert_eq!(started.app_server.status().generation, 1);
    let old = bounded(started.app_server.connection()).await.unwrap();

    let mut catalogue: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    let mut added = catalogue["models"][0].clone();
    added["slug"] = "gpt-new".into();
    catalogue["models"].as_array_mut().unwrap().push(added);
    let fresh = models.with_extension("new");
    std::fs::write(&fresh, catalogue.to_string()).unwrap();
    std::fs::rename(fresh, models).unwrap();
    assert_eq!(bounded(started.app_server.generations().changed(1)).await, Some(2));
    let listed = bounded(started.app_server.models()).await.unwrap();
    assert!(listed.iter().any(|model| model.id == "gpt-new"));

    assert!(!old.is_closed() && old.ping(Duration::from_secs(5)).await.is_ok(), "the old one drains");
    let before = Pid::from_raw(i32::try_from(old.diagnostics().await.unwrap().pid.unwrap()).unwrap());
    assert!(alive(before));
    drop(old);
    until(|| !alive(before)).await;
    started.stop().await;
}

#[tokio::test]
async fn a_child_that_takes_too_much_memory_is_replaced_and_finishes_what_it_has() {
    let place = Place::new();
    let memory_check = Duration::from_millis(100);
    let config = AppServerConfig { memory_check, ..place.config_without_login() };
    let started = Started::ready(&place, &config).await;
    until(|| started.app_server.status().memory.is_some_and(|memory| memory > 10 << 20)).await;
    started.stop().await;

    let config = AppServerConfig { max_memory: 1 << 20, ..config };
    let started = Started::ready(&place, &config).await;
    let first = std::time::Instant::now();
    let old = bounded(started.app_server.connection()).await.unwrap();
    assert_eq!(bounded(started.app_server.generations().changed(1)).await, Some(2));
    assert!(first.elapsed() >= memory_check * 9, "not sooner than the tenth look");
    assert!(!old.is_closed() && old.ping(Duration::from_secs(5)).await.is_ok(), "the old one drains");
    drop(old);
    started.stop().await;
}

/// The folders of databases in the private home, and what lies there beside them.
fn databases(place: &Place) -> (usize, Vec<String>) {
    let names = std::fs::read_dir(place.state().join("codex-home")).unwrap().flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name().into_string().unwrap()).collect();
    let (folders, others): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| name.starts_with("databases-"));
    (folders.len(), others.into_iter().filter(|name| name.contains("sqlite")).collect())
}

#[tokio::test]
async fn databases_are_bounded_and_go_with_their_child() {
    let place = Place::new();
    let memory_check = Duration::from_millis(100);
    let config = AppServerConfig { memory_check, max_databases: 1, ..place.config_without_login() };
    let started = Started::ready(&place, &config).await;
    until(|| started.app_server.status().processes[0].databases.is_some_and(|bytes| bytes > 1)).await;
    let old = bounded(started.app_server.connection()).await.unwrap();
    assert_eq!(bounded(started.app_server.generations().changed(1)).await, Some(2));
    // Never under one that still uses them.
    assert!(!old.is_closed() && old.ping(Duration::from_secs(5)).await.is_ok(), "the old one drains");
    assert_eq!(databases(&place), (2, Vec::new()));
    drop(old);
    until(|| databases(&place).0 <= 1).await;
    started.stop().await;
    assert_eq!(databases(&place), (0, Vec::new()));
}

#[tokio::test]
async fn a_child_that_is_stopped_is_found_and_replaced() {
    let place = Place::new();
    let config = AppServerConfig {
        probe_interval: Duration::from_millis(200),
        probe_timeout: Duration::from_secs(1),
        ..place.config_without_login()
    };
    let started = Started::ready(&place, &config).await;
    let (pid, old) = (started.pid(), bounded(started.app_server.connection()).await.unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let stopped = std::time::Instant::now();
    let reason = bounded(old.closed()).await;
    assert_eq!(reason, DisconnectReason::Hung(config.probe_timeout));
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    assert_eq!(bounded(started.app_server.generations().changed(1)).await, Some(2));
    until(|| !alive(pid)).await;
    started.stop().await;
}

#[tokio::test]
async fn a_call_on_a_child_that_is_stopped_is_run_again() {
    let world = World::configured(On::Plain, |config, _| {
        config.app_server.probe_interval = Duration::from_millis(200);
        config.app_server.probe_timeout = Duration::from_secs(1);
    })
    .await;
    let body = serde_json::json!({"input": "SLOW 20 50", "include": ["bridge.trace"]});
    let stop_it = async {
        crate::http::until("it runs", async || (!world.seen_with("SLOW").is_empty()).then_some(())).await;
        let health = world.bridge.health().await;
        kill(Pid::from_raw(i32::try_from(health.app_server.pid.unwrap()).unwrap()), Signal::SIGSTOP).unwrap();
    };
    let (answer, ()) = tokio::join!(world.client.post("/v1/responses", &body), stop_it);
    let answer = answer.ok();
    assert!(answer["output"][0]["content"][0]["text"].as_str().unwrap().ends_with("w19"), "{answer}");
    assert_eq!(answer["bridge"]["trace"]["reruns"], 1, "{answer}");
    world.end().await;
}

#[tokio::test]
async fn the_stock_catalogue_is_left_alone_where_it_is_wanted() {
    let place = Place::new();
    let config = AppServerConfig { scaffold: Scaffold::Codex, ..place.config_without_login() };
    let started = Started::ready(&place, &config).await;
    assert!(!place.state().join("codex-home/catalogue-0.json").exists());
    assert!(!bounded(started.app_server.models()).await.unwrap().is_empty());
    let options = started.app_server.thread_options("gpt", None);
    assert_eq!(options.scaffold, Scaffold::Codex);
    assert!(options.tool_output_token_limit.is_some());
    started.stop().await;
}

#[tokio::test]
async fn a_child_that_cannot_start_says_why() {
    let place = Place::new();
    let mut config = place.config_without_login();
    config.codex_config.push("model_provider=\"absent\"".into());
    let state = StateFolder::open(&place.state()).unwrap();
    let tasks = Tasks::new();
    codex().await;
    let app_server = AppServer::start(&config, &machine(), &state, &tasks).unwrap();
    let error = bounded(app_server.connection()).await.unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    assert_eq!(app_server.status().state, AppServerState::Failed);
    assert!(tasks.shut_down(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn somebody_elses_app_server_is_connected_to_and_its_servers_kept_off() {
    let place = Place::new();
    let theirs = place.temp.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    let settings =
        "[mcp_servers.files]\ncommand = \"/bin/false\"\n[mcp_servers.mail]\ncommand = \"/bin/false\"\n";
    std::fs::write(theirs.join("config.toml"), settings).unwrap();
    let socket = place.temp.path().join("theirs.sock");
    let mut process = tokio::process::Command::new(codex().await)
        .args(["app-server", "--listen", &format!("unix://{}", socket.display())])
        .env("CODEX_HOME", &theirs)
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let config = AppServerConfig { connect: Some(Endpoint::Unix(socket)), ..place.config() };
    // Not listening yet: tried until it does.
    let started = Started::ready(&place, &config).await;
    assert!(!started.app_server.owns_app_server());
    let status = started.app_server.status();
    assert_eq!((status.state, status.pid), (AppServerState::Ready, None));
    let mut options = started.app_server.thread_options("gpt-5.5", None);
    options.disabled_mcp_servers.sort();
    assert_eq!(options.disabled_mcp_servers, ["files", "mail"]);
    assert!(options.tool_output_token_limit.is_some());
    let connection = bounded(started.app_server.connection()).await.unwrap();
    let thread = bounded(connection.start_thread(&options)).await.unwrap();
    bounded(thread.release()).await.unwrap();
    assert_eq!(bounded(started.app_server.login()).await.unwrap(), LoginState::LoggedOut);
    process.kill().await.unwrap();
    bounded(connection.closed()).await;
    started.stop().await;
}

#[tokio::test]
async fn a_login_in_the_keyring_is_explained_to_who_calls() {
    let world = World::configured(On::LoggedIn, |_, place| {
        std::fs::remove_file(place.user("auth.json")).unwrap();
        std::fs::write(place.user("config.toml"), "cli_auth_credentials_store = \"keyring\"\n").unwrap();
    })
    .await;
    let answer = world.ask("hi").await;
    assert_eq!(answer.status, 401, "{}", answer.text);
    let health = world.client.get("/v1/health").await.ok();
    for words in [&answer.error()["message"], &health["reason"]] {
        let words = words.as_str().unwrap();
        assert!(words.contains("keyring") && words.contains("codex login -c"), "{words}");
    }
    world.end().await;
}

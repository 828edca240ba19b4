//! An app-server that somebody else runs, with the user's own Codex home.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use codex_bridge::config::{Config, Endpoint};
use codex_bridge::standin::StandIn;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::http::until;
use crate::support::{Place, codex};
use crate::world::{FACES, On, World, bare, chat, tell_tale, user};

/// Codex's own app-server on the user's home, before the stand-in.
pub(crate) struct Foreign {
    child: Child,
}

impl Foreign {
    pub(crate) async fn start(
        standin: &StandIn,
        place: &Place,
        listen: &str,
        token: Option<&Path>,
        settings: &[String],
    ) -> Self {
        let mut command = Command::new(codex().await);
        command.arg("app-server").args(["--listen", listen]);
        for setting in standin.codex_config().iter().chain(settings) {
            command.args(["-c", setting]);
        }
        if let Some(token) = token {
            command.args(["--ws-auth", "capability-token"]).arg("--ws-token-file").arg(token);
        }
        command.env("CODEX_HOME", place.user_home()).envs(standin.child_environment());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        Self { child: command.spawn().expect("codex runs") }
    }

    pub(crate) async fn stop(mut self) {
        self.kill().await;
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("it is stopped");
    }
}

/// A daemon before a foreign app-server; `how` says where that listens and gives the configuration for it.
async fn connected(
    face: On,
    how: impl FnOnce(&Place, &mut Config) -> (String, Option<PathBuf>),
) -> (World, Foreign, PathBuf) {
    let (mut listen, mut touched) = (None, None);
    let world = Box::pin(World::unconnected(face, |config, place| {
        let (file, mcp) = tell_tale(place);
        std::fs::write(place.user("config.toml"), mcp).expect("a configuration");
        touched = Some(file);
        listen = Some(how(place, config));
    }))
    .await;
    let (listen, token) = listen.expect("it was set up");
    let foreign = Foreign::start(&world.standin, &world.place, &listen, token.as_deref(), &[]).await;
    until("it is connected", async || (world.client.get("/readyz").await.status == 200).then_some(())).await;
    (world, foreign, touched.expect("it was set up"))
}

async fn calls_work(world: &World, touched: &Path) {
    for path in ["/v1/responses", "/v1/chat/completions"] {
        let body = if path == "/v1/responses" { json!({"input": "hi"}) } else { chat("hi") };
        let answer = world.client.post(path, &body).await.ok();
        assert!(answer.to_string().contains("echo: hi"), "{answer}");
        let seen = world.seen().pop().expect("a request");
        let items = bare(&seen.input);
        let items = items.as_array().expect("items");
        assert_eq!(items.last(), Some(&user("hi")));
        let users = items.iter().filter(|item| item["role"] == "user").count();
        assert_eq!(users, 1, "{items:?}");
    }
    let first = world.ask("SAY one").await.ok();
    let next = json!({"input": "RECALL", "previous_response_id": first["id"]});
    let recalled = world.client.post("/v1/responses", &next).await.ok();
    assert_eq!(recalled["output"][0]["content"][0]["text"], "you said: SAY one");
    let mut events = world.client.stream("/v1/responses", &json!({"input": "SLOW 10000 20"})).await;
    events.until("response.output_text.delta").await;
    drop(events);
    world.until_idle().await;
    assert!(!touched.exists(), "the MCP server was started");
}

#[tokio::test]
async fn over_a_unix_socket() {
    for face in FACES {
        let (world, foreign, touched) = connected(face, |place, config| {
            let path = place.temp.path().join("app-server.sock");
            config.app_server.connect = Some(Endpoint::Unix(path.clone()));
            (format!("unix://{}", path.display()), None)
        })
        .await;
        calls_work(&world, &touched).await;
        let health = world.client.get("/v1/health").await.ok();
        assert_eq!(health["app_server"]["mode"], "connected");
        foreign.stop().await;
        until("the loss is noticed", async || {
            (world.client.get("/readyz").await.status == 503).then_some(())
        })
        .await;
        world.end().await;
    }
}

#[tokio::test]
async fn over_tcp_with_a_capability_token() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    let (world, foreign, touched) = connected(On::Plain, |place, config| {
        let token = place.temp.path().join("token");
        std::fs::write(&token, "a-capability-token-of-some-length").expect("a token");
        config.app_server.connect = Some(Endpoint::Tcp(format!("ws://127.0.0.1:{port}")));
        config.app_server.connect_token = Some("a-capability-token-of-some-length".into());
        (format!("ws://127.0.0.1:{port}"), Some(token))
    })
    .await;
    calls_work(&world, &touched).await;

    // The wrong token is an answer at once, that says so and does not repeat it.
    let wrong = World::unconnected(On::Plain, |config, _| {
        config.app_server.connect = Some(Endpoint::Tcp(format!("ws://127.0.0.1:{port}")));
        config.app_server.connect_token = Some("the-wrong-token".into());
    })
    .await;
    let answer = wrong.ask("hi").await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    let error = answer.error();
    assert!(
        error["message"].as_str().is_some_and(|words| words.contains("app_server.connect_token")),
        "{error}"
    );
    assert!(!answer.text.contains("the-wrong-token"), "{}", answer.text);
    wrong.end().await;
    foreign.stop().await;
    world.end().await;
}

#[tokio::test]
async fn one_that_is_not_there_is_named() {
    let world = World::unconnected(On::Plain, |config, place| {
        config.app_server.connect = Some(Endpoint::Unix(place.temp.path().join("nobody.sock")));
        config.app_server.start_timeout = std::time::Duration::from_millis(500);
    })
    .await;
    let answer = world.ask("hi").await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    answer.error();
    assert_eq!(world.client.get("/readyz").await.status, 503);
    assert_eq!(world.client.get("/healthz").await.status, 200);
    world.end().await;
}

//! API keys: what each may do, and how they change while requests run.

use std::path::PathBuf;
use std::process::Command;

use codex_bridge::config::{Config, KeyLimits, NamedToken};
use codex_bridge::model::Priority;
use serde_json::{Value, json};

use crate::daemon::{Daemon, text_of};
use crate::http::{Answer, Client, until};

const RESPONSES: &str = "/v1/responses";
const CHAT: &str = "/v1/chat/completions";

/// Adds a token whose secret is `secret-NAME`.
pub(crate) fn token(config: &mut Config, name: &str, limits: KeyLimits) {
    config.auth.tokens.push(NamedToken { name: name.into(), token: format!("secret-{name}").into() });
    config.auth.limits.insert(name.into(), limits);
}

pub(crate) fn client(daemon: &Daemon, secret: &str) -> Client {
    Client::new(daemon.client.address(), Some(secret))
}

fn hi(path: &str) -> Value {
    if path == RESPONSES {
        json!({"input": "hi"})
    } else {
        json!({"messages": [{"role": "user", "content": "hi"}]})
    }
}

/// One call, answered.
async fn answered(daemon: &mut Daemon, client: &Client, path: &'static str, body: Value) -> Answer {
    let asking = daemon.post_as(client, path, body);
    daemon.peer.turn().await.begin().message("m", "yes").response(30, 20).completed();
    asking.answer().await
}

fn limits_of(answer: &Answer) -> Vec<Option<&str>> {
    let names = ["limit", "remaining", "reset"]
        .iter()
        .flat_map(|kind| ["requests", "tokens"].map(|what| format!("x-ratelimit-{kind}-{what}")));
    names.map(|name| answer.header(&name)).collect()
}

#[tokio::test]
async fn requests_a_minute_are_counted_on_both_apis_and_told_in_the_head() {
    let mut daemon = Daemon::start(|config| {
        token(config, "free", KeyLimits::default());
        token(config, "rated", KeyLimits { requests_per_minute: Some(4), ..KeyLimits::default() });
    })
    .await;
    let (free, rated) = (client(&daemon, "secret-free"), client(&daemon, "secret-rated"));
    let mut left = 4;
    for path in [RESPONSES, CHAT] {
        for stream in [false, true] {
            let mut body = hi(path);
            body["stream"] = stream.into();
            let answer = answered(&mut daemon, &rated, path, body).await;
            assert_eq!(answer.status, 200);
            left -= 1;
            assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("4"));
            assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(&*left.to_string()));
            assert!(answer.header("x-ratelimit-reset-requests").is_some_and(|reset| reset.ends_with('s')));
            assert_eq!(answer.header("x-ratelimit-limit-tokens"), None);
        }
    }
    for path in [RESPONSES, CHAT] {
        let refused = rated.post(path, &hi(path)).await;
        assert_eq!(refused.failure(), (429, "rate_limit_exceeded".into()));
        assert_eq!(refused.error()["type"], "rate_limit_error");
        assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
        assert_eq!(refused.header("x-should-retry"), Some("true"));
        let wait: u64 = refused.header("retry-after").expect("a wait").parse().expect("seconds");
        assert!((1..=15).contains(&wait), "{wait}");
    }
    // What starts no turn counts for nothing, and is told the same.
    let list = rated.get("/v1/models").await;
    assert_eq!((list.status, list.header("x-ratelimit-remaining-requests")), (200, Some("0")));
    let wrong = rated.post(RESPONSES, &json!({"input": 5})).await;
    assert_eq!(wrong.status, 400);
    assert_eq!(limits_of(&answered(&mut daemon, &free, RESPONSES, hi(RESPONSES)).await), [None; 6]);
    let health = free.get("/v1/health").await.ok();
    assert_eq!((&health["keys"]["count"], &health["keys"]["refused_requests"]), (&json!(2), &json!(2)));
    daemon.finish().await;
}

#[tokio::test]
async fn tokens_a_minute_are_estimated_and_then_corrected() {
    let mut daemon = Daemon::start(|config| {
        config.admission.slots = 1;
        config.admission.queue = 0;
        token(config, "rated", KeyLimits { tokens_per_minute: Some(10_000), ..KeyLimits::default() });
    })
    .await;
    let rated = client(&daemon, "secret-rated");
    let remaining = |answer: &Answer| -> u32 {
        answer.header("x-ratelimit-remaining-tokens").expect("a header").parse().expect("a number")
    };
    let body = json!({"input": "hi", "max_output_tokens": 5000});
    let asking = daemon.post_as(&rated, RESPONSES, body);
    let turn = daemon.peer.turn().await;
    turn.begin();
    let meanwhile = remaining(&rated.get("/v1/models").await);
    assert!((4000..5100).contains(&meanwhile), "{meanwhile}");

    // The queue refuses: what was taken comes back.
    let busy = rated.post(RESPONSES, &json!({"input": "hi", "max_output_tokens": 1000})).await;
    assert_eq!(busy.status, 429);
    assert!(remaining(&busy) + 50 >= meanwhile && remaining(&busy) < 5100, "{busy:?}");
    // The tokens refuse, before the queue is asked.
    let more = json!({"input": "hi", "max_output_tokens": 9000});
    let refused = rated.post(RESPONSES, &more).await;
    assert!(refused.error()["message"].as_str().is_some_and(|told| told.contains("(TPM): Limit 10000")));

    turn.message("m", "yes").response(30, 20).completed();
    let answer = asking.answer().await;
    assert!(remaining(&answer) >= 9950, "{answer:?}");
    let health = rated.get("/v1/health").await.ok();
    assert_eq!(health["keys"]["refused_tokens"], 1);
    daemon.until_load((0, 0)).await;

    // More than was thought is a debt.
    let asking = daemon.post_as(&rated, RESPONSES, json!({"input": "hi", "max_output_tokens": 100}));
    daemon.peer.turn().await.begin().message("m", "yes").response(14_000, 1000).completed();
    assert_eq!(remaining(&asking.answer().await), 0);
    daemon.until_load((0, 0)).await;
    let refused = rated.post(RESPONSES, &json!({"input": "hi", "max_output_tokens": 16})).await;
    let wait: u64 = refused.header("retry-after").expect("a wait").parse().expect("seconds");
    assert!((20..40).contains(&wait), "{wait}");
    daemon.finish().await;
}

#[tokio::test]
async fn a_key_has_the_models_it_may_use_and_no_other() {
    let mut daemon = Daemon::start(|config| {
        config.models.aliases.insert("mini".into(), "model-b".into());
        let models = Some(vec!["mini".to_owned()]);
        token(config, "narrow", KeyLimits { models: models.clone(), ..KeyLimits::default() });
        let default_model = Some("mini".to_owned());
        token(config, "homely", KeyLimits { models, default_model, ..KeyLimits::default() });
        token(config, "free", KeyLimits::default());
    })
    .await;
    let narrow = client(&daemon, "secret-narrow");
    let ids = |list: Value| -> Vec<String> {
        let models = list["data"].as_array().expect("a list").clone();
        models.iter().map(|model| model["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(ids(narrow.get("/v1/models").await.ok()), ["model-b"]);
    assert_eq!(ids(client(&daemon, "secret-free").get("/v1/models").await.ok()), ["model-a", "model-b"]);
    for (model, expected) in [("model-b", 200), ("mini", 200), ("model-a", 404), ("none", 404)] {
        let answer = narrow.get(&format!("/v1/models/{model}")).await;
        assert_eq!(answer.status, expected, "{model}");
    }
    for path in [RESPONSES, CHAT] {
        // Named, and by the bridge's own default.
        for model in [json!("model-a"), Value::Null] {
            for stream in [false, true] {
                let mut body = hi(path);
                body["model"] = model.clone();
                body["stream"] = stream.into();
                let refused = narrow.post(path, &body).await;
                assert_eq!(refused.failure(), (403, "model_not_found".into()), "{model}");
                let error = refused.error();
                assert_eq!(
                    (&error["type"], &error["param"]),
                    (&json!("invalid_request_error"), &Value::Null)
                );
                assert_eq!(refused.header("x-should-retry"), Some("false"));
            }
        }
        let mut body = hi(path);
        body["model"] = "none".into();
        assert_eq!(narrow.post(path, &body).await.failure(), (404, "model_not_found".into()));
        for model in ["mini", "model-b"] {
            body["model"] = model.into();
            assert_eq!(answered(&mut daemon, &narrow, path, body.clone()).await.status, 200);
        }
        let homely = client(&daemon, "secret-homely");
        let answer = answered(&mut daemon, &homely, path, hi(path)).await.ok();
        assert_eq!(answer["model"], "model-b");
    }
    let asked = daemon.peer.seen("thread/start");
    assert!(asked.iter().all(|start| start["params"]["model"] == "model-b"), "{asked:?}");
    daemon.finish().await;
}

/// The bridge's own program writes the file, and what it says is a key.
pub(crate) fn keys_command(daemon: &Daemon, args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_codex-bridge"))
        .arg("keys")
        .args(args)
        .arg("--state")
        .arg(state(daemon))
        .env("HOME", daemon.peer.folder())
        .env_remove("XDG_CONFIG_HOME")
        .output()
        .expect("it runs");
    (output.status.success(), String::from_utf8(output.stdout).expect("text").trim().to_owned())
}

fn state(daemon: &Daemon) -> PathBuf {
    daemon.peer.folder().join("state")
}

/// Has it read its keys again, and waits until it has; gives what health says of it.
pub(crate) async fn reloaded(daemon: &Daemon, client: &Client, state: &str, count: usize) -> Value {
    daemon.reload.send(()).await.expect("it listens");
    until(&format!("{count} keys, {state}"), async || {
        let answer = client.get("/v1/health").await;
        let keys = (answer.status == 200).then(|| answer.json()["keys"].clone())?;
        (keys["state"] == state && keys["count"] == count).then_some(keys)
    })
    .await
}

#[tokio::test]
async fn keys_come_and_go_while_requests_run() {
    let mut daemon = Daemon::start(|_| {}).await;
    // Nobody wants a key yet; the first one closes the door.
    let (done, alice) = keys_command(&daemon, &["add", "alice", "--requests-per-minute", "3"]);
    assert!(done && alice.starts_with("cxb_"), "{alice}");
    let old = client(&daemon, &alice);
    reloaded(&daemon, &old, "ok", 1).await;
    assert_eq!(daemon.client.get("/v1/models").await.failure(), (401, "invalid_api_key".into()));
    let first = answered(&mut daemon, &old, RESPONSES, json!({"input": "hi", "store": true})).await.ok();

    // One who runs, whose key is replaced meanwhile.
    let body = json!({"input": "long"});
    let ((), mut events) = tokio::join!(
        async {
            daemon.peer.turn().await.begin().item_started("agentMessage", "m").delta("m", "one ");
        },
        old.stream(RESPONSES, &body)
    );
    events.until("response.output_text.delta").await;
    assert!(keys_command(&daemon, &["remove", "alice"]).0);
    let (done, renewed) = keys_command(&daemon, &["add", "alice", "--requests-per-minute", "3"]);
    assert!(done && renewed != alice);
    let new = client(&daemon, &renewed);
    let keys = reloaded(&daemon, &new, "ok", 1).await;
    assert_eq!(keys["reloads"], 2);
    assert_eq!(old.get("/v1/models").await.status, 401);
    let running = daemon.peer.seen("turn/start").len();
    assert_eq!((running, daemon.load().await), (2, (1, 0)), "it still runs");

    // Responses are the name's, and so is what is left of its rate.
    let body = json!({"input": "and now?", "previous_response_id": first["id"]});
    let mut answer = daemon.post_as(&new, RESPONSES, body);
    let turn = daemon.peer.turn().await;
    turn.answer("still here");
    answer = {
        let answer = answer.answer().await;
        assert_eq!(text_of(&answer.ok()), "still here");
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("0"));
        daemon.post_as(&new, RESPONSES, hi(RESPONSES))
    };
    assert_eq!(answer.answer().await.status, 429);
    drop(events);
    daemon.until_load((0, 0)).await;

    // A broken file, and one that is gone, change nothing.
    let path = state(&daemon).join("keys.toml");
    let good = std::fs::read_to_string(&path).expect("the file");
    std::fs::write(&path, format!("{good}\n[bob]\nhash = 5\n")).expect("written");
    let keys = reloaded(&daemon, &new, "stale", 1).await;
    assert!(keys["reason"].as_str().is_some_and(|reason| reason.contains("bob.hash")), "{keys}");
    std::fs::remove_file(&path).expect("removed");
    daemon.reload.send(()).await.expect("it listens");
    until("the reason is another", async || {
        let keys = new.get("/v1/health").await.ok()["keys"].clone();
        keys["reason"].as_str().is_some_and(|reason| reason.contains("no key any more")).then_some(())
    })
    .await;
    assert_eq!(daemon.client.get("/v1/models").await.status, 401);
    std::fs::write(&path, good).expect("written");
    let keys = reloaded(&daemon, &new, "ok", 1).await;
    assert_eq!((&keys["reloads"], &keys["reason"]), (&json!(3), &Value::Null));
    daemon.finish().await;
}

#[tokio::test]
async fn a_batch_key_is_batch_whatever_its_header_says() {
    let mut daemon = Daemon::start(|config| {
        config.admission.slots = 1;
        token(config, "night", KeyLimits { priority: Priority::Batch, ..KeyLimits::default() });
        token(config, "day", KeyLimits::default());
    })
    .await;
    let wrong = client(&daemon, "secret-day").with_header("x-codex-bridge-priority", "urgent");
    let wrong = wrong.post(RESPONSES, &hi(RESPONSES)).await;
    assert_eq!(wrong.failure(), (400, "invalid_value".into()));
    assert_eq!(wrong.error()["param"], "x-codex-bridge-priority");

    let first = daemon.post_as(&client(&daemon, "secret-day"), RESPONSES, json!({"input": "first"}));
    let turn = daemon.peer.turn().await;
    turn.begin();
    let night = client(&daemon, "secret-night").with_header("x-codex-bridge-priority", "interactive");
    let lowered = client(&daemon, "secret-day").with_header("x-codex-bridge-priority", "batch");
    let mut waiting = Vec::new();
    for (n, (client, input)) in
        [(night, "night"), (lowered, "lowered"), (client(&daemon, "secret-day"), "day")]
            .into_iter()
            .enumerate()
    {
        let path = if n == 1 { CHAT } else { RESPONSES };
        let body = if n == 1 {
            json!({"messages": [{"role": "user", "content": input}]})
        } else {
            json!({"input": input})
        };
        waiting.push(daemon.post_as(&client, path, body));
        daemon.until_load((1, n + 1)).await;
    }
    let health = client(&daemon, "secret-day").get("/v1/health").await.ok();
    assert_eq!((&health["slots"]["queued"], &health["slots"]["queued_batch"]), (&json!(3), &json!(2)));
    turn.message("m", "one").response(1, 1).completed();
    first.answer().await.ok();
    for expected in ["day", "night", "lowered"] {
        let turn = daemon.peer.turn().await;
        assert_eq!(turn.items[0]["content"][0]["text"], expected);
        turn.answer("yes");
    }
    for waiting in waiting {
        waiting.answer().await.ok();
    }
    daemon.finish().await;
}

#[tokio::test]
async fn a_key_at_its_bound_waits_and_others_do_not() {
    let mut daemon = Daemon::start(|config| {
        config.admission.slots = 3;
        token(config, "one", KeyLimits { concurrency: Some(1), ..KeyLimits::default() });
        token(config, "any", KeyLimits::default());
    })
    .await;
    let (one, any) = (client(&daemon, "secret-one"), client(&daemon, "secret-any"));
    // Two choices are two turns: one after the other.
    let mut body = hi(CHAT);
    body["n"] = 2.into();
    let choices = daemon.post_as(&one, CHAT, body);
    let first = daemon.peer.turn().await;
    first.begin();
    daemon.until_load((1, 1)).await;
    let other = answered(&mut daemon, &any, RESPONSES, hi(RESPONSES)).await;
    assert_eq!(other.status, 200);
    first.message("m", "a").response(1, 1).completed();
    daemon.peer.turn().await.answer("b");
    let choices = choices.answer().await.ok();
    assert_eq!(choices["choices"].as_array().map(Vec::len), Some(2));
    daemon.finish().await;
}

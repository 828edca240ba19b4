//! Used-up windows, the owner's reserve, and the circuit breaker.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use codex_bridge::config::{BreakerMode, Config};
use serde_json::{Value, json};

use crate::daemon::{Daemon, text_of};
use crate::http::until;

/// Windows of which so much is used, the first for so many seconds more.
fn windows(primary: f64, resets_in: u64, secondary: f64) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    json!({
        "limitId": "codex", "planType": "plus",
        "primary": {"usedPercent": primary, "windowDurationMins": 300, "resetsAt": now + resets_in},
        "secondary": {"usedPercent": secondary, "windowDurationMins": 10_080, "resetsAt": now + 9000},
    })
}

impl Daemon {
    /// Tells the windows, and waits until the bridge has heard of the first.
    async fn tell_windows(&self, limits: &Value) {
        self.bridge.models().await.expect("connected");
        self.peer.rate_limits(limits);
        let used = limits["primary"]["usedPercent"].as_f64().expect("a number");
        until("the windows are heard of", async || {
            let primary = self.bridge.account_health().known?.limits.primary?;
            (primary.used_percent.total_cmp(&used).is_eq()).then_some(())
        })
        .await;
    }

    /// A good call, from its question to its answer.
    async fn answered(&mut self) {
        let asking = self.ask("hi");
        self.peer.turn().await.answer("hello");
        assert_eq!(text_of(&asking.answer().await.ok()), "hello");
    }
}

#[tokio::test]
async fn a_used_up_window_refuses_at_once_and_lets_go_by_itself() {
    let mut daemon = Daemon::start(|_| {}).await;
    daemon.tell_windows(&windows(100.0, 2, 30.0)).await;
    let started = Instant::now();
    for (path, body) in [
        ("/v1/responses", json!({"input": "hi"})),
        ("/v1/responses", json!({"input": "hi", "stream": true})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "hi"}]})),
    ] {
        let refused = daemon.client.post(path, &body).await;
        assert_eq!(refused.failure(), (429, "usage_limit_reached".into()));
        let wait: u64 = refused.header("retry-after").expect("a wait").parse().expect("seconds");
        assert!((1..=2).contains(&wait), "{wait}");
        assert_eq!(refused.header("x-should-retry"), Some("false"));
        assert!(
            refused.text.contains("5-hour usage window is used up. The limit resets at 2"),
            "{}",
            refused.text
        );
    }
    assert_eq!(daemon.peer.seen("thread/start").len(), 0, "after {:?}", started.elapsed());
    assert_eq!(daemon.bridge.account_health().used_up, 3);
    let usage = daemon.client.get("/v1/usage").await.ok();
    assert_eq!(usage["account"]["state"], "used_up");
    assert_eq!(usage["account"]["blocked_until"], usage["account"]["primary"]["resets_at"]);
    until("the window starts anew", async || daemon.bridge.account_health().block.is_none().then_some(()))
        .await;
    daemon.answered().await;
    assert_eq!(daemon.client.get("/v1/usage").await.ok()["account"]["state"], "open");
    daemon.finish().await;
}

#[tokio::test]
async fn the_reserve_is_the_owners_but_what_was_begun_goes_on() {
    let mut daemon = Daemon::start(|config| config.upstream.reserve_percent = 20).await;
    daemon.tell_windows(&windows(70.0, 600, 30.0)).await;
    let tool = json!({"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}});
    let asking = daemon.post("/v1/responses", json!({"input": "hi", "tools": [tool]}));
    let turn = daemon.peer.turn().await;
    let call = json!({"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"});
    turn.begin().tell("rawResponseItem/completed", json!({"item": call})).response(1, 1);
    // Never answered, the call is given up when the daemon stops.
    let params =
        json!({"threadId": turn.thread, "turnId": turn.id, "callId": "c1", "tool": "f", "arguments": {}});
    let called = daemon.peer.ask(900, "item/tool/call", params);
    let first = async {
        let answer = asking.answer().await.ok();
        daemon.tell_windows(&windows(81.0, 600, 30.0)).await;
        let refused = daemon.client.post("/v1/responses", &json!({"input": "hi"})).await;
        assert_eq!(refused.failure(), (429, "usage_limit_reached".into()));
        assert!(refused.text.contains("upstream.reserve_percent"), "{}", refused.text);
        answer
    };
    let loop_ends = async {
        let answer = first.await;
        let output = json!({"type": "function_call_output", "call_id": "c1", "output": "done"});
        let body = json!({"input": [output], "previous_response_id": answer["id"], "tools": [tool]});
        // A window that is used up lets nothing through, and the turn waits on.
        daemon.tell_windows(&windows(100.0, 600, 30.0)).await;
        let refused = daemon.client.post("/v1/responses", &body).await;
        assert_eq!(refused.failure(), (429, "usage_limit_reached".into()));
        daemon.tell_windows(&windows(85.0, 600, 30.0)).await;
        daemon.post("/v1/responses", body)
    };
    // Its answer is the call's output.
    let (output, asking) = tokio::join!(called, loop_ends);
    assert_eq!(output["result"]["contentItems"][0]["text"], "done");
    turn.message("m", "so").response(1, 1).completed();
    assert_eq!(text_of(&asking.answer().await.ok()), "so");
    let account = daemon.bridge.account_health();
    assert_eq!((account.reserved, account.used_up, daemon.peer.seen("turn/start").len()), (1, 1, 1));
    daemon.finish().await;
}

#[tokio::test]
async fn what_makes_no_sense_blocks_nobody() {
    let mut daemon = Daemon::start(|_| {}).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    daemon.bridge.models().await.expect("connected");
    for limits in [
        json!({"primary": {"usedPercent": 100, "windowDurationMins": 300, "resetsAt": null}}),
        json!({"primary": {"usedPercent": 100, "windowDurationMins": 300, "resetsAt": now * 1000}}),
        json!({"primary": {"usedPercent": "full", "windowDurationMins": 300, "resetsAt": now + 600}}),
        json!({"limitId": "codex_other", "primary": {"usedPercent": 100, "windowDurationMins": 300, "resetsAt": now + 600}}),
        json!({"primary": {"used": {"percent": 100}}, "secondary": null, "somethingNew": [1]}),
        json!([]),
    ] {
        daemon.peer.rate_limits(&limits);
        // What follows on the same socket says that it was read.
        daemon.answered().await;
    }
    daemon.finish().await;
}

#[tokio::test]
async fn the_head_of_an_answer_tells_the_windows() {
    let mut daemon = Daemon::start(|_| {}).await;
    daemon.tell_windows(&windows(42.0, 600, 17.5)).await;
    let asking = daemon.ask("hi");
    daemon.peer.turn().await.answer("hello");
    let answer = asking.answer().await;
    let header = |name: &str| answer.header(&format!("x-codex-bridge-account-{name}")).expect("a header");
    assert_eq!((header("primary-used-percent"), header("secondary-used-percent")), ("42", "17.5"));
    assert!(
        header("primary-reset").parse::<u64>().is_ok() && header("secondary-reset").parse::<u64>().is_ok()
    );
    assert!(daemon.client.get("/v1/models").await.header("x-codex-bridge-account-primary-reset").is_none());
    daemon.finish().await;
}

#[tokio::test]
async fn each_key_sees_what_it_has_used_itself() {
    let mut daemon = Daemon::start(|config| {
        let named = |name: &str| codex_bridge::config::NamedToken { name: name.into(), token: name.into() };
        config.auth.tokens = vec![named("one"), named("other")];
    })
    .await;
    let client = |key: &str| crate::http::Client::new(daemon.client.address(), Some(key));
    let (one, other) = (client("one"), client("other"));
    for (client, model) in [(&one, "model-a"), (&one, "model-b"), (&other, "model-a")] {
        let body = json!({"input": "hi", "model": model});
        let (answer, ()) = tokio::join!(client.post("/v1/responses", &body), async {
            daemon.peer.turn().await.answer("hello");
        });
        answer.ok();
    }
    let usage = one.get("/v1/usage").await.ok();
    assert_eq!((&usage["total"]["calls"], &usage["total"]["input_tokens"]), (&json!(2), &json!(24)));
    assert_eq!(usage["by_model"]["model-b"]["output_tokens"], 3);
    assert_eq!(
        usage["by_key"].as_object().map(|keys| keys.keys().collect::<Vec<_>>()),
        Some(vec![&"one".to_owned()])
    );
    assert_eq!(other.get("/v1/usage").await.ok()["total"]["calls"], 1);
    assert_eq!(daemon.client.get("/v1/usage").await.status, 401);
    daemon.finish().await;
}

fn breaker(config: &mut Config, mode: BreakerMode) {
    config.breaker.mode = mode;
    config.breaker.failures = 2;
    config.breaker.open = Duration::from_millis(400);
    config.breaker.probes = 1;
}

async fn fail(daemon: &mut Daemon) {
    let asking = daemon.ask("hi");
    daemon.peer.turn().await.begin().failed(&json!("internalServerError"), "No.");
    assert_eq!(asking.answer().await.status, 502);
}

#[tokio::test]
async fn an_open_breaker_refuses_until_a_probe_is_answered() {
    let mut daemon = Daemon::start(|config| breaker(config, BreakerMode::Enforce)).await;
    fail(&mut daemon).await;
    daemon.answered().await;
    fail(&mut daemon).await;
    let refused = daemon.client.post("/v1/responses", &json!({"input": "hi"})).await;
    assert_eq!(refused.failure(), (503, "upstream_unavailable".into()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("x-should-retry"), Some("true"));
    let health = daemon.client.get("/v1/health").await.ok();
    let expected = json!({"error": 2, "cut": 0, "overloaded": 0, "timeout": 0});
    assert_eq!((&health["breaker"]["state"], &health["breaker"]["failures"]), (&json!("open"), &expected));
    assert_eq!(health["status"], "ready");

    let half_open = async || (daemon.bridge.health().await.breaker.state == "half_open").then_some(());
    until("it is half open", half_open).await;
    // A probe whose client leaves gives its place back.
    let (client, body) = (daemon.client.clone(), json!({"input": "hi"}));
    let (events, turn) = tokio::join!(client.stream("/v1/responses", &body), async {
        let turn = daemon.peer.turn().await;
        turn.begin();
        turn
    });
    let refused = daemon.client.post("/v1/responses", &json!({"input": "hi"})).await;
    assert_eq!(refused.failure(), (503, "upstream_unavailable".into()));
    drop(events);
    daemon.until_interrupted(&turn).await;
    daemon.until_load((0, 0)).await;
    daemon.answered().await;
    assert_eq!(daemon.bridge.health().await.breaker.state, "closed");
    daemon.finish().await;
}

#[tokio::test]
async fn an_observed_breaker_refuses_nobody() {
    let mut daemon = Daemon::start(|config| {
        breaker(config, BreakerMode::Observe);
        config.breaker.open = Duration::from_secs(600);
    })
    .await;
    fail(&mut daemon).await;
    fail(&mut daemon).await;
    daemon.answered().await;
    let breaker = daemon.bridge.health().await.breaker;
    assert_eq!((breaker.state, breaker.opened, breaker.refused), ("open", 1, 1));
    daemon.finish().await;
}

//! Several app-servers that share the load.
#![expect(clippy::unwrap_used, reason = "a test's own helper: what fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::http::until;
use crate::world::{FACES, On, World};

async fn world(face: On, processes: usize) -> World {
    let world = World::configured(face, |config, _| {
        config.app_server.processes = processes;
        config.admission.slots = 24;
        config.continuation.warm_threads = 64;
        config.continuation.template_tokens = 16;
    })
    .await;
    until("all are ready", async || (processes_of(&world).await.len() == processes).then_some(())).await;
    world
}

/// Those that are ready: process ids by generation.
async fn processes_of(world: &World) -> BTreeMap<u64, i32> {
    let health = world.client.get("/v1/health").await.ok();
    let all = health["app_server"]["processes"].as_array().unwrap().clone();
    let ready = all.iter().filter(|process| process["state"] == "ready");
    ready
        .map(|process| {
            let pid = i32::try_from(process["pid"].as_i64().unwrap()).unwrap();
            (process["generation"].as_u64().unwrap(), pid)
        })
        .collect()
}

fn trace(response: &Value) -> &Value {
    &response["bridge"]["trace"]
}

fn generation(response: &Value) -> u64 {
    trace(response)["mapping"]["app_server_generation"].as_u64().unwrap()
}

fn text(response: &Value) -> &str {
    response["output"][0]["content"][0]["text"].as_str().unwrap()
}

#[tokio::test]
async fn fifty_conversations_stay_where_they_are() {
    let world = world(On::Plain, 2).await;
    let chain = |n: usize| {
        let client = world.client.clone();
        async move {
            let mut previous = Value::Null;
            let mut generations = BTreeSet::new();
            for round in 0..3 {
                let input = if round < 2 { format!("SAY {n} {round}") } else { "RECALL".into() };
                let body = json!({
                    "input": input, "previous_response_id": previous, "include": ["bridge.trace"],
                });
                let answer = client.post("/v1/responses", &body).await.ok();
                if round == 2 {
                    assert_eq!(text(&answer), format!("you said: SAY {n} 0 / SAY {n} 1"));
                }
                let route = if round == 0 { "fresh" } else { "live" };
                assert_eq!(trace(&answer)["route"], route, "{answer}");
                generations.insert(generation(&answer));
                previous = answer["id"].clone();
            }
            assert_eq!(generations.len(), 1, "conversation {n} moved");
            generations.pop_first().unwrap()
        }
    };
    let mut on: BTreeMap<u64, usize> = BTreeMap::new();
    for generation in join_all((0..50).map(chain)).await {
        *on.entry(generation).or_default() += 1;
    }
    assert_eq!(on.len(), 2);
    assert!(on.values().all(|count| *count >= 10), "the load was not shared: {on:?}");
    world.end().await;
}

#[tokio::test]
async fn one_that_is_killed_under_load_takes_only_its_own_turns() {
    for face in FACES {
        let world = world(face, 2).await;
        let before = processes_of(&world).await;
        let (killed, killed_pid) = before.first_key_value().map(|(g, p)| (*g, *p)).unwrap();
        let body =
            |stream: bool| json!({"input": "SLOW 60 150", "stream": stream, "include": ["bridge.trace"]});
        // All at once: the first must not end before the last one runs.
        let streams = join_all((0..8).map(async |_| {
            let mut events = world.client.stream("/v1/responses", &body(true)).await;
            events.until("response.output_text.delta").await;
            events
        }))
        .await;
        let whole = join_all((0..8).map(|_| {
            let client = world.client.clone();
            async move { client.post("/v1/responses", &body(false)).await.ok() }
        }));
        let kill_one = async {
            until("all run", async || (world.bridge.health().await.slots.in_use == 16).then_some(())).await;
            kill(Pid::from_raw(killed_pid), Signal::SIGKILL).unwrap();
        };
        let (whole, ()) = tokio::join!(whole, kill_one);
        let reruns = whole.iter().filter(|answer| trace(answer)["reruns"] == 1).count();
        for answer in &whole {
            assert!(text(answer).ends_with("w59"), "{answer}");
            assert_ne!(generation(answer), killed, "{answer}");
        }
        let mut lost = 0;
        for events in streams {
            let events = events.rest().await;
            let end = &events[events.len() - 2];
            if generation(&end["response"]) == killed {
                assert_eq!(end["type"], "response.failed", "{end}");
                lost += 1;
            } else {
                assert_eq!(end["type"], "response.completed", "{end}");
            }
        }
        assert!((1..8).contains(&lost) && (1..8).contains(&reruns), "{lost} lost, {reruns} run again");
        until("it is back", async || (processes_of(&world).await.len() == 2).then_some(())).await;
        let after = processes_of(&world).await;
        let (stayed, pid) = before.last_key_value().unwrap();
        assert_eq!(after.get(stayed), Some(pid), "the other one stays as it is");
        assert!(!after.contains_key(&killed));
        world.end().await;
    }
}

#[tokio::test]
async fn a_template_is_forked_by_all_of_them() {
    let world = world(On::Plain, 2).await;
    let instructions = "Answer in one word, and nothing else. ".repeat(8);
    let ask = |n: usize| {
        let (client, instructions) = (world.client.clone(), instructions.clone());
        async move {
            let body = json!({
                "instructions": instructions, "input": format!("SAY {n}"), "store": false, "include": ["bridge.trace"],
            });
            client.post("/v1/responses", &body).await.ok()
        }
    };
    for n in 0..2 {
        ask(n).await;
    }
    let answers = join_all((2..18).map(ask)).await;
    let mut forked_by = BTreeSet::new();
    for (n, answer) in (2..).zip(&answers) {
        assert_eq!(
            (text(answer), &trace(answer)["route"]),
            (&*n.to_string(), &json!("template")),
            "{answer}"
        );
        forked_by.insert(generation(answer));
    }
    assert_eq!(forked_by.len(), 2);
    world.end().await;
}

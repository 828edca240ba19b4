//! Background responses over a bridge that is killed: none is lost, and none is told twice in different words.

use serde_json::{Value, json};

use crate::http::until;
use crate::process::{Process, Stage};
use crate::world::FACES;

async fn begin(bridge: &Process, input: &str) -> Value {
    bridge.client.post("/v1/responses", &json!({"input": input, "background": true})).await.ok()
}

fn path(response: &Value) -> String {
    format!("/v1/responses/{}", response["id"].as_str().expect("an id"))
}

async fn until_status(bridge: &Process, response: &Value, status: &str) -> Value {
    let read = async || bridge.client.get(&path(response)).await.ok();
    until(status, async || Some(read().await).filter(|read| read["status"] == status)).await
}

#[tokio::test]
async fn what_a_killed_bridge_had_is_taken_up_by_the_next() {
    for face in FACES {
        let stage = Stage::new(face).await;
        let settings = [("CODEX_BRIDGE_ADMISSION__SLOTS", "1")];
        let bridge = stage.serve("one", &settings).await;
        let done = begin(&bridge, "SAY first-words").await;
        until_status(&bridge, &done, "completed").await;
        let body = json!({"input": "SAY streamed-words", "background": true});
        let mut told = bridge.client.stream("/v1/responses", &body).await;
        let streamed = told.until("response.created").await["response"].clone();
        let rest = told.rest().await;
        let replay = format!("{}?stream=true&starting_after=0", path(&streamed));
        assert_eq!(bridge.client.stream_at(&replay).await.rest().await, rest, "{face:?}");
        let body = json!({"input": "second-words SLOW 400 50", "background": true});
        let mut events = bridge.client.stream("/v1/responses", &body).await;
        let seen = events.until("response.created").await["response"].clone();
        events.until("response.output_text.delta").await;
        let queued = begin(&bridge, "SAY third-words").await;
        assert_eq!(bridge.client.get(&path(&queued)).await.ok()["status"], "queued");
        drop(events);
        bridge.kill().await;

        let bridge = stage.serve("one", &settings).await;
        let read = bridge.client.get(&path(&done)).await.ok();
        assert_eq!((&read["status"], &read["background"]), (&json!("completed"), &json!(true)), "{face:?}");
        let failed = until_status(&bridge, &seen, "failed").await;
        let message = failed["error"]["message"].as_str().expect("a message");
        assert!(message.contains("bridge_restarted"), "{face:?}: {message}");
        let again = until_status(&bridge, &queued, "completed").await;
        assert_eq!(
            again["output"].as_array().and_then(|output| output.last()).expect("a message")["content"][0]["text"],
            "third-words",
            "{face:?}"
        );
        assert_eq!(bridge.client.delete(&path(&done)).await.ok()["deleted"], true, "{face:?}");
        assert_eq!(bridge.client.get(&path(&done)).await.status, 404, "{face:?}");
        for words in ["first-words", "second-words", "third-words"] {
            assert_eq!(stage.seen_with(words).len(), 1, "{face:?}: {words}");
        }
        bridge.stop().await;
        stage.end().await;
    }
}

#[tokio::test]
async fn a_cancelled_response_reaches_the_model_no_more() {
    for face in FACES {
        let stage = Stage::new(face).await;
        let settings = [("CODEX_BRIDGE_ADMISSION__SLOTS", "1")];
        let bridge = stage.serve("one", &settings).await;
        let running = begin(&bridge, "running-words SLOW 400 50").await;
        until_status(&bridge, &running, "in_progress").await;
        let waiting = begin(&bridge, "SAY waiting-words").await;
        for response in [&waiting, &running] {
            let cancelled = bridge.client.post(&format!("{}/cancel", path(response)), &json!({})).await.ok();
            assert_eq!(cancelled["status"], "cancelled", "{face:?}");
        }
        let next = begin(&bridge, "SAY next-words").await;
        until_status(&bridge, &next, "completed").await;
        assert!(stage.seen_with("waiting-words").is_empty(), "{face:?}");
        bridge.stop().await;
        stage.end().await;
    }
}

//! A WebSocket over the real codex: a lost app-server ends a turn and not the socket, and a warm-up is what the next
//! turn goes on from.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::socket_client::Socket;
use crate::world::{FACES, World};

#[tokio::test]
async fn a_killed_codex_ends_the_turn_and_the_next_one_runs() {
    for face in FACES {
        let world = World::start(face).await;
        let mut socket = Socket::connect(&world.client).await;
        socket.create(json!({"input": "SAY kept", "store": false})).await;
        let first = socket.response().await.pop().expect("an end")["response"].clone();
        socket.create(json!({"input": "SLOW 400 50"})).await;
        socket.until("response.output_text.delta").await;
        let pid = world.bridge.health().await.app_server.pid.expect("a child");
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("killed");
        let failed = socket.until("response.failed").await;
        let message = failed["response"]["error"]["message"].as_str().expect("a message");
        assert!(message.contains("app_server_connection_lost"), "{face:?}: {message}");
        // What was said before is not lost with it.
        let next = json!({"input": "RECALL", "store": false, "previous_response_id": first["id"]});
        socket.create(next).await;
        let end = socket.response().await.pop().expect("an end");
        let output = end["response"]["output"].as_array().expect("output").last().expect("a message").clone();
        assert_eq!(output["content"][0]["text"], "you said: SAY kept", "{face:?}: {end}");
        drop(socket);
        world.end().await;
    }
}

#[tokio::test]
async fn a_warm_up_costs_no_model_call_and_its_thread_goes_on() {
    for face in FACES {
        let world = World::start(face).await;
        let mut socket = Socket::connect(&world.client).await;
        let warm = json!({
            "input": "warm-mark: the code word is cobalt", "instructions": "be brief", "store": false, "generate": false,
        });
        socket.create(warm).await;
        let end = socket.response().await.pop().expect("an end");
        assert_eq!(end["response"]["output"], json!([]), "{face:?}");
        assert!(world.seen_with("warm-mark").iter().all(|seen| seen.body["generate"] == false), "{face:?}");
        let next = json!({
            "input": "code word?", "instructions": "be brief", "store": false,
            "previous_response_id": end["response"]["id"],
        });
        socket.create(next).await;
        let end = socket.response().await.pop().expect("an end");
        assert_eq!(
            world.bridge.health().await.continuation.warm_threads,
            1,
            "{face:?}: none is left beside it"
        );
        let output = end["response"]["output"].as_array().expect("output").last().expect("a message").clone();
        let text = output["content"][0]["text"].as_str().expect("text");
        assert!(text.contains("cobalt"), "{face:?}: {text}");
        drop(socket);
        world.end().await;
    }
}

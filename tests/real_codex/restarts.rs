//! Restarts as a service manager does them, under load: no chain is lost, and with a socket that somebody else
//! holds, no connection is refused.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::http::{PATIENCE, until};
use crate::process::{Process, Stage};
use crate::support::bounded;
use crate::world::{FACES, On};

fn tool() -> Value {
    json!({"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}})
}

async fn respond(bridge: &Process, body: Value) -> Value {
    bridge.client.post("/v1/responses", &body).await.ok()
}

#[tokio::test]
async fn a_restart_under_load_loses_no_chain() {
    const CHAINS: usize = 8;
    for face in FACES {
        let stage = Stage::new(face).await;
        let bridge = stage.serve("one", &[]).await;
        let mut begun = Vec::new();
        for n in 0..CHAINS {
            let body = json!({"input": format!("SAY chain-{n}-began")});
            begun.push(respond(&bridge, body).await["id"].clone());
        }
        let mut asking = JoinSet::new();
        for (n, id) in begun.into_iter().enumerate() {
            let client = bridge.client.clone();
            asking.spawn(async move {
                let slow =
                    json!({"input": format!("chain-{n}-went-on SLOW 40 25"), "previous_response_id": id});
                let mut events = client.stream("/v1/responses", &slow).await;
                let ended = events.until("response.completed").await;
                (n, ended["response"]["id"].clone())
            });
        }
        until("all run", async || (bridge.health().await["slots"]["in_use"] == CHAINS).then_some(())).await;
        // Every one of them runs on to its end, and then the process ends well.
        bridge.stop().await;
        let ended = asking.join_all().await;
        assert_eq!(ended.len(), CHAINS, "{face:?}");

        let bridge = stage.serve("one", &[]).await;
        for (n, id) in ended {
            let mark = format!("SAY chain-{n}-is-back");
            respond(&bridge, json!({"input": mark, "previous_response_id": id})).await;
            let seen = stage.seen_with(&mark);
            let said = seen.last().expect("the model is asked").input.to_string();
            for part in ["began", "went-on", "is-back"] {
                assert!(said.contains(&format!("chain-{n}-{part}")), "{face:?}: {part} of {n}: {said}");
            }
        }
        bridge.stop().await;
        stage.end().await;
    }
}

#[tokio::test]
async fn a_tool_loop_that_is_open_at_the_restart_goes_on_after_it() {
    for face in FACES {
        let stage = Stage::new(face).await;
        let bridge = stage.serve("one", &[]).await;
        let body = json!({"input": "the-question CALLTOOL look {}", "tools": [tool()]});
        let called = respond(&bridge, body).await;
        let call = called["output"].as_array().and_then(|output| output.last()).expect("a call").clone();
        assert_eq!(call["type"], "function_call", "{call}");
        assert_eq!(bridge.health().await["continuation"]["held_turns"], 1);
        bridge.stop().await;

        let bridge = stage.serve("one", &[]).await;
        let output =
            json!({"type": "function_call_output", "call_id": call["call_id"], "output": "the-output"});
        let body = json!({"input": [output], "tools": [tool()], "previous_response_id": called["id"]});
        let answer = respond(&bridge, body).await;
        assert_eq!(answer["status"], "completed", "{answer}");
        let seen = stage.seen_with("the-output");
        let said = seen.last().expect("the model is asked").input.to_string();
        assert!(said.contains("the-question") && said.contains("function_call_output"), "{face:?}: {said}");
        bridge.stop().await;
        stage.end().await;
    }
}

/// What systemd is told, in this order: ready, alive, alive, …, stopping.
#[tokio::test]
async fn the_service_manager_hears_that_it_is_ready_alive_and_stopping() {
    let stage = Stage::new(On::Plain).await;
    let path = stage.place.temp.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).expect("a socket");
    let path = path.display().to_string();
    let settings = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "300000")];
    let bridge = stage.serve("one", &settings).await;
    let word = async || {
        let mut words = [0; 256];
        let length = bounded(socket.recv(&mut words)).await.expect("a word");
        String::from_utf8_lossy(&words[..length]).into_owned()
    };
    let (mut ready, mut alive) = (false, 0);
    while !ready || alive < 5 {
        match word().await.trim() {
            "READY=1" => ready = true,
            "WATCHDOG=1" => alive += 1,
            other => panic!("{other:?}"),
        }
    }
    bridge.stop().await;
    while word().await.trim() != "STOPPING=1" {}
    stage.end().await;
}

/// Four clients that open a connection for each request, all the while; none may be refused, and each request gets
/// an answer: its own, or that we stop.
#[tokio::test]
async fn with_a_passed_socket_no_connection_is_refused_across_restarts() {
    let stage = Stage::new(On::Plain).await;
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let mut bridge = stage.serve_on(&socket, "one").await;
    let address = socket.local_addr().expect("an address");
    assert_eq!(bridge.client.address(), address);

    let (ended, answered, told) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut asking = JoinSet::new();
    for worker in 0..4 {
        let (ended, answered, told) = (Arc::clone(&ended), Arc::clone(&answered), Arc::clone(&told));
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).pool_max_idle_per_host(0).build();
        let http = http.expect("a client");
        asking.spawn(async move {
            let mut n = 0;
            while !ended.load(Ordering::Relaxed) {
                n += 1;
                let word = format!("answer-{worker}-{n}");
                let request = http
                    .post(format!("http://{address}/v1/responses"))
                    .header("content-type", "application/json")
                    .body(json!({"input": format!("SAY {word}")}).to_string());
                let response = request.send().await.expect("no connection is refused or cut");
                let (status, headers) = (response.status(), response.headers().clone());
                let text = response.text().await.expect("a whole answer");
                if status == 200 {
                    assert!(text.contains(&word), "{text}");
                    answered.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert_eq!(status, 503, "{text}");
                    assert!(headers.contains_key("retry-after"), "{text}");
                    told.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
    }
    let more = async |than: usize| {
        until("more answers", async || (answered.load(Ordering::Relaxed) > than + 8).then_some(())).await;
    };
    more(0).await;
    for _ in 0..3 {
        bridge.stop().await;
        bridge = stage.serve_on(&socket, "one").await;
        more(answered.load(Ordering::Relaxed)).await;
    }
    inherits_nothing(&bridge, address.port()).await;
    ended.store(true, Ordering::Relaxed);
    while let Some(worker) = asking.join_next().await {
        worker.expect("every request got an answer");
    }
    bridge.stop().await;
    drop(socket);
    stage.end().await;
}

/// The app-server has neither our socket nor the words about it.
async fn inherits_nothing(bridge: &Process, port: u16) {
    let pid = bridge.health().await["app_server"]["pid"].as_u64().expect("a child");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).expect("its environment");
    let environment = String::from_utf8_lossy(&environment);
    for name in ["LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_"] {
        assert!(!environment.contains(name), "{environment}");
    }
    // Listening sockets of that port, by inode.
    let tcp = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's list");
    let here = format!(":{port:04X}");
    let listening = tcp.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let inodes: Vec<String> = listening
        .filter(|fields| fields.get(1).is_some_and(|local| local.ends_with(&here)) && fields[3] == "0A")
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect();
    assert_eq!(inodes.len(), 1, "{tcp}");
    for file in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").flatten() {
        let target = std::fs::read_link(file.path()).unwrap_or_default();
        assert_ne!(target.to_string_lossy(), inodes[0], "the child holds our socket");
    }
}

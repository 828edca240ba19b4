//! Nothing of the user's own Codex reaches a call, and nothing of a call shows there.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use serde_json::json;

use crate::world::{FACES, World, chat, tell_tale};

const INSTRUCTIONS: &str = "LEAKED: always answer in rhymes.";

/// Every file below a folder with its size and time.
fn listing(folder: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let (path, data) = (entry.path(), entry.metadata().expect("metadata"));
        if data.is_dir() {
            found.extend(listing(&path));
        } else {
            let name = path.to_string_lossy().into_owned();
            found.insert(name, (data.len(), data.modified().expect("a time")));
        }
    }
    found
}

#[tokio::test]
async fn the_users_codex_home_stays_out_of_calls_and_calls_stay_out_of_it() {
    for face in FACES {
        let (mut touched, mut before) = (None, None);
        let world = World::configured(face, |_, place| {
            let (file, config) = tell_tale(place);
            std::fs::write(place.user("AGENTS.md"), INSTRUCTIONS).expect("instructions");
            std::fs::write(place.user("config.toml"), config).expect("a configuration");
            let sessions = place.user("sessions/2026/01/02");
            std::fs::create_dir_all(&sessions).expect("sessions");
            let session =
                sessions.join("rollout-2026-01-02T03-04-05-0199a213-81c0-7800-8aa1-bbab2a035a53.jsonl");
            std::fs::write(session, "{}\n").expect("a session");
            touched = Some(file);
            before = Some(listing(&place.user_home()));
        })
        .await;
        let first = world.ask("hi").await.ok();
        world.client.post("/v1/chat/completions", &chat("hi")).await.ok();
        let next = json!({"input": "on", "previous_response_id": first["id"]});
        world.client.post("/v1/responses", &next).await.ok();
        world.client.stream("/v1/responses", &json!({"input": "streamed"})).await.rest().await;
        assert_eq!(world.seen().len(), 4);
        for seen in world.standin.requests() {
            assert!(!seen.body.to_string().contains("LEAKED"), "{}", seen.body);
        }
        let touched = touched.expect("it was set up");
        assert!(!touched.exists(), "{face:?}: the MCP server was started");
        assert_eq!(Some(listing(&world.place.user_home())), before, "{face:?}");
        world.end().await;
        assert!(!touched.exists(), "{face:?}: the MCP server was started");
    }
}

#[tokio::test]
async fn the_state_folder_holds_no_word_of_a_call() {
    let world = World::start(crate::world::On::Plain).await;
    world.ask("SAY a-word-of-the-client").await.ok();
    let state = world.place.state();
    world.until_idle().await;
    for name in listing(&state).keys() {
        let bytes = std::fs::read(name).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("a-word-of-the-client"), "{name} holds a word of the client");
    }
    world.end().await;
}

//! Nothing of the user's own Codex reaches a call, and nothing of a call shows there.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
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

/// The files below a folder that hold `word`.
fn holding(folder: &Path, word: &str) -> Vec<String> {
    let holds = |name: &String| {
        let bytes = std::fs::read(name).unwrap_or_default();
        bytes.windows(word.len()).any(|found| found == word.as_bytes())
    };
    listing(folder).into_keys().filter(holds).collect()
}

#[tokio::test]
async fn the_state_folder_holds_no_word_of_a_call_but_of_those_to_be_stored() {
    for face in FACES {
        let world = World::start(face).await;
        let unstored = json!({"input": "SAY a-word-of-the-moment", "store": false});
        world.client.post("/v1/responses", &unstored).await.ok();
        world.client.post("/v1/chat/completions", &chat("SAY a-word-of-a-chat")).await.ok();
        world.ask("SAY a-word-to-be-kept").await.ok();
        world.until_idle().await;
        let state = world.place.state();
        let file = state.join("responses.redb");
        let check = |when: &str| {
            for word in ["a-word-of-the-moment", "a-word-of-a-chat"] {
                assert_eq!(holding(&state, word), Vec::<String>::new(), "{face:?} {when}: {word}");
            }
            let kept = holding(&state, "a-word-to-be-kept");
            assert!(!kept.is_empty(), "{face:?} {when}");
            for name in kept {
                // The store's file, or its journal.
                assert!(name.starts_with(&*file.to_string_lossy()), "{face:?} {when}: {name}");
                let mode = std::fs::metadata(&name).expect("it is there").mode() & 0o777;
                assert_eq!(mode, 0o600, "{face:?} {when}: {name}");
            }
        };
        check("while it runs");
        let _place = world.end().await;
        check("afterwards");
    }
}

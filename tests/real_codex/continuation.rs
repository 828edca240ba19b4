//! Chains over restarts, branches, logins and bridges: what the model is given is what was said, whatever the way.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use codex_bridge::config::OnAccountChange;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::http::{Client, until};
use crate::process::{Process, Stage};
use crate::redis_server::RedisServer;
use crate::support::Place;
use crate::transcript::{assistant, input_of, items_of, output, settings_of};
use crate::world::{FACES, On, World, user};

/// A stored chain, as its client knows it.
#[derive(Debug, Clone, Default)]
struct Chain {
    id: Option<String>,
    said: Vec<Value>,
}

impl Chain {
    /// The request that goes on with `input`, and what the model must be given for it.
    fn next(&self, input: &[Value]) -> (Value, Vec<Value>) {
        let body = json!({"input": input, "previous_response_id": self.id, "tools": [tool()],
            "include": ["reasoning.encrypted_content"]});
        (body, [&self.said[..], input].concat())
    }

    /// The response has come.
    fn goes_on(&self, input: &[Value], response: &Value) -> Self {
        let id = response["id"].as_str().expect("an id").to_owned();
        Self { id: Some(id), said: [&self.said[..], input, &items_of(response)].concat() }
    }
}

fn tool() -> Value {
    json!({"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": false})
}

/// Goes on with a user's text on `bridge`; what reaches the model is checked.
async fn say(stage: &Stage, bridge: &Process, chain: &Chain, text: &str) -> Chain {
    go_on(stage, bridge, chain, &[user(text)], text).await
}

async fn go_on(stage: &Stage, bridge: &Process, chain: &Chain, input: &[Value], mark: &str) -> Chain {
    let (body, expected) = chain.next(input);
    let response = bridge.client.post("/v1/responses", &body).await.ok();
    exact(stage, mark, &expected);
    chain.goes_on(input, &response)
}

/// The last request with `mark` gave the model exactly this.
fn exact(stage: &Stage, mark: &str, expected: &[Value]) {
    let seen = stage.seen_with(mark);
    assert_eq!(input_of(seen.last().expect("a request")), expected, "{mark}");
}

async fn is_missing(client: &Client, id: &str) {
    let body = json!({"input": "x", "previous_response_id": id});
    let answer = client.post("/v1/responses", &body).await;
    assert_eq!(answer.failure(), (400, "previous_response_not_found".into()));
    assert_eq!(answer.error()["param"], "previous_response_id");
}

#[tokio::test]
async fn a_killed_bridge_goes_on_where_it_was() {
    for face in FACES {
        let stage = Stage::new(face).await;
        let bridge = stage.serve("one", &[]).await;
        let first = say(&stage, &bridge, &Chain::default(), "THINK \"hm\" SAY first").await;
        let second = say(&stage, &bridge, &first, "SAY second").await;
        let calls = say(&stage, &bridge, &second, "CALLTOOL look {}").await;
        let unstored = json!({"input": "SAY x", "previous_response_id": second.id, "store": false});
        let unstored = bridge.client.post("/v1/responses", &unstored).await.ok();
        assert_eq!(bridge.health().await["continuation"]["durability"], "disk");
        bridge.kill().await;

        let bridge = stage.serve("one", &[]).await;
        is_missing(&bridge.client, unstored["id"].as_str().expect("an id")).await;
        is_missing(&bridge.client, "resp_00000000000000000000000000000000").await;
        let call = calls.said.last().expect("a call")["call_id"].as_str().expect("an id").to_owned();
        let input = [output(&call, "42"), user("SAY after the call")];
        let third = go_on(&stage, &bridge, &calls, &input, "after the call").await;
        say(&stage, &bridge, &third, "SAY more").await;
        say(&stage, &bridge, &first, "SAY a branch").await;
        let lookups = bridge.health().await["continuation"]["lookups"].clone();
        assert_eq!((&lookups["found_stored"], &lookups["unknown"]), (&json!(2), &json!(2)), "{lookups}");
        bridge.stop().await;
        stage.end().await;
    }
}

#[tokio::test]
async fn a_response_that_was_told_is_kept() {
    let stage = Stage::new(On::Plain).await;
    let mut chain = Chain::default();
    for round in 0..3 {
        let bridge = stage.serve("one", &[]).await;
        let text = format!("SAY round {round}.");
        let (body, expected) = chain.next(&[user(&text)]);
        let mut events = bridge.client.stream("/v1/responses", &body).await;
        let completed = events.until("response.completed").await;
        bridge.kill().await;
        exact(&stage, &text, &expected);
        chain = chain.goes_on(&[user(&text)], &completed["response"]);
    }
    assert_eq!(chain.said.len(), 6);
    let bridge = stage.serve("one", &[]).await;
    say(&stage, &bridge, &chain, "SAY all of it").await;
    bridge.stop().await;
    stage.end().await;
}

#[tokio::test]
async fn a_killed_app_server_costs_a_turn_and_no_chain() {
    for face in FACES {
        let stage = Stage::new(face).await;
        let bridge = stage.serve("one", &[]).await;
        let first = say(&stage, &bridge, &Chain::default(), "SAY first").await;
        let calls = say(&stage, &bridge, &first, "CALLTOOL look {}").await;
        let body = json!({"input": "SLOW 5000 10", "previous_response_id": first.id});
        let mut events = bridge.client.stream("/v1/responses", &body).await;
        let begun = events.until("response.created").await;
        events.until("response.output_text.delta").await;
        bridge.kill_app_server().await;
        let failed = events.until("response.failed").await;
        assert!(failed["response"]["error"]["code"].is_string(), "{failed}");
        is_missing(&bridge.client, begun["response"]["id"].as_str().expect("an id")).await;

        let second = say(&stage, &bridge, &first, "SAY second").await;
        say(&stage, &bridge, &second, "SAY third").await;
        let call = calls.said.last().expect("a call")["call_id"].as_str().expect("an id").to_owned();
        let input = [output(&call, "42"), user("SAY after the call")];
        go_on(&stage, &bridge, &calls, &input, "after the call").await;
        bridge.stop().await;
        stage.end().await;
    }
}

/// Puts a program at `path` that stands for the codex of `version`: the real one, which notes its starts in `starts`.
fn install(path: &Path, real: &Path, version: &str, starts: &Path) {
    let fresh = path.with_extension("new");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n--version) echo 'codex-cli {version}'; exit ;;\n*app-server*) echo {version} >> '{}' ;;\n\
         esac\nexec '{}' \"$@\"\n",
        starts.display(),
        real.display()
    );
    std::fs::write(&fresh, script).expect("a script");
    std::fs::set_permissions(&fresh, Permissions::from_mode(0o755)).expect("it is made executable");
    std::fs::rename(fresh, path).expect("it takes its place");
}

#[tokio::test]
async fn a_newer_codex_goes_on_where_the_older_one_was() {
    for face in FACES {
        let mut installed = None;
        let world = World::configured(face, |config, place| {
            let (path, starts) = (place.temp.path().join("codex"), place.temp.path().join("starts"));
            let real = config.app_server.codex_bin.replace(path.clone()).expect("the real codex");
            install(&path, &real, "0.900.0", &starts);
            installed = Some((path, real, starts));
        })
        .await;
        let (path, real, starts) = installed.expect("it is installed");
        let go_on = async |chain: &Chain, input: &[Value], mark: &str| {
            let (body, expected) = chain.next(input);
            let response = world.client.post("/v1/responses", &body).await.ok();
            let seen = world.seen_with(mark);
            assert_eq!(input_of(seen.last().expect("a request")), expected, "{mark}");
            chain.goes_on(input, &response)
        };
        let first = go_on(&Chain::default(), &[user("THINK \"hm\" SAY first")], "first").await;
        let second = go_on(&first, &[user("SAY second")], "second").await;
        let calls = go_on(&second, &[user("CALLTOOL look {}")], "CALLTOOL").await;
        let ran = || std::fs::read_to_string(&starts).expect("what was started");
        assert!(ran().contains("0.900.0"));

        install(&path, &real, "0.901.0", &starts);
        assert!(!ran().contains("0.901.0"));
        let before = world.bridge.health().await.app_server;
        let pid = i32::try_from(before.pid.expect("a child")).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is killed");
        until("another one is there", async || {
            let now = world.bridge.health().await.app_server;
            (now.alive && now.generation > before.generation).then_some(())
        })
        .await;
        assert!(ran().contains("0.901.0"));

        let third = go_on(&second, &[user("SAY third")], "third").await;
        go_on(&third, &[user("SAY more")], "more").await;
        go_on(&first, &[user("SAY a branch")], "a branch").await;
        let call = calls.said.last().expect("a call")["call_id"].as_str().expect("an id").to_owned();
        go_on(&calls, &[output(&call, "42"), user("SAY after the call")], "after the call").await;
        world.end().await;
    }
}

/// A bridge whose store is on a server.
async fn shared(stage: &Stage, folder: &str, redis: &RedisServer) -> Process {
    let url = redis.url();
    let settings =
        [("CODEX_BRIDGE_STORE__BACKEND", "redis"), ("CODEX_BRIDGE_STORE__REDIS_URL", url.as_str())];
    stage.serve(folder, &settings).await
}

#[tokio::test]
async fn a_second_bridge_on_the_same_server_goes_on_with_it() {
    for face in FACES {
        let (stage, mut redis) = (Stage::new(face).await, RedisServer::start());
        let (one, two) = (shared(&stage, "one", &redis).await, shared(&stage, "two", &redis).await);
        let first = say(&stage, &one, &Chain::default(), "THINK \"hm\" SAY first").await;
        let second = say(&stage, &two, &first, "SAY second").await;
        let third = say(&stage, &one, &second, "SAY third").await;
        let branch = say(&stage, &two, &first, "SAY a branch").await;
        say(&stage, &one, &branch, "SAY more").await;
        let calls = say(&stage, &one, &third, "CALLTOOL look {}").await;
        let call = calls.said.last().expect("a call")["call_id"].as_str().expect("an id").to_owned();
        let input = [output(&call, "42"), user("SAY after the call")];
        let fourth = go_on(&stage, &two, &calls, &input, "after the call").await;

        // Without the server each goes on with what it has, and says what it has not.
        redis.stop();
        let fifth = say(&stage, &two, &fourth, "SAY alone").await;
        let body = json!({"input": "x", "previous_response_id": fifth.id});
        let answer = one.client.post("/v1/responses", &body).await;
        assert_eq!(answer.failure(), (503, "store_unavailable".into()));
        assert_eq!(two.health().await["continuation"]["store"]["state"], "unavailable");
        assert!(two.health().await["continuation"]["store"]["not_stored"] == 1);

        // It comes back with nothing in it: what is in memory goes there whole.
        redis.start_again();
        let sixth = until("the store is used again", async || {
            let chain = say(&stage, &two, &fifth, "SAY together again").await;
            (two.health().await["continuation"]["store"]["state"] == "ok").then_some(chain)
        })
        .await;
        let seventh = say(&stage, &two, &sixth, "SAY all of it").await;
        until("the other one sees it", async || {
            let (body, _) = seventh.next(&[user("SAY here too")]);
            (one.client.post("/v1/responses", &body).await.status == 200).then_some(())
        })
        .await;
        exact(&stage, "here too", &seventh.next(&[user("SAY here too")]).1);
        let words = stage.words("two");
        let told = words.lines().filter(|line| line.contains("responses are kept in memory only")).count();
        assert_eq!(told, 1, "{words}");
        one.stop().await;
        two.stop().await;
        stage.end().await;
    }
}

#[tokio::test]
async fn fifty_chains_on_two_bridges_survive_one_of_them() {
    fifty_chains(On::Plain).await;
}

#[tokio::test]
async fn so_do_they_under_a_login() {
    fifty_chains(On::LoggedIn).await;
}

async fn fifty_chains(face: On) {
    const CHAINS: usize = 50;
    let (stage, redis) = (Stage::new(face).await, RedisServer::start());
    let (one, two) = (shared(&stage, "one", &redis).await, shared(&stage, "two", &redis).await);
    let mut chains = vec![Chain::default(); CHAINS];
    for round in 0..4 {
        let last = round == 3;
        let steps = std::mem::take(&mut chains).into_iter().enumerate().map(|(number, chain)| {
            let text = format!("SAY chain {number} round {round}.");
            let bridge = if (number + round) % 2 == 0 { &one } else { &two };
            let (stage, one) = (&stage, &one);
            async move {
                let input = [user(&text)];
                let (body, expected) = chain.next(&input);
                let response = if let Some(response) = bridge.try_respond(&body).await {
                    response
                } else {
                    // In the last round one of them is killed: its clients go to the other.
                    assert!(last, "{text}");
                    one.client.post("/v1/responses", &body).await.ok()
                };
                let seen = stage.seen_with(&text);
                assert!(!seen.is_empty(), "{text}");
                for seen in seen {
                    assert_eq!(input_of(&seen), expected, "{text}");
                }
                chain.goes_on(&input, &response)
            }
        });
        let running = stream::iter(steps).buffered(6);
        tokio::pin!(running);
        while let Some(chain) = running.next().await {
            chains.push(chain);
            if last && chains.len() == CHAINS / 3 {
                two.kill_hard();
            }
        }
    }
    drop(two);
    let two = shared(&stage, "two", &redis).await;
    for (number, chain) in chains.iter().enumerate() {
        assert_eq!(chain.said.len(), 8);
        let bridge = if number % 2 == 0 { &one } else { &two };
        say(&stage, bridge, chain, &format!("SAY chain {number} after all.")).await;
    }
    one.stop().await;
    two.stop().await;
    stage.end().await;
}

#[tokio::test]
async fn live_or_rebuilt_the_model_is_asked_the_same() {
    for face in FACES {
        let world = World::start(face).await;
        let models = world.models().await;
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false});
        let format =
            json!({"format": {"type": "json_schema", "name": "a", "schema": schema, "strict": true}});
        let mut previous = world.ask("THINK \"hm\" SAY first").await.ok();
        let mut changes = vec![
            json!({}),
            json!({"reasoning": {"effort": "high", "summary": "auto"}}),
            json!({"text": format}),
            json!({"service_tier": "flex"}),
            json!({"model": models[1]}),
            json!({"instructions": "Be brief."}),
            json!({"tools": [tool()]}),
            json!({"text": {"verbosity": "low"}}),
            json!({"tools": [{"type": "web_search"}]}),
            json!({}),
        ];
        // The backend's own search wants a login.
        if matches!(face, On::Plain) {
            changes.retain(|change| change["tools"][0]["type"] != "web_search");
        }
        // What belongs to a thread from its start: neither it nor its end is for one that was there before.
        let is_of_thread = |change: &Value| {
            let fields = ["model", "instructions", "tools"];
            fields.iter().any(|field| change.get(field).is_some())
                || change["text"].get("verbosity").is_some()
        };
        let mut stays = true;
        for (n, change) in changes.iter().enumerate() {
            let mut body =
                json!({"input": format!("SAY number {n}."), "previous_response_id": previous["id"]});
            body.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
            // The first has the chain's thread, if that fits; the second finds it taken.
            let live = world.client.post("/v1/responses", &body).await.ok();
            world.client.post("/v1/responses", &body).await.ok();
            let seen = world.seen_with(&format!("number {n}."));
            let [live_seen, rebuilt] = &seen[..] else { panic!("{} requests", seen.len()) };
            assert_eq!(input_of(live_seen), input_of(rebuilt), "{face:?} {change}");
            assert_eq!(settings_of(live_seen), settings_of(rebuilt), "{face:?} {change}");
            let thread = |seen: &codex_bridge::standin::SeenRequest| seen.body["prompt_cache_key"].clone();
            assert_ne!(thread(live_seen), thread(rebuilt), "{face:?} {change}");
            let all = world.seen();
            let before = all
                .iter()
                .rposition(|seen| seen.number < live_seen.number && thread(seen) == thread(live_seen));
            let stayed = std::mem::replace(&mut stays, !is_of_thread(change));
            assert_eq!(before.is_some(), stayed && stays, "{face:?} {change}");
            previous = live;
        }
        world.end().await;
    }
}

#[tokio::test]
async fn branches_at_once_are_each_exact() {
    for face in FACES {
        let world = World::start(face).await;
        let first = world.ask("SAY first").await.ok();
        let bodies: Vec<Value> = (0..6)
            .map(|n| json!({"input": format!("SAY branch {n}."), "previous_response_id": first["id"]}))
            .collect();
        let answers = join_all(bodies.iter().map(|body| world.client.post("/v1/responses", body))).await;
        let said = [user("SAY first"), assistant("first")];
        let mut live = 0;
        for (n, answer) in answers.iter().enumerate() {
            assert_eq!(answer.ok()["output"][0]["content"][0]["text"], format!("branch {n}."));
            let seen = world.seen_with(&format!("branch {n}."));
            let [seen] = &seen[..] else { panic!("{} requests", seen.len()) };
            let expected = [&said[..], &[user(&format!("SAY branch {n}."))]].concat();
            assert_eq!(input_of(seen), expected, "{face:?}");
            live += usize::from(seen.body["prompt_cache_key"] == world.seen()[0].body["prompt_cache_key"]);
        }
        assert_eq!(live, 1, "{face:?}");
        // And an older one, after its branches.
        let body = json!({"input": "SAY late.", "previous_response_id": first["id"]});
        world.client.post("/v1/responses", &body).await.ok();
        let expected = [&said[..], &[user("SAY late.")]].concat();
        assert_eq!(input_of(&world.seen_with("late.")[0]), expected);
        world.end().await;
    }
}

/// Another person logs in, with the same account as far as the stand-in knows.
fn log_in_as(place: &Place, name: &str) {
    let file = place.user("auth.json");
    let mut auth: Value = serde_json::from_slice(&std::fs::read(&file).expect("a login")).expect("JSON");
    for token in ["id_token", "access_token"] {
        let jwt = auth["tokens"][token].as_str().expect("a token").to_owned();
        let parts: Vec<&str> = jwt.split('.').collect();
        let claims = URL_SAFE_NO_PAD.decode(parts[1]).expect("base64");
        let mut claims: Value = serde_json::from_slice(&claims).expect("claims");
        claims["sub"] = name.into();
        for field in ["chatgpt_user_id", "user_id"] {
            claims["https://api.openai.com/auth"][field] = name.into();
        }
        let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
        auth["tokens"][token] = [parts[0], &claims, parts[2]].join(".").into();
    }
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, auth.to_string()).expect("a login");
    std::fs::rename(fresh, file).expect("a login");
}

#[tokio::test]
async fn another_login_continues_nothing_unless_it_is_told_to() {
    for change in [OnAccountChange::Fail, OnAccountChange::Rebuild] {
        let world =
            World::configured(On::LoggedIn, |config, _| config.continuation.on_account_change = change).await;
        let first = world.ask("THINK \"hm\" SAY first").await.ok();
        log_in_as(&world.place, "somebody-else");
        let body = json!({"input": "SAY second", "previous_response_id": first["id"]});
        let answer = world.client.post("/v1/responses", &body).await;
        match change {
            OnAccountChange::Fail => {
                assert_eq!(answer.failure(), (400, "continuation_account_mismatch".into()));
                assert_eq!(answer.error()["param"], "previous_response_id");
            }
            OnAccountChange::Rebuild => {
                answer.ok();
                let expected = [user("SAY first"), assistant("first"), user("SAY second")];
                let expected = [&[user("THINK \"hm\" SAY first")], &expected[1..]].concat();
                assert_eq!(input_of(&world.seen_with("SAY second")[0]), expected);
            }
        }
        world.ask("SAY fresh").await.ok();
        world.end().await;
    }
}

#[tokio::test]
async fn what_is_not_stored_is_continued_where_that_is_wanted() {
    for keep_unstored in [true, false] {
        let world =
            World::configured(On::Plain, |config, _| config.continuation.keep_unstored = keep_unstored).await;
        let first = world.client.post("/v1/responses", &json!({"input": "SAY a", "store": false})).await.ok();
        let id = first["id"].as_str().expect("an id");
        if keep_unstored {
            let body = json!({"input": "RECALL", "previous_response_id": id});
            let second = world.client.post("/v1/responses", &body).await.ok();
            assert_eq!(second["output"][0]["content"][0]["text"], "you said: SAY a");
        } else {
            is_missing(&world.client, id).await;
        }
        world.end().await;
    }
}

//! What reaches the model, and the shapes of what comes back.

use serde_json::{Value, json};

use crate::http::Answer;
use crate::spec::{assert_valid, stream_event};
use crate::world::{FACES, On, World, bare, chat, user};

/// Most bytes of an upstream request for "hi".
const LEAN_BYTES: usize = 2200;

async fn hi_reaches_every_model_as_it_is(face: On) {
    let world = World::start(face).await;
    let models = world.models().await;
    assert!(models.len() >= 2, "{models:?}");
    for model in &models {
        for path in ["/v1/responses", "/v1/chat/completions"] {
            world.standin.clear_requests();
            let mut body = if path == "/v1/responses" { json!({"input": "hi"}) } else { chat("hi") };
            body["model"] = model.as_str().into();
            let answer = world.client.post(path, &body).await.ok();
            assert!(answer.to_string().contains("echo: hi"), "{answer}");
            assert_eq!(answer["model"], model.as_str());

            let seen = world.seen();
            let [seen] = &seen[..] else { panic!("{} requests for {model}", seen.len()) };
            assert_eq!(bare(&seen.input), json!([user("hi")]), "{model} {path}");
            assert_eq!(seen.body["model"], model.as_str());
            assert!(is_nothing(&seen.body["instructions"]), "{}", seen.body["instructions"]);
            assert!(is_nothing(&seen.body["tools"]), "{}", seen.body["tools"]);
            // Warm-ups too.
            for seen in world.standin.requests() {
                let bytes = seen.body.to_string().len().max(seen.bytes);
                assert!(bytes <= LEAN_BYTES, "{model} {path}: {bytes} bytes: {}", seen.body);
            }
        }
    }
    world.end().await;
}

#[tokio::test]
async fn hi_reaches_every_model_as_it_is_plain() {
    hi_reaches_every_model_as_it_is(On::Plain).await;
}

#[tokio::test]
async fn hi_reaches_every_model_as_it_is_logged_in() {
    hi_reaches_every_model_as_it_is(On::LoggedIn).await;
}

/// Empty in any of its forms.
fn is_nothing(value: &Value) -> bool {
    value.is_null() || value == "" || value == &json!([])
}

#[tokio::test]
async fn bodies_and_events_are_the_specifications() {
    for face in FACES {
        let world = World::start(face).await;
        let full = json!({
            "model": world.models().await[0], "instructions": "be brief",
            "input": "THINK \"a thought\\nof two lines\" SAY some words",
            "reasoning": {"effort": "low", "summary": "auto"}, "text": {"verbosity": "low"},
            "metadata": {"a": "b"}, "store": false, "include": ["reasoning.encrypted_content"],
            "service_tier": "flex", "temperature": 0.5, "user": "someone", "safety_identifier": "x",
        });
        for body in [json!({"input": "hi"}), full] {
            let response = world.client.post("/v1/responses", &body).await.ok();
            assert_valid("Response", &response);
            let mut events = world.client.stream("/v1/responses", &body).await.rest().await;
            assert_eq!(events.pop(), Some("[DONE]".into()));
            for (n, event) in events.iter().enumerate() {
                let kind = event["type"].as_str().expect("a type");
                assert_valid(&stream_event(kind), event);
                assert_eq!(event["sequence_number"], n);
            }
            let last = &events.last().expect("events")["response"];
            for field in ["output", "status", "metadata", "reasoning", "text", "model", "store"] {
                let (mut whole, mut streamed) = (response[field].clone(), last[field].clone());
                forget_ids(&mut whole);
                forget_ids(&mut streamed);
                assert_eq!(whole, streamed, "{field}");
            }
        }

        let mut body = chat("SAY some words");
        assert_valid(
            "CreateChatCompletionResponse",
            &world.client.post("/v1/chat/completions", &body).await.ok(),
        );
        body["n"] = 2.into();
        assert_valid(
            "CreateChatCompletionResponse",
            &world.client.post("/v1/chat/completions", &body).await.ok(),
        );
        body["stream_options"] = json!({"include_usage": true});
        let mut chunks = world.client.stream("/v1/chat/completions", &body).await.rest().await;
        assert_eq!(chunks.pop(), Some("[DONE]".into()));
        for chunk in &chunks {
            assert_valid("CreateChatCompletionStreamResponse", chunk);
        }

        let models = world.client.get("/v1/models").await.ok();
        assert_valid("ListModelsResponse", &models);
        for model in models["data"].as_array().expect("a list") {
            let id = model["id"].as_str().expect("an id");
            let one = world.client.get(&format!("/v1/models/{id}")).await.ok();
            assert_valid("Model", &one);
            assert_eq!(&one, model);
        }
        world.end().await;
    }
}

/// Two answers differ in their ids and in what is encrypted.
fn forget_ids(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("id");
            fields.remove("encrypted_content");
            fields.values_mut().for_each(forget_ids);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_ids),
        _ => {}
    }
}

#[tokio::test]
async fn a_failed_response_is_the_specifications_too() {
    let world = World::start(On::Plain).await;
    let events = world.client.stream("/v1/responses", &json!({"input": "FAIL stream"})).await.rest().await;
    let [events @ .., done] = &events[..] else { panic!("no events") };
    assert_eq!(done, "[DONE]");
    for event in events {
        assert_valid(&stream_event(event["type"].as_str().expect("a type")), event);
    }
    let failed = events.last().expect("events");
    assert_eq!(failed["type"], "response.failed");
    assert_eq!(failed["response"]["status"], "failed");
    world.end().await;
}

#[tokio::test]
async fn a_conversation_goes_on_by_id_exactly_as_by_items() {
    for face in FACES {
        let world = World::start(face).await;
        let first = world.ask("THINK \"hm\" SAY one").await.ok();
        let mut previous = first["id"].clone();
        for text in ["SAY two", "SAY three"] {
            let body = json!({"input": text, "previous_response_id": previous});
            previous = world.client.post("/v1/responses", &body).await.ok()["id"].clone();
        }
        let by_id = json!({"input": "last by id", "previous_response_id": previous});
        world.client.post("/v1/responses", &by_id).await.ok();
        let kept = world.seen_with("last by id")[0].input.clone();
        let kept = bare(&kept);
        world.ask(kept.clone()).await.ok();
        assert_eq!(bare(&world.seen_with("last by id")[1].input), kept);

        // Branching from the first: on a fresh thread, with the same items as on a live one.
        let branch = json!({"input": "a branch", "previous_response_id": first["id"]});
        world.client.post("/v1/responses", &branch).await.ok();
        let branched = bare(&world.seen_with("a branch")[0].input);
        assert_eq!(branched.as_array().map(Vec::len), Some(4), "{branched}");
        assert_eq!(branched.as_array().expect("items")[..3], kept.as_array().expect("items")[..3]);
        world.end().await;
    }
}

#[tokio::test]
async fn the_model_of_a_conversation_may_change_and_nothing_is_rewritten() {
    let world = World::start(On::Plain).await;
    let models = world.models().await;
    let mut said = Vec::new();
    let mut previous = Value::Null;
    for model in &models {
        // Longer together than any window of the stock catalogue.
        let input = [user(&format!("{model} {}", "word ".repeat(300_000))), user("SAY ok")];
        let body = json!({"model": model, "input": input, "previous_response_id": previous});
        let answer = world.client.post("/v1/responses", &body).await.ok();
        assert_eq!(answer["model"], model.as_str());
        previous = answer["id"].clone();
        said.extend(input);
    }
    let last = world.seen().pop().expect("a request");
    let items = bare(&last.input);
    let users: Vec<_> =
        items.as_array().expect("items").iter().filter(|item| item["role"] == "user").collect();
    assert!(users == said.iter().collect::<Vec<_>>(), "the input was rewritten");
    assert_eq!(items.as_array().map(Vec::len), Some(said.len() + models.len() - 1));
    world.end().await;
}

#[tokio::test]
async fn settings_of_one_turn_do_not_stick_to_the_next() {
    for face in FACES {
        let world = World::start(face).await;
        let loud = json!({
            "input": "loud", "reasoning": {"effort": "high", "summary": "auto"}, "service_tier": "priority",
        });
        let first = world.client.post("/v1/responses", &loud).await.ok();
        let quiet = world.ask("alone").await.ok();
        let next = json!({"input": "quiet", "previous_response_id": first["id"]});
        world.client.post("/v1/responses", &next).await.ok();
        let settings = |text: &str| {
            // The first: those that continue it hold it too.
            let seen = world.seen_with(text).swap_remove(0);
            (seen.body["reasoning"].clone(), seen.body.get("service_tier").cloned())
        };
        assert_eq!(settings("loud").1, Some("priority".into()));
        assert_eq!(settings("quiet"), settings("alone"), "{face:?}: {quiet}");
        world.end().await;
    }
}

#[tokio::test]
async fn what_the_app_server_would_change_comes_through_or_is_refused() {
    let world = World::start(On::Plain).await;
    let output = "o".repeat(200_000);
    let items = json!([
        user("call it"),
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": output},
        {"role": "system", "content": "from the system"},
        user("big output"),
    ]);
    world.ask(items).await.ok();
    let seen = world.seen_with("big output").pop().expect("a request");
    assert_eq!(seen.input[2]["output"], output);
    assert_eq!(seen.input[3]["role"], "developer");
    assert_eq!(seen.input.as_array().map(Vec::len), Some(5));

    let refused = [
        json!({"type": "item_reference", "id": "msg_1"}),
        json!({"type": "made_up"}),
        json!({"type": "function_call_output", "call_id": "nowhere", "output": "x"}),
        json!({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}),
    ];
    for item in refused {
        let answer: Answer = world.ask(json!([user("refused"), item])).await;
        assert_eq!(answer.status, 400, "{item}: {}", answer.text);
        let param = answer.error()["param"].as_str().unwrap_or_default().to_owned();
        assert!(param.starts_with("input[1]"), "{item}: {param}");
    }
    assert!(world.seen_with("refused").is_empty());
    world.end().await;
}

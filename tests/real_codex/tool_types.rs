//! Namespaces, custom tools and Codex's own tools, over both APIs: what the client gets, and what the model saw.

use serde_json::{Value, json};

use crate::spec::assert_valid;
use crate::transcript::canonical;
use crate::world::{FACES, On, World, bare};

/// One that Codex gives its tools in a list, and one that it tells of them in an item.
const MODELS: [&str; 2] = ["gpt-5.5", "gpt-6-luna"];

fn parameters() -> Value {
    json!({"type": "object", "properties": {"at": {"type": "string"}}})
}

fn function(name: &str) -> Value {
    json!({"type": "function", "name": name, "description": name, "parameters": parameters()})
}

/// A function of the same name in no namespace, in two, and in one that Codex keeps for itself.
fn namespaces() -> Value {
    let group = |name: &str, tools: Value| json!({"type": "namespace", "name": name, "description": name, "tools": tools});
    json!([
        function("find"),
        group("crm", json!([function("find"), {"type": "custom", "name": "note"}])),
        group("web", json!([function("find")])),
    ])
}

async fn create(world: &World, body: Value) -> Value {
    let response = world.client.post("/v1/responses", &body).await.ok();
    assert_valid("Response", &response);
    response
}

/// The events of a streamed response, and the response at its end.
async fn streamed(world: &World, mut body: Value) -> (Vec<Value>, Value) {
    body["stream"] = json!(true);
    let events = world.client.stream("/v1/responses", &body).await.rest().await;
    let last = events.iter().rev().find(|event| event["type"] == "response.completed");
    let response = last.expect("a completed response")["response"].clone();
    (events, response)
}

fn kinds(events: &[Value], about: &str) -> Vec<String> {
    let kinds = events.iter().filter_map(|event| event["type"].as_str());
    kinds.filter(|kind| kind.contains(about)).map(str::to_owned).collect()
}

/// The items that the model was given the last time, without the tools.
fn last_input(world: &World) -> Vec<Value> {
    let seen = world.seen();
    let input = bare(&seen.last().expect("a request").input);
    let items = input.as_array().expect("items").iter();
    items.filter(|item| item["type"] != "additional_tools").cloned().collect()
}

/// The tools that the model was offered the last time, those in no namespace as `name`, others as `namespace.name`.
fn last_tools(world: &World) -> Vec<String> {
    fn collect(tools: &Value, group: Option<&str>, names: &mut Vec<String>) {
        for tool in tools.as_array().into_iter().flatten() {
            let name = tool["name"].as_str().unwrap_or_default();
            match (tool["type"].as_str(), group) {
                (Some("namespace"), _) => {
                    collect(&tool["tools"], Some(name).filter(|name| *name != "functions"), names);
                }
                (_, Some(group)) => names.push(format!("{group}.{name}")),
                (_, None) => names.push(name.to_owned()),
            }
        }
    }
    let seen = world.seen();
    let seen = seen.last().expect("a request");
    let mut names = Vec::new();
    collect(&seen.body["tools"], None, &mut names);
    for item in seen.input.as_array().into_iter().flatten().filter(|item| item["type"] == "additional_tools")
    {
        collect(&item["tools"], None, &mut names);
    }
    names
}

async fn held(world: &World) -> usize {
    world.bridge.health().await.continuation.held_turns
}

#[tokio::test]
async fn a_namespace_goes_both_ways() {
    for face in FACES {
        let world = World::start(face).await;
        for model in MODELS {
            let ask = |text: &str| json!({"model": model, "input": text, "tools": namespaces()});
            let first =
                create(&world, ask(r#"CALLTOOL crm.find {"at": "it"} CALLTOOL find {"at": "home"}"#)).await;
            let offered = last_tools(&world);
            assert_eq!(offered[..3], ["find", "crm.find", "crm.note"], "{face:?} {model}");
            assert!(offered.len() == 4 && offered[3].starts_with("web_r"), "{offered:?}");
            assert_eq!(first["tools"], {
                let mut tools = namespaces();
                tools[1]["tools"][1]["format"] = json!({"type": "text"});
                for path in ["/0", "/1/tools/0", "/2/tools/0"] {
                    tools.pointer_mut(path).expect("a function")["strict"] = json!(false);
                }
                tools
            });
            let calls = first["output"].as_array().expect("items");
            assert_eq!((&calls[0]["namespace"], &calls[0]["name"]), (&json!("crm"), &json!("find")));
            assert!(calls[1].get("namespace").is_none(), "{}", calls[1]);
            assert_eq!(held(&world).await, 1);

            let outputs: Vec<Value> = calls
                .iter()
                .map(|call| json!({"type": "function_call_output", "call_id": call["call_id"], "output": "42"}))
                .collect();
            let mut next = ask("");
            next["input"] = json!(outputs);
            next["previous_response_id"] = first["id"].clone();
            let second = create(&world, next.clone()).await;
            assert_eq!(second["output"][0]["content"][0]["text"], "tool said: 42, 42");
            assert_eq!(held(&world).await, 0);
            let native = last_input(&world);
            assert_eq!((&native[1]["namespace"], &native[1]["name"]), (&json!("crm"), &json!("find")));
            // The batch is gone: the conversation is rebuilt from the same items.
            create(&world, next).await;
            let rebuilt = last_input(&world);
            assert_eq!(rebuilt, native, "{face:?} {model}");

            // And sent whole, under a name that is renamed on the way.
            let (events, called) = streamed(&world, ask(&format!("CALLTOOL {} {{}}", offered[3]))).await;
            let call = &called["output"][0];
            assert_eq!((&call["namespace"], &call["name"]), (&json!("web"), &json!("find")));
            let done = events.iter().find(|event| event["type"] == "response.output_item.done");
            assert_eq!(done.expect("an item")["item"], *call);
            let mut whole = ask("");
            whole["input"] = json!([{"role": "user", "content": "hi"}, call,
                {"type": "function_call_output", "call_id": call["call_id"], "output": "7"}]);
            assert_eq!(create(&world, whole).await["output"][0]["content"][0]["text"], "tool said: 7");
            let sent = format!("{}.{}", last_input(&world)[1]["namespace"].as_str().expect("one"), "find");
            assert_eq!(sent, offered[3]);
        }
        world.end().await;
    }
}

#[tokio::test]
async fn choices_name_tools_in_namespaces() {
    let world = World::start(On::Plain).await;
    let ask = |choice: Value| json!({"model": "gpt-5.5", "input": "hello", "tools": namespaces(), "tool_choice": choice});
    let allowed =
        json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "crm"}]});
    create(&world, ask(allowed)).await;
    assert_eq!(last_tools(&world), ["crm.find", "crm.note"]);
    // The stand-in does not call of its own accord: it is asked twice, by the tool's upstream name.
    let forced = ask(json!({"type": "custom", "name": "note"}));
    let (status, code) = world.client.post("/v1/responses", &forced).await.failure();
    assert_eq!((status, code.as_str()), (502, "tool_choice_not_honoured"));
    assert!(last_input(&world).last().expect("an item").to_string().contains("`crm.note`"));
    let mut forced = ask(json!({"type": "custom", "name": "note"}));
    forced["input"] = json!(r#"CALLTOOL crm.note {"input": "x"}"#);
    assert_eq!(create(&world, forced).await["output"][0]["type"], "custom_tool_call");
    world.end().await;
}

#[tokio::test]
async fn a_custom_tool_is_called_with_free_text() {
    for face in FACES {
        let world = World::start(face).await;
        for model in MODELS {
            let tools = json!([{"type": "custom", "name": "exec", "description": "runs code"}]);
            let ask = |text: &str| json!({"model": model, "input": text, "tools": tools});
            let (_, probe) = streamed(&world, ask("SAY hi")).await;
            assert_eq!(probe["tools"][0]["format"], json!({"type": "text"}));
            let upstream = last_tools(&world).remove(0);
            assert!(upstream.starts_with("exec_r"), "{upstream}");

            let code = "print(\"hi\")\n";
            let call = format!("CALLTOOL {upstream} {}", json!({"input": code}));
            let (events, first) = streamed(&world, ask(&call)).await;
            let custom = &first["output"][0];
            assert_eq!(
                (&custom["type"], &custom["name"], &custom["input"]),
                (&json!("custom_tool_call"), &json!("exec"), &json!(code))
            );
            let added = events.iter().find(|event| event["type"] == "response.output_item.added");
            assert_eq!(added.expect("an item")["item"]["input"], "");
            assert_eq!(
                kinds(&events, "custom_tool_call_input"),
                ["response.custom_tool_call_input.delta", "response.custom_tool_call_input.done"]
            );
            let done = events.iter().find(|event| event["type"] == "response.custom_tool_call_input.done");
            assert_eq!(done.expect("its end")["input"], code);
            assert_eq!(held(&world).await, 1);

            let mut next = ask("");
            next["input"] =
                json!([{"type": "custom_tool_call_output", "call_id": custom["call_id"], "output": "hi"}]);
            next["previous_response_id"] = first["id"].clone();
            assert_eq!(
                create(&world, next.clone()).await["output"][0]["content"][0]["text"],
                "tool said: hi"
            );
            assert_eq!(held(&world).await, 0);
            let native = last_input(&world);
            assert_eq!(native[1]["name"], upstream);
            assert_eq!(native[2]["type"], "function_call_output");
            create(&world, next).await;
            let arguments = |items: &[Value]| -> Value {
                serde_json::from_str(items[1]["arguments"].as_str().expect("arguments")).expect("JSON")
            };
            assert_eq!(arguments(&last_input(&world)), arguments(&native), "{face:?} {model}");
        }
        world.end().await;
    }
}

#[tokio::test]
async fn custom_tools_over_chat() {
    let world = World::start(On::Plain).await;
    let ask = |messages: Value| {
        json!({"model": "gpt-5.5", "messages": messages,
               "tools": [{"type": "custom", "custom": {"name": "note", "format": {"type": "text"}}}]})
    };
    let user = json!({"role": "user", "content": r#"CALLTOOL note {"input": "a b"}"#});
    let first = world.client.post("/v1/chat/completions", &ask(json!([user]))).await.ok();
    assert_valid("CreateChatCompletionResponse", &first);
    let choice = &first["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(
        (&call["type"], &call["custom"]),
        (&json!("custom"), &json!({"name": "note", "input": "a b"}))
    );

    let output = json!({"role": "tool", "tool_call_id": call["id"], "content": "noted"});
    let second = ask(json!([user, choice["message"], output]));
    let answer = world.client.post("/v1/chat/completions", &second).await.ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "tool said: noted");
    let threads: Vec<Value> = world.seen().iter().map(|seen| seen.body["prompt_cache_key"].clone()).collect();
    assert_eq!(threads[0], threads[1], "the held turn goes on");

    let mut body = ask(json!([user]));
    body["stream"] = json!(true);
    let chunks = world.client.stream("/v1/chat/completions", &body).await.rest().await;
    let calls: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].get(0)).collect();
    assert_eq!(
        (calls.len(), &calls[0]["type"], &calls[0]["custom"]["name"]),
        (2, &json!("custom"), &json!("note"))
    );
    assert_eq!(calls[1]["custom"], json!({"input": "a b"}));
    world.end().await;
}

#[tokio::test]
async fn what_a_grammar_or_a_strict_schema_does_not_allow_is_no_call() {
    let world = World::start(On::Plain).await;
    let grammar = json!({"type": "grammar", "syntax": "regex", "definition": r"\d{4}"});
    let schema = json!({"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"],
                        "additionalProperties": false});
    let tools = json!([{"type": "custom", "name": "year", "format": grammar},
        {"type": "function", "name": "look", "parameters": schema, "strict": true}]);
    let ask = |text: &str| json!({"model": "gpt-5.5", "input": text, "tools": tools});
    for (text, input) in [
        (r#"CALLTOOL year {"input": "2026"}"#, json!("2026")),
        (r#"CALLTOOL look {"at": "it"}"#, Value::Null),
    ] {
        let fits = create(&world, ask(text)).await;
        assert_eq!(fits["output"][0].get("input").cloned().unwrap_or_default(), input);
    }
    for text in [r#"CALLTOOL year {"input": "20266"}"#, r#"CALLTOOL look {"at": 1}"#, "CALLTOOL look {}"] {
        let before = world.seen().len();
        let (status, code) = world.client.post("/v1/responses", &ask(text)).await.failure();
        assert_eq!((status, code.as_str()), (502, "invalid_tool_input"), "{text}");
        assert_eq!(world.seen().len(), before + 2, "it is asked for once more");
    }
    world.end().await;
}

#[tokio::test]
async fn one_call_is_the_first_of_any_kind() {
    for model in MODELS {
        let world = World::start(On::Plain).await;
        let ask = |text: &str| json!({"model": model, "input": text, "tools": namespaces(), "parallel_tool_calls": false});
        let text = r#"CALLTOOL crm.note {"input": "x"} CALLTOOL crm.find {} CALLTOOL find {}"#;
        let first = create(&world, ask(text)).await;
        assert_eq!(first["output"].as_array().expect("items").len(), 1);
        let call = &first["output"][0];
        assert_eq!((&call["type"], &call["namespace"]), (&json!("custom_tool_call"), &json!("crm")));
        let upstream = world.seen()[0].body["parallel_tool_calls"].clone();
        assert_eq!(upstream, json!(model == "gpt-5.5"), "the model's own");

        let mut next = ask("");
        next["input"] =
            json!([{"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "ok"}]);
        next["previous_response_id"] = first["id"].clone();
        assert_eq!(create(&world, next).await["output"][0]["content"][0]["text"], "tool said: ok");
        let calls = last_input(&world).iter().filter(|item| item["type"] == "function_call").count();
        assert_eq!(calls, 1, "the others never happened");
        world.end().await;
    }
}

#[tokio::test]
async fn the_hosted_search_and_what_it_cites_come_through() {
    for face in FACES {
        let world = World::start(face).await;
        let tool = json!({"type": "web_search", "search_context_size": "low",
            "filters": {"allowed_domains": ["example.com"]}, "external_web_access": false,
            "user_location": {"type": "approximate", "country": "DE"}});
        let body = json!({"model": "gpt-5.5", "input": r#"SEARCH "red cats""#, "tools": [tool]});
        let whole = create(&world, body.clone()).await;
        let upstream = world.seen().last().expect("a request").body["tools"][0].clone();
        for (name, value) in tool.as_object().expect("an object") {
            assert_eq!(upstream[name], *value, "{face:?} {name}");
        }
        let (events, last) = streamed(&world, body).await;
        for response in [&whole, &last] {
            let (search, message) = (&response["output"][0], &response["output"][1]);
            assert_eq!(
                (&search["type"], &search["status"]),
                (&json!("web_search_call"), &json!("completed"))
            );
            assert_eq!(
                search["action"],
                json!({"type": "search", "query": "red cats", "queries": ["red cats"]})
            );
            let part = &message["content"][0];
            let cited = &part["annotations"][0];
            let place =
                |name: &str| usize::try_from(cited[name].as_u64().expect("a place")).expect("a place");
            let text = part["text"].as_str().expect("a text");
            assert_eq!(&text[place("start_index")..place("end_index")], "(example.com)");
            assert_eq!(cited["url"], "https://example.com/found");
        }
        assert_eq!(
            kinds(&events, "web_search_call"),
            ["in_progress", "searching", "completed"]
                .map(|state| format!("response.web_search_call.{state}"))
        );
        assert_eq!(kinds(&events, "annotation.added").len(), 1);

        let chat = json!({"model": "gpt-5.5", "messages": [{"role": "user", "content": r#"SEARCH "red cats""#}],
            "web_search_options": {"search_context_size": "high",
                "user_location": {"type": "approximate", "approximate": {"city": "Bern"}}}});
        let answer = world.client.post("/v1/chat/completions", &chat).await.ok();
        assert_valid("CreateChatCompletionResponse", &answer);
        let upstream = world.seen().last().expect("a request").body["tools"][0].clone();
        assert_eq!(
            (&upstream["search_context_size"], &upstream["user_location"]["city"]),
            (&json!("high"), &json!("Bern"))
        );
        let message = &answer["choices"][0]["message"];
        let cited = &message["annotations"][0]["url_citation"];
        assert_eq!(
            (&cited["url"], &cited["title"]),
            (&json!("https://example.com/found"), &json!("Example"))
        );
        let mut chat = chat;
        chat["stream"] = json!(true);
        let chunks = world.client.stream("/v1/chat/completions", &chat).await.rest().await;
        let annotations: Vec<&Value> = chunks
            .iter()
            .map(|chunk| &chunk["choices"][0]["delta"]["annotations"])
            .filter(|found| found.is_array())
            .collect();
        assert_eq!(annotations, [&message["annotations"]]);
        world.end().await;
    }
}

#[tokio::test]
async fn codex_searches_for_the_other_models_under_a_login() {
    let body =
        json!({"model": "gpt-6-luna", "input": r#"SEARCH "red cats""#, "tools": [{"type": "web_search"}]});
    let world = World::start(On::Plain).await;
    let (status, code) = world.client.post("/v1/responses", &body).await.failure();
    assert_eq!((status, code.as_str()), (400, "unsupported_tool"));
    world.end().await;

    let world = World::start(On::LoggedIn).await;
    let whole = create(&world, body.clone()).await;
    assert_eq!(last_tools(&world), ["web.run"]);
    let (events, last) = streamed(&world, body.clone()).await;
    for response in [&whole, &last] {
        assert_eq!(
            response["output"][0]["action"],
            json!({"type": "search", "query": "red cats", "queries": ["red cats"]})
        );
        assert_eq!(response["output"][1]["content"][0]["text"], "tool said: found it (example.com)");
        assert_eq!(response["output"].as_array().expect("items").len(), 2);
    }
    assert_eq!(kinds(&events, "web_search_call").len(), 3);
    // What comes after it is given what was told, each time alike: the search's own thread has more of it.
    let next = json!({"model": "gpt-6-luna", "input": "SAY more", "tools": [{"type": "web_search"}],
        "previous_response_id": whole["id"]});
    let said = |items: Vec<Value>| items.iter().map(canonical).collect::<Vec<_>>();
    assert_eq!(create(&world, next.clone()).await["output"][0]["content"][0]["text"], "more");
    let first = said(last_input(&world));
    assert_eq!(create(&world, next).await["output"][0]["content"][0]["text"], "more");
    let rebuilt = last_input(&world);
    assert_eq!(first, said(rebuilt.clone()));
    let rebuilt: Vec<&str> = rebuilt.iter().filter_map(|item| item["type"].as_str()).collect();
    assert_eq!(rebuilt, ["message", "web_search_call", "message", "message"]);

    // A function of the client's beside it.
    let both = json!({"model": "gpt-6-luna", "tools": [{"type": "web_search"}, function("look")],
        "input": r#"CALLTOOL web.run {"search_query": [{"q": "x"}]} CALLTOOL look {}"#});
    let first = create(&world, both.clone()).await;
    let mut found: Vec<&str> =
        first["output"].as_array().expect("items").iter().filter_map(|item| item["type"].as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, ["function_call", "web_search_call"]);
    let call = first["output"].as_array().expect("items").iter().find(|item| item["type"] == "function_call");
    let mut next = both;
    next["input"] =
        json!([{"type": "function_call_output", "call_id": call.expect("a call")["call_id"], "output": "7"}]);
    next["previous_response_id"] = first["id"].clone();
    let text = create(&world, next).await["output"][0]["content"][0]["text"].clone();
    assert!(text.as_str().expect("a text").contains('7'), "{text}");
    world.end().await;
}

#[tokio::test]
async fn codex_makes_images_under_a_login() {
    let ask = |model: &str| {
        json!({"model": model, "input": r#"CALLTOOL image_gen.imagegen {"prompt": "a cat"}"#,
            "tools": [{"type": "image_generation", "size": "1024x1024"}]})
    };
    let world = World::start(On::Plain).await;
    let (status, code) = world.client.post("/v1/responses", &ask("gpt-5.5")).await.failure();
    assert_eq!((status, code.as_str()), (400, "unsupported_tool"));
    world.end().await;

    let world = World::start(On::LoggedIn).await;
    for model in MODELS {
        let answer = world.client.post("/v1/responses", &ask(model)).await;
        assert_eq!(answer.header("x-codex-bridge-ignored"), Some("tools[].size"));
        let whole = answer.ok();
        assert_valid("Response", &whole);
        let (events, last) = streamed(&world, ask(model)).await;
        for response in [&whole, &last] {
            let (image, message) = (&response["output"][0], &response["output"][1]);
            assert_eq!(
                (&image["type"], &image["status"]),
                (&json!("image_generation_call"), &json!("completed"))
            );
            assert!(image["result"].as_str().expect("an image").starts_with("iVBOR"), "{model}");
            assert_eq!(message["type"], "message");
        }
        let usage = |response: &Value| response["usage"]["output_tokens"].as_u64().expect("usage");
        assert!(usage(&whole) > 3, "both upstream responses count");
        assert_eq!(
            kinds(&events, "image_generation_call"),
            ["in_progress", "generating", "completed"]
                .map(|state| format!("response.image_generation_call.{state}"))
        );
        let mut next = ask(model);
        next["input"] = json!("SAY nice");
        next["previous_response_id"] = whole["id"].clone();
        assert_eq!(create(&world, next).await["output"][0]["content"][0]["text"], "nice");
    }
    world.end().await;
}

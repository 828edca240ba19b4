use serde_json::{Value, json};

use crate::api::testing::{Answer, config, get, post, routes, send};

async fn ask(body: Value) -> Answer {
    send(routes(&config()), post("/v1/responses", body.to_string())).await
}

#[tokio::test]
async fn a_mistake_is_a_400_that_names_its_place() {
    let answer = ask(json!({ "input": [{ "role": "user", "content": [{ "type": "input_file" }] }] })).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.code(), "missing_required_parameter");
    assert_eq!(answer.json()["error"]["param"], "input[0].content[0].file_data");
}

#[tokio::test]
async fn a_good_request_reaches_the_engine() {
    for stream in [false, true] {
        let answer = ask(json!({ "input": "hi", "stream": stream })).await;
        assert_eq!(answer.status, 503, "{}", answer.body);
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_are_counted_without_the_engine_and_without_an_input() {
    for (body, tokens) in [
        (json!({ "input": "one two three" }), 3),
        (json!({ "instructions": "one two" }), 2),
        (json!({ "input": null }), 0),
        (json!({}), 0),
    ] {
        let answer = send(routes(&config()), post("/v1/responses/input_tokens", body.to_string())).await;
        assert_eq!((answer.status, &answer.json()["input_tokens"]), (200, &json!(tokens)), "{body}");
    }
}

#[tokio::test]
async fn an_include_that_is_none_is_refused() {
    for path in ["resp_1?include=all", "resp_1?include[]=all&stream=true", "resp_1/input_items?include[]=all"]
    {
        let answer = send(routes(&config()), get(&format!("/v1/responses/{path}"))).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_value"), "{path}");
    }
    let answer = send(routes(&config()), get("/v1/responses/resp_1?include[]=bridge.trace&include=")).await;
    assert_eq!(answer.status, 404);
}

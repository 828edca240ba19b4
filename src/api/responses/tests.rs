use serde_json::{Value, json};

use crate::api::testing::{Answer, config, post, routes, send};

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

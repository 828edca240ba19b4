use serde_json::{Value, json};

use super::*;
use crate::api::testing::{config, post, routes, send};

fn decoded(body: &Value) -> Result<Decoded, ApiError> {
    decode(body.as_object().unwrap().clone(), RequestsConfig::default())
}

#[test]
fn every_form_of_a_prompt_is_read() {
    let read = decoded(&json!({ "prompt": "a", "n": null, "logprobs": null, "best_of": 1, "suffix": "" }));
    let read = read.unwrap();
    assert_eq!((read.prompts, read.n, read.echo), (vec!["a".to_owned()], 1, false));
    assert_eq!(read.ignored.names(), [] as [&str; 0]);
    let read =
        decoded(&json!({ "prompt": ["a", "b"], "n": 2, "stop": "x", "seed": 1, "max_tokens": 5 })).unwrap();
    assert_eq!((read.prompts.len(), read.n, read.settings.max_tokens), (2, 2, Some(5)));
    assert_eq!(read.settings.stop, ["x"]);
    assert_eq!(read.ignored.names(), ["seed"]);
}

#[test]
fn what_cannot_be_had_is_refused_by_name() {
    for (body, code, param) in [
        (json!({}), "missing_required_parameter", "prompt"),
        (json!({ "prompt": "" }), "string_below_min_length", "prompt"),
        (json!({ "prompt": [] }), "empty_array", "prompt"),
        (json!({ "prompt": [1, 2] }), "unsupported_value", "prompt[0]"),
        (json!({ "prompt": [[1, 2]] }), "unsupported_value", "prompt[0]"),
        (json!({ "prompt": ["a", true] }), "invalid_type", "prompt[1]"),
        (json!({ "prompt": ["a", "b"], "n": 65 }), "array_above_max_length", "prompt"),
        (json!({ "prompt": "a", "max_tokens": 0 }), "integer_below_min_value", "max_tokens"),
        (json!({ "prompt": "a", "suffix": "z" }), "unsupported_parameter", "suffix"),
        (json!({ "prompt": "a", "best_of": 2 }), "unsupported_parameter", "best_of"),
        (json!({ "prompt": "a", "logprobs": 0 }), "unsupported_parameter", "logprobs"),
        (json!({ "prompt": "a", "temperature": 3 }), "decimal_above_max_value", "temperature"),
    ] {
        let error = decoded(&body).unwrap_err();
        assert_eq!((error.code.as_deref(), error.param.as_deref()), (Some(code), Some(param)), "{body}");
    }
}

#[tokio::test]
async fn a_failure_of_the_engine_is_told_in_the_official_shape() {
    for stream in [false, true] {
        let body = json!({ "prompt": "x", "stream": stream }).to_string();
        let answer = send(routes(&config()), post("/v1/completions", body)).await;
        assert_eq!((answer.status, answer.code()), (503, "shutting_down".into()));
    }
}

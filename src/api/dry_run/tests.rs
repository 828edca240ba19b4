use serde_json::json;

use super::*;
use crate::api::fields::{Check, Neutral};
use crate::api::testing::{self, config, post, routes};

fn wanted(uri: &str, header: Option<&str>) -> Result<Wanted, ApiError> {
    let mut request = http::Request::get(uri);
    if let Some(value) = header {
        request = request.header(X_DRY_RUN, value);
    }
    Wanted::of(&request.body(()).unwrap().into_parts().0)
}

#[test]
fn it_is_asked_for_by_query_or_header() {
    for (uri, header, expected) in [
        ("/", None, Wanted::Nothing),
        ("/?a=b&dry_run=false", None, Wanted::Nothing),
        ("/?not_dry_run=true", None, Wanted::Nothing),
        ("/?dry_run=true", None, Wanted::Summary),
        ("/?a=b&dry_run=True", None, Wanted::Summary),
        ("/?dry_run=full", None, Wanted::Full),
        ("/", Some("true"), Wanted::Summary),
        ("/", Some("1"), Wanted::Summary),
        ("/?dry_run=true", Some("0"), Wanted::Nothing),
        ("/?dry_run=true", Some("full"), Wanted::Full),
    ] {
        assert_eq!(wanted(uri, header).unwrap(), expected, "{uri} {header:?}");
    }
    for (uri, header, param) in [
        ("/?dry_run=maybe", None, QUERY),
        ("/?dry_run=", None, QUERY),
        ("/?dry_run=1", Some("no"), X_DRY_RUN),
        ("/?dry_run=maybe", Some("false"), QUERY),
    ] {
        let error = wanted(uri, header).unwrap_err();
        let named = (error.status.as_u16(), error.code.as_deref(), error.param.as_deref());
        assert_eq!(named, (400, Some("invalid_value"), Some(param)), "{uri} {header:?}");
    }
}

#[test]
fn emulated_fields_are_named_by_their_path() {
    let table = &[
        Field::emulated("n"),
        Field::emulated("text.limit"),
        Field::honoured("model"),
        Field::ignored("seed", Check::Elsewhere, Neutral::None),
    ];
    let named = |body: Value| emulated(table, body.as_object().unwrap());
    assert_eq!(named(json!({"model": "m", "seed": 1, "n": null, "text": {"other": 1}})), [""; 0]);
    assert_eq!(named(json!({"n": 1, "text": {"limit": 2}})), ["n", "text.limit"]);
    assert_eq!(named(json!({"text": "limit"})), [""; 0]);
}

#[tokio::test]
async fn a_mistake_is_the_same_as_of_a_call() {
    let body = r#"{"input": 5}"#;
    for path in ["/v1/responses", "/v1/responses?dry_run=true"] {
        let answer = testing::send(routes(&config()), post(path, body)).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_type"), "{path}");
    }
    let answer = testing::send(routes(&config()), post("/v1/chat/completions?dry_run=maybe", body)).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_value"));
}

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::api::responses::events::tests::head;
use crate::api::responses::wire::{Progress, Response, kept_head};
use crate::api::spec::assert_valid;
use crate::model::{IncompleteReason, KeyId, Route, SessionId, ThreadId, TurnId, Usage};

fn item(value: Value) -> Item {
    Item::from_value(value).unwrap()
}

pub(in crate::api::responses) fn record(output: Vec<Item>) -> StoredResponse {
    let head = head();
    let created_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    StoredResponse {
        id: ResponseId::new(head.id.as_str()),
        previous: None,
        key: KeyId::anonymous(),
        account: None,
        session: SessionId::new("s"),
        session_by_caller: true,
        model: head.model.clone(),
        route: Route::Fresh,
        thread: ThreadId::new("t"),
        turn: TurnId::new("u"),
        generation: 1,
        upstream_response_id: None,
        input: vec![Item::input_text("user", "hi")],
        own_input: 1,
        output,
        open_calls: Vec::new(),
        incomplete: None,
        head: kept_head(&head),
        usage: Some(Usage { input_tokens: 3, output_tokens: 4, total_tokens: 7, ..Usage::default() }),
        chain_length: 1,
        created_at,
        last_used_at: created_at,
        expires_at: created_at,
    }
}

#[test]
fn what_is_read_again_is_what_was_told() {
    let head = head();
    let output = vec![
        item(json!({ "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "secret" })),
        item(
            json!({ "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "yes" }] }),
        ),
        item(
            json!({ "type": "function_call", "id": "fc_1", "call_id": "c", "name": "look", "arguments": "{}" }),
        ),
    ];
    let mut record = record(output);
    for incomplete in [None, Some(IncompleteReason::MaxOutputTokens)] {
        record.incomplete = incomplete;
        let read = Value::Object(object(&record, false).unwrap());
        assert_valid("Response", &read);
        let items = official_items(&record.output, head.form());
        let progress = match incomplete {
            None => Progress::Completed { at: 1_800_000_000 },
            Some(reason) => Progress::Incomplete { reason: reason.as_str() },
        };
        let told = Response::new(&head, progress, &items, record.usage);
        assert_eq!(read, serde_json::to_value(told).unwrap());
    }
    let with_reasoning = object(&record, true).unwrap();
    assert_eq!(with_reasoning["output"][0]["encrypted_content"], "secret");
}

#[test]
fn a_record_without_the_edges_part_has_no_object() {
    let mut record = record(Vec::new());
    for head in [None, Some(Arc::from("no JSON")), Some(Arc::from("[]"))] {
        record.head = head;
        assert_eq!(object(&record, false), None);
    }
}

#[test]
fn every_kind_of_item_that_was_given_has_its_official_form() {
    let items = [
        json!({ "type": "message", "role": "user", "content": [
            { "type": "input_text", "text": "what is it" },
            { "type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto" },
        ] }),
        json!({ "type": "message", "role": "developer", "content": [{ "type": "input_text", "text": "be brief" }] }),
        json!({ "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "a cat" }] }),
        json!({ "type": "reasoning", "summary": [], "encrypted_content": "secret" }),
        json!({ "type": "function_call", "call_id": "c", "name": "look", "arguments": "{}" }),
        json!({ "type": "function_call_output", "call_id": "c", "output": "42" }),
        json!({ "type": "custom_tool_call", "call_id": "d", "name": "run", "input": "x" }),
        json!({ "type": "custom_tool_call_output", "call_id": "d", "output": "done" }),
    ];
    let head = head();
    let items: Vec<Item> = items.into_iter().map(item).collect();
    let forms: Vec<_> =
        items.iter().enumerate().filter_map(|(n, item)| given(item, n, head.form())).collect();
    assert_eq!(forms.len(), items.len());
    let ids: std::collections::BTreeSet<_> = forms.iter().map(|form| form["id"].to_string()).collect();
    assert_eq!(ids.len(), items.len(), "each has an id of its own");
    let paging = Paging { after: None, limit: 100, descending: false };
    assert_valid("ResponseItemList", &serde_json::to_value(paging.cut(forms).unwrap()).unwrap());
}

//! Which rows of the error table an operation may answer with.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::parameter;
use super::route::{Group, Holds, Route};
use crate::api::error::table::{Param, ROWS, Row};

/// Whatever is asked for.
const EVERYWHERE: &[&str] = &[
    "invalid_http",
    "origin_not_allowed",
    "host_not_allowed",
    "uri_too_long",
    "request_header_fields_too_large",
    "internal_error",
    "too_many_connections",
];
/// Where a key is wanted.
const OF_KEYS: &[&str] = &["invalid_api_key", "too_many_failed_keys"];
const OF_QUERIES: &[&str] =
    &["invalid_type", "invalid_value", "integer_above_max_value", "integer_below_min_value"];
const OF_BODIES: &[&str] = &[
    "invalid_json",
    "missing_required_parameter",
    "invalid_type",
    "invalid_value",
    "object_above_max_properties",
    "string_above_max_length",
    "unsupported_parameter",
    "request_timeout",
    "request_too_large",
    "unsupported_media_type",
    "server_overloaded",
];
/// No call of a model ends so: there was no route, or it is about something else.
const NOT_OF_CALLS: &[&str] = &[
    "unknown_url",
    "endpoint_not_served",
    "method_not_supported",
    "response_not_found",
    "conversation_not_found",
    "item_not_found",
    "completion_not_found",
    "file_not_found",
    "batch_not_found",
    "batch_not_cancellable",
    "stream_expired",
    "bridge_restarted",
    "upgrade_required",
    "invalid_stream_id",
    "websocket_stream_limit_reached",
    "websocket_connection_limit_reached",
];

/// The responses by status.
pub(super) fn of(route: &Route) -> BTreeMap<u16, Value> {
    let mut by_status: BTreeMap<u16, Vec<&Row>> = BTreeMap::new();
    for row in ROWS.iter().filter(|row| has(route, row)) {
        by_status.entry(row.status).or_default().push(row);
    }
    by_status.into_iter().map(|(status, rows)| (status, response(&rows))).collect()
}

fn has(route: &Route, row: &Row) -> bool {
    let code = row.code;
    let of_body = match route.holds() {
        None => false,
        Some(Holds::Call | Holds::Compaction) => !NOT_OF_CALLS.contains(&code),
        Some(Holds::Items) => {
            // What an item may be wrong in, and what reads it.
            let of_items = row.status == 400 && row.param == Param::Field;
            of_items || OF_BODIES.contains(&code) || code == "file_reader_unavailable"
        }
        Some(Holds::Fields) => OF_BODIES.contains(&code),
    };
    EVERYWHERE.contains(&code)
        || (route.group != Group::Open && OF_KEYS.contains(&code))
        || (route.parameters().next().is_some() && code.is_empty())
        || (!route.query.is_empty() && OF_QUERIES.contains(&code))
        || of_body
        || route.fails.contains(&code)
}

fn response(rows: &[&Row]) -> Value {
    let mut description = String::new();
    for row in rows {
        let code = if row.code.is_empty() { "null" } else { row.code };
        let _ = writeln!(description, "- `{code}`: {}", row.when);
    }
    let mut waits: Vec<&str> = rows.iter().filter_map(|row| Some(row.retry_after?.how)).collect();
    waits.dedup();
    let mut headers = parameter::of_all();
    headers.extend(parameter::of_errors(&waits));
    let mut schema = Map::new();
    schema.insert("$ref".into(), "#/components/schemas/ErrorResponse".into());
    // Of a row without a code the code may be null, or the backend's.
    if rows.iter().all(|row| !row.code.is_empty()) {
        let codes: Vec<&str> = rows.iter().map(|row| row.code).collect();
        let code = json!({ "enum": codes });
        schema.insert("properties".into(), json!({ "error": { "properties": { "code": code } } }));
    }
    json!({
        "description": description,
        "headers": headers,
        "content": { "application/json": { "schema": schema } },
    })
}

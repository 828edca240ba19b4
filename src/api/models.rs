//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::access::{hidden, may_use};
use super::edge::Edge;
use super::error::ApiError;
use super::fields::Check;
use super::observe::Call;
use super::openapi::Parameter;
use crate::model::ModelInfo;

/// `created` of every model, 2025-01-01: the catalogue has no dates, and the official shape wants one.
const CREATED: i64 = 1_735_689_600;

pub(crate) const QUERY: &[Parameter] =
    &[Parameter::new("details", Check::Text, "`true` adds what the catalogue says of a model")];

#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct List {
    object: &'static str,
    data: Vec<Model>,
}

#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Model {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

/// Ours, only with `?details=true`.
#[derive(Debug, JsonSchema, Serialize)]
struct Details {
    /// The catalogue id; another one than the model's where that is an alias.
    catalogue_id: String,
    display_name: String,
    description: String,
    hidden: bool,
    is_default: bool,
    efforts: Vec<String>,
    default_effort: Option<String>,
    input_modalities: Vec<String>,
    service_tiers: Vec<String>,
    context_window: Option<u64>,
    web_search: Option<bool>,
}

/// The models that pickers show, of those that the key may use; hidden ones are there by their id.
pub(crate) async fn list(
    State(edge): State<Edge>,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<Json<List>, ApiError> {
    let details = wants_details(query.as_deref());
    let models = edge.bridge.asked_by(call.key()).models().await?;
    let shown = models.iter().filter(|model| !model.hidden && may_use(&call, &edge.bridge, &model.id));
    let data = shown.map(|model| Model::new(&model.id, model, details)).collect();
    Ok(Json(List { object: "list", data }))
}

/// One model, by its catalogue id or an alias. An id may hold slashes.
pub(crate) async fn retrieve(
    State(edge): State<Edge>,
    call: Call,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Json<Model>, ApiError> {
    let Path(id) =
        id.map_err(|_| ApiError::request(StatusCode::BAD_REQUEST, "The model id is not UTF-8."))?;
    let model = edge.bridge.asked_by(call.key()).resolve_model(Some(&id)).await?;
    if !may_use(&call, &edge.bridge, &model.id) {
        return Err(hidden(&id));
    }
    Ok(Json(Model::new(&id, &model, wants_details(query.as_deref()))))
}

fn wants_details(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|pair| matches!(pair, "details=true" | "details=1")))
}

impl Model {
    fn new(id: &str, info: &ModelInfo, details: bool) -> Self {
        Self {
            id: id.to_owned(),
            object: "model",
            created: CREATED,
            owned_by: "openai",
            details: details.then(|| Details::new(info)),
        }
    }
}

impl Details {
    fn new(info: &ModelInfo) -> Self {
        Self {
            catalogue_id: info.id.clone(),
            display_name: info.display_name.clone(),
            description: info.description.clone(),
            hidden: info.hidden,
            is_default: info.is_default,
            efforts: info.efforts.clone(),
            default_effort: info.default_effort.clone(),
            input_modalities: info.input_modalities.clone(),
            service_tiers: info.service_tiers.clone(),
            context_window: info.context_window,
            web_search: info.web_search,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::spec::assert_valid;

    fn info() -> ModelInfo {
        ModelInfo {
            id: "gpt-x".into(),
            display_name: "GPT X".into(),
            description: "A model.".into(),
            hidden: false,
            is_default: true,
            efforts: vec!["low".into(), "high".into()],
            default_effort: Some("low".into()),
            input_modalities: vec!["text".into()],
            service_tiers: Vec::new(),
            context_window: Some(1000),
            web_search: Some(true),
        }
    }

    #[test]
    fn the_plain_shape_is_the_official_one() {
        let list = List { object: "list", data: vec![Model::new("alias/x", &info(), false)] };
        let list = serde_json::to_value(list).unwrap();
        assert_valid("ListModelsResponse", &list);
        let expected = json!({"id": "alias/x", "object": "model", "created": CREATED, "owned_by": "openai"});
        assert_eq!(list["data"][0], expected);
    }

    #[test]
    fn details_say_what_the_catalogue_says() {
        let model = serde_json::to_value(Model::new("alias/x", &info(), true)).unwrap();
        assert_eq!(model["details"]["catalogue_id"], "gpt-x");
        assert_eq!(model["details"]["efforts"], json!(["low", "high"]));
        assert_eq!(model["details"]["context_window"], 1000);
    }

    #[test]
    fn details_are_given_only_when_asked_for() {
        assert!(wants_details(Some("a=b&details=true")));
        for query in [None, Some(""), Some("details=false"), Some("details"), Some("no_details=true")] {
            assert!(!wants_details(query), "{query:?}");
        }
    }
}

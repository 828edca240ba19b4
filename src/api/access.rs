//! What a request's key lets it do: which model, at what rate, how many at once, with what priority.
//!
//! In this order: the key, the rates, the model, the queue. What is refused costs a request and no tokens.

use axum::extract::FromRequestParts;
use http::StatusCode;
use http::request::Parts;

use super::dry_run;
use super::error::ApiError;
use super::limits::Cost;
use super::observe::Call;
use crate::bridge::{Bridge, BridgeError};
use crate::model::Priority;

pub(crate) const X_PRIORITY: &str = "x-codex-bridge-priority";

/// An extractor.
#[derive(Debug)]
pub(crate) struct Access {
    call: Call,
    /// The lower of the key's and the header's. Whatever else has a say may only lower it further
    /// ([`Priority::or_lower`]).
    pub(crate) priority: Priority,
    /// What the header says of it.
    pub(crate) asked: Option<Priority>,
    /// Most turns of the key at once.
    pub(crate) concurrency: Option<usize>,
}

impl Access {
    /// That of `call`, whose caller asks for this priority.
    pub(crate) fn of(call: Call, asked: Option<Priority>) -> Self {
        let limits = call.limits();
        let (priority, concurrency) =
            (limits.priority.or_lower(asked.unwrap_or_default()), limits.concurrency);
        Self { call, priority, asked, concurrency }
    }

    /// The model that the request is for: the one it names, else the key's; refused where the key may not have it.
    pub(crate) async fn model(
        &self,
        bridge: &Bridge,
        named: Option<String>,
    ) -> Result<Option<String>, ApiError> {
        let limits = self.call.limits();
        let model = named.or_else(|| limits.default_model.clone());
        if limits.models.is_some() {
            let wanted = bridge.resolve_model(model.as_deref()).await.inspect_err(|_| {
                // Without the catalogue the name tells; the fallback is no way round what the key may have.
                let id = bridge.named_model(model.as_deref());
                if !id.is_some_and(|id| may_use(&self.call, bridge, id)) {
                    self.call.keep_here();
                }
            })?;
            if !may_use(&self.call, bridge, &wanted.id) {
                return Err(not_allowed(model.as_deref().unwrap_or(&wanted.id)));
            }
        }
        Ok(model)
    }

    /// Whether the key may have the model that `name` stands for.
    pub(crate) fn allows(&self, bridge: &Bridge, name: &str) -> bool {
        may_use(&self.call, bridge, bridge.catalogue_id(name))
    }

    /// Takes what the request is likely to use from what its key has left: before anything that may fail for want
    /// of the app-server, for what the fallback answers then counts too. A dry run uses no tokens.
    pub(crate) fn charge(&self, dry: dry_run::Wanted, cost: Cost) -> Result<(), ApiError> {
        self.call.charge(if dry == dry_run::Wanted::Nothing { cost } else { Cost::default() })
    }
}

/// Whether the caller's key may have the model of that id.
pub(crate) fn may_use(call: &Call, bridge: &Bridge, id: &str) -> bool {
    let limits = call.limits();
    let named = |name: &String| bridge.catalogue_id(name) == id;
    limits.models.as_ref().is_none_or(|models| models.iter().any(named))
}

/// A model that the caller's key may not even look at.
pub(crate) fn hidden(model: &str) -> ApiError {
    BridgeError::ModelNotFound { model: model.to_owned() }.into()
}

/// As the official API refuses a model that a project has no access to: the code of one that is not there, at 403.
fn not_allowed(model: &str) -> ApiError {
    let message = format!("This API key does not have access to model `{model}`.");
    let error = ApiError::new("model_not_found", message);
    ApiError { status: StatusCode::FORBIDDEN, param: None, ..error }
}

impl<S: Sync> FromRequestParts<S> for Access {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let call = Call::from_request_parts(parts, state).await?;
        let asked = match parts.headers.get(X_PRIORITY) {
            None => None,
            Some(word) => Some(word.to_str().ok().and_then(Priority::named).ok_or_else(|| {
                let message = format!("Invalid '{X_PRIORITY}': expected 'interactive' or 'batch'.");
                ApiError::invalid(X_PRIORITY, message).with_code("invalid_value")
            })?),
        };
        Ok(Self::of(call, asked))
    }
}

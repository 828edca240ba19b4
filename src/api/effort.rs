//! Reasoning efforts: what the model's catalogue entry names.

use super::error::ApiError;
use crate::bridge::Bridge;

/// Refuses what the model does not take: the app-server would pass it on unchecked.
pub(crate) async fn check(
    bridge: &Bridge,
    model: Option<&str>,
    effort: Option<&str>,
    param: &str,
) -> Result<(), ApiError> {
    let Some(effort) = effort else { return Ok(()) };
    let model = bridge.resolve_model(model).await?;
    // A catalogue that names none leaves it to the backend.
    if model.efforts.is_empty() || model.efforts.iter().any(|known| known == effort) {
        return Ok(());
    }
    let known: Vec<String> = model.efforts.iter().map(|known| format!("'{known}'")).collect();
    let message = format!(
        "Unsupported value for '{param}' with the model '{}'. Supported values are: {}.",
        model.id,
        known.join(", ")
    );
    Err(ApiError::invalid(param, message).with_code("unsupported_value"))
}

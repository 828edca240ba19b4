//! `x-codex-bridge-max-wait`: how long the app-server's retries may last, where a client wants to know sooner.

use std::time::Duration;

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::error::ApiError;
use crate::config;

pub(crate) const X_MAX_WAIT: &str = "x-codex-bridge-max-wait";

/// The header's value. An extractor.
#[derive(Debug)]
pub(crate) struct MaxWait(pub(crate) Option<Duration>);

impl<S: Sync> FromRequestParts<S> for MaxWait {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get(X_MAX_WAIT) else { return Ok(Self(None)) };
        let wait = value.to_str().ok().and_then(config::duration);
        let wait = wait.map(|wait| Self(Some(wait))).ok_or_else(|| {
            let message = format!(
                "Invalid '{X_MAX_WAIT}': expected a duration such as '10s', '500ms' or '0s' for no retry at all."
            );
            ApiError::invalid(X_MAX_WAIT, message).with_code("invalid_value")
        });
        std::future::ready(wait).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(value: Option<&str>) -> Result<Option<Duration>, ApiError> {
        let mut request = http::Request::builder();
        if let Some(value) = value {
            request = request.header(X_MAX_WAIT, value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        MaxWait::from_request_parts(&mut parts, &()).await.map(|wait| wait.0)
    }

    #[tokio::test]
    async fn durations_are_read_and_anything_else_is_refused() {
        assert_eq!(read(None).await.unwrap(), None);
        for (value, millis) in [("10s", 10_000), ("500ms", 500), ("3", 3_000), ("0s", 0)] {
            assert_eq!(read(Some(value)).await.unwrap(), Some(Duration::from_millis(millis)), "{value}");
        }
        for value in ["", "soon", "-1", "1.5s", "400d"] {
            let error = read(Some(value)).await.unwrap_err();
            let named = (error.status.as_u16(), error.code.as_deref(), error.param.as_deref());
            assert_eq!(named, (400, Some("invalid_value"), Some(X_MAX_WAIT)), "{value}");
        }
    }
}

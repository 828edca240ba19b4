//! Paths and methods that are not served, told apart from those that do not exist.

use axum::extract::Request;
use http::{Method, Uri};

use super::error::ApiError;

/// First path segments of the official API that lead nowhere here.
const NOT_SERVED: &[&str] = &[
    "assistants",
    "audio",
    "batches",
    "chat",
    "chatkit",
    "containers",
    "content_provenance_checks",
    "embeddings",
    "evals",
    "files",
    "fine_tuning",
    "images",
    "models",
    "moderations",
    "organization",
    "projects",
    "realtime",
    "responses",
    "skills",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
];

/// The longest part of a path that is repeated to its sender, bytes.
const MAX_PATH: usize = 200;

/// 404 for every path without a route.
pub(crate) async fn not_found(request: Request) -> ApiError {
    std::future::ready(unknown(request.method(), request.uri())).await
}

/// 405; axum adds `Allow`.
pub(crate) async fn method_not_allowed(request: Request) -> ApiError {
    let message = format!(
        "Not allowed to {} on {}. (HINT: Perhaps you meant to use a different HTTP method?)",
        request.method(),
        shown(request.uri().path()),
    );
    std::future::ready(ApiError::new("method_not_supported", message)).await
}

fn unknown(method: &Method, uri: &Uri) -> ApiError {
    let path = uri.path();
    let is_official = |path: &str| path.split('/').next().is_some_and(|first| NOT_SERVED.contains(&first));
    let (code, hint) = match path.strip_prefix("/v1/") {
        Some(rest) if is_official(rest) => (
            "endpoint_not_served",
            " This endpoint is part of the OpenAI API, but codex-bridge does not serve it: see GET /v1/health \
             for what it does.",
        ),
        None if is_official(path.trim_start_matches('/')) => {
            ("unknown_url", " The base URL of this API ends in /v1.")
        }
        Some(_) | None => ("unknown_url", ""),
    };
    let message = format!("Invalid URL ({method} {}).{hint}", shown(path));
    ApiError::new(code, message)
}

fn shown(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_PATH)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(path: &str) -> String {
        unknown(&Method::GET, &path.parse().unwrap()).code.unwrap()
    }

    #[test]
    fn official_endpoints_are_told_apart() {
        for path in
            ["/v1/embeddings", "/v1/chat/completions/x/y", "/v1/responses/resp_1/x", "/v1/files/a/content"]
        {
            assert_eq!(code(path), "endpoint_not_served", "{path}");
        }
        for path in ["/", "/v1", "/v1/", "/v1/nothing", "/v1/embeddingsx", "/chat/completions"] {
            assert_eq!(code(path), "unknown_url", "{path}");
        }
    }

    #[test]
    fn a_forgotten_v1_is_hinted_at() {
        let error = unknown(&Method::POST, &"/chat/completions".parse().unwrap());
        assert!(error.message.contains("ends in /v1"), "{}", error.message);
    }

    #[test]
    fn a_long_path_is_cut() {
        let path = format!("/{}", "x".repeat(5000));
        assert!(unknown(&Method::GET, &path.parse().unwrap()).message.len() < 300);
    }
}
